"""Sizes in a network's graph, written down as numbers.

Exporters compute the shape of a Reshape or an Expand from the sizes of other tensors, also where only the batch varies.
TensorRT gives static sizes only to what it understands of such arithmetic, which depends on its version, and version 8 takes
no list of sizes that is empty, as slices of them are.  What is computed from sizes alone can be found by computing it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

# What is the same for both is the same for all, what is the batch for both is the batch.  One of them is 1, because a slice of
# the first two has two of any other batch and would be taken for a constant.
BATCHES = (1, 7)
# Inputs whose values decide the size of what an operator gives; all reductions belong to them.
_DECIDING = {
    "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,), "DFT": (1, 2), "Expand": (1,), "MaxUnpool": (2,),
    "OneHot": (1,), "Pad": (1, 3), "Range": (0, 1, 2), "Reduce": (1,), "Reshape": (1,), "Resize": (1, 2, 3), "SequenceAt": (1,),
    "Slice": (1, 2, 3, 4), "Split": (1,), "SplitToSequence": (1,), "Squeeze": (1,), "STFT": (1, 3), "Tile": (1,), "TopK": (1,),
    "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip
_BY_CONTENT = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}  # their results are as long as their inputs say
_log = logging.getLogger(__name__)


def write_sizes(model: Any) -> bool:
    """Put numbers, and the batch read off an input, where the graph computes with sizes; whether anything has changed.

    Left as they are: sizes that depend on what a picture shows, and all of a network with an input that is not of one size
    but for its batch, or that does not run with BATCHES.
    """
    graph = model.graph
    sized, unknown = _of_sizes(graph)
    if not sized:
        return False
    reshapes = [n for n in graph.node if n.op_type == "Reshape" and n.input[1] in sized and n.output[0] not in unknown]
    wanted = sorted({*sized, *(name for n in reshapes for name in (n.input[0], n.output[0]))})
    try:
        feeds = _feeds(graph)
        if feeds is None:
            return False
        values = _computed(model, wanted, feeds)
    except Exception as error:  # the binding raises a dozen unrelated types
        reason = str(error).strip().partition("\n")[0]
        _log.warning("network %s does not run with batches of %s (%s): its sizes stay arithmetic", graph.name, BATCHES, reason)
        return False
    _Writer(model, sized, values).write(reshapes)
    _drop_unread(graph)
    del graph.value_info[:]  # of tensors that are gone
    return True


def _of_sizes(graph: Any) -> tuple[set[str], set[str]]:
    """Tensors that are computed from sizes and constants alone, and those whose own size depends on an input's values."""
    constants = {t.name for t in graph.initializer}
    content = {v.name for v in graph.input} - constants
    sized: set[str] = set()
    unknown: set[str] = set()
    for node in graph.node:
        read, gives = set(node.input) - {""}, set(node.output) - {""}
        asks = node.op_type in ("Shape", "Size")
        branches = any(a.HasField("g") or a.graphs for a in node.attribute)  # they read what no list of inputs names
        of_content = branches or bool(read & unknown) or (not asks and bool(read & content))
        kind = "Reduce" if node.op_type.startswith("Reduce") else node.op_type
        deciding = {node.input[i] for i in _DECIDING.get(kind, ()) if i < len(node.input)}
        foreign = kind in _BY_CONTENT or node.domain not in ("", "ai.onnx")
        if not asks and (branches or read & unknown or deciding & content or (foreign and of_content)):
            unknown.update(gives)
        if of_content:
            content.update(gives)
        elif asks or read & sized:
            sized.update(gives)
    return sized, unknown


def _feeds(graph: Any) -> list[dict[str, np.ndarray]] | None:
    """Inputs for each of BATCHES; None where more than batches vary."""
    onnx = importlib.import_module("onnx")
    constants = {t.name for t in graph.initializer}
    shapes = {}
    for value in graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            shapes[value.name] = [d.dim_value or None for d in tensor.shape.dim], tensor.elem_type
    if any(None in shape[1:] for shape, _ in shapes.values()):
        return None
    return [
        {
            name: np.ones([n or batch for n in shape], onnx.helper.tensor_dtype_to_np_dtype(kind))
            for name, (shape, kind) in shapes.items()
        }
        for batch in BATCHES
    ]


def _computed(model: Any, wanted: Sequence[str], feeds: Sequence[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """What tensors are for each of ``feeds``; of those that no node computes, what is known of them."""
    onnx, ort = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    made = {name for node in model.graph.node for name in node.output}
    names = [name for name in wanted if name in made]
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [{**feed, **dict(zip(names, session.run(names, feed)))} for feed in feeds]


class _Writer:
    """New constants, and nodes that join the batch with them."""

    def __init__(self, model: Any, sized: set[str], values: Sequence[dict[str, Any]]) -> None:
        self._onnx, self._graph, self._sized = importlib.import_module("onnx"), model.graph, sized
        self._first, self._second = values
        self._nodes: list[Any] = []
        self._batch = ""
        self._known: dict[str, str | None] = {}
        self._taken = {*(t.name for t in model.graph.initializer), *(v.name for v in model.graph.input)}
        self._taken |= {name for node in model.graph.node for name in node.output}

    def write(self, reshapes: Sequence[Any]) -> None:
        graph = self._graph
        empty = {t.name for t in graph.initializer if list(t.dims) == [0]}
        empty |= {name for name in self._sized if all(np.shape(v[name]) == (0,) for v in (self._first, self._second))}
        for node in reshapes:
            shape = self._shape_of(node)
            if shape is not None:
                node.input[1] = self._constant(f"{node.output[0]}_shape", np.array(shape, np.int64))
        for node in graph.node:
            if node.op_type == "Concat":
                some = [name for name in node.input if name not in empty]
                if some:
                    del node.input[:]
                    node.input.extend(some)
            for i, name in enumerate(node.input):
                if name in self._sized:
                    node.input[i] = self._instead_of(name) or name
        for node in reversed(self._nodes):
            graph.node.insert(0, node)

    def _shape_of(self, node: Any) -> list[int] | None:
        """The shape of a Reshape's result with at most one entry that says less than a number."""
        one, other = (list(np.shape(v[node.output[0]])) for v in (self._first, self._second))
        if len(one) != len(other) or 0 in one:
            return None
        moving = [i for i, (m, n) in enumerate(zip(one, other)) if m != n]
        if len(moving) > 1:
            return None
        before = [np.shape(v[node.input[0]]) if node.input[0] in v else () for v in (self._first, self._second)]
        for i in moving:
            copies = i == 0 and all(before) and (before[0][0], before[1][0]) == (one[0], other[0])
            zeros = any(a.name == "allowzero" and a.i for a in node.attribute)  # then 0 is no copy of the input's
            one[i] = 0 if copies and not zeros else -1
        return one

    def _instead_of(self, name: str) -> str | None:
        """A tensor of the same values with as little arithmetic as there can be; None: there is none."""
        if name not in self._known:
            one, other = self._first[name], self._second[name]
            self._known[name] = None
            if not isinstance(one, np.ndarray) or one.shape != other.shape:  # sequences, and what is itself of the batch's size
                pass
            elif np.array_equal(one, other):
                self._known[name] = self._constant(f"{name}_known", one)
            elif one.ndim == 1 and one.dtype == np.int64 and np.array_equal(one[1:], other[1:]):
                if (one[0], other[0]) == BATCHES:
                    self._known[name] = self._with_batch(f"{name}_batch", one[1:])
        return self._known[name]

    def _with_batch(self, name: str, rest: np.ndarray) -> str:
        if not self._batch:
            constants = {t.name for t in self._graph.initializer}
            free = next(v.name for v in self._graph.input if v.name not in constants and v.type.tensor_type.shape.dim
                        and not v.type.tensor_type.shape.dim[0].dim_value)  # fmt: skip
            # Not by Shape's own start and end, which TensorRT 8.5 overlooks.
            sizes = self._node("Shape", [free], "sizes_of_input")
            self._batch = self._node("Gather", [sizes, self._constant("place_of_batch", np.zeros(1, np.int64))], "batch", axis=0)
        if not len(rest):
            return self._batch
        return self._node("Concat", [self._batch, self._constant(f"{name}_rest", rest)], name, axis=0)

    def _node(self, kind: str, inputs: Sequence[str], output: str, **attributes: int) -> str:
        output = self._free(output)
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def _constant(self, name: str, value: np.ndarray) -> str:
        name = self._free(name)
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _free(self, name: str) -> str:
        """A name that nothing has: graphs that were prepared before have these."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _drop_unread(graph: Any) -> None:
    """Remove nodes that no output needs."""
    needed, kept = {v.name for v in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _reads(node: Any) -> set[str]:
    """What a node reads, its branches included."""
    read = set(node.input) - {""}
    for attribute in node.attribute:
        for branch in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            read.update(v.name for v in branch.output)
            read.update(name for inner in branch.node for name in _reads(inner))
    return read
