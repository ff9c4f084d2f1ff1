"""ONNX graphs as TensorRT wants them: constants folded, bytes cast first, and precision in the graph where it has to be.

Every function runs on the CPU with ``onnx`` and ONNX Runtime, so each is tested by what the changed file computes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AssetError, BackendUnavailable
from .cache_file import write_whole
from .onnx_sizes import write_sizes
from .protocol import require_file

# Exact int8 says nothing in the heads: coordinates, angles and the matching step stay in floating point.
QUANTISED_OPERATORS = ("Conv",)
# Softmax over hundreds of cells, logarithms and divisions lose what half precision cannot hold.
FLOAT_OPERATORS = ["Resize", "Softmax", "Log", "Div", "Pow", "ReduceSum", "ReduceMean", "Range", "OneHot", "ConstantOfShape"]


def folded(path: str | Path) -> Any:
    """The network with everything computed that does not depend on an input, sizes other than the batch's included.

    Exporters leave shape arithmetic that TensorRT's parsers do not know (``Mod``) or refuse as the size of something (``OneHot``,
    which ``repeat_interleave`` becomes).  Raises AssetError for a damaged file, BackendUnavailable for one that can be read and
    not be rewritten.
    """
    model = _folded_by_runtime(path)
    if write_sizes(model):
        with tempfile.TemporaryDirectory() as folder:
            known = Path(folder) / "known.onnx"
            _import("onnx").save(model, str(known))
            model = _folded_by_runtime(known)
    return model


def _folded_by_runtime(path: str | Path) -> Any:
    onnx, ort = _import("onnx"), _import("onnxruntime")
    require_file(path)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "folded.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(out)
        options.log_severity_level = 3
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            model = onnx.load(str(out))
        except Exception as error:  # the binding raises a dozen unrelated types for one cause: it cannot read the file
            if opens(ort, path):  # it has over 2 GB, for one, and cannot be written as one file
                first_line = str(error).strip().partition("\n")[0]
                raise BackendUnavailable(f"{path}: cannot be prepared for TensorRT ({first_line})") from error
            raise AssetError(f"{path}: not a readable ONNX network, damaged or incomplete download?") from error
    used = {node.domain for node in model.graph.node}
    kept = [o for o in model.opset_import if o.domain == "" or o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def opens(ort: Any, path: str | Path) -> bool:
    """Whether ONNX Runtime reads a network file on the CPU: then it is not damaged, whatever else went wrong."""
    try:
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:  # as above
        return False
    return True


def bytes_cast_first(model: Any) -> Any:
    """Cast uint8 inputs to float32 before anything else touches them: TensorRT takes bytes at the border only."""
    onnx = _import("onnx")
    graph = model.graph
    for value in graph.input:
        if value.type.tensor_type.elem_type != onnx.TensorProto.UINT8:
            continue
        cast = f"{value.name}_float"
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name == value.name:
                    node.input[i] = cast
        graph.node.insert(0, onnx.helper.make_node("Cast", [value.name], [cast], f"{cast}_cast", to=onnx.TensorProto.FLOAT))
    del graph.value_info[:]  # types inside have changed
    return model


def half(model: Any) -> Any:
    """Half precision inside, inputs and outputs as they were: for TensorRT 11, which takes precision from the graph only."""
    _import("onnx")
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise BackendUnavailable("half precision for this TensorRT needs onnxruntime with its transformers tools") from error
    return _sorted(convert_float_to_float16(model, keep_io_types=True, op_block_list=FLOAT_OPERATORS))


def _sorted(model: Any) -> Any:
    """Nodes in an order in which each input exists when it is read: the converter appends its casts anywhere."""
    graph, waiting = model.graph, list(model.graph.node)
    known = {""} | {v.name for v in graph.input} | {t.name for t in graph.initializer}
    ordered = []
    while waiting:
        ready = [n for n in waiting if known.issuperset(n.input)]
        if not ready:
            raise AssetError(f"network {graph.name}: nodes {[n.name for n in waiting[:3]]} read what nothing computes")
        known.update(o for n in ready for o in n.output)
        ordered += ready
        taken = set(map(id, ready))
        waiting = [n for n in waiting if id(n) not in taken]
    del graph.node[:]
    graph.node.extend(ordered)
    return model


def quantise(path: str | Path, out: Path, feeds: Iterable[Mapping[str, np.ndarray]]) -> Path:
    """Write ``path`` with its convolutions in int8 (Q/DQ nodes, symmetric, weights per channel) to ``out``.

    feeds: calibration batches, keyed by input; a few hundred crops.  The file runs in ONNX Runtime as well as TensorRT 8.5
    to 11.  Weights in it stay float32 before a pair of nodes, because TensorRT 8 refuses a DequantizeLinear without a
    QuantizeLinear: the engine is small, the file is not.  Raises AssetError without a batch, and where ``out`` cannot be written.
    """
    onnx = _import("onnx")
    _import("ml_dtypes")  # ONNX Runtime's quantization needs it and does not ask for it
    from onnxruntime import quantization as q

    batches = iter([dict(f) for f in feeds])
    first = next(batches, None)
    if first is None:
        raise AssetError(f"{path}: calibration expects at least one batch of crops, got none")

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self._waiting = first

        def get_next(self) -> dict[str, np.ndarray] | None:
            feed, self._waiting = self._waiting, next(batches, None)
            return feed

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "int8.onnx"
        onnx.save(bytes_cast_first(folded(path)), str(source))
        q.quantize_static(
            str(source), str(target), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(QUANTISED_OPERATORS), activation_type=q.QuantType.QInt8, weight_type=q.QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                "AddQDQPairToWeight": True, "DedicatedQDQPair": True,
            },
        )  # fmt: skip
        content = target.read_bytes()
    try:
        write_whole(out, content)
    except OSError as e:  # unlike an engine it is what was asked for, and is loaded from there
        raise AssetError(f"the int8 form of {path} cannot be written to {out.parent} (another --cache?): {e}") from e
    return out


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendUnavailable(f"preparing networks for TensorRT needs {name}: pip install {name}") from error
