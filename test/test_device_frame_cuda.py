"""The frame in one go on CUDA: its kernels compile for it, and where a device is it answers as the CPU does."""

# ruff: noqa: F401, F811 - fixtures of the other file
from __future__ import annotations

import numpy as np
import pytest
from test_device_frame import PARAMS, SETTINGS, at, models, sequence, tracked
from test_gpu_parity import skip_unless_installed

from densefit_ros.config import load_config
from densefit_ros.models import load_models


def test_kernels_compile_for_cuda(tmp_path):
    """No GPU is needed for that."""
    import warp as wp

    from densefit_ros.device_frame import image_kernels, match_kernels, mirror_kernels, pose_kernels

    if not hasattr(wp, "compile_aot_module"):
        pytest.skip("this Warp cannot compile without a device")
    for module in (image_kernels, match_kernels, mirror_kernels, pose_kernels):
        wp.compile_aot_module(module, arch=86, use_ptx=True, module_dir=tmp_path)
    ptx = b"".join(p.read_bytes() for p in tmp_path.glob("*.ptx"))
    for kernel in (b"crop_pixels", b"read_estimate", b"fill_slots"):
        assert b".entry " + kernel in ptx


@pytest.mark.parametrize("fails", ["queue", "both ends", "torch's end", "nothing"])
def test_a_recording_that_fails_says_why_and_leaves_the_stream(fails, monkeypatch):
    """Both recorders fail at their end then, each with words of its own; torch stays on the stream of the recording."""
    from contextlib import contextmanager
    from types import SimpleNamespace

    from densefit_ros.device_frame import frame

    current = ["before"]

    @contextmanager
    def recording(graph, stream, capture_error_mode):
        current.append(stream)
        try:
            yield
        finally:
            if fails in ("both ends", "torch's end"):
                raise RuntimeError("CUDA error: capture failed due to a previous error")
            current.pop()

    def end(stream):
        if fails == "both ends":
            raise RuntimeError("CUDA graph capture failed")

    def queue():
        if fails in ("queue", "both ends"):
            raise ValueError("the cause")

    monkeypatch.setattr(frame.wp, "capture_begin", lambda stream, external: None)
    monkeypatch.setattr(frame.wp, "capture_end", end)
    cuda = SimpleNamespace(
        CUDAGraph=lambda: "graph", graph=recording, current_stream=lambda: current[-1], set_stream=current.append
    )
    there = object.__new__(frame.DeviceFrame)
    there._torch, there._stream, there._warp_stream = SimpleNamespace(cuda=cuda), "frame's", "frame's"
    if fails == "nothing":
        assert there._record(SimpleNamespace(queue=queue)) == "graph"
    else:
        said = "previous error" if fails == "torch's end" else "the cause"
        with pytest.raises((RuntimeError, ValueError), match=said):
            there._record(SimpleNamespace(queue=queue))
    assert current[-1] == "before"


def on_cuda(**settings):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return load_models(load_config(None, {**SETTINGS, "device": "cuda", **settings}))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "tensorrt"])
def test_on_cuda_as_on_the_cpu(models, tracked, backend):
    """The same tracks and image on both devices; the second answer, a replay where there is a graph, equals the first."""
    tracks, frame = at(tracked)
    here = models.device_frame.measure(frame, tracks, models.config)
    skip_unless_installed(backend)
    there = on_cuda(**{"runtime.backend": backend, "runtime.precision": "fp32"}).device_frame
    assert there.records == (backend != "onnxruntime")
    first, second = (there.measure(frame, tracks, models.config) for _ in range(2))
    assert np.abs(first.crop.rgb.astype(int) - here.crop.rgb.astype(int)).max() <= 1
    for name in PARAMS:
        np.testing.assert_allclose(getattr(first.fit.params, name), getattr(here.fit.params, name), atol=2e-2, err_msg=name)
        np.testing.assert_allclose(getattr(second.fit.params, name), getattr(first.fit.params, name), atol=1e-4, err_msg=name)


@pytest.mark.gpu
def test_a_steady_frame_neither_allocates_nor_waits_for_anything_but_its_end(tracked):
    from densefit_ros.bench.gpu_parity import steady_state

    steady = steady_state(on_cuda(**{"track.max_people": 1, "track.appearance": False}), 200)
    assert "graph" in steady["runs_as"] or "stream" in steady["runs_as"]
    assert steady["torch_allocations"] == 0 and steady["device_bytes"] == 0


@pytest.mark.gpu
@pytest.mark.slow
def test_ten_thousand_frames_leak_nothing(models, tracked):
    import resource

    import torch

    tracks, frame = at(tracked)
    there = on_cuda()
    for i in range(10_100):
        there.device_frame.measure(frame, tracks[: 1 + i % 2], there.config)
        if i == 100:
            torch.cuda.synchronize()
            device, host = torch.cuda.mem_get_info()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.cuda.synchronize()
    assert device - torch.cuda.mem_get_info()[0] < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - host < 32 << 10  # kB
