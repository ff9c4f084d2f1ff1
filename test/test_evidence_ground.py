"""The floor as evidence: who stands on it where, and that people's distance follows."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from densefit_ros import cli
from densefit_ros.body.model import pose
from densefit_ros.config import load_config
from densefit_ros.errors import ShapeError
from densefit_ros.evidence.ground import GroundOptions, ground_below, ground_points
from densefit_ros.geometry.camera import camera_from_fov
from densefit_ros.models import load_models
from densefit_ros.offline import run as offline
from densefit_ros.pipeline import initial_state, process
from densefit_ros.steps import find, steady
from densefit_ros.synth.sequence import heldout_engine, random_sequence
from densefit_ros.types import DepthPoints, Frame

CAMERA = camera_from_fov(640, 480, 60.0)
OPTIONS = GroundOptions()
# A tetrahedron each, its corner 2 the lowest.
FACES = np.array([[0, 1, 3], [1, 2, 3], [0, 2, 3]])
CORNERS = np.array([[0.0, -0.5, 0.0], [0.2, 0.0, 0.0], [0.0, 0.4, 0.1], [-0.2, 0.0, 0.1]])


def people(*places_m):
    return np.stack([CORNERS + p for p in places_m])


@pytest.mark.parametrize(("height_m", "pitch_deg"), [(1.2, 0.0), (1.2, 25.0), (0.3, -20.0), (2.5, 90.0)])
def test_heights_above_the_floor(height_m, pitch_deg):
    """By hand: the camera's axes in a world of x right, y forward, z up, and some points."""
    ground, c, s = ground_below(height_m, np.radians(pitch_deg)), np.cos(np.radians(pitch_deg)), np.sin(np.radians(pitch_deg))
    right, down, forward = [1, 0, 0], [0, -s, -c], [0, c, -s]
    R_camera_world = np.array([right, down, forward])
    for world in ([0, 3, 0], [1, 2, 0.7], [-2, 5, -0.1]):
        x = R_camera_world @ (np.array(world) - [0, 0, height_m])
        assert ground[:3] @ x + ground[3] == pytest.approx(world[2], abs=1e-9)


def test_the_lowest_point_is_drawn_to_the_floor():
    ground = ground_below(1.0, 0.0)  # y = 1 m, camera frame
    points = ground_points(people([0, 0.5, 3], [1, 0.7, 5]), FACES, ground, CAMERA)
    assert points.person.tolist() == [0, 1]
    corner = FACES[points.face, points.bary.argmax(1)]
    assert (corner == 2).all() and (points.bary.max(1) == 1).all()
    np.testing.assert_allclose(points.xyz_m, [[0, 1 - OPTIONS.sole_m, 3.1], [1, 1 - OPTIONS.sole_m, 5.1]], atol=1e-6)
    np.testing.assert_allclose(points.normal, [[0, -1, 0]] * 2)
    sigma_m = np.hypot(OPTIONS.sigma_m, OPTIONS.sigma_rad * np.array([3.1, 5.1]))
    np.testing.assert_allclose(1 / points.sqrt_weight, sigma_m, rtol=1e-5)


@pytest.mark.parametrize("place_m", [[0, 1.9, 3], [2.5, 0.5, 3], [0, 0.5, -3]], ids=["below", "beside", "behind"])
def test_feet_out_of_sight_stand_nowhere(place_m):
    points = ground_points(people(place_m, [0, 0.5, 3]), FACES, ground_below(1.0, 0.0), CAMERA)
    assert points.person.tolist() == [1]
    assert len(ground_points(people(place_m), FACES, ground_below(1.0, 0.0), CAMERA)) == 0


@pytest.mark.parametrize(("off_m", "stands"), [(0.15, True), (-0.15, True), (0.25, False), (-0.25, False)])
def test_who_is_far_from_the_floor_does_not_stand_on_it(off_m, stands):
    points = ground_points(people([0, 0.6 - off_m, 5]), FACES, ground_below(1.0, 0.0), CAMERA)
    assert len(points) == stands
    higher = ground_points(people([0, 1.6 - off_m, 9]), FACES, ground_below(2.0, 0.0), CAMERA)
    assert len(higher) == 1  # the same height is a smaller share of the distance


def test_planes_of_several_sources():
    some = [ground_points(people(*p), FACES, ground_below(1.0, 0.0), CAMERA) for p in ([[0, 0.5, 3]], [[0, 0.5, 4], [1, 0.5, 4]])]
    both = DepthPoints.concat(some)
    assert len(both) == 3 and both.person.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(both.xyz_m[1:], some[1].xyz_m)


@pytest.mark.parametrize("ground", [[0, -1, 0], [0, -2, 0, 1], [0, -1, 0, -0.1], [0, -1, 0, np.nan]])
def test_what_is_no_floor_is_refused(ground):
    frame = Frame(np.zeros((480, 640, 3), np.uint8), 0, CAMERA, ground=np.array(ground, float))
    with pytest.raises(ShapeError, match="points up and the camera's height"):
        find.check_frame(frame, {})
    for broken in (np.nan, 0.0):
        with pytest.raises(ShapeError, match="positive focal lengths"):
            find.check_frame(dataclasses.replace(frame, ground=None, camera=dataclasses.replace(CAMERA, fx=broken)), {})
    for T in (np.diag([-1.0, 1, 1, 1]), np.eye(4) + np.eye(4)[::-1] * [0.1, 0, 0, 0]):  # a mirror, and no rigid motion
        with pytest.raises(ShapeError, match="T_world_camera"):
            find.check_frame(dataclasses.replace(frame, ground=None, T_world_camera=T), {})
    find.check_frame(dataclasses.replace(frame, ground=ground_below(0.4, 0.1)), {})


@pytest.mark.parametrize("passes", [1, 2])
def test_a_small_person_is_small_and_not_far_away(passes):
    """Without the floor she is taken for a person of usual size, a third of a metre too far away."""
    models = load_models(load_config(overrides={"regress.backend": "network", "displace.passes": passes}))
    sequence = random_sequence(heldout_engine(models.body), 72001, 50)
    errors_m = {}
    for name, ground in (("floor", sequence.ground), ("none", None)):
        state, errors_m[name] = initial_state(), []
        for i in range(8):
            shot = sequence.render(i)
            state, result = process(models, state, Frame(shot.rgb, shot.stamp_ns, sequence.camera, ground=ground))
            truth = pose(models.body, shot.params)
            errors_m[name] += [np.linalg.norm(p.joints[0] - truth.joints[0, 0]) for p in result.people]
            assert {p.scale_source for p in result.people} <= {"ground" if ground is not None else "prior"}
            assert ("ground" in result.stage_ms) == (ground is not None and len(result.people) > 0)
        assert len(errors_m[name]) > 5
    assert np.mean(errors_m["floor"]) < 0.18 < 0.25 < np.mean(errors_m["none"])


def test_the_floor_is_left_to_the_single_steps():
    """The frame in one go on a GPU knows images alone."""
    frame = Frame(np.zeros((480, 640, 3), np.uint8), 0, CAMERA, ground=ground_below(1.0, 0.0))
    models = type("Models", (), {"config": load_config()})()
    assert steady.measure(models, initial_state(), [object()], frame) is None
    with pytest.raises(AttributeError):  # without it, it would be asked
        steady.measure(models, initial_state(), [object()], dataclasses.replace(frame, ground=None))


def test_the_floor_goes_with_every_picture(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(offline, "run", lambda options: told.append(options.ground) or sys.exit(0))
    for extra in ([], ["--camera-height", "1.2"], ["--camera-height", "1.2", "--camera-pitch", "30"]):
        with pytest.raises(SystemExit):
            cli.main(["run", str(tmp_path), "--out", str(tmp_path / "out"), *extra])
    assert told[0] is None
    np.testing.assert_allclose(told[1:], [[0, -1, 0, 1.2], [0, -np.sqrt(0.75), -0.5, 1.2]], atol=1e-12)
