"""The regressor asked about the mirror image too: answers in the crops' terms, features of the crops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros.body.joints import SMPL_FLIP
from densefit_ros.config import load_config
from densefit_ros.errors import ShapeError
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import camera_from_fov
from densefit_ros.models import load_models
from densefit_ros.regress.mirrored import FLIP, Mirrored, merged, mirror_image
from densefit_ros.regress.network_regressor import NetworkRegressor
from densefit_ros.runtime.factory import make_runtime
from densefit_ros.train.sources import mirror
from densefit_ros.types import Crop
from densefit_ros.weights import weights_path


class SideBlind:
    """Answers about a crop by its first pixel: 0 is given the prediction of a crop, 1 that of its mirror image."""

    def __init__(self, answers):
        self.name, self.path, self.inputs, self.outputs, self.concurrent = "fake", "fake.onnx", {}, {}, False
        self.answers, self.asked = answers, []

    def __call__(self, inputs):
        self.asked.append(inputs)
        return self.answers[int(inputs["image"][0, 0, 0, 0])]


def answer(rng, rotmat):
    shapes = {
        "betas": (10,), "cam": (3,), "rot_log_var": (24,), "confidence": (), "joints_uv": (24, 2), "joints_log_var": (24,),
        "s4": (3, 4, 4), "s8": (5, 2, 2), "feature": (5,),
    }  # fmt: skip
    rot6d = rotmat[:, :, :2].reshape(2, 24, 6).astype(np.float32)
    return {"rot6d_rows": rot6d, **{n: rng.normal(size=(2, *s)).astype(np.float32) for n, s in shapes.items()}}


def truths(rng):
    """Targets of two people as training writes them, and those of the mirrored pictures."""
    batch = {
        "image": rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8), "intrinsics": rng.random((2, 4)).astype(np.float32),
        "ray_rotmat": np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)),
        "rotmat": so3.exp(rng.normal(size=(2, 24, 3))).astype(np.float32), "cam": rng.normal(size=(2, 3)).astype(np.float32),
        "joints_uv": rng.normal(size=(2, 24, 2)).astype(np.float32), "joints_z": rng.normal(size=(2, 24)).astype(np.float32),
    }  # fmt: skip
    return batch, mirror(batch, np.ones(2, bool))


def test_a_network_that_knows_both_pictures_answers_as_about_one():
    rng = np.random.default_rng(3)
    batch, there = truths(rng)
    image = mirror_image(batch)
    assert np.array_equal(image["image"], there["image"])
    np.testing.assert_allclose(image["intrinsics"], there["intrinsics"])
    plain = answer(rng, batch["rotmat"]) | {n: batch[n] for n in ("cam", "joints_uv")}
    other = answer(rng, there["rotmat"]) | {n: there[n] for n in ("cam", "joints_uv")}
    got = merged(plain, other)
    for name in ("rot6d_rows", "cam", "joints_uv"):
        np.testing.assert_allclose(got[name], plain[name], atol=1e-6, err_msg=name)
    assert got["s4"] is plain["s4"] and got["feature"] is plain["feature"]


def test_two_answers_are_averaged_side_by_side():
    rng = np.random.default_rng(4)
    batch, there = truths(rng)
    plain, other = answer(rng, batch["rotmat"]), answer(rng, there["rotmat"])
    image = np.zeros((2, 4, 4, 3), np.uint8)
    image[:, :, -1] = 1
    runtime = SideBlind([plain, other])
    got, seen = Mirrored(runtime)({"image": image, "intrinsics": np.full((2, 4), 0.25, np.float32)})
    assert runtime.asked[1]["image"][0, 0, 0, 0] == 1 and runtime.asked[1]["intrinsics"][0].tolist() == [0.25, 0.25, 0.75, 0.25]
    left, right = 16, 17  # shoulders
    assert SMPL_FLIP[left] == right
    expected = 0.5 * (plain["joints_uv"][0, left] + other["joints_uv"][0, right] * [-1, 1])
    np.testing.assert_allclose(got["joints_uv"][0, left], expected, atol=1e-6)
    variance = 0.5 * (np.exp(plain["rot_log_var"][1, left]) + np.exp(other["rot_log_var"][1, right]))
    np.testing.assert_allclose(got["rot_log_var"][1, left], np.log(variance), atol=1e-6)
    for name in ("betas", "confidence"):
        np.testing.assert_allclose(got[name], 0.5 * (plain[name] + other[name]), atol=1e-6)
    assert seen.mirrored == (0, 1)
    for name in ("s4", "s8"):
        assert np.array_equal(getattr(seen, name), np.concatenate([plain[name], other[name]]))


def test_passes_side_by_side_give_what_they_give_in_turn():
    runtime = make_runtime(weights_path("regressor.onnx"), "onnxruntime", "cpu")
    assert runtime.concurrent
    rng = np.random.default_rng(6)
    spec = runtime.inputs["image"].shape
    inputs = {"image": rng.integers(0, 256, (2, *spec[1:])).astype(np.uint8), "intrinsics": np.ones((2, 4), np.float32)}
    (got, _), expected = Mirrored(runtime)(inputs), merged(runtime(inputs), runtime(mirror_image(inputs)))
    assert all(np.array_equal(got[name], expected[name]) for name in runtime.outputs)
    with pytest.raises(ShapeError):
        Mirrored(runtime)({**inputs, "intrinsics": np.ones((3, 4), np.float32)})


def test_mirroring_twice_is_no_change():
    assert np.array_equal(FLIP[FLIP], np.arange(24))


def test_only_the_people_asked_for_are_looked_at_twice():
    runtime = make_runtime(weights_path("regressor.onnx"), "onnxruntime", "cpu")
    rng = np.random.default_rng(7)
    spec = runtime.inputs["image"].shape
    inputs = {"image": rng.integers(0, 256, (3, *spec[1:])).astype(np.uint8), "intrinsics": np.ones((3, 4), np.float32)}
    plain, (twice, _), (mixed, seen) = runtime(inputs), Mirrored(runtime)(inputs), Mirrored(runtime)(inputs, 2)
    once, seen_once = Mirrored(runtime)(inputs, 3)
    assert all(np.array_equal(once[name], value) for name, value in plain.items())
    assert seen_once.mirrored == () and len(seen_once.s4) == 3 and seen.mirrored == (2,) and len(seen.s8) == 4
    assert not np.allclose(plain["joints_uv"][2], twice["joints_uv"][2], atol=1e-4)
    for name, value in mixed.items():
        np.testing.assert_allclose(value[:2], plain[name][:2], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(value[2], twice[name][2], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("on, looks", [("always", (2, 2)), ("new", (1, 2)), ("never", (1, 1))])
def test_the_setting_decides(on, looks, monkeypatch):
    settings = {"device": "cpu", "regress.backend": "network", "detect.backend": "none", "regress.mirrored": on}
    models = load_models(load_config(None, settings))
    assert isinstance(models.estimator, NetworkRegressor) and models.estimator.mirrored == on
    asked = []
    real = type(models.estimator.runtime).__call__
    monkeypatch.setattr(
        type(models.estimator.runtime), "__call__", lambda self, x: asked.append(len(x["image"])) or real(self, x)
    )
    size = models.estimator.size_px
    crop = Crop(np.zeros((1, size, size, 3), np.uint8), np.ones((1, size, size), bool), np.eye(3)[None, :2], size)
    known = models.estimator.estimate(crop, camera_from_fov(size, size, 60.0)).params
    newcomer = len(asked)
    models.estimator.estimate(crop, camera_from_fov(size, size, 60.0), warm=[known])
    assert (len(asked) - newcomer, newcomer) == looks
    assert models.displacer.encoder is models.estimator.runtime and not isinstance(models.displacer.encoder, Mirrored)
    assert ("also mirrored" in models.backends["regress"]) == (on != "never")


def test_the_answer_does_not_depend_on_which_of_the_two_is_shown():
    """With both looks, a crop and its mirror image get mirrored bodies: exactly, whatever the weights."""
    settings = {"device": "cpu", "regress.backend": "network", "detect.backend": "none"}
    estimator = load_models(load_config(None, settings)).estimator
    rng = np.random.default_rng(5)
    size = estimator.size_px
    rgb = rng.integers(0, 256, (1, size, size, 3)).astype(np.uint8)
    camera = camera_from_fov(size, size, 60.0)  # the window is the image
    crop = Crop(rgb, np.ones((1, size, size), bool), np.array([[[1.0, 0, 0], [0, 1, 0]]]), size)
    one = estimator.estimate(crop, camera)
    two = estimator.estimate(dataclasses.replace(crop, rgb=np.ascontiguousarray(rgb[:, :, ::-1])), camera)
    np.testing.assert_allclose(two.params.betas, one.params.betas, atol=1e-4)
    flip = np.array(SMPL_FLIP[1:]) - 1
    np.testing.assert_allclose(two.params.joint_rotvec, one.params.joint_rotvec[:, flip] * [1, -1, -1], atol=1e-3)
    np.testing.assert_allclose(two.params.root_rotvec, one.params.root_rotvec * [1, -1, -1], atol=1e-3)
    np.testing.assert_allclose(two.rot_sigma_rad, one.rot_sigma_rad[:, SMPL_FLIP], rtol=1e-4)


def test_bodies_that_face_opposite_ways_are_not_averaged():
    """The answer whose root is the surer one counts; how sure both are stays the mean."""
    rng = np.random.default_rng(8)
    batch, there = truths(rng)
    plain, other = answer(rng, batch["rotmat"]), answer(rng, there["rotmat"])

    def turned(degrees):
        rotmat = there["rotmat"].copy()
        rotmat[:, 0] = rotmat[:, 0] @ so3.exp(np.radians([0.0, degrees, 0.0])).astype(np.float32)
        return {**other, "rot6d_rows": rotmat[:, :, :2].reshape(2, 24, 6)}

    plain["rot_log_var"][:, 0], other["rot_log_var"][:, 0] = (-1.0, -3.0), (-2.0, -2.0)  # the mirror is surer of the first
    mean, split = merged(plain, turned(125.0)), merged(plain, turned(145.0))
    np.testing.assert_allclose(mean["betas"], 0.5 * (plain["betas"] + other["betas"]), atol=1e-6)
    np.testing.assert_allclose(split["betas"], [other["betas"][0], plain["betas"][1]], atol=1e-6)
    np.testing.assert_allclose(split["cam"][0], other["cam"][0] * [-1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(split["joints_uv"][0], other["joints_uv"][0, FLIP] * [-1, 1], atol=1e-6)
    np.testing.assert_allclose(split["rot6d_rows"][1], plain["rot6d_rows"][1], atol=1e-6)
    for name in ("rot_log_var", "joints_log_var", "confidence"):
        np.testing.assert_allclose(split[name], mean[name], atol=1e-6, err_msg=name)
