"""On a CUDA machine: each part of the path against the CPU.  What is compared as a whole is in test_device_frame.py."""

from __future__ import annotations

import numpy as np
import pytest
from fit_helpers import CAMERA, body, draw_around, make_matches, realistic_params, vertex_error_mm

from densefit_ros.displace.contract import DISPLACEMENT_CONTRACT
from densefit_ros.fit.solver import Anchor, FitOptions, Fitter
from densefit_ros.render.factory import warp_sees_cuda
from densefit_ros.runtime.factory import make_runtime
from densefit_ros.runtime.onnxruntime_backend import PROVIDERS
from densefit_ros.weights import weights_path

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not warp_sees_cuda(), reason="needs a CUDA device")]


# Mean difference over the cells of the flow, crop px, and the precision that it is asked of: fp16 allows TF32 too.
FLOW_PX = {"onnxruntime": (0.01, "fp32"), "torch": (0.01, "fp32"), "onnxruntime-tensorrt": (0.1, "fp16")}


@pytest.mark.parametrize("persons", [1, 5])
def test_the_fit_and_its_graph(persons):
    """The recorded graph gives the CPU's result, and the same again when it is replayed on other evidence in between."""
    rng, b = np.random.default_rng(persons), body()
    truth = realistic_params(rng, persons)
    start = draw_around(rng, truth, 0.08, 0.3, 0.03)
    matches = make_matches(rng, b, truth, 200, noise_px=1.0)
    other = make_matches(rng, b, truth, 150, noise_px=3.0)
    anchors = [Anchor(start, 0.1, 0.3, 0.05)]
    options = FitOptions(linear="tile")
    here, there = (Fitter(b, device, persons, 256, options) for device in ("cpu", "cuda"))
    expected = here.solve(start, CAMERA, matches, anchors=anchors)
    first = there.solve(start, CAMERA, matches, anchors=anchors)
    there.solve(start, CAMERA, other, anchors=anchors)
    again = there.solve(start, CAMERA, matches, anchors=anchors)
    assert vertex_error_mm(b, first.params, expected.params).max() < 0.5
    np.testing.assert_allclose(first.cost[:, -1], expected.cost[:, -1], rtol=1e-3)
    np.testing.assert_array_equal(first.status, expected.status)
    assert vertex_error_mm(b, again.params, first.params).max() < 1e-3  # sums in another order at most


def skip_unless_installed(backend: str) -> None:
    """Only what is not here is left out: what is here and cannot run these networks is a failure."""
    if backend == "tensorrt":
        pytest.importorskip("tensorrt")
    elif backend.startswith("onnxruntime"):
        provider = PROVIDERS["tensorrt" if backend.endswith("tensorrt") else "cuda"]
        if provider not in pytest.importorskip("onnxruntime").get_available_providers():
            pytest.skip(f"onnxruntime has no {provider} here")


@pytest.mark.parametrize("backend", FLOW_PX)
@pytest.mark.parametrize("persons", [1, 3])
def test_networks_on_cuda(backend, persons, tmp_path):
    path = weights_path("displacement.onnx")
    rng = np.random.default_rng(persons)
    shapes = {name: (persons, *spec.shape[1:]) for name, spec in DISPLACEMENT_CONTRACT.inputs.items()}
    inputs = {name: rng.random(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs["rendering"][:, :40] = 0
    expected = make_runtime(path, "onnxruntime", "cpu")(inputs)
    skip_unless_installed(backend)
    most, precision = FLOW_PX[backend]
    got = make_runtime(path, backend, "cuda", precision=precision, cache_dir=tmp_path)(inputs)
    assert float(np.abs(got["flow"] - expected["flow"]).mean()) < most
