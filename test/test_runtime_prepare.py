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


def tensors_of(model, batch: int) -> dict[str, np.ndarray]:
    """What every node computes for any picture, by ONNX Runtime without its optimisations."""
    import onnxruntime as ort

    every = onnx.ModelProto()
    every.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del every.graph.output[:]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(every.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    feed = {i.name: np.ones((batch, *i.shape[1:]), kinds[i.type]) for i in session.get_inputs()}
    return dict(zip(names, session.run(names, feed)))


def any_empty(model) -> list[str]:
    """Tensors of no numbers, constants and computed: lists of sizes, which version 8 of TensorRT takes in no Concat."""
    return [t.name for t in model.graph.initializer if 0 in t.dims] + [k for k, v in tensors_of(model, 2).items() if not v.size]


@pytest.mark.parametrize("name", (*NETWORKS, "finder"))
def test_prepared_networks_compute_with_no_sizes_but_the_batch(name, tmp_path):
    """Static sizes in an engine do not depend on what TensorRT makes of such arithmetic."""
    path = weights_path(f"{name}.onnx")
    model = onnx_prepare.bytes_cast_first(onnx_prepare.folded(path))
    onnx.checker.check_model(model)
    assert not any_empty(model)
    constants, inputs = {t.name for t in model.graph.initializer}, {v.name for v in model.graph.input}
    made = {out: node for node in model.graph.node for out in node.output}
    for node in model.graph.node:
        if node.op_type == "Reshape":
            assert node.input[1] in constants, f"{node.name}: the shape is computed"
        if node.op_type == "Shape":
            source = made[node.input[0]].input[0] if node.input[0] in made else node.input[0]  # behind the cast of bytes
            assert source in inputs and not any(a.i for a in node.attribute), f"{node.name}: only an input says the batch"
    assert sum(node.op_type == "Shape" for node in model.graph.node) <= 1
    # The shapes of all tensors follow, but for the batch, from what each node says.
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    for value in (*inferred.value_info, *inferred.output):
        shape = value.type.tensor_type.shape.dim
        assert sum(not d.HasField("dim_value") for d in shape) <= 1, f"{value.name}: {[d.dim_value for d in shape]}"
    # And nothing has changed, to the last bit.
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    before, after, rng = OnnxRuntime(path), OnnxRuntime(tmp_path / "x.onnx"), np.random.default_rng(0)
    for batch in (1, 3, 16):
        x = {key: 0.1 + rng.random((batch, *spec.shape[1:])) for key, spec in before.inputs.items()}
        x = {k: (200 * v if before.inputs[k].dtype == "uint8" else v).astype(before.inputs[k].dtype) for k, v in x.items()}
        got = after(x)
        for key, value in before(x).items():
            np.testing.assert_array_equal(got[key], value, err_msg=f"{key} of {batch}")


def graph_of(nodes, constants, path, shape=("P", 4, 6), outputs=("y",)):
    """A network file of float32 ``x``."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def same_for(path, model, tmp_path, batches=(1, 2, 5, 16)):
    for batch in batches:
        x = {"x": np.random.default_rng(batch).normal(size=(batch, 4, 6)).astype(np.float32)}
        expected, got = OnnxRuntime(path)(x), run(model, tmp_path / "f.onnx", x)
        for key, value in expected.items():
            np.testing.assert_array_equal(got[key], value)


def test_sizes_that_do_more_than_follow_the_batch_stay_right(tmp_path):
    """Batches merged with other sizes, at other places than the first, or cut off; and a second preparation."""
    n = onnx.helper.make_node
    nodes = [
        n("Shape", ["x"], ["s"]),
        n("Gather", ["s", "0"], ["p"]), n("Gather", ["s", "1"], ["c"]), n("Gather", ["s", "2"], ["w"]),
        n("Mul", ["p", "c"], ["pc"]), n("Concat", ["pc", "w"], ["flat"], axis=0), n("Reshape", ["x", "flat"], ["rows"]),
        n("Transpose", ["x"], ["t"], perm=[1, 0, 2]), n("Concat", ["c", "p", "w"], ["cpw"], axis=0),
        n("Reshape", ["t", "cpw"], ["second"]),
        n("Min", ["p", "2"], ["two"]), n("Slice", ["x", "0", "two", "0"], ["first_two"]),
        n("Shape", ["first_two"], ["ts"]), n("Reshape", ["first_two", "ts"], ["cut"]),
        n("Slice", ["s", "3", "9"], ["none"]), n("Slice", ["s", "0", "2"], ["pc2"]),
        n("Concat", ["pc2", "none", "w"], ["pcw"], axis=0), n("Expand", ["one", "pcw"], ["grown"]),
        n("Add", ["grown", "x"], ["y"]), n("Expand", ["one", "p"], ["people"]),
        n("Concat", ["pc", "none", "w"], ["large"], axis=0), n("Expand", ["one", "large"], ["wide"]),
    ]  # fmt: skip
    constants = {"0": [0], "1": [1], "2": [2], "3": [3], "9": [9]}
    path = graph_of(nodes, constants, tmp_path / "x.onnx", outputs=("rows", "second", "cut", "y", "people", "wide"))
    model = onnx.load(str(path))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "one"))
    onnx.save(model, str(path))
    model = onnx_prepare.folded(path)
    same_for(path, model, tmp_path)
    assert not any_empty(model)
    numbers = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in model.graph.initializer}
    shapes = {node.output[0]: numbers.get(node.input[1]) for node in model.graph.node if node.op_type == "Reshape"}
    assert shapes["rows"] == [-1, 6] and shapes["second"] == [4, -1, 6]
    onnx.save(model, str(tmp_path / "again.onnx"))
    again = onnx_prepare.folded(tmp_path / "again.onnx")
    same_for(path, again, tmp_path)
    assert sum(node.op_type == "Shape" for node in again.graph.node) == sum(node.op_type == "Shape" for node in model.graph.node)


def test_sizes_that_depend_on_the_picture_are_no_constants(tmp_path):
    """As many rows as the largest number says, and a place for each number above zero: one of a picture of ones."""
    n = onnx.helper.make_node
    nodes = [
        n("ReduceMax", ["x"], ["most"]), n("Cast", ["most"], ["whole"], to=onnx.TensorProto.INT64),
        n("Reshape", ["whole", "1"], ["rows"]), n("Slice", ["x", "0", "rows", "1"], ["upper"]), n("Shape", ["upper"], ["s"]),
        n("Reshape", ["upper", "s"], ["y"]),
        n("Reshape", ["x", "-1"], ["flat"]), n("Slice", ["flat", "0", "1"], ["first"]), n("Relu", ["first"], ["positive"]),
        n("NonZero", ["positive"], ["places"]), n("Shape", ["places"], ["c"]), n("ConstantOfShape", ["c"], ["z"]),
    ]  # fmt: skip
    path = graph_of(nodes, {"-1": [-1], "0": [0], "1": [1]}, tmp_path / "x.onnx", outputs=("y", "z"))
    same_for(path, onnx_prepare.folded(path), tmp_path, range(1, 9))


def test_a_network_for_so_many_people_only_is_left_as_it_is(tmp_path, caplog):
    n = onnx.helper.make_node
    nodes = [n("Shape", ["x"], ["s"]), n("Slice", ["s", "1", "3"], ["rest"]), n("Concat", ["3", "rest"], ["all"], axis=0)]
    path = graph_of([*nodes, n("Reshape", ["x", "all"], ["y"])], {"1": [1], "3": [3]}, tmp_path / "x.onnx")
    same_for(path, onnx_prepare.folded(path), tmp_path, (3,))
    assert "does not run with batches of (1, 7)" in caplog.text


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
    # TensorRT 8 refuses a DequantizeLinear that no QuantizeLinear precedes, that of a weight too.
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    weights = [n.input[1] for n in model.graph.node if n.op_type == "Conv"]
    assert len(weights) > 15 and {made[name] for name in weights} == {"DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert made.get(node.input[0]) == "QuantizeLinear", node.name
    got = OnnxRuntime(out)(inputs)
    assert float(np.abs(got["flow"] - expected["flow"]).mean()) < 0.6
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
