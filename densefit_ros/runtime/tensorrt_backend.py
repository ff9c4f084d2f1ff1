"""Networks as TensorRT engines, 8.5 to 11: built once per machine, cached, run on memory that torch and Warp share.

Running uses what these versions have in common: named tensors (``set_tensor_address``) and ``execute_async_v3`` on a
stream of ours.  Building is in tensorrt_build.py.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendUnavailable, ConfigError
from .engine_cache import EngineKey, default_cache_dir, file_sha256, read_engine, write_engine
from .protocol import MAX_BATCH, TensorSpec, check_inputs, require_file
from .tensorrt_build import PRECISIONS, RECIPE, build_engine, shares_profiles, started

_HINT = (
    "install NVIDIA TensorRT 8.5 or later (JetPack brings it; on a PC: pip install tensorrt), or use runtime.backend onnxruntime"
)
# Not trt.nptype: in 8.5 it names NumPy types that NumPy has since dropped.
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "UINT8": "uint8"}
_log = logging.getLogger(__name__)


class TensorRTRuntime:
    """A network as a TensorRT engine, built on first use and cached.

    ``precision`` is "fp16", "fp32" or "int8" (whose quantised network ``densefit build-engine`` makes); up to
    ``max_batch`` persons run at once.  Raises BackendUnavailable without TensorRT, a CUDA device or the quantised network,
    AssetError when the network file is missing or damaged.
    """

    concurrent = False  # one execution context, one set of buffers
    device = "cuda"

    def __init__(
        self, path: str | Path, precision: str = "fp16", cache_dir: str | Path | None = None, max_batch: int = MAX_BATCH
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"tensorrt precision expects one of {', '.join(PRECISIONS)}, got {precision!r}")
        self._trt, self._torch = trt, torch = _import()
        self.path, self.max_batch = str(path), max_batch
        logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = started(trt.Runtime, logger)
        self._engine = self._load(logger, precision, Path(cache_dir) if cache_dir else default_cache_dir())
        self._stream = torch.cuda.Stream()
        self.name = f"tensorrt:{precision}"
        specs: dict[bool, dict[str, TensorSpec]] = {True: {}, False: {}}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            shape = tuple(None if n < 0 else int(n) for n in self._engine.get_tensor_shape(name))
            specs[is_input][name] = TensorSpec(shape, _dtype(trt, self._engine.get_tensor_dtype(name)))
        self.inputs: Mapping[str, TensorSpec] = specs[True]
        self._memory: dict[int, Any] = {}
        self._shared = None
        if not shares_profiles(trt):
            self._shared, self._shared_memory = self._context(self._stream.cuda_stream)
        # One context for all batches takes their shapes in turn, under a graph that was recorded for others.
        self.capturable = self._shared is None
        self.outputs: Mapping[str, TensorSpec] = self._completed(specs[False])
        for name, spec in {**self.inputs, **self.outputs}.items():
            if None in spec.shape[1:]:  # memory is made by these shapes, and the engine would write past it
                raise BackendUnavailable(
                    f"{self.path}: TensorRT cannot tell the shape of '{name}', {spec.shape}: only batches may vary"
                )
        self._buffers = {name: self._allocate(spec) for name, spec in {**self.inputs, **self.outputs}.items()}
        self._passes: dict[int, Callable[[], None]] = {}

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :class:`densefit_ros.runtime.protocol.Runtime`.  More than ``max_batch`` run in turns."""
        batch = check_inputs(self, inputs)
        if batch <= self.max_batch:
            return self._run(inputs, batch)
        turns = [slice(i, min(i + self.max_batch, batch)) for i in range(0, batch, self.max_batch)]
        answers = [self._run({name: a[t] for name, a in inputs.items()}, t.stop - t.start) for t in turns]
        return {name: np.concatenate([a[name] for a in answers]) for name in self.outputs}

    def _run(self, inputs: dict[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
        torch = self._torch
        with torch.cuda.stream(self._stream):
            for name in self.inputs:
                device, host = self._buffers[name]
                host[:batch].copy_(torch.from_numpy(np.ascontiguousarray(inputs[name])))
                device[:batch].copy_(host[:batch], non_blocking=True)
            if batch not in self._passes:
                views = {name: device[:batch] for name, (device, _) in self._buffers.items()}
                outputs = {name: views[name] for name in self.outputs}
                self._passes[batch] = self.bind({name: views[name] for name in self.inputs}, outputs, self._stream.cuda_stream)
            self._passes[batch]()
            for name in self.outputs:
                device, host = self._buffers[name]
                host[:batch].copy_(device[:batch], non_blocking=True)
        self._stream.synchronize()
        # Copies: the pinned buffers are overwritten by the next call.
        return {name: self._buffers[name][1][:batch].numpy().copy() for name in self.outputs}

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], stream: int) -> Callable[[], None]:
        """See :class:`densefit_ros.runtime.protocol.DeviceRuntime`."""
        context, memory = self._context(stream)
        said = f"{self.name}: {self.path}"  # what the pass keeps must not hold the runtime: contexts go at once
        batch, names, shared = len(next(iter(inputs.values()))), list(self.inputs), self._shared is not None
        placed = [*names, *self.outputs]
        held = {**inputs, **outputs}
        for name, spec in self.outputs.items():
            if name not in held:  # the engine writes every output, read or not
                shape = (batch, *spec.shape[1:])
                held[name] = self._torch.empty(shape, dtype=getattr(self._torch, spec.dtype), device="cuda")

        def place() -> None:
            taken = [context.set_input_shape(name, tuple(inputs[name].shape)) for name in names]
            taken += [context.set_tensor_address(name, held[name].data_ptr()) for name in placed]
            if not all(taken):
                raise BackendUnavailable(f"{said} does not take these shapes or this memory (its log says why)")

        if not shared:
            place()

        def run_pass(kept: Any = memory) -> None:  # which the context does not keep
            if shared:
                place()
            if not context.execute_async_v3(stream):
                raise BackendUnavailable(f"{said} failed on the device (its log says why)")

        return run_pass

    def _context(self, stream: int) -> tuple[Any, Any]:
        """A context and the memory that it works in: one for each binding, or one for all where a version admits no more of one
        profile (8.5).

        Contexts of one stream run one after the other, and share memory for ``max_batch`` persons.  Dozens of them, for each
        size of batch and image, would each take as much.
        """
        if self._shared is not None:
            return self._shared, self._shared_memory
        context = self._bare_context()
        new = hasattr(self._engine, "device_memory_size_v2")  # from 10.1 on; the old name is gone in 11
        size = int(self._engine.device_memory_size_v2 if new else self._engine.device_memory_size)
        if stream not in self._memory:
            self._memory[stream] = self._torch.empty((max(size, 1),), dtype=self._torch.uint8, device="cuda")
        memory = self._memory[stream]
        if new:
            context.set_device_memory(memory.data_ptr(), size)
        else:
            context.device_memory = memory.data_ptr()
        return context, memory

    def _bare_context(self) -> Any:
        """A context without memory to work in."""
        user_managed = getattr(self._trt, "ExecutionContextAllocationStrategy", None)  # from 10 on
        if user_managed is not None:
            context = self._engine.create_execution_context(user_managed.USER_MANAGED)
        else:
            context = self._engine.create_execution_context_without_device_memory()
        if context is None:
            raise BackendUnavailable(f"{self.name}: no execution context for {self.path} (out of device memory?)")
        if context.active_optimization_profile < 0:  # before version 9 only the first context of a profile has it from the start
            context.set_optimization_profile_async(0, self._stream.cuda_stream)
            self._stream.synchronize()
        return context

    def _completed(self, outputs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """Outputs with sizes that the engine leaves open and a context knows: those that are the same for one and for most."""
        known, left_open = dict(outputs), [name for name, spec in outputs.items() if None in spec.shape[1:]]
        if not left_open:
            return known
        context = self._shared if self._shared is not None else self._bare_context()
        shapes = []
        for batch in (1, self.max_batch):
            for name, spec in self.inputs.items():
                context.set_input_shape(name, tuple(batch if n is None else n for n in spec.shape))
            shapes.append({name: tuple(int(n) for n in context.get_tensor_shape(name)) for name in left_open})
        for name in left_open:
            (first, *rest), one, most = outputs[name].shape, *(shape[name] for shape in shapes)
            expected = (1, self.max_batch) if first is None else (first, first)
            if len(one) == 1 + len(rest) and min(one) >= 0 and (one[0], most[0]) == expected and one[1:] == most[1:]:
                known[name] = TensorSpec((first, *one[1:]), outputs[name].dtype)
        return known

    def _allocate(self, spec: TensorSpec) -> tuple[Any, Any]:
        torch = self._torch
        shape = (self.max_batch, *spec.shape[1:])
        dtype = getattr(torch, spec.dtype)
        return torch.empty(shape, dtype=dtype, device="cuda"), torch.empty(shape, dtype=dtype, pin_memory=True)

    def _load(self, logger: Any, precision: str, cache_dir: Path) -> Any:
        trt, torch = self._trt, self._torch
        source = source_of(self.path, precision, cache_dir)
        major, minor = torch.cuda.get_device_capability()
        # Orin modules of all sizes have one name and one capability.
        gpu = f"{torch.cuda.get_device_name()} {torch.cuda.get_device_properties(0).multi_processor_count} SM"
        key = EngineKey(file_sha256(source), gpu, f"{major}.{minor}", trt.__version__, precision, self.max_batch, RECIPE)
        path = cache_dir / key.file_name(Path(self.path).stem)
        stored, reason = read_engine(path, key)
        engine = self._runtime.deserialize_cuda_engine(stored) if stored is not None else None
        if engine is not None:
            return engine
        reason = reason or "TensorRT refused the stored one"
        _log.warning("building the TensorRT engine of %s (%s): this takes minutes, once", Path(self.path).name, reason)
        timings = cache_dir / f"timings-{re.sub('[^A-Za-z0-9.]+', '-', f'{gpu}-{trt.__version__}').lower()}.cache"
        built = build_engine(trt, logger, source, precision, self.max_batch, timings)
        write_engine(path, key, built)
        engine = self._runtime.deserialize_cuda_engine(built)
        if engine is None:
            raise BackendUnavailable(f"TensorRT {trt.__version__} refused the engine that it has just built of {self.path}")
        return engine


def source_of(path: str | Path, precision: str, cache_dir: Path) -> Path:
    """The network file that an engine is built from.  Raises AssetError, BackendUnavailable for int8 not yet quantised."""
    require_file(path)
    if precision != "int8":
        return Path(path)
    quantised = quantised_path(path, cache_dir)
    if not quantised.is_file():
        raise BackendUnavailable(
            f"{Path(path).name} has not been quantised on this machine: run densefit build-engine --precision int8 first"
        )
    return quantised


def quantised_path(path: str | Path, cache_dir: Path) -> Path:
    """Where ``densefit build-engine`` keeps the int8 form of a network file."""
    return cache_dir / f"{Path(path).stem}-int8-{file_sha256(Path(path))[:12]}-{RECIPE}.onnx"


def check_available() -> None:
    """Raise BackendUnavailable with the install hint unless TensorRT and a CUDA device are here."""
    _import()


def _dtype(trt: Any, dtype: Any) -> str:
    for name, numpy_name in _DTYPES.items():
        if hasattr(trt.DataType, name) and dtype == getattr(trt.DataType, name):
            return numpy_name
    raise BackendUnavailable(f"TensorRT tensor of type {dtype}: expected one of {', '.join(_DTYPES.values())}")


def _import() -> tuple[Any, Any]:
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: a library of CUDA that it needs is missing
        raise BackendUnavailable(f"tensorrt is not available ({error}): {_HINT}") from error
    try:
        import torch
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"the TensorRT runtime keeps its memory in torch, which cannot be imported ({error}): install a CUDA build of it"
        ) from error
    if not torch.cuda.is_available():
        raise BackendUnavailable("the TensorRT runtime needs a CUDA device that torch can use: install a CUDA build of torch")
    return tensorrt, torch
