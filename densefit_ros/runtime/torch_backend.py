"""Networks in torch, rebuilt from the ONNX file alone.

The exporter keeps the parameters' names and writes the network's registry name and constructor arguments into the
file's metadata, so the module is built by name and filled from the same file that the other runtimes read: there is no
second weights file that could drift from it.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AssetError, BackendUnavailable
from .protocol import TensorSpec, check_inputs, require_file

# Registry name in the file's metadata -> module and class that rebuild it.
NETWORKS = {
    "displacement": ("densefit_ros.displace.network", "DisplacementNet"),
    "finder": ("densefit_ros.detect.finder_network", "FinderNet"),
    "regressor": ("densefit_ros.regress.network", "RegressorNet"),
}
_DTYPES = {1: "float32", 2: "uint8", 7: "int64", 10: "float16"}
# cuDNN's flags are the process's: of two passes at once, the second would put back what the first had set.
_flags = threading.RLock()
_OTHER_FLAGS = ("enabled", "benchmark", "benchmark_limit", "deterministic", "depthwise_kernel")


class TorchRuntime:
    """The network as a torch module on ``device`` ("cpu" or "cuda").

    It computes in float32, of which cuDNN's convolutions use ten bits of mantissa (TF32) unless ``precision`` is "fp32".
    Raises AssetError when the file is missing or damaged, BackendUnavailable without torch, onnx or the device, and for
    networks that are not of this package.
    """

    concurrent = False  # its operators already share the threads
    capturable = True  # the networks ask nothing back from the device

    def __init__(self, path: str | Path, device: str = "cpu", threads: int = 1, precision: str = "fp16") -> None:
        torch = _import("torch")
        self.path = str(path)
        self._torch = torch
        if device == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable("torch sees no CUDA device: install a CUDA build of torch, or choose device cpu")
        model = _read(path)
        meta = {p.key: p.value for p in model.metadata_props}
        if meta.get("network") not in NETWORKS:
            ours, said = ", ".join(sorted(NETWORKS)), meta.get("network")
            raise BackendUnavailable(f"{path}: torch can rebuild {ours}, and this file's 'network' is {said!r}")
        module_name, class_name = NETWORKS[meta["network"]]
        network = getattr(importlib.import_module(module_name), class_name)
        try:
            net = network(**json.loads(meta.get("config", "{}")))
        except TypeError as error:
            raise BackendUnavailable(
                f"{path}: torch cannot rebuild this network, which another version of {class_name} made ({error}): "
                "use runtime.backend onnxruntime or tensorrt, or install weights of this version"
            ) from error
        net.load_state_dict(_state(net, model, path))
        self._device = torch.device(device)
        self.network = net.eval().to(self._device)
        if device == "cpu":
            torch.set_num_threads(max(1, int(threads)))
        self.name, self.device, self._exact = f"torch:{device}", device, precision == "fp32"
        self.inputs: Mapping[str, TensorSpec] = {v.name: _spec(v) for v in model.graph.input}
        self.outputs: Mapping[str, TensorSpec] = {v.name: _spec(v) for v in model.graph.output}

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :class:`densefit_ros.runtime.protocol.Runtime`."""
        check_inputs(self, inputs)
        torch = self._torch
        with torch.inference_mode():
            tensors = [torch.from_numpy(np.ascontiguousarray(inputs[n])).to(self._device, non_blocking=True) for n in self.inputs]
            with self._arithmetic():
                results = self.network(*tensors)
        return {name: value.float().cpu().numpy() for name, value in zip(self.outputs, results)}

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], stream: int) -> Callable[[], None]:
        """See :class:`densefit_ros.runtime.protocol.DeviceRuntime`."""
        torch = self._torch
        sources = [torch.as_tensor(inputs[name]) for name in self.inputs]
        targets = {name: torch.as_tensor(value) for name, value in outputs.items()}
        on_stream = torch.cuda.stream(torch.cuda.ExternalStream(stream)) if self._device.type == "cuda" else nullcontext()

        def run_pass() -> None:
            with torch.no_grad(), on_stream:
                with self._arithmetic():
                    results = self.network(*sources)
                for name, value in zip(self.outputs, results):
                    if name in targets:
                        targets[name].copy_(value)

        return run_pass

    def _arithmetic(self) -> Any:
        """Around every call of the network, recorded ones too: a graph replays what cuDNN chose."""
        return _without_tf32(self._torch.backends.cudnn) if self._exact else nullcontext()


@contextmanager
def _without_tf32(cudnn: Any) -> Iterator[None]:
    with _flags:
        kept = {name: getattr(cudnn, name) for name in _OTHER_FLAGS if hasattr(cudnn, name)}  # flags() has defaults of its own
        with cudnn.flags(**kept, allow_tf32=False):
            yield


def _read(path: str | Path):
    onnx = _import("onnx")
    require_file(path)
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's own decode errors share no base class across its implementations
        raise AssetError(f"{path}: not a readable ONNX network, damaged or incomplete download?") from error


def _state(net, model, path: str | Path) -> dict:
    import torch
    from onnx import numpy_helper

    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    state = {}
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):  # only training reads it
            state[name] = value
        elif name in stored and tuple(stored[name].shape) == tuple(value.shape):
            state[name] = torch.from_numpy(np.array(stored[name])).to(value.dtype)
        else:
            got = stored[name].shape if name in stored else "nothing"
            raise AssetError(f"{path}: parameter '{name}' expects shape {tuple(value.shape)}, got {got} (another exporter?)")
    return state


def _spec(value) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorSpec(shape, _DTYPES.get(tensor.elem_type, str(tensor.elem_type)))


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendUnavailable(f"the torch runtime needs {name}, which is not installed: pip install {name}") from error
