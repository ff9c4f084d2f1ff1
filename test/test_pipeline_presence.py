"""Who is there: people cut off by the border, twins, people who leave, boxes and keypoints of several programs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pipeline_helpers import CAMERA, DT_NS, OracleEstimator, OracleFinder, World, body, make, parts  # noqa: F401

from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.config import ADMIT_EVERYBODY
from densefit_ros.evidence.keypoints import of_boxes
from densefit_ros.geometry import crop as crops
from densefit_ros.geometry.camera import mesh_box, project
from densefit_ros.pipeline import initial_state, process
from densefit_ros.steps import find, given
from densefit_ros.track import identity
from densefit_ros.types import BodyParams, Detection, Estimate, Frame, Keypoints

GREY = np.full((480, 640, 3), 90, np.uint8)


class SteadyEstimator(OracleEstimator):
    """Off by 2 degrees and 1 cm, in windows as tight as the built-in network's, with 2D joints as it has them."""

    size_px, margin = 224, None

    def estimate(self, crop, camera, warm=()):
        found = super().estimate(crop, camera, warm)
        rows = []
        for _ in crop.rgb:
            true, noise = self.world.truth(0), np.float32(np.deg2rad(2)) * self.rng.normal(size=(1, 24, 3)).astype(np.float32)
            t = true.t_camera_root + 0.01 * self.rng.normal(size=(1, 3)).astype(np.float32)
            rows.append(
                BodyParams(np.zeros_like(true.betas), true.root_rotvec + noise[:, 0], true.joint_rotvec + noise[:, 1:], t)
            )
        params = BodyParams.stack(rows)
        uv = np.stack([project(camera, j) for j in pose(self.body, params).joints]).astype(np.float32)
        keypoints = Keypoints("smpl24", uv, np.full(uv.shape[:2], 0.05, np.float32))
        return dataclasses.replace(found, params=params, keypoints=keypoints, confidence=1.05 * found.confidence)


class NearWorld(World):
    """One person so near that the image shows a part."""

    def truth(self, person):
        return dataclasses.replace(super().truth(person), t_camera_root=np.float32([[0.0, 0.35, 0.8]]))


class FinderOfWhatIsSeen(OracleFinder):
    score = 0.9

    def detect(self, rgb, enough=1):
        box = mesh_box(CAMERA, pose(self.body, self.world.truth(0)).vertices[0])
        low, high = np.clip(box[:2], 0, [640, 480]), np.clip(box[:2] + box[2:], 0, [640, 480])
        return [Detection(np.r_[low, high - low].astype(np.float32), self.score)]


def states(models, world, count, boxes=None, state=None):
    """A letter per person and frame; ``boxes`` come with the first frame alone."""
    state, out = state or initial_state(), []
    for i in range(count):
        world.i = i
        given_boxes = None if boxes is None else boxes if i == 0 else np.zeros((0, 4), np.float32)
        state, result = process(models, state, Frame(GREY, i * DT_NS, CAMERA), given_boxes)
        out.append("".join(p.tracking_state.name[0] for p in result.people))
    return out


@pytest.mark.parametrize("score", [0.9, 0.7])  # believed at once, or looked at first
def test_somebody_at_arms_length_is_one_person(parts, body, score):  # noqa: F811
    models, _ = make(parts, body, people=2)
    world = NearWorld(1)
    finder = FinderOfWhatIsSeen(world, body)
    finder.score = score
    sure = SteadyEstimator(world, body)
    sure._nearest = lambda centre: (0, 0.0)
    models = dataclasses.replace(models, estimator=sure, finder=finder, displacer=None)
    seen = states(models, world, 45)
    assert len(seen[0]) == 1 and set(seen[1:]) == {"T"}


def test_two_tracks_on_one_person_become_one(parts, body):  # noqa: F811
    models, world = make(parts, body, people=2)
    world.visible = {0}
    models = dataclasses.replace(models, estimator=SteadyEstimator(world, body))
    box = mesh_box(CAMERA, pose(body, world.truth(0)).vertices[0])
    seen = states(models, world, 40, np.stack([box, box + np.float32([12, 8, -16, -12])]))
    assert seen[0] == "DD" and set(seen[-10:]) == {"T"}


def test_of_two_tracks_the_one_seen_last_keeps_the_person():
    def traits(x_m, unseen_s):
        return identity.Traits(np.array([x_m, 0, 3.5]), np.zeros(10), np.ones(10), None, unseen_s)

    stale, fresh, here = traits(0.12, 0.2), traits(-0.08, 1 / 30), traits(0.0, 0.0)
    assert identity.own_rows([fresh, stale], [here, here], [[0, 1]]) == [0, None]


def test_twins_among_given_boxes_are_one_person(parts, body):  # noqa: F811
    models, world = make(parts, body, people=2)
    world.visible = {0}
    box = mesh_box(CAMERA, pose(body, world.truth(0)).vertices[0])
    assert states(models, world, 1, np.stack([box, box + np.float32([3, 2, -4, -3])])) == ["D"]


def test_people_with_boxes_can_leave(parts, body):  # noqa: F811
    """Whoever has a box is admitted; nobody stays for it."""
    models, world = make(parts, body, people=1, **ADMIT_EVERYBODY)
    models = dataclasses.replace(models, estimator=SteadyEstimator(world, body), finder=None)
    box = mesh_box(CAMERA, pose(body, world.truth(0)).vertices[0])
    state, out = initial_state(), []
    for i in range(40):
        world.i, world.visible = i, {0} if i < 8 else set()
        boxes = box[None] if i == 0 else np.zeros((0, 4), np.float32)
        state, result = process(models, state, Frame(GREY, i * DT_NS, CAMERA), boxes)
        out.append("".join(p.tracking_state.name[0] for p in result.people))
    assert out[:8] == ["D", *"TTTTTTT"] and out[8] == "P" and out[-1] == ""


def test_whoever_is_doubtful_and_has_a_box_is_answered(parts, body):  # noqa: F811
    models, world = make(parts, body, people=1, **ADMIT_EVERYBODY)
    models = dataclasses.replace(models, estimator=SteadyEstimator(world, body), finder=None)
    world.visible = set()  # confidence 0.05
    assert states(models, world, 1, np.float32([[200, 100, 120, 300]])) == ["D"]


def test_points_on_faces_count_a_share_whoever_else_was_given(parts, body):  # noqa: F811
    models, world = make(parts, body, people=2)
    people = BodyParams.stack([world.truth(0), world.truth(1)])
    posed = pose(body, people)
    uv = project(CAMERA, landmark_positions(body.landmarks["coco17"], posed)).astype(np.float32)
    points = Keypoints("coco17", uv, np.ones((2, 17), np.float32))
    boxes = np.stack([mesh_box(CAMERA, v) for v in posed.vertices])
    frame = Frame(GREY, 0, CAMERA, keypoints=points)
    crop = crops.extract(GREY, np.stack([crops.square_around(b, 1.05) for b in boxes]), 224)
    alone = find.first_estimate(models, crop, boxes, frame, [], of_boxes(points, boxes))
    one = Estimate(world.truth(0), np.ones(1, np.float32), source="external", rot_sigma_rad=np.full((1, 24), 0.2, np.float32))
    beside = given.first_estimate(models, crop, frame, [], boxes, one, given.mesh_boxes(models, one, CAMERA))
    np.testing.assert_array_equal(beside.keypoints.confidence, alone.keypoints.confidence)


def test_a_confidence_that_is_no_number_is_a_missing_point(parts, body):  # noqa: F811
    models, world = make(parts, body)
    uv = project(CAMERA, landmark_positions(body.landmarks["coco17"], pose(body, world.truth(0)))).astype(np.float32)
    confidence = np.full((1, 17), 0.9, np.float32)
    confidence[0, 9] = np.nan
    assert 0.5 < models.lifting.lift(Keypoints("coco17", uv, confidence), CAMERA).confidence[0] < 1
