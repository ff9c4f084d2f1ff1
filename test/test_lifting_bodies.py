from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from skimage import data

from densefit_ros.body.assets import load_body
from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.detect.factory import make_detector
from densefit_ros.errors import AssetError
from densefit_ros.eval import metrics
from densefit_ros.geometry import crop as crops
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.regress import mediapipe_graph
from densefit_ros.regress.lifting import LiftingRegressor
from densefit_ros.regress.lifting_start import StartFinder, landmark_body
from densefit_ros.regress.mediapipe_keypoints import MediapipeKeypoints, MediapipeTaskKeypoints
from densefit_ros.synth.poses import sample
from densefit_ros.types import BodyParams, Keypoints

needs_mediapipe = pytest.mark.skipif(not mediapipe_graph.available(), reason="the mediapipe extra is not installed")
CAMERA = camera_from_fov(640, 480, 60.0)


@functools.lru_cache(maxsize=1)
def _body():
    return load_body()


@functools.lru_cache(maxsize=1)
def _lifting():
    return LiftingRegressor(_body())


def _people(count: int, seed: int = 0, spread: float = np.pi) -> BodyParams:
    rng = np.random.default_rng(seed)
    drawn = sample(rng, count)
    upright = so3.exp(np.tile([np.pi, 0, 0], (count, 1)))
    yaw = so3.exp(np.stack([np.zeros(count), rng.uniform(-spread, spread, count), np.zeros(count)], -1))
    depth = rng.uniform(2.5, 5, count)
    t = np.stack([rng.uniform(-0.12, 0.12, count) * depth, rng.uniform(-0.05, 0.05, count) * depth, depth], -1)
    root = so3.log(upright @ yaw @ drawn.R_world_root)
    betas = 0.7 * rng.normal(size=(count, 10))
    return BodyParams(*(a.astype(np.float32) for a in (betas, root, drawn.joint_rotvec, t)))


def _observe(params, set_name="mediapipe33", noise_px=0.0, noise_m=0.0, hints=True, seed=1):
    rng = np.random.default_rng(seed)
    posed = pose(_body(), params)
    points = landmark_positions(_body().landmarks[set_name], posed)
    uv = project(CAMERA, points) + noise_px * rng.normal(size=(*points.shape[:2], 2))
    direction = points - points[:, :1] + noise_m * rng.normal(size=points.shape)
    confidence = np.ones(uv.shape[:2], np.float32)
    return posed, Keypoints(set_name, uv.astype(np.float32), confidence, direction.astype(np.float32) if hints else None)


@pytest.mark.parametrize("set_name, limit_mm, limit_pa_mm", [("mediapipe33", 24, 13), ("smpl24", 24, 11)])
def test_exact_points_give_the_pose_back(set_name, limit_mm, limit_pa_mm):
    params = _people(24)
    posed, keypoints = _observe(params, set_name)
    estimate = _lifting().lift(keypoints, CAMERA)
    found = pose(_body(), estimate.params)
    assert metrics.mpjpe_mm(found.joints, posed.joints).mean() < limit_mm
    assert metrics.pa_mpjpe_mm(found.joints, posed.joints).mean() < limit_pa_mm
    assert (estimate.confidence > 0.95).all()


def test_noise_is_averaged_and_known():
    params = _people(24, seed=3)
    posed, keypoints = _observe(params, noise_px=3, noise_m=0.04)
    estimate = _lifting().lift(keypoints, CAMERA)
    found = pose(_body(), estimate.params)
    assert metrics.pa_mpjpe_mm(found.joints, posed.joints).mean() < 45
    # The stated rotation sigmas explain the errors: neither boasting nor useless.
    true = so3.exp(params.rotvec)
    got = so3.exp(estimate.params.rotvec)
    share = (so3.angle_between(true, got) / np.sqrt(3) / estimate.rot_sigma_rad) ** 2
    assert 0.25 < share.mean() < 1.5


@pytest.mark.parametrize("set_name", ["openpose25", "coco17", "mediapipe33"])
def test_two_dimensions_alone_still_explain_the_picture(set_name):
    params = _people(16, seed=5, spread=0.8)
    _, keypoints = _observe(params, set_name, hints=False)
    estimate = _lifting().lift(keypoints, CAMERA)
    placed = project(CAMERA, landmark_positions(_body().landmarks[set_name], pose(_body(), estimate.params)))
    error = np.linalg.norm(placed - keypoints.uv, axis=-1).mean(1)
    height = np.ptp(keypoints.uv[..., 1], axis=1)
    assert np.median(error / height) < 0.02 and (estimate.confidence > 0.8).all()
    assert (np.abs(estimate.params.betas) < 4).all()


def test_a_person_from_behind_is_not_turned_round():
    front, back = BodyParams.rest(1), BodyParams.rest(1)
    front = dataclasses.replace(front, root_rotvec=np.array([[np.pi, 0, 0]], np.float32))
    back = dataclasses.replace(back, root_rotvec=np.array([[0, 0, np.pi]], np.float32))  # y down, facing away
    for person in (front, back):
        person = dataclasses.replace(person, t_camera_root=np.array([[0.2, 0.1, 3.0]], np.float32))
        for hints in (True, False):
            _, keypoints = _observe(person, "openpose25", hints=hints)
            got = _lifting().lift(keypoints, CAMERA).params
            assert so3.angle_between(so3.exp(got.root_rotvec[0]), so3.exp(person.root_rotvec[0])) < 0.3


def test_missing_points_are_guessed_by_the_prior():
    params = _people(8, seed=7)
    posed, keypoints = _observe(params)
    names = _body().landmarks["mediapipe33"].names
    confidence = keypoints.confidence.copy()
    confidence[:, [i for i, n in enumerate(names) if n.startswith("left_") and n != "left_hip"]] = 0.0
    uv = keypoints.uv.copy()
    uv[confidence == 0] = np.nan
    estimate = _lifting().lift(dataclasses.replace(keypoints, uv=uv, confidence=confidence), CAMERA)
    found = pose(_body(), estimate.params)
    right = [2, 5, 8, 17, 19, 21]
    error = found.joints[:, right] - found.joints[:, :1] - posed.joints[:, right] + posed.joints[:, :1]
    assert 1000 * np.linalg.norm(error, axis=-1).mean() < 70
    assert np.isfinite(found.vertices).all()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_points_give_no_confidence(count):
    _, keypoints = _observe(_people(1))
    confidence = np.zeros_like(keypoints.confidence)
    confidence[:, 11 : 11 + count] = 1.0
    estimate = _lifting().lift(dataclasses.replace(keypoints, confidence=confidence), CAMERA)
    assert estimate.confidence[0] == 0
    assert all(np.isfinite(getattr(estimate.params, f)).all() for f in ("betas", "root_rotvec", "joint_rotvec", "t_camera_root"))


def test_nobody_and_many():
    nobody = Keypoints("coco17", np.zeros((0, 17, 2), np.float32), np.zeros((0, 17), np.float32))
    assert len(_lifting().lift(nobody, CAMERA).params) == 0
    params = _people(11, seed=9)  # more than the fitter holds at once
    _, keypoints = _observe(params)
    estimate = _lifting().lift(keypoints, CAMERA)
    last = Keypoints("mediapipe33", *(a[10:] for a in (keypoints.uv, keypoints.confidence, keypoints.direction_xyz)))
    alone = _lifting().lift(last, CAMERA)
    assert len(estimate.params) == 11
    assert estimate.params.joint_rotvec[10] == pytest.approx(alone.params.joint_rotvec[0], abs=1e-3)


def test_a_good_prediction_is_the_start_and_a_bad_one_is_not():
    params = _people(2, seed=11)
    posed, keypoints = _observe(params, hints=False)
    cold = pose(_body(), _lifting().lift(keypoints, CAMERA).params)
    warm = pose(_body(), _lifting().lift(keypoints, CAMERA, [params.person(0), params.person(1)]).params)
    warm_mm, cold_mm = (metrics.mpjpe_mm(p.joints, posed.joints).mean() for p in (warm, cold))
    assert warm_mm < 30 and warm_mm < 0.7 * cold_mm
    swapped = pose(_body(), _lifting().lift(keypoints, CAMERA, [BodyParams.rest(1)]).params)
    assert swapped.joints == pytest.approx(cold.joints, abs=1e-3)


def test_start_places_a_known_pose_exactly():
    params = _people(1, seed=13)
    params = dataclasses.replace(params, betas=np.zeros((1, 10), np.float32))
    _, keypoints = _observe(params)
    finder = StartFinder(_body(), "mediapipe33")
    t = finder.place(params, keypoints.uv[0], keypoints.confidence[0], CAMERA)
    assert t == pytest.approx(params.t_camera_root[0], abs=2e-3)
    assert finder.reprojection_px(params, keypoints.uv[0], keypoints.confidence[0], CAMERA) < 1e-2


def test_the_small_body_is_the_body():
    params = _people(2, seed=15)
    small, points = landmark_body(_body(), _body().landmarks["openpose25"])
    got = landmark_positions(points, pose(small, params))
    assert got == pytest.approx(landmark_positions(_body().landmarks["openpose25"], pose(_body(), params)), abs=1e-6)
    assert small.num_vertices < 600


def test_hints_that_are_missing_are_no_hints():
    """Files mix people with and without 3D points, and leave single ones out."""
    params = _people(1, seed=3)
    points = landmark_positions(_body().landmarks["openpose25"], pose(_body(), params))
    keypoints = Keypoints("openpose25", project(CAMERA, points), np.ones((1, 25), np.float32))
    finder = StartFinder(_body(), "openpose25")
    flat = finder.start(keypoints, CAMERA)
    none = finder.start(dataclasses.replace(keypoints, direction_xyz=np.full((1, 25, 3), np.nan)), CAMERA)
    np.testing.assert_array_equal(none.joint_rotvec, flat.joint_rotvec)
    hints = points.copy()
    hints[0, 0] = np.nan  # the nose: the head's rotation is left open
    some = finder.start(dataclasses.replace(keypoints, direction_xyz=hints), CAMERA)
    assert np.isfinite(some.joint_rotvec).all() and np.abs(some.joint_rotvec - params.joint_rotvec).mean() < 0.35
    unsure = dataclasses.replace(keypoints, confidence=np.where(np.arange(25) == 4, np.nan, 1.0)[None])
    assert np.isfinite(finder.start(unsure, CAMERA).t_camera_root).all()
    assert np.isfinite(finder.reprojection_px(params, unsure.uv[0], unsure.confidence[0], CAMERA))


def test_who_stands_in_a_window_without_keypoints_is_as_far_as_the_window_says():
    """Mean height 1.7 m from ankle to crown at 3 m, in a window cut by render.crop_margin."""
    side = 1.05 * CAMERA.fy * 1.7 / 3.0
    affine = np.array([[side / 224, 0, 320 - side / 2], [0, side / 224, 240 - side / 2]])
    upright = LiftingRegressor(_body()).upright(affine, 224, CAMERA)
    assert pose(_body(), upright).joints[0, 0, 2] == pytest.approx(3.0, abs=0.02)


@needs_mediapipe
def test_mediapipe_keypoints_lie_on_the_picture():
    rgb = data.astronaut()
    camera = camera_from_fov(512, 512, 60.0)
    crop = crops.extract(rgb, np.array([[-60, 0, 560, 560], [380, 0, 120, 120]], np.float32), 192)
    keypoints = MediapipeKeypoints().keypoints(crop, camera)
    names = _body().landmarks["mediapipe33"].names
    at = dict(zip(names, keypoints.uv[0]))
    assert at["nose"] == pytest.approx([222, 120], abs=12)
    assert at["left_shoulder"][0] > at["right_shoulder"][0]  # she faces the camera
    assert keypoints.confidence[0, 0] > 0.9 and (keypoints.confidence[1] == 0).all()
    x = dict(zip(names, keypoints.direction_xyz[0]))
    assert x["left_shoulder"][0] > x["right_shoulder"][0] and x["nose"][1] < x["left_shoulder"][1]
    assert x["nose"][2] < x["left_ear"][2]  # the nose is nearer than the ears


@needs_mediapipe
@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_mediapipe_keypoints_turn_with_the_person(quarter_turns):
    turned = np.ascontiguousarray(np.rot90(data.astronaut(), quarter_turns))
    (person,) = make_detector("mediapipe").detect(turned)
    square = crops.square_around(person.box_xywh, 1.2, aspect=1.0)[None]
    found = MediapipeKeypoints().keypoints(crops.extract(turned, square, 192), camera_from_fov(512, 512, 60.0))
    uv = found.uv[0]
    for _ in range(quarter_turns):  # rot90 takes (x, y) to (y, 512 - x)
        uv = np.stack([512 - uv[:, 1], uv[:, 0]], 1)
    nose, left_shoulder, right_shoulder = uv[[0, 11, 12]]
    assert nose == pytest.approx([222, 126], abs=25)
    # The suit hides where her shoulders are; the window is 1000 px wide.
    assert left_shoulder == pytest.approx([290, 240], abs=60) and right_shoulder == pytest.approx([110, 225], abs=60)


@needs_mediapipe
def test_crop_to_body_on_a_photograph():
    rgb = data.astronaut()
    camera = camera_from_fov(512, 512, 60.0)
    source, square = MediapipeKeypoints(), np.array([[-60, 0, 560, 560]], np.float32)
    crop = crops.extract(rgb, square, source.size_px)
    estimate = _lifting().estimate(source.keypoints(crop, camera), crop, camera)
    head = project(camera, pose(_body(), estimate.params).joints[0, 15])
    assert head == pytest.approx([220, 130], abs=30)
    assert estimate.confidence[0] > 0.3 and len(estimate.keypoints.uv) == 1
    grey = crops.extract(np.full_like(rgb, 90), square, source.size_px)
    assert _lifting().estimate(source.keypoints(grey, camera), grey, camera).confidence[0] == 0


@needs_mediapipe
def test_a_task_file_that_is_none(tmp_path):
    with pytest.raises(AssetError, match="found none"):
        MediapipeTaskKeypoints(tmp_path / "missing.task")
    damaged = tmp_path / "damaged.task"
    damaged.write_bytes(b"not a model")
    with pytest.raises(AssetError, match="damaged.task"):
        MediapipeTaskKeypoints(damaged)


def test_a_window_without_keypoints_gets_somebody_who_stands_in_it():
    crop = crops.extract(np.zeros((480, 640, 3), np.uint8), np.array([[300, 100, 240, 240], [10, 20, 90, 90]], np.float32), 192)
    warm = [_people(1, seed=17)]
    nobody = Keypoints("mediapipe33", np.zeros((2, 33, 2), np.float32), np.zeros((2, 33), np.float32))
    estimate = _lifting().estimate(nobody, crop, CAMERA, warm)
    assert (estimate.confidence == 0).all() and (estimate.rot_sigma_rad >= 1).all()
    assert estimate.params.t_camera_root[0] == pytest.approx(warm[0].t_camera_root[0])  # a track keeps its prediction
    uv = project(CAMERA, pose(_body(), estimate.params).vertices[1])
    assert uv.min(0) == pytest.approx([10 + 45 - np.ptp(uv[:, 0]) / 2, 20 + 2.1], abs=8)
    assert uv[:, 1].max() == pytest.approx(110 - 2.1, abs=8)
