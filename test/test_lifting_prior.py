"""Keypoints lifted from what a regressor says of the same people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros import models as loading
from densefit_ros.body.assets import load_body
from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose, rest_joints
from densefit_ros.config import Config
from densefit_ros.errors import BackendUnavailable
from densefit_ros.eval import metrics
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.pipeline import initial_state, process
from densefit_ros.regress.lifting import LiftingRegressor
from densefit_ros.settings import with_overrides
from densefit_ros.synth.perturb import disturb
from densefit_ros.synth.poses import sample
from densefit_ros.types import BodyParams, Crop, Estimate, Frame, ImageFeatures, Keypoints

CAMERA = camera_from_fov(640, 480, 60.0)
SET = "openpose25"
DEGREES = 10.0


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def lifting(body):
    return LiftingRegressor(body)


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(4)
    poses = sample(rng, 12)
    root = so3.log(so3.exp(np.tile([np.pi, 0, 0], (12, 1))) @ poses.R_world_root)
    t = np.column_stack([rng.uniform(-0.3, 0.3, 12), np.zeros(12), rng.uniform(3, 5, 12)])
    return BodyParams(*(a.astype(np.float32) for a in (0.7 * rng.normal(size=(12, 10)), root, poses.joint_rotvec, t)))


def observed(body, params: BodyParams) -> Keypoints:
    """2D points alone, exact."""
    uv = project(CAMERA, landmark_positions(body.landmarks[SET], pose(body, params))).astype(np.float32)
    return Keypoints(SET, uv, np.ones(uv.shape[:2], np.float32))


def answer(body, params: BodyParams, confidence: float = 0.9) -> Estimate:
    """A regressor that errs by ten degrees a joint, and knows it."""
    start = disturb(np.random.default_rng(1), params, rest_joints(body, params.betas)[:, 0], degrees=DEGREES)
    count = len(params)
    sigma = np.full((count, 24), np.radians(DEGREES), np.float32)
    return Estimate(start, np.full(count, confidence, np.float32), source="network", rot_sigma_rad=sigma)


def error_mm(body, params: BodyParams, truth: BodyParams) -> np.ndarray:
    return metrics.mpjpe_mm(pose(body, params).joints, pose(body, truth).joints)


def test_depth_comes_from_the_regressor_and_the_picture_from_the_points(body, lifting, people):
    keypoints, prior = observed(body, people), answer(body, people)
    alone, both = (lifting.lift(keypoints, CAMERA, prior=p).params for p in (None, prior))
    mm = {n: error_mm(body, p, people).mean() for n, p in (("prior", prior.params), ("alone", alone), ("both", both))}
    assert mm["both"] < 0.7 * mm["prior"] and mm["both"] < 0.5 * mm["alone"], mm
    placed = project(CAMERA, landmark_positions(body.landmarks[SET], pose(body, both)))
    assert np.median(np.linalg.norm(placed - keypoints.uv, axis=-1)) < 0.01 * np.ptp(keypoints.uv[..., 1])


def test_a_regressor_that_has_somebody_face_the_other_way_is_doubted(body, lifting):
    """From behind, and taken to face the camera: the points know left from right."""
    away = dataclasses.replace(
        BodyParams.rest(1),
        root_rotvec=np.array([[0, 0, np.pi]], np.float32),
        t_camera_root=np.array([[0.2, 0.1, 3.0]], np.float32),
    )
    facing = dataclasses.replace(away, root_rotvec=np.array([[np.pi, 0, 0]], np.float32))
    sigma = np.full((1, 24), 0.15, np.float32)
    wrong = Estimate(facing, np.full(1, 0.95, np.float32), rot_sigma_rad=sigma)
    got = lifting.lift(observed(body, away), CAMERA, prior=wrong).params
    assert so3.angle_between(so3.exp(got.root_rotvec[0]), so3.exp(away.root_rotvec[0])) < 0.3


@pytest.mark.parametrize("change", [{"confidence": np.full(12, 0.1, np.float32)}, {"rot_sigma_rad": np.full((12, 24), np.inf)}])
def test_answers_that_are_none_change_nothing(body, lifting, people, change):
    keypoints = observed(body, people)
    prior = dataclasses.replace(answer(body, people), **change)
    alone, both = (lifting.lift(keypoints, CAMERA, prior=p) for p in (None, prior))
    assert both.params.joint_rotvec == pytest.approx(alone.params.joint_rotvec, abs=1e-5)
    assert both.confidence == pytest.approx(alone.confidence, abs=1e-6)


def test_each_person_has_an_own_answer(body, lifting, people):
    """More people than the fitter holds at once, one of whom the regressor does not see."""
    keypoints, prior = observed(body, people), answer(body, people)
    prior.confidence[9] = 0.0
    got = lifting.lift(keypoints, CAMERA, prior=prior)
    alone = lifting.lift(keypoints, CAMERA)
    assert got.params.joint_rotvec[9] == pytest.approx(alone.params.joint_rotvec[9], abs=1e-4)
    others = np.arange(12) != 9
    assert error_mm(body, got.params, people)[others].mean() < 0.5 * error_mm(body, alone.params, people)[others].mean()


def test_windows_without_points_keep_the_regressors_answer_and_are_not_measured(body, lifting, people):
    keypoints, prior = observed(body, people), answer(body, people)
    keypoints.confidence[3] = 0.0
    prior.confidence[3] = 0.8
    seen = ImageFeatures(np.zeros((12, 1, 1, 1), np.float32), np.zeros((12, 1, 1, 1), np.float32))
    crop = Crop(np.zeros((12, 32, 32, 3), np.uint8), None, np.tile(np.float32([[9, 0, 0], [0, 9, 0]]), (12, 1, 1)), 32)
    got = lifting.estimate(keypoints, crop, CAMERA, prior=dataclasses.replace(prior, seen=seen))
    assert got.confidence[3] == 0 and (got.confidence[[0, 1, 2, 4]] > 0.5).all()
    np.testing.assert_array_equal(got.params.joint_rotvec[3], prior.params.joint_rotvec[3])
    assert got.seen is seen  # the trunk has looked at these windows


@pytest.mark.parametrize("on", [True, False])
def test_given_keypoints_ask_the_network_or_do_not(body, people, on, monkeypatch):
    settings = {"regress.backend": "network", "regress.keypoint_prior": on, "detect.backend": "none"}
    models = loading.load_models(with_overrides(Config(), settings))
    asked, real = [], type(models.estimator.runtime).__call__

    def count(runtime, inputs):
        asked.append(sorted(inputs))
        return real(runtime, inputs)

    monkeypatch.setattr(type(models.estimator.runtime), "__call__", count)
    frame = Frame(np.full((480, 640, 3), 90, np.uint8), 0, CAMERA, keypoints=observed(body, people.person(0)))
    state, result = process(models, initial_state(), frame)
    assert [p.source for p in result.people] == ["keypoints"]
    # Newcomers are looked at for their window and in it, mirrored too; without the answer as prior the trunk still looks for the
    # displacements.
    assert sum("image" in names for names in asked) == (4 if on else 2)


class Detector:
    """A keypoint source that knows the truth."""

    name, size_px, margin = "oracle", 64, 1.2

    def __init__(self, keypoints: Keypoints) -> None:
        self.found, self.windows = keypoints, []

    def keypoints(self, crop: Crop, camera) -> Keypoints:
        self.windows.append(crop.rgb.shape)
        return self.found


def test_a_keypoint_source_has_its_own_windows(body, people):
    config = with_overrides(Config(), {"regress.backend": "network", "detect.backend": "none"})
    source = Detector(observed(body, people.person(0)))
    models = dataclasses.replace(loading.load_models(config), keypoint_source=source)
    low, high = source.found.uv[0].min(0), source.found.uv[0].max(0)
    frame = Frame(np.full((480, 640, 3), 90, np.uint8), 0, CAMERA)
    _, result = process(models, initial_state(), frame, np.concatenate([low, high - low])[None])
    assert source.windows == [(1, 64, 64, 3)] and [p.source for p in result.people] == ["mediapipe"]


def test_what_runs_is_named(monkeypatch):
    from densefit_ros.regress import mediapipe_keypoints

    monkeypatch.setattr(mediapipe_keypoints, "make_keypoint_source", lambda task_file: Detector(None))
    monkeypatch.setattr(loading, "_warm_up", lambda models: None)
    for on, text in ((True, "oracle+lifting from network"), (False, "oracle+lifting")):
        settings = {"regress.backend": "mediapipe", "regress.keypoint_prior": on, "detect.backend": "none"}
        assert loading.load_models(with_overrides(Config(), settings)).backends["regress"].startswith(text)
    with pytest.raises(BackendUnavailable, match="regress.backend network"):
        loading.load_models(with_overrides(Config(), {**settings, "runtime.device_frame": "on"}))
