"""Networks in TensorRT: all that differs between its versions 8.5 to 11 is in this file.

Only the part of the API that these versions share is used: explicit batch, one optimisation profile, named tensors
(``set_tensor_address``, ``execute_async_v3``).  Device memory and the stream are torch's, so that the buffers can be
shared with the renderer and the solver.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AssetError, BackendUnavailable, ConfigError, ShapeError
from .engine_cache import EngineKey, default_cache_dir, file_sha256, read_engine, write_engine
from .protocol import TensorSpec, check_inputs

MAX_BATCH = 16
_WORKSPACE_BYTES = 1 << 30
_HINT = (
    "install NVIDIA TensorRT 8.5 or later (JetPack brings it; on a PC: pip install tensorrt), or use runtime.backend onnxruntime"
)
_log = logging.getLogger(__name__)


class TensorRTRuntime:
    """A network as a TensorRT engine, built on first use and cached.

    ``precision`` is "fp16" or "fp32"; batches of 1 to ``max_batch`` run.  Raises BackendUnavailable without TensorRT or
    a CUDA device, AssetError when the network file is missing, damaged or cannot be built.
    """

    def __init__(
        self, path: str | Path, precision: str = "fp16", cache_dir: str | Path | None = None, max_batch: int = MAX_BATCH
    ) -> None:
        if precision not in ("fp16", "fp32"):
            raise ConfigError(f"tensorrt precision expects fp16 or fp32, got {precision!r}")
        self._trt, self._torch = trt, torch = _import()
        self.path, self.max_batch = str(path), max_batch
        if not Path(path).is_file():
            raise AssetError(f"{path}: network file not found (expected an .onnx file)")
        logger = trt.Logger(trt.Logger.WARNING)
        engine_bytes = self._cached_or_built(logger, precision, Path(cache_dir) if cache_dir else default_cache_dir())
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine_bytes)
        if self._engine is None:
            raise BackendUnavailable(f"TensorRT {trt.__version__} refused the engine of {path}: delete the engine cache")
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        self.name = f"tensorrt:{precision}"
        specs = {True: {}, False: {}}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            shape = tuple(None if n < 0 else int(n) for n in self._engine.get_tensor_shape(name))
            specs[is_input][name] = TensorSpec(shape, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))).name)
        self.inputs: Mapping[str, TensorSpec] = specs[True]
        self.outputs: Mapping[str, TensorSpec] = specs[False]
        self._buffers = {name: self._allocate(spec) for name, spec in {**self.inputs, **self.outputs}.items()}

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :class:`densefit_ros.runtime.protocol.Runtime`."""
        batch = check_inputs(self, inputs)
        if batch > self.max_batch:
            raise ShapeError(f"{self.name}: the engine takes at most {self.max_batch} persons, got {batch}")
        torch = self._torch
        with torch.cuda.stream(self._stream):
            for name in self.inputs:
                device, host = self._buffers[name]
                host[:batch].copy_(torch.from_numpy(np.ascontiguousarray(inputs[name])))
                device[:batch].copy_(host[:batch], non_blocking=True)
                self._context.set_input_shape(name, tuple(inputs[name].shape))
                self._context.set_tensor_address(name, device.data_ptr())
            for name in self.outputs:
                self._context.set_tensor_address(name, self._buffers[name][0].data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise BackendUnavailable(f"{self.name}: execution of {self.path} failed on the device (its log says why)")
            for name in self.outputs:
                device, host = self._buffers[name]
                host[:batch].copy_(device[:batch], non_blocking=True)
        self._stream.synchronize()
        # Copies: the pinned buffers are overwritten by the next call.
        return {name: self._buffers[name][1][:batch].numpy().copy() for name in self.outputs}

    def _allocate(self, spec: TensorSpec) -> tuple[Any, Any]:
        torch = self._torch
        shape = (self.max_batch, *(1 if n is None else n for n in spec.shape[1:]))
        dtype = getattr(torch, spec.dtype)
        return torch.empty(shape, dtype=dtype, device="cuda"), torch.empty(shape, dtype=dtype, pin_memory=True)

    def _cached_or_built(self, logger: Any, precision: str, cache_dir: Path) -> bytes:
        trt, torch = self._trt, self._torch
        major, minor = torch.cuda.get_device_capability()
        key = EngineKey(
            file_sha256(Path(self.path)),
            torch.cuda.get_device_name(),
            f"{major}.{minor}",
            trt.__version__,
            precision,
            self.max_batch,
        )
        path = cache_dir / key.file_name(Path(self.path).stem)
        engine, reason = read_engine(path, key)
        if engine is not None:
            return engine
        _log.warning("building the TensorRT engine of %s (%s): this takes minutes, once", Path(self.path).name, reason)
        engine = build_engine(trt, logger, self.path, precision, self.max_batch)
        write_engine(path, key, engine)
        return engine


def build_engine(trt: Any, logger: Any, path: str, precision: str, max_batch: int) -> bytes:
    """Parse the ONNX file and build an engine with a batch profile of 1 to ``max_batch``.  Raises AssetError."""
    builder = trt.Builder(logger)
    # Explicit batch is a flag up to version 9 and the only mode from 10 on, where the flag may be gone.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(1 << int(flag) if flag is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(path).read_bytes()):
        first = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise AssetError(f"{path}: TensorRT {trt.__version__} cannot read this network ({first})")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    if precision == "fp16":
        half = getattr(trt.BuilderFlag, "FP16", None)
        if half is None:
            raise BackendUnavailable(f"TensorRT {trt.__version__} builds strongly typed networks only: set precision fp32")
        config.set_flag(half)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (1, *rest), (max_batch, *rest))
    config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise AssetError(f"{path}: TensorRT {trt.__version__} could not build an engine (its log says why)")
    return bytes(serialized)


def _import() -> tuple[Any, Any]:
    try:
        import tensorrt
    except ImportError as error:
        raise BackendUnavailable(f"tensorrt is not available: {_HINT}") from error
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable("the TensorRT runtime keeps its memory in torch: install a CUDA build of torch") from error
    if not torch.cuda.is_available():
        raise BackendUnavailable("the TensorRT runtime needs a CUDA device that torch can use: install a CUDA build of torch")
    return tensorrt, torch
