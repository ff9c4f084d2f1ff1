"""One block of memory for many arrays, and a GPU's way of using it taken on the CPU: host and device apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fit_helpers import CAMERA, body, draw_around, make_matches, realistic_params

from densefit_ros import arena as arenas
from densefit_ros import warp_setup
from densefit_ros.arena import Arena
from densefit_ros.fit.solver import Anchor, FitOptions, Fitter
from densefit_ros.types import FitResult, Keypoints


@pytest.fixture
def apart(monkeypatch):
    """Host and device do not see each other's memory: what is not copied is missing."""
    monkeypatch.setattr(arenas, "shares_memory", lambda device: False)


def make() -> Arena:
    import warp as wp

    warp_setup.init()
    return Arena(wp.get_device("cpu"), a=(3, wp.int32), b=(5, wp.vec3), c=(1, wp.float64))


def test_arrays_keep_apart_and_share_memory_on_the_cpu():
    box = make()
    box.host.a[:], box.host.b[:], box.host.c[:] = 1, 2.0, 3.0
    assert box.host.a.tolist() == [1, 1, 1] and box.host.b.shape == (5, 3) and box.host.c[0] == 3.0
    assert (box.device.b.numpy() == 2.0).all()
    box.upload(), box.download(), box.arrive()  # nothing to do
    assert box.host.b.min() == 2.0


def test_apart_everything_crosses_in_one_copy(apart):
    box = make()
    box.host.a[:], box.host.b[:] = 7, 1.5
    assert not box.device.a.numpy().any()
    box.upload()
    assert (box.device.a.numpy() == 7).all() and (box.device.b.numpy() == 1.5).all()
    box.device.b.fill_(9.0)
    box.arrive()
    assert (box.host.b == 9.0).all() and (box.host.a == 7).all()
    box.device.b.fill_(1.0)
    box.arrive()  # fresh until somebody says otherwise: one wait for many arrays
    assert (box.host.b == 9.0).all()
    box.fresh = False
    box.arrive()
    assert (box.host.b == 1.0).all()


def solve() -> list[FitResult]:
    rng, b = np.random.default_rng(0), body()
    truth = realistic_params(rng, 3)
    start = draw_around(rng, truth, 0.08, 0.3, 0.03)
    matches = make_matches(rng, b, truth, 80, noise_px=1.0)
    fitter = Fitter(b, max_persons=4, max_points=100, options=FitOptions(linear="tile"))
    keypoints = Keypoints("smpl24", rng.uniform(100, 300, (3, 24, 2)), np.full((3, 24), 0.1))
    anchors = [Anchor(start, 0.1, 0.3, 0.05)]
    one = dataclasses.replace(matches, **{f.name: getattr(matches, f.name)[:80] for f in dataclasses.fields(matches)})
    return [
        fitter.solve(start, CAMERA, matches, anchors=anchors),
        fitter.solve(start, CAMERA, matches, keypoints=keypoints, anchors=anchors),
        fitter.solve(start.person(0), CAMERA, one),
    ]


def test_a_fit_as_on_a_gpu_is_the_same(monkeypatch):
    expected = solve()
    monkeypatch.setattr(arenas, "shares_memory", lambda device: False)
    for got, want in zip(solve(), expected):
        for field in dataclasses.fields(FitResult):
            if field.name != "params":
                np.testing.assert_array_equal(getattr(got, field.name), getattr(want, field.name), err_msg=field.name)
        for name, value in vars(want.params).items():
            np.testing.assert_array_equal(getattr(got.params, name), value, err_msg=name)


def test_a_frame_as_on_a_gpu_is_the_same(monkeypatch):
    from densefit_ros.bench import gpu_rows
    from densefit_ros.device_frame.frame import DeviceFrame
    from densefit_ros.models import load_models
    from densefit_ros.pipeline import initial_state, process
    from densefit_ros.track.state import predicted
    from densefit_ros.types import Frame

    models = load_models(gpu_rows.frame_settings("cpu", 1))
    images, camera, boxes = gpu_rows.crowd(models.body, 1, 2)
    state, _ = process(models, initial_state(), Frame(images[0], 0, camera), boxes)
    frame = Frame(images[1], gpu_rows.DT_NS, camera)
    tracks = [predicted(t, frame.stamp_ns) for t in state.tracks]
    expected = models.device_frame.measure(frame, tracks, models.config)
    monkeypatch.setattr(arenas, "shares_memory", lambda device: False)
    apart = DeviceFrame(
        models.body,
        models.fitter,
        models.estimator.runtime,
        models.displacer.runtime,
        "cpu",
        1,
        models.estimator.mirrored == "always",
    )
    for _ in range(2):
        got = apart.measure(frame, tracks, models.config)
        assert np.array_equal(got.crop.rgb, expected.crop.rgb) and len(got.matches) == len(expected.matches)
        np.testing.assert_allclose(got.posed.vertices, expected.posed.vertices, atol=1e-5)
        np.testing.assert_allclose(got.fit.joint_covariance, expected.fit.joint_covariance, atol=1e-6)
        np.testing.assert_allclose(got.estimate.keypoints.uv, expected.estimate.keypoints.uv, atol=1e-3)
