"""What networks go through on their way to TensorRT, each form judged by what it computes in ONNX Runtime."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from densefit_ros.errors import AssetError
from densefit_ros.runtime import onnx_prepare
from densefit_ros.runtime.onnxruntime_backend import OnnxRuntime
from densefit_ros.weights import weights_path

onnx = pytest.importorskip("onnx")
NETWORKS = ("displacement", "regressor")


@lru_cache
def crops(name: str) -> dict[str, np.ndarray]:
    """A batch of what the network meets: synthetic people."""
    from densefit_ros.cli.calibration import feeds, network_of

    return next(feeds(network_of(set(OnnxRuntime(weights_path(f"{name}.onnx")).inputs)), 8))


def run(model, path, inputs):
    onnx.save(model, str(path))
    return OnnxRuntime(path)(inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_and_casting_first_change_nothing(name, tmp_path):
    path, inputs = weights_path(f"{name}.onnx"), crops(name)
    expected = OnnxRuntime(path)(inputs)
    model = onnx_prepare.bytes_cast_first(onnx_prepare.folded(path))
    onnx.checker.check_model(model)
    got = run(model, tmp_path / "x.onnx", inputs)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, atol=2e-4, err_msg=key)
    readers = [n.op_type for n in model.graph.node if "image" in n.input]
    assert readers == (["Cast"] if name == "regressor" else [])
    kinds = {n.op_type for n in model.graph.node}
    # Unknown to some parsers, or refused as the size of something ("an IIOneHotLayer cannot be used to compute a shape tensor").
    assert not kinds & {"Mod", "Loop", "If", "OneHot", "NonZero", "ScatterND", "Range", "Tile", "TopK"}
    for output in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output:
        assert all(d.HasField("dim_value") for d in output.type.tensor_type.shape.dim[1:]), f"{output.name}: only batches vary"


def test_sizes_in_a_file_of_somebody_else_are_written_down(tmp_path):
    """As exporters trace ``v.repeat_interleave(columns)`` and ``x.reshape(len(x), -1, columns)``."""
    import torch

    class Net(torch.nn.Module):
        def forward(self, x):
            rows, columns = x.shape[2:]
            v = torch.arange(rows, dtype=torch.float32).repeat_interleave(columns)
            return (x.flatten(2) + v).reshape(x.shape[0], -1, columns)

    path, x = tmp_path / "net.onnx", np.random.default_rng(0).random((3, 2, 5, 4)).astype(np.float32)
    torch.onnx.export(
        Net(), (torch.from_numpy(x),), str(path), input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "P"}},
        opset_version=17, dynamo=False,
    )  # fmt: skip
    assert "OneHot" in {n.op_type for n in onnx.load(str(path)).graph.node}
    model = onnx_prepare.folded(path)
    assert not {n.op_type for n in model.graph.node} & {"OneHot", "Tile", "Range"}
    for count in (1, 3, 7):
        some = np.resize(x, (count, 2, 5, 4))
        expected = OnnxRuntime(path)({"x": some})["y"]
        np.testing.assert_array_equal(run(model, tmp_path / "f.onnx", {"x": some})["y"], expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_in_the_graph_keeps_the_border_and_the_answers(name, tmp_path):
    path, inputs = weights_path(f"{name}.onnx"), crops(name)
    expected = OnnxRuntime(path)(inputs)
    model = onnx_prepare.half(onnx_prepare.bytes_cast_first(onnx_prepare.folded(path)))
    onnx.checker.check_model(model)
    assert sum(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer) > 20
    got = run(model, tmp_path / "x.onnx", inputs)
    key = {"displacement": "flow", "regressor": "joints_uv"}[name]
    scale = {"displacement": 0.1, "regressor": 2e-3}[name]  # crop px; of the crop's side
    assert got[key].dtype == np.float32 and float(np.abs(got[key] - expected[key]).mean()) < scale


def test_int8_from_synthetic_crops_stays_near(tmp_path):
    path, inputs = weights_path("displacement.onnx"), crops("displacement")
    expected = OnnxRuntime(path)(inputs)
    out = onnx_prepare.quantise(path, tmp_path / "cache" / "int8.onnx", [inputs])
    model = onnx.load(str(out))
    scales = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    zero_points = {t.name: t for t in model.graph.initializer}
    assert len(scales) > 15
    for node in scales:  # TensorRT takes symmetric int8 only
        zero = onnx.numpy_helper.to_array(zero_points[node.input[2]])
        assert zero.dtype == np.int8 and not zero.any()
    got = OnnxRuntime(out)(inputs)
    assert float(np.abs(got["flow"] - expected["flow"]).mean()) < 0.6
    assert out.stat().st_size < 0.6 * path.stat().st_size  # which has its filters in half precision
    with pytest.raises(AssetError, match="at least one batch"):
        onnx_prepare.quantise(path, tmp_path / "none.onnx", [])


def test_calibration_is_the_same_every_time_and_covers_every_network():
    from densefit_ros.cli.calibration import feeds, network_of

    for name in (*NETWORKS, "finder"):
        runtime = OnnxRuntime(weights_path(f"{name}.onnx"))
        contract = network_of(set(runtime.inputs))
        assert contract.name == name
        first = next(feeds(contract, 1))
        runtime({k: v[:1] for k, v in first.items()})  # raises ShapeError when a feed does not fit
        if name == "displacement":
            for key, value in next(feeds(contract, 8)).items():
                np.testing.assert_array_equal(value, first[key])


def test_calibration_takes_the_regressor_that_belongs_to_the_network(tmp_path):
    from densefit_ros.cli.calibration import regressor_of

    alone = tmp_path / "displacement.onnx"
    alone.write_bytes(weights_path("displacement.onnx").read_bytes())
    assert regressor_of(alone) == weights_path("regressor.onnx")
    beside = tmp_path / "regressor.onnx"
    beside.write_bytes(weights_path("regressor.onnx").read_bytes())
    assert regressor_of(alone) == beside
    beside.write_bytes(b"densefit-trunk:0123456789abcdef")
    with pytest.raises(AssetError, match="another trunk"):
        regressor_of(alone)
