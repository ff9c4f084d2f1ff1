"""The displacement network asked about the mirror image too."""

from __future__ import annotations

import numpy as np
import pytest

from densefit_ros import pipeline
from densefit_ros.body.joints import SMPL_FLIP
from densefit_ros.body.model import pose
from densefit_ros.config import KEEP_EVERYBODY, load_config
from densefit_ros.displace.contract import GRID
from densefit_ros.displace.displacer import pack_rendering
from densefit_ros.displace.mirrored import merged, mirror_rendering
from densefit_ros.geometry import crop as crops
from densefit_ros.geometry.camera import camera_from_fov
from densefit_ros.models import load_models
from densefit_ros.render.appearance import neutral_appearance
from densefit_ros.settings import with_overrides
from densefit_ros.synth.sequence import demo_sequence
from densefit_ros.types import BodyParams, Estimate, Frame, ImageFeatures

SETTINGS = {
    "device": "cpu", "regress.backend": "network", "detect.backend": "none", "runtime.backend": "onnxruntime",
    **KEEP_EVERYBODY,
}  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return load_models(load_config(None, SETTINGS))


def test_the_mirrored_rendering_is_that_of_the_mirrored_body(models):
    """A camera that looks along its axis, a pose that is not symmetric, and its mirror image, both rendered."""
    rng = np.random.default_rng(1)
    body, size = models.body, models.estimator.size_px
    params = BodyParams.rest(2)
    params.root_rotvec[:] = [[np.pi, 0.2, 0.1], [np.pi, -0.2, -0.1]]
    params.joint_rotvec[0] = rng.normal(0, 0.25, (23, 3))
    params.joint_rotvec[1] = params.joint_rotvec[0][np.array(SMPL_FLIP[1:]) - 1] * [1, -1, -1]
    params.t_camera_root[:] = [[0.1, 0.1, 3.0], [-0.1, 0.1, 3.0]]
    camera = camera_from_fov(size, size, 50.0)
    window, look = np.float32([[[1, 0, 0], [0, 1, 0]]]), [neutral_appearance(body)]
    vertices = [pose(body, params.person(i)).vertices for i in range(2)]
    here, there = (pack_rendering(models.renderer.render(v, look, camera, window, size))[0] for v in vertices)
    got = mirror_rendering(here[None])[0]
    assert (got[..., 10] != there[..., 10]).mean() < 0.01
    both = (got[..., 10] > 0) & (there[..., 10] > 0)
    assert both.sum() > 1000
    for channels in (slice(0, 3), slice(3, 4), slice(4, 7), slice(7, 10)):
        difference = np.abs(got[both][:, channels] - there[both][:, channels])
        assert np.median(difference) < 0.01 and (difference > 0.1).mean() < 0.03
        unmoved = np.abs(here[:, ::-1][both][:, channels] - there[both][:, channels])
        if channels.start in (4, 7):  # normals and points turn: pixels that only change places are off
            assert np.median(unmoved[:, 0]) > 5 * np.median(difference[:, 0])


def test_fields_become_the_mean_of_both_looks():
    rng = np.random.default_rng(2)
    flow, log_var = rng.normal(size=(2, 2, 4, 6)).astype(np.float32), rng.normal(size=(2, 1, 4, 6)).astype(np.float32)
    there = rng.normal(size=(1, 2, 4, 6)).astype(np.float32), rng.normal(size=(1, 1, 4, 6)).astype(np.float32)
    got_flow, got_log_var = merged((flow, log_var), there, (1,))
    assert np.array_equal(got_flow[0], flow[0]) and np.array_equal(got_log_var[0], log_var[0])
    np.testing.assert_allclose(got_flow[1, 0, 2, 1], 0.5 * (flow[1, 0, 2, 1] - there[0][0, 0, 2, 4]), rtol=1e-6)
    np.testing.assert_allclose(got_flow[1, 1, 2, 1], 0.5 * (flow[1, 1, 2, 1] + there[0][0, 1, 2, 4]), rtol=1e-6)
    variance = 0.5 * (np.exp(log_var[1, 0, 2, 1]) + np.exp(there[1][0, 0, 2, 4]))
    np.testing.assert_allclose(got_log_var[1, 0, 2, 1], np.log(variance), rtol=1e-5)


def test_looks_stay_with_their_person():
    seen = ImageFeatures(np.arange(5.0), np.arange(5.0) + 10, (0, 2))  # three people, two of whom were looked at twice
    taken = seen.take([2, 1])
    assert taken.s4.tolist() == [2, 1, 4] and taken.s8.tolist() == [12, 11, 14] and taken.mirrored == (0,)
    assert seen.take([1]).mirrored == () and seen.take([1]).s4.tolist() == [1]
    assert seen.take([0, 1, 2]).mirrored == (0, 2) and seen.take([0, 1, 2]).s4.tolist() == seen.s4.tolist()
    assert seen.take([0, 0]).mirrored == (0, 1)


def test_the_field_does_not_depend_on_which_of_the_two_is_shown(models):
    """With both looks, a picture with its rendering and their mirror images get mirrored fields, whatever the weights."""
    sequence = demo_sequence(models.body)
    rgb, params = sequence.frame(0)
    vertices = models.skinner.pose(params).vertices
    square = crops.square_around(np.float32([220, 40, 200, 400]), 1.1)
    crop = crops.extract(rgb, square[None], models.estimator.size_px)
    look = [neutral_appearance(models.body)]
    surface = models.renderer.render(vertices, look, sequence.camera, crop.image_from_crop, crop.size)
    displacer = models.displacer
    field = displacer.predict(crop, surface, displacer.look(crop.rgb, (0,)))
    there = displacer.look(np.ascontiguousarray(crop.rgb[:, :, ::-1]), (0,))
    rendering = mirror_rendering(pack_rendering(surface))
    answers = [
        displacer.runtime({"s4": there.s4[i : i + 1], "s8": there.s8[i : i + 1], "rendering": shown})
        for i, shown in enumerate((rendering, mirror_rendering(rendering)))
    ]
    flow, log_var = merged(*((out["flow"], out["log_var"]) for out in answers), (0,))
    assert field.flow.shape == (1, 2, GRID, GRID) and np.abs(field.flow).max() > 0.1
    np.testing.assert_allclose(flow[..., ::-1] * np.array([-1, 1])[:, None, None], field.flow, atol=2e-3)
    np.testing.assert_allclose(log_var[..., ::-1], field.log_var, atol=2e-3)
    plain = displacer.predict(crop, surface)
    assert np.abs(plain.flow - field.flow).max() > 0.01


@pytest.mark.parametrize("on, looks", [("new", (1, 1, 1)), ("always", (1, 1, 1, 1)), ("never", (1, 1))])
@pytest.mark.parametrize("estimator", ["network", "external"])
def test_newcomers_are_looked_at_twice(monkeypatch, on, looks, estimator):
    """Whoever made the first estimate; the estimator's own looks serve the displacements too."""
    models = load_models(load_config(None, {**SETTINGS, "regress.mirrored": on, "regress.backend": estimator}))
    sequence = demo_sequence(models.body)
    asked, real = [], type(models.displacer.runtime).__call__

    def count(runtime, inputs):
        if "rendering" in inputs:
            asked.append(len(inputs["rendering"]))
        return real(runtime, inputs)

    monkeypatch.setattr(type(models.displacer.runtime), "__call__", count)
    state = pipeline.initial_state()
    for i in range(2):
        rgb, params = sequence.frame(i)
        given = None
        if estimator == "external":
            given = Estimate(params, np.ones(1, np.float32), source="external")
        boxes = np.array([[220, 40, 200, 400]], np.float32) if i == 0 and given is None else None
        state, result = pipeline.process(models, state, Frame(rgb, i * 33_000_000, sequence.camera), boxes, given)
        assert len(result.people) == 1
    assert tuple(asked) == looks


def test_passes_share_what_was_seen(models, monkeypatch):
    """Given estimates bring no looks: the trunk looks at each crop once for all passes, and once into the mirror."""
    three = load_models(with_overrides(models.config, {"regress.backend": "external", "displace.passes": 3}))
    sequence = demo_sequence(models.body)
    asked, real = [], type(three.displacer.runtime).__call__
    monkeypatch.setattr(
        type(three.displacer.runtime),
        "__call__",
        lambda self, x: asked.append({n: len(v) for n, v in x.items()}) or real(self, x),
    )
    rgb, params = sequence.frame(0)
    given = Estimate(params, np.ones(1, np.float32), source="external")
    pipeline.process(three, pipeline.initial_state(), Frame(rgb, 0, sequence.camera), estimates=given)
    assert [x["image"] for x in asked if "image" in x] == [1, 1]
    assert [x["rendering"] for x in asked if "rendering" in x] == [1] * 6
