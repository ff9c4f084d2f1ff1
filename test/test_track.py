"""Motion, shape belief, association and names: invariants and closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros.body.between import between
from densefit_ros.config import TrackConfig
from densefit_ros.geometry import so3
from densefit_ros.track import association, motion, shape, state
from densefit_ros.types import BodyParams, TrackingState


def random_body(seed: int, scale: float = 0.4) -> BodyParams:
    rng = np.random.default_rng(seed)
    f = np.float32
    return BodyParams(
        rng.normal(size=(1, 10)).astype(f),
        np.array([[3.0, 0.1, 0.1]], f) + rng.normal(size=(1, 3)).astype(f) * 0.1,
        (rng.normal(size=(1, 23, 3)) * scale).astype(f),
        np.array([[0, 0, 4]], f),
    )


def angles(a: BodyParams, b: BodyParams) -> np.ndarray:
    return so3.angle_between(motion.local_rotmats(a)[0], motion.local_rotmats(b)[0])


def test_rotmats_round_trip_through_the_turn_near_pi():
    b = random_body(0)
    assert angles(motion.with_rotmats(b, motion.local_rotmats(b)), b).max() < 1e-3


def test_constant_velocity_is_learnt_and_predicted():
    """After many frames at a constant turn rate the one-step prediction is right to a small part of the step."""
    omega = np.zeros((24, 3), np.float32)
    omega[[0, 4, 16]] = [[0, 1.0, 0], [0.5, 0, 0], [0, 0, -2.0]]
    b, v, dt = random_body(1), motion.Velocity.zero(), 1 / 30
    for _ in range(40):
        after = motion.with_rotmats(b, so3.exp(omega * dt)[None] @ motion.local_rotmats(b))
        v = motion.update_velocity(v, b, after, dt, tau_s=0.1)
        b = after
    truth = motion.with_rotmats(b, so3.exp(omega * dt)[None] @ motion.local_rotmats(b))
    guess = motion.predict(b, v, dt)
    assert angles(truth, guess).max() < 0.1 * angles(truth, b).max()


def test_velocity_does_not_depend_on_the_frame_rate():
    omega = np.zeros((24, 3), np.float32)
    omega[5] = [1.0, 0, 0]
    results = []
    for fps in (15, 60):
        b, v, dt = random_body(2), motion.Velocity.zero(), 1 / fps
        for _ in range(fps):  # one second
            after = motion.with_rotmats(b, so3.exp(omega * dt)[None] @ motion.local_rotmats(b))
            v, b = motion.update_velocity(v, b, after, dt, 0.1), after
        results.append(v.rot_rad_s[5, 0])
    assert results == pytest.approx([1.0, 1.0], abs=0.02)


def test_what_coasting_missed_is_not_taken_for_speed():
    """Half a metre a second; a second out of sight, in which the prediction stops."""
    dt, x = 1 / 30, lambda t: dataclasses.replace(BodyParams.rest(1), t_camera_root=np.float32([[0.5 * t, 0, 3]]))
    v = motion.Velocity.zero()
    for i in range(30):
        v = motion.update_velocity(v, x(i * dt), x((i + 1) * dt), dt, 0.1)
    coasted, faded = motion.predict(x(1.0), v, 1.0 - dt), motion.faded(v, 1.0 - dt)
    v = motion.update_velocity(faded, coasted, x(2.0), dt, 0.1, since_s=1.0)
    assert 0.2 < v.t_m_s[0] < 0.6


def test_coasting_stops():
    v = motion.Velocity(np.full((24, 3), 2.0, np.float32), np.ones(3, np.float32))
    b = random_body(3)
    near, far = motion.predict(b, v, 5.0), motion.predict(b, v, 50.0)
    assert angles(near, far).max() < 1e-3
    assert np.abs(far.t_camera_root - b.t_camera_root).max() == pytest.approx(motion.COAST_TAU_S, rel=1e-3)
    assert motion.predict(b, v, 0.0) is b


def test_blend_ends_and_middle():
    a, b = random_body(4), random_body(5)
    one, zero = np.ones((1, 24)), np.zeros((1, 24))
    assert angles(between(a, b, zero, np.zeros(1)), a).max() < 1e-3
    assert angles(between(a, b, one, np.ones(1)), b).max() < 1e-3
    middle = between(a, b, one / 2, np.full(1, 0.5))
    np.testing.assert_allclose(angles(middle, a), angles(middle, b), atol=2e-3)
    np.testing.assert_allclose(middle.betas, (a.betas + b.betas) / 2, atol=1e-6)


def test_shape_belief_tightens_and_never_beyond_its_floor():
    belief = shape.ShapeBelief.prior(1.0)
    info = np.eye(85) * 50.0
    sigmas = []
    for _ in range(600):
        belief = shape.update(belief, np.full(10, 0.7), info + np.diag(np.r_[np.zeros(75), belief.precision]), 1 / 30)
        sigmas.append(belief.sigma.max())
    assert np.all(np.diff(sigmas) <= 1e-9) and sigmas[-1] == pytest.approx(shape.MAX_PRECISION**-0.5, rel=1e-4)


def test_shape_belief_averages_the_frames_and_keeps_its_prior():
    """Frames that say +-2 about a mean of 0.5, each fitted with the belief as its prior: the belief finds the mean of prior
    and images and does not wander, however long it runs."""
    rng = np.random.default_rng(0)
    belief, wandered = shape.ShapeBelief.prior(1.0), []
    for _ in range(3000):
        said, weight = 0.5 + rng.normal(0, 2, 10), 5.0
        fitted = (belief.precision * belief.mean + weight * said) / (belief.precision + weight)
        info = np.diag(np.r_[np.ones(75), belief.precision + weight])
        belief = shape.update(belief, fitted, info, 1 / 30)
        wandered.append(np.abs(belief.mean).max())
    assert max(wandered) < 1.5
    np.testing.assert_allclose(belief.mean, 0.5, atol=0.25)


def test_shape_learns_only_what_pose_leaves_over():
    """Betas that pose can explain away (a singular Schur complement) gain nothing."""
    row = np.zeros((1, 85))
    row[0, 0] = row[0, 75] = 1.0  # the data see only t_x + beta_0
    belief = shape.ShapeBelief.prior()
    info = 1e4 * row.T @ row + np.diag(np.r_[np.full(75, 1e-3), belief.precision])
    after = shape.update(belief, np.zeros(10), info, 1.0)
    assert after.precision[0] == pytest.approx(1.0, abs=0.01)


def test_bad_information_changes_nothing():
    belief = shape.ShapeBelief.prior()
    assert shape.update(belief, np.zeros(10), np.full((85, 85), np.nan), 0.1) is belief


def test_assignment_is_one_to_one_and_duplicates_start_nothing():
    tracks = np.array([[0, 0, 100, 200], [300, 0, 100, 200]])
    found = np.array([[305, 5, 100, 200], [2, 0, 100, 200], [10, 10, 100, 200], [600, 0, 80, 160]])
    pairs, free = association.assign(tracks, found)
    assert sorted(pairs) == [(0, 1), (1, 0)] and free == [3]
    assert association.assign(np.zeros((0, 4)), found)[1] == [0, 1, 2, 3]
    assert association.assign(tracks, np.zeros((0, 4))) == ([], [])


def test_pairs_that_do_not_stand_take_nobody_away():
    """The first box lies on the first track; counted together, the neighbour's box and a sliver would have been more."""
    tracks = np.array([[0, 0, 100, 100], [75, 0, 100, 100]])
    found = np.array([[18, 0, 100, 100], [-30, 0, 100, 100]])
    overlap = association.iou(tracks, found)
    assert overlap[0].min() > 0.5 and overlap[1, 0] > 0.25 and overlap[1, 1] == 0
    pairs, _ = association.assign(tracks, found, min_iou=0.5)
    assert pairs == [(0, 0)]


def test_iou_closed_form():
    assert association.iou([[0, 0, 2, 2]], [[1, 1, 2, 2]])[0, 0] == pytest.approx(1 / 7)
    assert association.iou([[0, 0, 0, 0]], [[0, 0, 0, 0]])[0, 0] == 0


def test_names_are_unique_and_well_formed():
    names = [association.track_name(i) for i in range(5000)]
    assert len(set(names)) == 5000 and all(len(n) == 5 and n.isalpha() and n.islower() for n in names)


def test_life_of_a_track():
    cfg = TrackConfig()
    s, t = state.birth(state.TrackerState(), random_body(6), shape.ShapeBelief.prior(), None, 1_000)
    assert t.state is TrackingState.DETECTED and s.born == 1
    later = 1_000 + 33_000_000
    p = state.predicted(t, later)
    assert p.state is TrackingState.PREDICTED and p.measured_ns == 1_000 and p.stamp_ns == later
    m = state.measured(t, random_body(7), np.eye(85), np.zeros((24, 3, 3)), later, cfg)
    assert m.state is TrackingState.TRACKED and m.track_id == t.track_id
    assert not state.is_lost(m, later, cfg) and state.is_lost(m, later + int(1e9), cfg)
