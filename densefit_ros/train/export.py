"""Write a trained network as ONNX and prove that the file computes the same function."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..detect.contract import FINDER_CONTRACT
from ..detect.finder_network import FinderNet
from ..displace.contract import DISPLACEMENT_CONTRACT
from ..displace.network import DisplacementNet
from ..errors import AssetError
from ..regress.contract import REGRESSOR_CONTRACT
from ..regress.network import RegressorNet
from ..runtime.onnxruntime_backend import OnnxRuntime
from ..runtime.picture import trunk_mark
from ..runtime.protocol import check_contract
from .config import BOTH
from .grow import without_copies
from .loop import load_checkpoint

OPSET = 17  # the oldest that has every operator used here: read by TensorRT 8.5 and ONNX Runtime 1.12 on
_EXTRA_OUTPUTS = {
    "regressor": RegressorNet.OUTPUTS[:-1],  # without joints_z
    "displacement": ("flow", "log_var"),
    "finder": FinderNet.OUTPUTS,
}
_NETWORKS = {
    "regressor": (RegressorNet, REGRESSOR_CONTRACT),
    "displacement": (DisplacementNet, DISPLACEMENT_CONTRACT),
    "finder": (FinderNet, FINDER_CONTRACT),
}
# float32 sums in another order: one part in 10^4 of the outputs' scale, which is 10 px and 1 rad.
PARITY = 2e-3


class _Named(nn.Module):
    """Leaves out trailing outputs that only training uses."""

    def __init__(self, net: nn.Module, count: int) -> None:
        super().__init__()
        self.net, self.count = net, count

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.net(*inputs)[: self.count]


def export(net: nn.Module, task: str, path: Path, metadata: dict[str, str] | None = None) -> float:
    """Write ``net`` (trained form) to ``path``; returns the largest difference between torch and ONNX Runtime.

    Batch normalisation is folded, parameter names are kept, and the file's metadata names the network and its
    constructor arguments, so that the torch runtime can rebuild it.  Filters are stored in half precision, which halves the
    file, and every runtime computes with them in its own precision.  Raises AssetError when the written file's outputs
    differ by more than PARITY from those of the same filters in torch, or break the contract.
    """
    network, contract = _NETWORKS[task]
    config = {**net.config, "fused": False}
    plain = network(**config)
    plain.load_state_dict(net.state_dict())
    fused = plain.eval().finish()
    filters = {name for name, value in fused.named_parameters() if value.ndim > 1}
    with torch.no_grad():
        for name in filters:
            value = fused.get_parameter(name)
            value.copy_(value.half())
    names = list(_EXTRA_OUTPUTS[task])
    inputs = _example(task, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.onnx")  # a file that fails the check never takes the place of a good one
    with warnings.catch_warnings():  # that sizes of crops become constants, as they are meant to
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        torch.onnx.export(
            _Named(fused, len(names)),
            tuple(inputs.values()),
            str(partial),
            input_names=list(inputs),
            output_names=names,
            dynamic_axes={name: {0: "P"} for name in [*inputs, *names]},
            opset_version=OPSET,
            do_constant_folding=False,
            dynamo=False,
        )
    _annotate(partial, filters, {"network": task, "config": json.dumps({**config, "fused": True}), **(metadata or {})})
    runtime = OnnxRuntime(partial)
    check_contract(runtime, contract)
    difference = parity(fused, runtime, task)
    if not difference <= PARITY:
        raise AssetError(f"{path}: ONNX Runtime and torch differ by {difference:.2e}, at most {PARITY} expected (exporter?)")
    os.replace(partial, path)
    return difference


def parity(net: nn.Module, runtime: Any, task: str, persons: int = 3) -> float:
    """Largest absolute difference over all outputs on random inputs of another batch size than the export's."""
    inputs = _example(task, persons)
    with torch.inference_mode():
        expected = net.eval()(*inputs.values())
    got = runtime({name: value.numpy() for name, value in inputs.items()})
    # Not Python's max, which skips NaN.
    return float(np.max([np.abs(got[name] - e.numpy()).max() for name, e in zip(_EXTRA_OUTPUTS[task], expected)]))


def _example(task: str, persons: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(persons)
    shapes = {name: (persons, *spec.shape[1:]) for name, spec in _NETWORKS[task][1].inputs.items()}
    if task == "displacement":
        inputs = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
        inputs["rendering"][:, :40] = 0
        return inputs
    inputs = {"image": torch.randint(0, 256, shapes["image"], generator=generator, dtype=torch.uint8)}
    if task == "regressor":
        inputs["intrinsics"] = torch.tensor([[3.0, 3.0, 0.4, 0.6]]).repeat(persons, 1)
    return inputs


def _annotate(path: Path, filters: set[str], metadata: dict[str, str]) -> None:
    """Name parameters as the network does, store ``filters`` in half precision, and write ``metadata`` down."""
    import onnx

    model = onnx.load(str(path))
    # The wrapper's attribute name is no part of the network: state_dict names stand alone.
    renamed = {t.name: t.name.removeprefix("net.") for t in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.name = renamed[tensor.name]
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    _store_in_half(model.graph, filters)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _store_in_half(graph: Any, names: set[str]) -> None:
    """Initializers ``names`` as float16 with a cast behind each, which runtimes compute once, when they load the file."""
    from onnx import TensorProto, helper, numpy_helper

    for tensor in graph.initializer:
        if tensor.name not in names:
            continue
        wide = f"{tensor.name}_float"
        for node in graph.node:
            node.input[:] = [wide if name == tensor.name else name for name in node.input]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        graph.node.insert(0, helper.make_node("Cast", [tensor.name], [wide], f"{wide}_cast", to=TensorProto.FLOAT))


def load_trained(path: Path, part: str = "") -> tuple[nn.Module, dict[str, Any]]:
    """Network and record of a best.pt; ``part`` names the network to take out of a run of both.

    The record's ``trunk`` is the mark of the image trunk that a part belongs to.  Raises AssetError.
    """
    record = load_checkpoint(path, "cpu")
    weights = without_copies(record.get("weights", {}))
    if any(name.startswith("displacement.") for name in weights):
        if part not in BOTH:
            raise AssetError(f"{path}: this run holds a regressor and a displacement network; say which (got {part!r})")
        trunk = {k: v.numpy() for k, v in weights.items() if k.startswith("regressor.trunk.") and v.dtype.is_floating_point}
        weights = {k.removeprefix(f"{part}."): v for k, v in weights.items() if k.startswith(f"{part}.")}
        record = {**record, "task": part, "network": record["network"][part], "trunk": trunk_mark(trunk)}
    record["weights"] = weights
    if record.get("task") not in _NETWORKS:
        raise AssetError(f"{path}: expected a best.pt of a training run, got keys {sorted(record)[:5]}")
    kind = _NETWORKS[record["task"]][0]
    # Runs up to the crops of 128 px wrote arguments of the trunk down for the displacement network too, and crops' sizes.
    known = inspect.signature(kind).parameters
    net = kind(**{k: v for k, v in record["network"].items() if k in known and k != "fused"})
    net.load_state_dict(record["weights"])
    return net.eval(), record


def networks_of(checkpoint: Path) -> tuple[str, ...]:
    """Names of the networks in a best.pt: both of a run of both, or the one.  Raises AssetError."""
    record = load_checkpoint(checkpoint, "cpu")
    if any(name.startswith("displacement.") for name in without_copies(record.get("weights", {}))):
        return BOTH
    return (load_trained(checkpoint)[1]["task"],)


def export_checkpoint(checkpoint: Path, part: str, out: Path) -> str:
    """Write the network named ``part`` of a best.pt to the file ``out``; returns what was written, in a line."""
    net, record = load_trained(checkpoint, part)
    metadata = {"seed": str(record["seed"]), "commit": record["commit"], "step": str(record["step"]), "licence": "Apache-2.0"}
    if "trunk" in record:
        metadata["trunk"] = record["trunk"]
    metadata["validation"] = json.dumps({k: round(v, 4) for k, v in record["metrics"].items()})
    difference = export(net, record["task"], out, metadata)
    what = f"{record['task']}, step {record['step']}, {out.stat().st_size / 1e6:.1f} MB"
    return f"{out}: {what}, torch and ONNX Runtime agree to {difference:.1e}"
