"""OpenVINO on the CPU: the same answers as ONNX Runtime, in bfloat16 nearly so, and chosen only where it is faster."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from densefit_ros.detect.contract import FINDER_CONTRACT
from densefit_ros.displace.contract import DISPLACEMENT_CONTRACT, GRID
from densefit_ros.errors import AssetError, BackendUnavailable, ConfigError, ShapeError
from densefit_ros.regress.contract import REGRESSOR_CONTRACT
from densefit_ros.runtime import factory
from densefit_ros.runtime.factory import make_runtime
from densefit_ros.runtime.openvino_backend import OpenVinoRuntime, cpu_has_bf16
from densefit_ros.runtime.protocol import NetworkContract, check_contract
from densefit_ros.weights import weights_path

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
CONTRACTS = [REGRESSOR_CONTRACT, DISPLACEMENT_CONTRACT, FINDER_CONTRACT]


def draw(contract: NetworkContract, persons: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(persons)
    shapes = {name: (persons, *spec.shape[1:]) for name, spec in contract.inputs.items()}
    return {
        name: rng.integers(0, 256, shapes[name]).astype(np.uint8) if spec.dtype == "uint8"
        else (0.5 + 0.5 * rng.random(shapes[name])).astype(spec.dtype)
        for name, spec in contract.inputs.items()
    }  # fmt: skip


@needs_openvino
@pytest.mark.parametrize("persons", [1, 3])
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.name)
def test_float32_answers_as_onnxruntime_does(contract, persons):
    path, inputs = weights_path(f"{contract.name}.onnx"), draw(contract, persons)
    ours, theirs = OpenVinoRuntime(path, precision="fp32"), make_runtime(path, "onnxruntime", "cpu")
    check_contract(ours, contract)
    assert ours.inputs == theirs.inputs and list(ours.outputs) == list(theirs.outputs) and ours.name == "openvino:cpu:fp32"
    got, expected = ours(inputs), theirs(inputs)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape
        np.testing.assert_allclose(got[name], value, atol=2e-3, err_msg=name)


@needs_openvino
def test_half_precision_moves_joints_by_less_than_a_pixel():
    """Float32 where the processor has no bfloat16: the bound then holds by far."""
    rng = np.random.default_rng(0)
    calm = np.clip(rng.normal(128, 3, (4, 224, 224, 3)), 0, 255).astype(np.uint8)  # noise is no picture
    calm[:, 40:200, 90:134] = (60, 90, 160)
    inputs = {"image": calm, "intrinsics": np.tile(np.float32([3, 3, 0.5, 0.5]), (4, 1))}
    path = weights_path("regressor.onnx")
    got, expected = (make_runtime(path, b, "cpu")(inputs)["joints_uv"] for b in ("openvino", "onnxruntime"))
    assert np.abs(got - expected).mean() * 224 < 1.0


@needs_openvino
def test_passes_of_several_threads_do_not_mix():
    runtime = OpenVinoRuntime(weights_path("regressor.onnx"), precision="fp32")
    asked = [draw(REGRESSOR_CONTRACT, 1) | {"intrinsics": np.float32([[f, f, 0.5, 0.5]])} for f in (1.0, 2.0, 3.0, 4.0)]
    alone = [runtime(a)["cam"] for a in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda a: [runtime(a)["cam"] for _ in range(4)], asked))
    for one, many in zip(alone, together):
        assert all(np.array_equal(one, m) for m in many)


@needs_openvino
def test_bound_passes_write_where_they_are_told():
    runtime = OpenVinoRuntime(weights_path("displacement.onnx"))
    inputs, flow = draw(DISPLACEMENT_CONTRACT, 2), np.full((2, 2, GRID, GRID), np.nan, np.float32)
    run_pass = runtime.bind(inputs, {"flow": flow}, stream=0)
    for shift in (0.0, 0.3):
        inputs["s8"] += np.float32(shift)
        run_pass()
        np.testing.assert_array_equal(flow, runtime(inputs)["flow"])


@needs_openvino
def test_what_it_cannot_run_is_said(tmp_path):
    whole = weights_path("displacement.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackendUnavailable, match="half.onnx.*onnxruntime") as caught:
        make_runtime(tmp_path / "half.onnx", "openvino", "cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(AssetError, match="half.onnx"):
        make_runtime(tmp_path / "half.onnx", "auto", "cpu")
    with pytest.raises(AssetError, match="not found"):
        make_runtime(tmp_path / "none.onnx", "openvino", "cpu")
    with pytest.raises(BackendUnavailable, match="int8"):
        make_runtime(weights_path("displacement.onnx"), "openvino", "cpu", precision="int8")
    runtime = make_runtime(weights_path("displacement.onnx"), "openvino", "cpu")
    with pytest.raises(ShapeError, match="missing"):
        runtime({})


def test_it_is_for_cpus_and_has_a_hint(monkeypatch):
    path = weights_path("finder.onnx")
    with pytest.raises(ConfigError, match="CPU only"):
        make_runtime(path, "openvino", "cuda")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match="pip install openvino"):
        make_runtime(path, "openvino", "cpu")


@needs_openvino
@pytest.mark.parametrize(("bf16", "name"), [(True, "openvino:cpu"), (False, "onnxruntime:cpu")])
def test_auto_takes_it_where_the_cpu_multiplies_bfloat16(monkeypatch, bf16, name):
    monkeypatch.setattr(factory, "cpu_has_bf16", lambda: bf16)
    assert make_runtime(weights_path("finder.onnx"), "auto", "cpu").name.startswith(name)


@needs_openvino
def test_int8_of_a_gpus_settings_does_not_stop_a_cpu(monkeypatch):
    monkeypatch.setattr(factory, "cpu_has_bf16", lambda: True)
    assert make_runtime(weights_path("finder.onnx"), "auto", "cpu", precision="int8").name == "onnxruntime:cpu"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512_bf16\nflags\t\t: fpu\n", True),
        ("flags\t\t: fpu avx2 avx512_bf16x\n", False),
        ("Features\t: fp asimd bf16\n", False),  # an ARM core: OpenVINO computes in float32 or float16 there
        ("", False),
    ],
)
def test_flags_of_processors(tmp_path, text, known):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_has_bf16(tmp_path / "cpuinfo") is known
    assert not cpu_has_bf16(tmp_path / "missing")
