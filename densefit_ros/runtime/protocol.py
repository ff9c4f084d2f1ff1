"""What every network runtime offers, and the check that a network file is the one its user expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import AssetError, ShapeError

MAX_BATCH = 16  # persons that an engine built for a batch size takes at once


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one input or output; ``None`` stands for the free batch dimension P."""

    shape: tuple[int | None, ...]
    dtype: str  # NumPy name: "float32", "uint8"

    def __str__(self) -> str:
        return f"{self.dtype}({','.join('P' if n is None else str(n) for n in self.shape)})"


@dataclass(frozen=True)
class NetworkContract:
    """Names, shapes and dtypes that a network file must have.  Extra outputs are allowed, extra inputs are not."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


class Runtime(Protocol):
    """A loaded network.  Calls are synchronous and take any batch size P >= 1."""

    name: str  # what really runs, for diagnostics: "onnxruntime:cpu", "tensorrt:fp16", "torch:cuda"
    path: str  # the network file
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    concurrent: bool  # calls of several threads run side by side
    device: str  # "cpu" or "cuda"

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.  Raises ShapeError on a missing input or another shape or dtype than declared."""
        ...


class DeviceRuntime(Runtime, Protocol):
    """A runtime that can also work on memory that stays where it is."""

    capturable: bool  # a pass may be recorded into a CUDA graph

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], stream: int) -> Callable[[], None]:
        """A function that queues one pass from ``inputs`` into ``outputs`` and does not wait for it.

        Both map names to arrays of one batch size: torch tensors on CUDA, where ``stream`` is the handle of the stream to
        queue on; NumPy arrays on the CPU, where a pass is over when the function returns.  Outputs that are not named are
        not delivered.  The arrays are held.
        """
        ...


def require_file(path: str | Path) -> None:
    """Raise AssetError unless a network file is there."""
    if not Path(path).is_file():
        raise AssetError(f"{path}: network file not found (expected an .onnx file)")


def check_contract(runtime: Runtime, contract: NetworkContract) -> None:
    """Raise AssetError when the loaded file is not the network that the caller is written for.

    A free dimension of either side matches anything; an output may be declared without static sizes by its exporter.
    """
    for kind, expected, got in (("input", contract.inputs, runtime.inputs), ("output", contract.outputs, runtime.outputs)):
        for name, spec in expected.items():
            if name not in got:
                raise AssetError(f"{runtime.path}: expected {kind} '{name}' of the {contract.name} network, got {sorted(got)}")
            if not _matches(spec, got[name]):
                raise AssetError(f"{runtime.path}: expected {kind} '{name}' {spec}, got {got[name]} (other weights?)")
    extra = sorted(set(runtime.inputs) - set(contract.inputs))
    if extra:
        raise AssetError(f"{runtime.path}: inputs {extra} are unknown to the {contract.name} network (other weights?)")


def check_inputs(runtime: Runtime, inputs: dict[str, np.ndarray]) -> int:
    """Validate one call's arrays and return the batch size P.  Raises ShapeError."""
    batch = None
    for name, spec in runtime.inputs.items():
        if name not in inputs:
            raise ShapeError(f"{runtime.name}: input '{name}' {spec} is missing, got {sorted(inputs)}")
        array = inputs[name]
        if array.dtype != np.dtype(spec.dtype) or not _matches(spec, TensorSpec(array.shape, spec.dtype)):
            raise ShapeError(f"{runtime.name}: input '{name}' expects {spec}, got {array.dtype}{array.shape}")
        if batch is not None and array.shape[0] != batch:
            raise ShapeError(f"{runtime.name}: input '{name}' has {array.shape[0]} persons, the others {batch}")
        batch = array.shape[0]
    if not batch:
        raise ShapeError(f"{runtime.name}: expected at least one person, got an empty batch")
    return batch


def _matches(a: TensorSpec, b: TensorSpec) -> bool:
    same_rank = len(a.shape) == len(b.shape)
    return a.dtype == b.dtype and same_rank and all(m is None or n is None or m == n for m, n in zip(a.shape, b.shape))
