"""A machine without CUDA: what is asked for by name fails with a hint, ``auto`` says what it does, nothing of CUDA loads."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.skin import Skinner
from densefit_ros.config import load_config
from densefit_ros.device_frame.frame import DeviceFrame
from densefit_ros.errors import BackendUnavailable, ConfigError
from densefit_ros.fit.solver import Fitter
from densefit_ros.models import load_models, resolve_device
from densefit_ros.render.factory import make_renderer, warp_sees_cuda
from densefit_ros.runtime.factory import make_runtime
from densefit_ros.weights import weights_path

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(warp_sees_cuda(), reason="this machine has a GPU")


def settings(**changes):
    return load_config(None, {"regress.backend": "network", "detect.backend": "none", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cuda"},
        {"device": "cuda", "runtime.device_frame": "on"},
        {"render.backend": "nvdiffrast"},
        {"runtime.backend": "tensorrt"},
        {"runtime.backend": "tensorrt", "device": "cuda"},
        {"runtime.backend": "onnxruntime-tensorrt"},
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()),
)
def test_a_gpu_in_the_settings_is_refused_with_a_hint(changes):
    with pytest.raises((BackendUnavailable, ConfigError), match="install") as caught:
        load_models(settings(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda body: Fitter(body, "cuda"),
        lambda body: Skinner(body, "cuda"),
        lambda body: make_renderer(body, "warp", "cuda"),
        lambda body: make_renderer(body, "auto", "cuda"),
        lambda body: make_renderer(body, "nvdiffrast"),
        lambda body: make_runtime(weights_path("regressor.onnx"), "auto", "cuda"),
        lambda body: make_runtime(weights_path("regressor.onnx"), "tensorrt"),
        lambda body: resolve_device("cuda"),
    ],
    ids=("fitter", "skinner", "warp", "auto renderer", "nvdiffrast", "auto runtime", "tensorrt", "device"),
)
def test_a_gpu_by_name_is_refused_with_a_hint(ask):
    with pytest.raises(BackendUnavailable, match="(?i)install|driver") as caught:
        ask(load_body())
    assert "\n" not in str(caught.value)


def test_a_frame_on_the_device_needs_runtimes_that_can():
    class Other:
        name, device = "other", "cuda"

    with pytest.raises(BackendUnavailable, match=r"other cannot run on the memory of cpu.*runtime\.backend"):
        DeviceFrame(load_body(), None, Other(), Other(), "cpu", 1)


def test_auto_takes_the_cpu_and_says_so(caplog):
    with caplog.at_level(logging.INFO):
        models = load_models(settings(device="auto"))
    assert "no CUDA device here, everything runs on the CPU" in caplog.text
    assert models.backends["device"] == "cpu" and models.backends["fit"] == "warp:cpu"
    assert models.backends["displace"].split(":")[1] == "cpu" and models.backends["device_frame"] == "off"


def test_nothing_of_cuda_is_imported():
    code = """
import sys
import numpy as np
from densefit_ros.config import load_config
from densefit_ros.models import load_models
from densefit_ros.pipeline import initial_state, process
from densefit_ros.geometry.camera import camera_from_fov
from densefit_ros.types import Frame
models = load_models(load_config(None, {"regress.backend": "network", "detect.backend": "none"}))
process(models, initial_state(), Frame(np.zeros((240, 320, 3), np.uint8), 0, camera_from_fov(320, 240, 60.0)))
bad = {"torch", "tensorrt", "nvdiffrast", "cuda", "cupy", "pycuda"} & {m.split(".")[0] for m in sys.modules}
assert not bad, bad
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_shipped_gpu_settings_are_legal_and_refused_here():
    for name in ("gpu.yaml", "jetson.yaml"):
        config = load_config(ROOT / "config" / name)
        assert config.device == "cuda" and np.isfinite(config.track.max_people)
        with pytest.raises(BackendUnavailable, match="install"):
            load_models(config)
