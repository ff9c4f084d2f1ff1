"""One person's numbers must not cost another: people close behind each other, places that nobody needs, broken answers."""

# ruff: noqa: F401, F811 - fixtures of the helpers
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pipeline_helpers import CAMERA, DT_NS, World, body, make, parts, truth_at
from test_pipeline_given import GREY, disturbed

from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.geometry.camera import mesh_box, project
from densefit_ros.pipeline import initial_state, process
from densefit_ros.regress.carried import CarriedEstimator
from densefit_ros.steps import conclude
from densefit_ros.types import BodyParams, Correspondences, FitStatus, Frame, Keypoints, TrackingState


class CloseBehind(World):
    """The second stands half a metre behind the first, ten centimetres to the side: boxes overlap by more than 0.6."""

    def truth(self, person: int) -> BodyParams:
        t = np.float32([[0.1 * person, 0.1, 3.5 + 0.5 * person]])
        return dataclasses.replace(truth_at(0), t_camera_root=t)


def boxes(world, body) -> np.ndarray:
    return np.stack([mesh_box(CAMERA, pose(body, world.truth(k)).vertices[0]) for k in range(world.people)])


def keypoints(world, body) -> Keypoints:
    both = pose(body, BodyParams.stack([world.truth(k) for k in range(world.people)]))
    uv = project(CAMERA, landmark_positions(body.landmarks["coco17"], both)).astype(np.float32)
    return Keypoints("coco17", uv, np.ones(uv.shape[:2], np.float32))


@pytest.mark.parametrize("source", ["estimates", "keypoints", "carried"])
def test_who_is_named_stays_behind_somebody_else(parts, body, source):
    models, _ = make(parts, body, people=2)
    world = CloseBehind(2)
    for oracle in (models.finder, models.estimator, models.displacer):
        oracle.world = world
    if source == "carried":
        models = dataclasses.replace(models, estimator=CarriedEstimator(), finder=None)
    state, names, unseen = initial_state(), set(), 0
    for i in range(24):
        frame, given, found = Frame(GREY, i * DT_NS, CAMERA), None, None
        if source == "keypoints":
            frame = dataclasses.replace(frame, keypoints=keypoints(world, body))
            found = boxes(world, body) if i == 0 else None
        elif source == "estimates" or i == 0:
            given = disturbed(world, [0, 1], seed=i, deg=2.0)
        state, result = process(models, state, frame, found, given)
        assert len(result.people) == 2
        unseen += sum(p.tracking_state is TrackingState.PREDICTED for p in result.people)
        near, far = sorted(result.people, key=lambda p: p.joints[0, 2])
        names.add((near.track_id, far.track_id))
    assert len(names) == 1
    assert unseen <= (2 if source == "carried" else 0)  # who is carried needs displacements that agree


@pytest.mark.parametrize("missing", [[1], [0, 1]])
def test_people_with_a_few_keypoints_are_nobody_and_cost_nobody(parts, body, missing):
    models, world = make(parts, body, people=2)
    points = keypoints(world, body)
    points.confidence[missing, 3:] = 0.0
    _, result = process(models, initial_state(), Frame(GREY, 0, CAMERA, keypoints=points))
    assert len(result.people) == 2 - len(missing)


@pytest.mark.parametrize("kind", ["estimates beside the image", "boxes beside the image", "estimates of no confidence"])
def test_who_cannot_come_in_takes_no_place(parts, body, kind):
    models, world = make(parts, body)
    given, found = None, boxes(world, body)
    if kind == "estimates beside the image":
        given, found = disturbed(world, [0] * 4), None
        given.params.t_camera_root[:3, 0] = 9.0, 10.0, 11.0
    elif kind == "boxes beside the image":
        found = np.concatenate([[[700, 10, 50, 200], [800, 10, 50, 200], [-300, 10, 60, 200]], found])
    else:
        given = disturbed(world, [0] * 3, confidence=0.1)
        given.params.t_camera_root[:, 0] = -1.5, 1.5, 1.0
    _, result = process(models, initial_state(), Frame(GREY, 0, CAMERA), found, given)
    (person,) = result.people
    assert np.linalg.norm(person.joints[0] - pose(body, world.truth(0)).joints[0, 0]) < 0.5


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("part", ["t_camera_root", "joint_rotvec", "betas", "rot_sigma_rad"])
def test_an_answer_that_is_no_number_costs_its_own_person_alone(parts, body, part, lifted):
    """Nor does it where keypoints are lifted from it, all people's at once."""
    models, world = make(parts, body, people=2)
    state, result = process(models, initial_state(), Frame(GREY, 0, CAMERA))
    assert len(result.people) == 2
    inner = models.estimator

    class Broken:
        name, size_px, margin = inner.name, inner.size_px, inner.margin

        def estimate(self, crop, camera, warm=()):
            estimate = inner.estimate(crop, camera, warm)
            getattr(estimate.params, part, estimate.rot_sigma_rad)[0] = np.nan
            return estimate

    frame = Frame(GREY, DT_NS, CAMERA, keypoints=keypoints(world, body) if lifted else None)
    _, result = process(dataclasses.replace(models, estimator=Broken()), state, frame)
    if lifted:  # keypoints alone are enough for whom the network fails
        assert [p.tracking_state for p in result.people] == [TrackingState.TRACKED] * 2
        return
    assert [p.tracking_state for p in result.people] == [TrackingState.PREDICTED, TrackingState.TRACKED]
    assert all(np.isfinite(p.first_estimate.joint_rotvec).all() and np.isfinite(p.vertices).all() for p in result.people)


def test_whoever_is_rejected_and_not_in_the_map_keeps_the_start(parts, body):
    """Another person's pixels are no reason to solve this one again, from nothing."""
    models, world = make(parts, body, people=2)
    start = BodyParams.stack([world.truth(0), world.truth(1)])
    fit = models.fitter.solve(start, CAMERA, Correspondences.empty())
    rejected = dataclasses.replace(fit, status=np.full(2, FitStatus.REJECTED, fit.status.dtype))
    one = np.ones(40, np.int32)
    mapped = Correspondences(
        one, np.arange(40, dtype=np.int32), np.full((40, 3), 1 / 3, np.float32), np.full((40, 2), 200, np.float32),
        np.ones(40, np.float32),
    )  # fmt: skip
    again = conclude.without_rejected(models, rejected, start, CAMERA, mapped, keypoints=None)
    # In a later pass it is the pass before that counts.
    former = dataclasses.replace(fit, params=BodyParams.stack([world.truth(1), world.truth(0)]))
    late = dataclasses.replace(fit, status=np.array([fit.status[0], FitStatus.REJECTED], fit.status.dtype))
    kept = conclude.with_former(late, former)
    assert (kept.status == fit.status).all()
    np.testing.assert_array_equal(kept.params.t_camera_root, [fit.params.t_camera_root[0], former.params.t_camera_root[1]])
    assert again.status[0] == FitStatus.REJECTED and again.status[1] != FitStatus.REJECTED
