"""Networks in OpenVINO on the CPU: bfloat16 where the processor multiplies it, half of ONNX Runtime's time there.

Measured on two cores of an Intel Xeon with AMX, one thread, calls in turn (docs/DECISIONS.md): regressor 3.0 ms where ONNX
Runtime takes 8.1, displacement network 4.8 where it takes 7.5.  In float32 both libraries are equally fast.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendUnavailable
from .protocol import TensorSpec, check_inputs, require_file

# Of the kernel's names for what a processor can do; those that multiply bfloat16.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_DTYPES = {"f32": "float32", "u8": "uint8", "f16": "float16", "i64": "int64"}


def cpu_has_bf16(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether the processor multiplies bfloat16, without importing anything; False where nobody can say."""
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return bool(_BF16_FLAGS & set(flags.split()))


class OpenVinoRuntime:
    """A network compiled for one person; of more, two are run at a time where there are two cores.

    Four people, two cores, medians: regressor 15.2 ms instead of 22.1 one by one, displacement network 8.4 instead of 12.4; one
    person takes what a single stream takes.

    ``precision``: ``fp32``, or ``fp16``, which is bfloat16 on processors that multiply it and float32 on others.  Raises
    AssetError when the file is missing, BackendUnavailable when OpenVINO is, or does not understand the file, and for
    ``int8``.
    """

    concurrent = False
    device = "cpu"
    capturable = False
    # One call at a time, of all networks: two threads that handed arrays to the library for the first time waited for each other
    # for ever (2026.4.1, in its conversion of arrays to tensors).
    _one_at_a_time = threading.Lock()

    def __init__(self, path: str | Path, threads: int = 1, precision: str = "fp16") -> None:
        if precision == "int8":
            raise BackendUnavailable("openvino runs runtime.precision fp16 (bfloat16) or fp32; int8 is TensorRT's")
        ov = _import()
        self.path = str(path)
        require_file(path)
        core = ov.Core()
        streams = min(2, os.cpu_count() or 1)
        bf16 = precision == "fp16" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        try:
            model = core.read_model(self.path)
            # Names are read before compiling: its passes add names of their own to a port.
            self.inputs: Mapping[str, TensorSpec] = {p.get_any_name(): _spec(p) for p in model.inputs}
            self.outputs: Mapping[str, TensorSpec] = {p.get_any_name(): _spec(p) for p in model.outputs}
            batch = {spec.shape[0] for spec in self.inputs.values()} - {None}
            self._batch = max(batch, default=1)
            fixed = {n: [self._batch, *(-1 if d is None else d for d in spec.shape[1:])] for n, spec in self.inputs.items()}
            model.reshape(fixed)
            settings = {
                "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
                "INFERENCE_NUM_THREADS": max(1, int(threads)) * streams,
                "NUM_STREAMS": str(streams),
                # The camera and the recorder live on the same cores: the scheduler knows better.
                "ENABLE_CPU_PINNING": False,
            }
            compiled = core.compile_model(model, "CPU", settings)
            self._requests = [compiled.create_infer_request() for _ in range(streams)]
        except RuntimeError as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackendUnavailable(
                f"{path}: openvino cannot run this file, which is damaged or has operators that it lacks ({first_line}): "
                "set runtime.backend onnxruntime"
            ) from error
        self.name = f"openvino:cpu:{'bf16' if bf16 else 'fp32'}"

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :class:`densefit_ros.runtime.protocol.Runtime`."""
        persons, at_once = check_inputs(self, inputs), len(self._requests)
        feeds = [
            {name: np.ascontiguousarray(inputs[name][i : i + self._batch]) for name in self.inputs}
            for i in range(0, persons, self._batch)
        ]
        with self._one_at_a_time:
            if len(feeds) == 1:  # waiting for a request costs a switch of threads
                found = self._requests[0].infer(feeds[0], share_inputs=True)
                return {name: found[k] for k, name in enumerate(self.outputs)}
            parts = []
            for i in range(0, len(feeds), at_once):
                asked = list(zip(self._requests, feeds[i : i + at_once]))
                for request, feed in asked:
                    request.start_async(feed, share_inputs=True)
                for request, _ in asked:
                    request.wait()
                    parts.append([np.array(request.get_output_tensor(k).data) for k in range(len(self.outputs))])
        return {name: np.concatenate([p[k] for p in parts]) for k, name in enumerate(self.outputs)}

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], stream: int) -> Callable[[], None]:
        """See :class:`densefit_ros.runtime.protocol.DeviceRuntime`; the CPU's form."""

        def run_on_cpu() -> None:
            found = self(inputs)
            for name, target in outputs.items():
                target[...] = found[name]

        return run_on_cpu


def _spec(port: Any) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())
    kind = port.get_element_type().get_type_name()
    return TensorSpec(shape, _DTYPES.get(kind, kind))


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable("openvino is not installed: pip install openvino") from error
    return openvino
