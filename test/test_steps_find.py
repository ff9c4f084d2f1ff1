"""Newcomers' boxes: moved to whom the regressor sees in them, and to nobody else."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.body.skin import Skinner
from densefit_ros.config import ADMIT_EVERYBODY, load_config
from densefit_ros.geometry.camera import camera_from_fov, mesh_box
from densefit_ros.models import load_models
from densefit_ros.pipeline import initial_state, process
from densefit_ros.runtime.picture import SIZE_PX
from densefit_ros.settings import with_overrides
from densefit_ros.steps import find
from densefit_ros.synth.backgrounds import packaged_picture
from densefit_ros.synth.sequence import cover, demo_sequence
from densefit_ros.track.state import TrackerState
from densefit_ros.types import BodyParams, Detection, Estimate, Frame, Keypoints

CAMERA = camera_from_fov(640, 480, 60.0)
SURE, IN_DOUBT = np.array([0.9]), np.array([0.4])
SOMEBODY = np.array([[0.1, 0.0, 3.0]], np.float32)


class Regressor:
    """Sees a given person in every window, boxes' and longer ones', and remembers the windows."""

    size_px, margin, name = SIZE_PX, None, "one person"

    def __init__(self, places_m: np.ndarray, confidence: float = 0.9) -> None:
        self.places_m, self.confidence, self.windows = places_m, confidence, []

    def estimate(self, crop, camera, warm=()):
        self.windows.append(crop.image_from_crop)
        params = dataclasses.replace(BodyParams.rest(len(crop.rgb)), t_camera_root=np.resize(self.places_m, (len(crop.rgb), 3)))
        params.root_rotvec[:, 0] = np.pi
        return Estimate(params, np.full(len(crop.rgb), self.confidence, np.float32))


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def skinner(body):
    return Skinner(body, "cpu", 1)


def models_of(skinner, regressor, source=None, **overrides):
    return SimpleNamespace(config=load_config(overrides=overrides), estimator=regressor, skinner=skinner, keypoint_source=source)


def box_around(body, place_m):
    params = dataclasses.replace(BodyParams.rest(1), t_camera_root=np.array([place_m], np.float32))
    params.root_rotvec[:, 0] = np.pi
    return mesh_box(CAMERA, pose(body, params).vertices[0])


def frame(**more):
    return Frame(np.full((480, 640, 3), 90, np.uint8), 0, CAMERA, **more)


def rough(box):
    """A box that begins and ends elsewhere by a tenth of its size."""
    return (box + 0.1 * np.array([box[2], box[3], -box[2], box[3]])).astype(np.float32)


def test_a_rough_box_is_moved_to_the_body_that_is_seen_in_it(body, skinner):
    truth = box_around(body, SOMEBODY[0])
    regressor = Regressor(SOMEBODY)
    _, moved = find.settled(models_of(skinner, regressor), frame(), rough(truth)[None], 0, SURE)
    np.testing.assert_allclose(moved[0], truth, atol=0.01 * truth[3])
    assert len(regressor.windows) == 1
    _, lifted = find.settled(models_of(skinner, Regressor(SOMEBODY), source="mediapipe"), frame(), rough(truth)[None], 0, SURE)
    np.testing.assert_array_equal(lifted, moved)  # the regressor is asked about them, too


@pytest.mark.parametrize(("sigmas", "confident", "moved"), [
    ((0.03, 0.02), (True, True), True),
    ((0.03, 0.028), (True, True), False),  # of a window that is a quarter larger
    ((0.02, 0.03), (True, True), False),
    ((0.03, 0.02), (True, False), False),
    ((0.02, 0.03), (False, True), True),
])  # fmt: skip
def test_what_is_below_a_box_is_looked_at_as_well(body, skinner, sigmas, confident, moved):
    """The box ends at the knees: the regressor sees somebody small in it, and all of the person in the longer one."""
    truth = box_around(body, SOMEBODY[0])
    box = np.float32([[truth[0] + 0.27 * truth[2], truth[1], 0.46 * truth[2], truth[3] / (1 + find.LONGER)]])  # not the hands
    small = SOMEBODY[0] * np.float32([1.1, 1, 1.4]) - np.float32([0, 0.3, 0])
    regressor = Regressor(np.stack([small, SOMEBODY[0]]))

    def estimate(crop, camera, warm=()):
        seen = Regressor.estimate(regressor, crop, camera)
        sigma = np.repeat(np.float32(sigmas)[:, None], 24, 1)
        return dataclasses.replace(seen, uv_sigma=sigma, confidence=np.where(confident, seen.confidence, np.float32(0.1)))

    regressor.estimate = estimate
    _, around = find.settled(models_of(skinner, regressor), frame(), box, 0, SURE)
    expected = truth if moved else box_around(body, small)
    np.testing.assert_allclose(around[0], expected, atol=0.01 * truth[3])


def test_boxes_of_tracks_stay_and_are_not_looked_at(body, skinner):
    tracked = np.array([[5, 5, 60, 200]], np.float32)
    truth = box_around(body, SOMEBODY[0])
    regressor = Regressor(SOMEBODY)
    _, moved = find.settled(models_of(skinner, regressor), frame(), np.stack([tracked[0], rough(truth)]), 1, SURE)
    np.testing.assert_array_equal(moved[0], tracked[0])
    np.testing.assert_allclose(moved[1], truth, atol=0.01 * truth[3])
    assert len(regressor.windows[0]) == 2  # the newcomer's box, and a longer one
    np.testing.assert_array_equal(find.settled(models_of(skinner, regressor), frame(), tracked, 1, SURE[:0])[1], tracked)
    assert len(regressor.windows) == 1


@pytest.mark.parametrize(
    "why", ["nobody", "given", "elsewhere", "switched off", "points alone", "given points alone", "another's margin"]
)
def test_a_box_stays(body, skinner, why):
    box = rough(box_around(body, SOMEBODY[0]))
    nobody = why in ("nobody", "given")
    regressor = Regressor(SOMEBODY, confidence=0.1 if nobody else 0.9)
    if why == "elsewhere":
        regressor.places_m = SOMEBODY + np.float32([[1.2, 0, 0]])
    if why == "another's margin":
        regressor.margin = 1.2
    overrides = {"regress.recrop": False} if why == "switched off" else {}
    if why == "given":  # whoever has a box is answered, in that box
        overrides = dict(ADMIT_EVERYBODY)
    if "points alone" in why:
        overrides = {"regress.keypoint_prior": False}
    models = models_of(skinner, regressor, source="mediapipe" if why == "points alone" else None, **overrides)
    keypoints = Keypoints("coco17", np.zeros((1, 17, 2)), np.ones((1, 17))) if why == "given points alone" else None
    np.testing.assert_array_equal(find.settled(models, frame(keypoints=keypoints), box[None], 0, SURE)[1], box[None])
    assert not len(find.settled(models, frame(keypoints=keypoints), box[None], 0, IN_DOUBT)[1])  # nobody vouches for the finder
    even = find.settled(models, frame(keypoints=keypoints), box[None], 0, np.array([find.EVEN_SCORE]))[1]
    assert len(even) == (not nobody and why != "elsewhere")
    assert len(regressor.windows) == 3 * (nobody or why == "elsewhere")


def test_a_box_that_the_finder_doubts_needs_a_sure_regressor(body, skinner):
    truth = box_around(body, SOMEBODY[0])
    far = np.float32([5, 5, 60, 200])
    boxes, places = np.stack([far, rough(truth)]), np.repeat(SOMEBODY, 2, 0)
    for confidence, stay in ((0.95, [1]), (0.85, [])):
        models = models_of(skinner, Regressor(places, confidence))
        kept, around = find.settled(models, frame(), boxes, 0, np.array([0.4, 0.4]))
        np.testing.assert_array_equal(kept, boxes[stay])
        np.testing.assert_allclose(around, np.repeat(truth[None], len(stay), 0), atol=0.01 * truth[3])
        # Beside a sure one, and a track, whom it does not disturb.
        kept, around = find.settled(models, frame(), np.stack([far, far, rough(truth)]), 1, np.array([0.9, 0.4]))
        np.testing.assert_array_equal(kept[:2], [far, far])
        assert len(kept) == len(around) == 2 + len(stay)


def test_one_person_in_two_doubtful_boxes_is_taken_once(body, skinner):
    truth = box_around(body, SOMEBODY[0])
    boxes = np.stack([rough(truth), truth - np.float32([0, 0, 0, 0.3 * truth[3]])])
    models = models_of(skinner, Regressor(np.repeat(SOMEBODY, 2, 0), 0.95))
    kept, _ = find.settled(models, frame(), boxes, 0, np.array([0.4, 0.4]))
    np.testing.assert_array_equal(kept, boxes[:1])


def test_newcomers_come_with_their_scores(skinner):
    found = [Detection(np.float32([100 * i, 50, 60, 200]), s) for i, s in enumerate((0.9, 0.5, 0.3, 0.1))]
    models = models_of(skinner, None)
    models.finder = SimpleNamespace(detect=lambda rgb, enough: found)
    boxes, scores, _ = find.newcomers(models, TrackerState(), frame(), np.zeros((0, 4), np.float32), None)
    np.testing.assert_array_equal(boxes, [d.box_xywh for d in found[:3]])
    assert scores.tolist() == [0.9, 0.5, 0.3]
    given = np.stack([d.box_xywh for d in found])
    assert find.newcomers(models, TrackerState(), frame(), np.zeros((0, 4), np.float32), given)[1].min() == 1


@pytest.mark.parametrize(("min_score", "kept"), [(0.0, 4), (0.4, 2), (1.0, 0)])
def test_the_least_score_of_a_find_is_a_setting(skinner, min_score, kept):
    found = [Detection(np.float32([100 * i, 50, 60, 200]), s) for i, s in enumerate((0.9, 0.5, 0.3, 0.1))]
    models = models_of(skinner, None, **{"detect.min_score": min_score, "track.max_people": 4})
    models.finder = SimpleNamespace(detect=lambda rgb, enough: found)
    assert len(find.newcomers(models, TrackerState(), frame(), np.zeros((0, 4), np.float32), None)[0]) == kept


@pytest.mark.parametrize(
    ("setting", "stays"),
    [
        ({"detect.sure_score": 0.5}, True),
        ({"detect.sure_score": 0.7}, False),
        ({"detect.sure_score": 0.7, "regress.sure_confidence": 0.7}, True),
    ],
)
def test_who_must_be_sure_of_a_find_is_a_setting(body, skinner, setting, stays):
    """The finder says 0.6, the regressor 0.8."""
    box = rough(box_around(body, SOMEBODY[0]))
    models = models_of(skinner, Regressor(SOMEBODY, confidence=0.8), **setting)
    assert len(find.settled(models, frame(), box[None], 0, np.array([0.6]))[0]) == stays


def test_two_boxes_do_not_become_one_person(body, skinner):
    truth = box_around(body, SOMEBODY[0])
    beside = truth + np.float32([0.55 * truth[2], 0, 0, 0])  # overlaps the person by less than a track would
    boxes = np.stack([rough(truth), beside])
    _, moved = find.settled(models_of(skinner, Regressor(np.repeat(SOMEBODY, 2, 0))), frame(), boxes, 0, np.ones(2))
    np.testing.assert_allclose(moved[0], truth, atol=0.01 * truth[3])
    np.testing.assert_array_equal(moved[1], beside)
    _, with_track = find.settled(models_of(skinner, Regressor(SOMEBODY)), frame(), np.stack([truth, beside]), 1, SURE)
    np.testing.assert_array_equal(with_track, np.stack([truth, beside]))


def test_the_surest_newcomers_get_the_room(skinner):
    models = models_of(skinner, None, **{"track.max_people": 3})
    models.body = skinner.body
    estimate = Regressor(np.repeat(SOMEBODY, 5, 0)).estimate(SimpleNamespace(rgb=np.zeros(5), image_from_crop=None), CAMERA)
    estimate.confidence[:] = (0.9, 0.5, 0.2, 0.8, 0.9)  # the first is tracked already
    state, (track,), _ = find.admit(models, TrackerState(), [], find.take_estimate(estimate, [0]), 0)
    state, tracks, kept = find.admit(models, state, [track], estimate, 33_000_000)
    assert kept == [0, 4, 3] and len(tracks) == 3 and tracks[0] is track
    assert find.admit(models, state, tracks, estimate, 66_000_000)[2] == [0, 1, 2]


def test_newcomers_whose_joints_have_no_place_are_not_people(skinner):
    """Half of the joints must have one: of a person cut off at the hips they do."""
    models = models_of(skinner, None, **{"track.max_people": 4})
    models.body = skinner.body
    estimate = Regressor(np.repeat(SOMEBODY, 4, 0)).estimate(SimpleNamespace(rgb=np.zeros(4), image_from_crop=None), CAMERA)
    estimate.confidence[:] = 1.0
    sigma = np.full((4, 24), 0.12)  # the first is tracked already
    sigma[1, ::2] = 0.03
    sigma[2] = np.where(np.arange(24) < 6, 0.01, 0.2)
    estimate = dataclasses.replace(estimate, uv_sigma=sigma)
    state, (track,), _ = find.admit(models, TrackerState(), [], find.take_estimate(estimate, [1]), 0)
    assert find.admit(models, state, [track], estimate, 33_000_000)[2] == [0, 1]
    # A source that does not say where joints may be is taken at its word about people.
    silent = dataclasses.replace(estimate, uv_sigma=None)
    assert find.admit(models, state, [track], silent, 33_000_000)[2] == [0, 1, 2, 3]


@pytest.mark.parametrize("wall", ["noise", "bricks", "behind the person"])
def test_the_network_has_no_place_for_joints_in_a_wall(wall):
    """It states 10 % of the window and more there, 0.8 % on the person.

    In noise with dark stripes it saw limbs to 4 %: that its confidence alone refuses.
    """
    config = load_config(None, {"device": "cpu", "regress.backend": "network", "detect.backend": "none"})
    models = load_models(config)
    sequence = demo_sequence(models.body)
    rgb, truth = sequence.frame(0)
    box = mesh_box(sequence.camera, models.skinner.pose(truth).vertices[0])
    walls = {
        "noise": np.random.default_rng(1).normal(128, 20, rgb.shape).clip(0, 255).astype(np.uint8),
        "bricks": np.full_like(rgb, 150),
        "behind the person": cover(packaged_picture("motorcycle_left.png"), 640, 480).astype(np.uint8),
    }
    walls["bricks"][::24] = walls["bricks"][:, ::48] = 90

    def found(image, config):
        settled = dataclasses.replace(models, config=config)
        return process(settled, initial_state(), Frame(image, 0, sequence.camera), box[None])[1].people

    assert len(found(rgb, config)) == 1
    sure_of_people = with_overrides(config, {"regress.new_confidence": 0.0})
    assert not found(walls[wall], sure_of_people)
    assert len(found(walls[wall], with_overrides(config, ADMIT_EVERYBODY))) == 1
