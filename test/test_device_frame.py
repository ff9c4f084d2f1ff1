"""The frame in one go, on the CPU: the very kernels and networks of the CUDA path, step by step, against the single steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import warp as wp

from densefit_ros import pipeline
from densefit_ros.body.model import pose
from densefit_ros.config import KEEP_EVERYBODY, load_config
from densefit_ros.device_frame import mirror_kernels, pose_kernels
from densefit_ros.device_frame.frame import DeviceFrame
from densefit_ros.displace.decode import decode
from densefit_ros.displace.mirrored import merged as merged_fields
from densefit_ros.errors import BackendUnavailable, ConfigError
from densefit_ros.fit.priors import make_prior
from densefit_ros.fit.solver import Fitter
from densefit_ros.geometry import crop as crops
from densefit_ros.geometry.camera import camera_from_fov, mesh_box
from densefit_ros.models import load_models
from densefit_ros.regress.mirrored import FLIP, OPPOSITE_TRACE, ROW_SIGNS, merged, opposite
from densefit_ros.render.protocol import Appearance
from densefit_ros.runtime.picture import SIZE_PX
from densefit_ros.settings import with_overrides
from densefit_ros.steps import conclude, find, priors
from densefit_ros.synth.sequence import demo_sequence
from densefit_ros.track import state as tracking
from densefit_ros.types import BodyParams, FitStatus, Frame, TrackingState

DT_NS = 33_000_000
# The networks are replaced whenever better ones are trained: nothing here depends on how good they are.
SETTINGS = {
    "device": "cpu", "regress.backend": "network", "detect.backend": "none", "track.max_people": 2,
    **KEEP_EVERYBODY, "displace.max_sigma_px": 30.0,
    "runtime.device_frame": "on", "regress.mirrored": "always",
}  # fmt: skip
PARAMS = ("betas", "root_rotvec", "joint_rotvec", "t_camera_root")


@pytest.fixture(scope="module")
def models():
    # In bfloat16, which auto may choose, last digits of a rendering become pixels.
    return load_models(load_config(None, {**SETTINGS, "runtime.backend": "onnxruntime"}))


@pytest.fixture(scope="module")
def sequence(models):
    return demo_sequence(models.body)


def boxes_at(models, sequence, index: int) -> np.ndarray:
    """The person, and a wrong box that makes a second track of it."""
    rgb, truth = sequence.frame(index)
    box = mesh_box(sequence.camera, pose(models.body, truth).vertices[0])
    return np.stack([box, box + np.float32([70, 20, 30, -40])])


@pytest.fixture(scope="module")
def tracked(models, sequence):
    """Two tracks a few frames old, by single steps, and the next frame."""
    stepwise = dataclasses.replace(models, device_frame=None)
    state = pipeline.initial_state()
    for i in range(3):
        rgb, _ = sequence.frame(i)
        boxes = boxes_at(models, sequence, i) if i == 0 else np.zeros((0, 4))
        state, result = pipeline.process(stepwise, state, Frame(rgb, i * DT_NS, sequence.camera), boxes)
    assert len(result.people) == 2
    rgb, _ = sequence.frame(3)
    return state, Frame(rgb, 3 * DT_NS, sequence.camera)


def at(tracked, count=2):
    state, frame = tracked
    return [tracking.predicted(t, frame.stamp_ns) for t in state.tracks][:count], frame


@pytest.mark.parametrize("count", [1, 2])
def test_every_stage_gives_what_the_single_steps_give(models, tracked, count):
    (tracks, frame), config, camera = at(tracked, count), models.config, tracked[1].camera
    got = models.device_frame.measure(frame, tracks, config)

    squares = [crops.square_around(b, config.render.crop_margin) for b in find.mesh_boxes(models, tracks, camera)]
    crop = crops.extract(frame.rgb, np.reshape(squares, (-1, 4)), SIZE_PX)
    np.testing.assert_allclose(got.crop.image_from_crop, crop.image_from_crop, atol=1e-3)
    assert np.array_equal(got.crop.inside, crop.inside)
    difference = np.abs(got.crop.rgb.astype(int) - crop.rgb.astype(int))
    assert difference.mean() < 0.3 and difference.max() <= 6  # OpenCV interpolates in steps of 1/32 px

    estimate = models.estimator.estimate(got.crop, camera)
    for name in PARAMS:
        np.testing.assert_allclose(getattr(got.estimate.params, name), getattr(estimate.params, name), atol=1e-4, err_msg=name)
    np.testing.assert_allclose(got.estimate.confidence, estimate.confidence, atol=1e-4)
    np.testing.assert_allclose(got.estimate.rot_sigma_rad, estimate.rot_sigma_rad, rtol=1e-4)
    np.testing.assert_allclose(got.estimate.keypoints.uv, estimate.keypoints.uv, atol=1e-2)
    np.testing.assert_allclose(got.estimate.keypoints.confidence, estimate.keypoints.confidence, atol=1e-4)

    start = priors.fuse(tracks, estimate, config, frame.stamp_ns)
    for name in PARAMS:
        np.testing.assert_allclose(getattr(got.start, name), getattr(start, name), atol=1e-4, err_msg=name)

    surface = priors.render(models, models.skinner.pose(got.start).vertices, tracks, camera, got.crop)
    field = models.displacer.predict(got.crop, surface, estimate.seen)
    matches = decode(field, surface, got.crop, priors.decode_options(config))
    assert len(matches) > 100 * count
    # A cell at a limit may fall to either side of it.
    known = {(int(p), *np.round(uv, 1)) for p, uv in zip(matches.person, matches.target_uv)}
    found = {(int(p), *np.round(uv, 1)) for p, uv in zip(got.matches.person, got.matches.target_uv)}
    assert len(known ^ found) <= 0.02 * len(known)
    if len(matches) == len(got.matches):
        assert np.mean(matches.face == got.matches.face) > 0.99
        np.testing.assert_allclose(got.matches.sqrt_weight, matches.sqrt_weight, rtol=1e-2)

    anchors = priors.anchors(tracks, got.estimate, config, frame.stamp_ns)
    fit = models.fitter.solve(got.start, camera, got.matches, keypoints=got.estimate.keypoints, anchors=anchors)
    # A last step that gains a millionth of the cost is accepted or not, and ends as converged or as the last iteration.
    ended = [np.where(s == FitStatus.MAX_ITERATIONS, FitStatus.CONVERGED, s) for s in (got.fit.status, fit.status)]
    assert np.array_equal(*ended) and np.abs(got.fit.accepted - fit.accepted).max() <= 1
    for name in PARAMS:
        np.testing.assert_allclose(getattr(got.fit.params, name), getattr(fit.params, name), atol=2e-3, err_msg=name)
    np.testing.assert_allclose(got.fit.cost, fit.cost, rtol=1e-3)
    np.testing.assert_allclose(got.fit.inlier_share, fit.inlier_share, atol=0.02)
    np.testing.assert_allclose(got.fit.joint_covariance, fit.joint_covariance, rtol=2e-2, atol=1e-5)
    scale = np.abs(fit.information).max((1, 2), keepdims=True)
    np.testing.assert_allclose(got.fit.information / scale, fit.information / scale, atol=1e-3)


@pytest.mark.parametrize("limit", ["displace.max_points", "fit.max_points"])
def test_more_matches_than_are_wanted_are_thinned_alike(models, tracked, limit):
    slots = 60
    few = load_models(with_overrides(models.config, {limit: slots, "displace.max_sigma_px": 100.0}))
    (tracks, frame), camera = at(tracked), tracked[1].camera
    got = few.device_frame.measure(frame, tracks, few.config)
    # With no displacement refused, which cells are matches depends on the rendering alone: both ways have the same ones.
    surface = priors.render(few, few.skinner.pose(got.start).vertices, tracks, camera, got.crop)
    seen = few.displacer.look(got.crop.rgb, tuple(range(len(tracks))))
    field, options = few.displacer.predict(got.crop, surface, seen), priors.decode_options(few.config)
    every = decode(field, surface, got.crop, dataclasses.replace(options, max_points=1000))
    assert np.bincount(every.person).min() > 1.5 * slots
    matches = decode(field, surface, got.crop, options)
    assert np.bincount(got.matches.person).tolist() == np.bincount(matches.person).tolist() == [slots, slots]
    assert np.array_equal(got.matches.face, matches.face)
    np.testing.assert_allclose(got.matches.target_uv, matches.target_uv, atol=0.05)

    anchors = priors.anchors(tracks, got.estimate, few.config, frame.stamp_ns)
    fit = few.fitter.solve(got.start, camera, matches, keypoints=got.estimate.keypoints, anchors=anchors)
    for name in PARAMS:
        np.testing.assert_allclose(getattr(got.fit.params, name), getattr(fit.params, name), atol=2e-3, err_msg=name)
    np.testing.assert_allclose(got.fit.joint_covariance, fit.joint_covariance, rtol=2e-2, atol=1e-5)


def test_a_person_does_not_depend_on_who_fills_the_batch_up(models, sequence, tracked):
    tracks, frame = at(tracked)
    both = models.device_frame.measure(frame, tracks, models.config)
    wide = DeviceFrame(models.body, models.fitter, models.estimator.runtime, models.displacer.runtime, "cpu", 4, True)
    tracks = [*tracks, tracks[0]]  # three of four places
    three = wide.measure(frame, tracks, models.config)
    assert len(three.fit.status) == 3 and three.posed.vertices.shape[0] == 3
    for name in PARAMS:
        value, expected = getattr(three.fit.params, name), getattr(both.fit.params, name)
        np.testing.assert_allclose(value[:2], expected, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(value[2], value[0], atol=1e-5, err_msg=name)


def test_a_prior_that_the_device_cannot_expand_is_refused_at_once(models):
    fitter = Fitter(models.body, max_persons=1, max_points=64, pose_prior=make_prior("vposer"))
    with pytest.raises(BackendUnavailable, match="vposer"):
        DeviceFrame(models.body, fitter, models.estimator.runtime, models.displacer.runtime, "cpu", 1)


def test_the_pipeline_uses_it_and_goes_step_by_step_where_something_is_decided(models, sequence, monkeypatch):
    calls = []
    measure = DeviceFrame.measure
    monkeypatch.setattr(DeviceFrame, "measure", lambda *a: calls.append(1) or measure(*a))
    state, used = pipeline.initial_state(), []
    stepwise_state = state
    for i in range(5):
        rgb, truth = sequence.frame(i)
        frame = Frame(rgb, i * DT_NS, sequence.camera)
        boxes = boxes_at(models, sequence, 0)[:1] if i == 0 else None
        before = len(calls)
        state, result = pipeline.process(models, state, frame, boxes)
        stepwise_state, expected = pipeline.process(dataclasses.replace(models, device_frame=None), stepwise_state, frame, boxes)
        used.append(len(calls) - before)
        (person,), (other,) = result.people, expected.people
        assert person.track_id == other.track_id and person.source == "network"
        if i < 2:  # windows differ by a grey level here and there, and a track carries every difference on
            assert 1e3 * np.linalg.norm(person.vertices - other.vertices, axis=-1).mean() < 20
    assert used == [0, 1, 1, 1, 1]
    assert person.tracking_state == TrackingState.TRACKED and "device" in result.stage_ms
    depth = np.full(rgb.shape[:2], np.nan, np.float32)
    for other in (dataclasses.replace(frame, depth_m=depth), dataclasses.replace(frame, iuv=np.zeros_like(rgb))):
        pipeline.process(models, state, dataclasses.replace(other, stamp_ns=6 * DT_NS))
    assert len(calls) == 4
    twice = dataclasses.replace(models, config=with_overrides(models.config, {"displace.passes": 2}))
    pipeline.process(twice, state, dataclasses.replace(frame, stamp_ns=6 * DT_NS))
    assert len(calls) == 4


def test_who_is_rejected_is_solved_again_with_what_the_single_steps_have(models, tracked, monkeypatch):
    state, frame = tracked
    measure, again = DeviceFrame.measure, []

    def rejected(*args):
        measured = measure(*args)
        status = np.full_like(measured.fit.status, FitStatus.REJECTED)
        return dataclasses.replace(measured, fit=dataclasses.replace(measured.fit, status=status))

    monkeypatch.setattr(DeviceFrame, "measure", rejected)
    monkeypatch.setattr(conclude, "without_rejected", lambda *a, **sober: again.append(sober) or a[1])
    for each in (models, dataclasses.replace(models, device_frame=None)):
        pipeline.process(each, state, frame)
    fused, single = again
    assert set(fused) == set(single) and fused["depth"] is single["depth"] is None
    assert single["pose_gaussian"].precision.any()
    np.testing.assert_allclose(fused["pose_gaussian"].mean, single["pose_gaussian"].mean, atol=0.1)


def test_settings_and_textures_of_this_frame_count(models, tracked):
    (track, *_), frame = at(tracked)
    strict = with_overrides(models.config, {"displace.max_sigma_px": 0.1})
    assert len(models.device_frame.measure(frame, [track], strict).matches) == 0
    usual = models.device_frame.measure(frame, [track], models.config)
    large = Appearance(texture=np.random.default_rng(0).random((256, 256, 3)).astype(np.float32))
    other = models.device_frame.measure(frame, [dataclasses.replace(track, appearance=large)], models.config)
    assert np.array_equal(usual.estimate.params.betas, other.estimate.params.betas)
    assert len(usual.matches) != len(other.matches) or np.abs(usual.matches.target_uv - other.matches.target_uv).max() > 0.01


def test_an_image_of_another_size_and_a_crop_that_shrinks_threefold(models, tracked):
    (track, *_), frame = at(tracked)
    rgb = np.kron(frame.rgb, np.ones((3, 3, 1), np.uint8))
    c = frame.camera
    camera = dataclasses.replace(c, fx=3 * c.fx, fy=3 * c.fy, cx=3 * c.cx, cy=3 * c.cy, width=3 * c.width, height=3 * c.height)
    got = models.device_frame.measure(Frame(rgb, frame.stamp_ns, camera), [track], models.config)
    squares = [crops.square_around(b, models.config.render.crop_margin) for b in find.mesh_boxes(models, [track], camera)]
    crop = crops.extract(rgb, np.reshape(squares, (-1, 4)), SIZE_PX)
    assert crop.image_from_crop[0, 0, 0] > 3
    difference = np.abs(got.crop.rgb.astype(int) - crop.rgb.astype(int))
    assert difference.mean() < 0.4 and difference.max() <= 8 and np.array_equal(got.crop.inside, crop.inside)
    # Cameras of two sizes take turns: nothing is made anew.
    places = dict(models.device_frame._places)
    again = models.device_frame.measure(frame, [track], models.config)
    assert models.device_frame._places == places and np.abs(again.crop.image_from_crop * 3 - crop.image_from_crop).max() < 0.1
    for height in (100, 110, 120):
        models.device_frame._place((height, 160))
    assert len(models.device_frame._places) == 4 and (height, 160) in models.device_frame._places


def test_a_person_out_of_sight_measures_nothing_and_breaks_nothing(models, tracked):
    (track, *_), frame = at(tracked)
    behind = dataclasses.replace(track.params, t_camera_root=np.float32([[0, 0, -3]]))
    beside = dataclasses.replace(track.params, t_camera_root=np.float32([[40, 0, 3]]))
    for params in (behind, beside):
        got = models.device_frame.measure(frame, [dataclasses.replace(track, params=params)], models.config)
        for value in (got.fit.params.t_camera_root, got.fit.joint_covariance, got.posed.vertices):
            assert np.isfinite(value).all()


def test_images_for_which_there_is_no_memory_are_answered_step_by_step(models, sequence, monkeypatch, caplog):
    frame = DeviceFrame(models.body, models.fitter, models.estimator.runtime, models.displacer.runtime, "cpu", 2)
    asked = []

    def place(*_):
        asked.append(1)
        raise RuntimeError("CUDA error 2: out of memory")

    monkeypatch.setattr("densefit_ros.device_frame.frame._Place", place)
    poor, state = dataclasses.replace(models, device_frame=frame), pipeline.initial_state()
    for i in range(3):
        rgb, _ = sequence.frame(i)
        boxes = boxes_at(models, sequence, i)[:1] if i == 0 else None
        state, result = pipeline.process(poor, state, Frame(rgb, i * DT_NS, sequence.camera), boxes)
        assert len(result.people) == 1
    assert len(asked) == 1 and caplog.text.count("answered step by step: CUDA error 2") == 1
    named = DeviceFrame(models.body, models.fitter, models.estimator.runtime, models.displacer.runtime, "cpu", 2, required=True)
    with pytest.raises(BackendUnavailable, match="CUDA error 2"):
        named._place((480, 640))


def test_memory_that_the_first_pass_does_not_get_is_no_reason_to_stop(models, tracked, monkeypatch):
    """Networks and recordings take theirs while they run; later, or with a device that answers no more, it is an error."""
    (track, *_), frame = at(tracked)
    poor = DeviceFrame(models.body, models.fitter, models.estimator.runtime, models.displacer.runtime, "cpu", 2)
    assert poor.measure(frame, [track], models.config) is not None
    run, answers = DeviceFrame._run, True

    def no_memory(self, place, size):
        raise ValueError("out of memory")  # ONNX Runtime's have no base but Exception

    monkeypatch.setattr("densefit_ros.device_frame.frame.device_answers", lambda: answers)
    monkeypatch.setattr(poor, "_torch", object())  # as on CUDA
    monkeypatch.setattr(DeviceFrame, "_run", no_memory)
    with pytest.raises(ValueError):
        poor.measure(frame, [track], models.config)  # it had its memory
    other = dataclasses.replace(frame, rgb=np.ascontiguousarray(frame.rgb[:400]))
    answers = False
    with pytest.raises(ValueError):
        poor.measure(other, [track], models.config)
    answers = True
    assert poor.measure(other, [track], models.config) is None
    monkeypatch.setattr(DeviceFrame, "_run", run)
    monkeypatch.setattr(poor, "_torch", None)
    assert poor.measure(other, [track], models.config) is None, "images of this size are answered step by step from now on"
    assert poor.measure(frame, [track], models.config) is not None


def test_an_estimate_that_is_not_finite_sends_the_frame_to_the_single_steps(models, tracked, monkeypatch):
    """Half precision overflows; a rotation of NaN must not become none."""
    state, frame = tracked
    runtime = models.estimator.runtime
    bind = type(runtime).bind

    def overflowing(self, inputs, outputs, stream):
        run = bind(self, inputs, outputs, stream)

        def and_break():
            run()
            if "rot6d_rows" in outputs:
                outputs["rot6d_rows"][0].reshape(-1)[31] = np.nan

        return and_break

    monkeypatch.setattr(type(runtime), "bind", overflowing)
    broken = DeviceFrame(models.body, models.fitter, runtime, models.displacer.runtime, "cpu", 2)
    tracks, _ = at(tracked)
    got = broken.measure(frame, tracks, models.config)
    assert np.isnan(got.estimate.params.joint_rotvec[0]).any() and np.isfinite(got.estimate.params.joint_rotvec[1]).all()
    state, result = pipeline.process(dataclasses.replace(models, device_frame=broken), state, frame)
    assert "device" in result.stage_ms and "fit" in result.stage_ms and len(result.people) == 2


def test_named_and_impossible_is_an_error_and_auto_is_off_on_the_cpu():
    base = {k: v for k, v in SETTINGS.items() if k != "runtime.device_frame"}
    assert load_models(load_config(None, base)).backends["device_frame"] == "off"
    with pytest.raises(BackendUnavailable, match="displacements"):
        load_models(load_config(None, {**SETTINGS, "displace.enabled": False}))
    with pytest.raises(ConfigError, match="sometimes"):
        load_config(None, {"runtime.device_frame": "sometimes"})


def test_boxes_of_the_device_are_the_host_s(models):
    """Also of somebody whose hand is at the camera, or behind it."""
    import warp as wp

    from densefit_ros.device_frame.image_kernels import PARTS, box_parts

    reaching = BodyParams.rest(1)
    reaching.root_rotvec[:, 0], reaching.joint_rotvec[0, 16, 1] = np.pi, 1.5
    camera = camera_from_fov(640, 480, 70.0)
    for distance_m in (3.0, 0.7, 0.5, 0.3):
        reaching.t_camera_root[:, 2] = distance_m
        vertices = pose(models.body, reaching).vertices[0]
        out = wp.zeros(PARTS, wp.vec4, device="cpu")
        inputs = [wp.array(vertices, wp.vec3, device="cpu"), len(vertices), wp.array(np.arange(len(vertices)), int, device="cpu")]
        k = wp.array([[camera.fx, camera.fy, camera.cx, camera.cy]], wp.vec4, device="cpu")
        wp.launch(box_parts, PARTS, [*inputs, len(vertices), k, 640, 480, out], device="cpu")
        low, high = out.numpy()[:, :2].min(0), out.numpy()[:, 2:].max(0)
        np.testing.assert_allclose([*low, *(high - low)], mesh_box(camera, vertices), atol=0.05)


def test_two_looks_are_merged_as_on_the_host():
    """Whatever the networks say: bodies that face the same way, and other ways; fields of both looks."""
    rng = np.random.default_rng(5)
    n = 24
    shapes = {
        "rot6d_rows": (24, 6), "betas": (10,), "cam": (3,), "rot_log_var": (24,), "confidence": (), "joints_uv": (24, 2),
        "joints_log_var": (24,),
    }  # fmt: skip
    here, there = ({k: rng.normal(size=(n, *s)).astype(np.float32) for k, s in shapes.items()} for _ in range(2))
    there["rot6d_rows"][:6, 0] = here["rot6d_rows"][:6, 0] * ROW_SIGNS + rng.normal(0, 0.1, (6, 6))  # these agree
    expected = merged(here, there)
    split = opposite(here["rot6d_rows"][:, 0], there["rot6d_rows"][:, 0] * ROW_SIGNS)
    assert not split[:6].any() and split[6:].sum() >= 3
    types = {"betas": pose_kernels.vec10, "cam": wp.vec3, "joints_uv": wp.vec2}

    def arrays(answer):
        out = {}
        for name, value in answer.items():
            dtype = types.get(name, wp.float32)
            width = value.shape[-1] if name in types else 1
            out[name] = wp.array(value.reshape(-1, width) if width > 1 else value.reshape(-1), dtype=dtype, device="cpu")
        return out

    a, b, share = arrays(here), arrays(there), wp.zeros(n, dtype=wp.float32, device="cpu")
    flip = wp.array(FLIP, dtype=wp.int32, device="cpu")
    inputs = [b["rot6d_rows"], b["rot_log_var"], a["rot6d_rows"], a["rot_log_var"], OPPOSITE_TRACE, share]
    wp.launch(mirror_kernels.weigh, dim=n, inputs=inputs, device="cpu")
    wp.launch(mirror_kernels.merge, dim=24 * n, inputs=[flip, share, *b.values(), *a.values()], device="cpu")
    for name, value in a.items():
        np.testing.assert_allclose(value.numpy().reshape(expected[name].shape), expected[name], atol=1e-5, err_msg=name)

    flow, log_var = rng.normal(size=(2 * n, 2, 6, 6)).astype(np.float32), rng.normal(size=(2 * n, 1, 6, 6)).astype(np.float32)
    parts = [wp.array(x.reshape(-1), dtype=wp.float32, device="cpu") for x in (flow[n:], log_var[n:], flow[:n], log_var[:n])]
    wp.launch(mirror_kernels.merge_fields, dim=n * 36, inputs=[*parts[:2], 6, *parts[2:]], device="cpu")
    for got, want in zip(parts[2:], merged_fields((flow[:n], log_var[:n]), (flow[n:], log_var[n:]), range(n))):
        np.testing.assert_allclose(got.numpy().reshape(want.shape), want, atol=1e-5)
