"""The camera's own motion: bodies, velocities and covariances move as points do."""

import dataclasses

import numpy as np
import pytest
from fit_helpers import body, realistic_params

from densefit_ros.body.model import pose
from densefit_ros.geometry import so3
from densefit_ros.track import shape
from densefit_ros.track.egomotion import followed, moved_params
from densefit_ros.track.motion import Velocity, predict
from densefit_ros.track.state import Track, TrackerState
from densefit_ros.types import TrackingState


def motion(rng: np.random.Generator, size: float = 1.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = so3.exp(size * rng.normal(size=3)), size * rng.normal(size=3)
    return T


def track(rng: np.random.Generator) -> Track:
    a = rng.normal(size=(24, 3, 3)).astype(np.float32)
    velocity = Velocity(rng.normal(size=(24, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    params = realistic_params(rng, 1)
    return Track(
        "abcde", params, velocity, shape.ShapeBelief.prior(), None, a @ np.swapaxes(a, 1, 2), 0, 0, TrackingState.TRACKED
    )


def test_every_vertex_moves_with_the_frame():
    rng = np.random.default_rng(0)
    params, b = realistic_params(rng, 5), body()
    for _ in range(3):
        T = motion(rng)
        here, there = pose(b, params).vertices, pose(b, moved_params(b, params, T)).vertices
        np.testing.assert_allclose(there, here @ T[:3, :3].T + T[:3, 3], atol=2e-5)


def test_prediction_and_the_camera_s_motion_change_places():
    """First to predict and then to move is first to move and then to predict."""
    rng, b = np.random.default_rng(1), body()
    before, now = motion(rng), motion(rng)
    person = track(rng)
    (moved,) = followed(b, TrackerState((person,), T_world_camera=before), now, 1).tracks
    T = np.linalg.inv(now) @ before
    late = pose(b, predict(moved.params, moved.velocity, 0.1)).vertices
    early = pose(b, moved_params(b, predict(person.params, person.velocity, 0.1), T)).vertices
    np.testing.assert_allclose(late, early, atol=5e-4)
    for joint in (0, 7):
        np.testing.assert_allclose(
            moved.joint_covariance[joint], T[:3, :3] @ person.joint_covariance[joint] @ T[:3, :3].T, rtol=1e-3, atol=1e-4
        )


def test_a_way_there_and_back_changes_nothing():
    rng, b = np.random.default_rng(2), body()
    person, poses = track(rng), [motion(rng, 0.3) for _ in range(3)]
    state = TrackerState((person,), lost=(person,), T_world_camera=poses[0])
    for T in (poses[1], poses[2], poses[0]):
        state = followed(b, state, T, 0)
    for got in (*state.tracks, *state.lost):
        np.testing.assert_allclose(pose(b, got.params).vertices, pose(b, person.params).vertices, atol=1e-4)
        np.testing.assert_allclose(got.velocity.t_m_s, person.velocity.t_m_s, atol=1e-4)


def test_without_two_poses_the_camera_stands():
    rng, b = np.random.default_rng(3), body()
    person, T = track(rng), motion(rng)
    for before, now in ((None, T), (T, None), (T, T.copy()), (None, None)):
        state = followed(b, TrackerState((person,), T_world_camera=before), now, 1)
        assert state.tracks == (person,)


def test_a_pose_that_its_caller_writes_over_is_remembered_as_it_was():
    rng, b = np.random.default_rng(5), body()
    person, T = track(rng), motion(rng)
    state = followed(b, TrackerState((person,)), T, 1)
    T[0, 3] += 0.5
    (moved,) = followed(b, state, T, 2).tracks
    assert np.linalg.norm(moved.params.t_camera_root - person.params.t_camera_root) == pytest.approx(0.5, abs=1e-3)


def test_over_a_missing_pose_those_move_whom_nobody_measured_meanwhile():
    rng, b = np.random.default_rng(4), body()
    coasting, before, now = track(rng), motion(rng), motion(rng)
    measured = dataclasses.replace(track(rng), measured_ns=2)
    state = TrackerState((coasting, measured), T_world_camera=before, pose_ns=1)
    state = followed(b, followed(b, state, None, 2), now, 3)
    T = np.linalg.inv(now) @ before
    here, there = pose(b, coasting.params).vertices, pose(b, state.tracks[0].params).vertices
    np.testing.assert_allclose(there, here @ T[:3, :3].T + T[:3, 3], atol=2e-5)
    assert state.tracks[1] is measured and state.pose_ns == 3
