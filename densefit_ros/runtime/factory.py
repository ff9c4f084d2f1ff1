"""Choose a runtime: by name, or the fastest that runs here."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

from ..errors import BackendUnavailable, ConfigError
from .cuda_probe import cuda_device_count
from .openvino_backend import cpu_has_bf16
from .protocol import Runtime

BACKENDS = ("auto", "onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt", "torch")
DEVICES = ("auto", "cpu", "cuda")
# Passes of 3 to 5 ms are not worth waking a second thread for: of the built-in sequence, live, 294 of 300 images were answered
# with two, and all with one.
_THREADS = {"openvino": 1}
_log = logging.getLogger(__name__)
_told: set[str] = set()


def make_runtime(
    onnx_path: str | Path,
    backend: str = "auto",
    device: str = "auto",
    threads: int = 1,
    *,
    precision: str = "fp16",
    cache_dir: str | Path | None = None,
) -> Runtime:
    """Load a network file.

    backend: one of BACKENDS; device: one of DEVICES; threads: CPU threads of this network, 0: what is fastest beside a
    camera on two cores; precision ("fp16", "fp32" or "int8") concerns TensorRT and OpenVINO, "fp32" keeps the others from
    TF32; cache_dir concerns TensorRT only.  A backend or device given by name either runs or raises BackendUnavailable; only
    "auto" falls back, and says so once in the log.  Raises AssetError for a missing or damaged file, ConfigError for an unknown
    name.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"runtime backend expects one of {', '.join(BACKENDS)}, got {backend!r}")
    if device not in DEVICES:
        raise ConfigError(f"runtime device expects one of {', '.join(DEVICES)}, got {device!r}")
    reasons: list[str] = []
    for name, place in _candidates(backend, device):
        try:
            runtime = _make(name, place, onnx_path, threads or _THREADS.get(name, 2), precision, cache_dir)
        except BackendUnavailable as error:
            reasons.append(str(error))
            continue
        if reasons:
            _tell_once(f"{runtime.name} runs {Path(onnx_path).name}; faster choices are not available: " + "; ".join(reasons))
        return runtime
    raise BackendUnavailable("; ".join(reasons))


def _candidates(backend: str, device: str) -> list[tuple[str, str]]:
    if backend == "auto":
        cuda = [("tensorrt", "cuda"), ("onnxruntime", "cuda"), ("torch", "cuda")]
        cpu = [("onnxruntime", "cpu"), ("torch", "cpu")]
        if find_spec("openvino") and cpu_has_bf16():  # in float32 it is no faster
            cpu.insert(0, ("openvino", "cpu"))
        if device == "cpu":
            return cpu
        if device == "cuda":
            return cuda
        return cuda + cpu if cuda_device_count() else cpu
    if backend == "openvino":
        if device == "cuda":
            raise ConfigError("backend openvino runs on the CPU only, got device cuda: set runtime.backend auto or tensorrt")
        return [(backend, "cpu")]
    if backend in ("tensorrt", "onnxruntime-tensorrt"):
        if device == "cpu":
            hint = "install the NVIDIA driver and TensorRT and set device cuda, or set runtime.backend onnxruntime"
            raise ConfigError(f"backend {backend} runs on cuda only, got device cpu: {hint}")
        return [(backend, "cuda")]
    if device != "auto":
        return [(backend, device)]
    return [(backend, "cuda"), (backend, "cpu")] if cuda_device_count() else [(backend, "cpu")]


def _make(name: str, place: str, path: str | Path, threads: int, precision: str, cache_dir: str | Path | None) -> Runtime:
    if name == "onnxruntime":
        from .onnxruntime_backend import OnnxRuntime

        return OnnxRuntime(path, place, threads, precision)
    if name == "onnxruntime-tensorrt":
        from .onnxruntime_backend import OnnxRuntime

        return OnnxRuntime(path, "tensorrt", threads, precision, cache_dir)
    if name == "openvino":
        from .openvino_backend import OpenVinoRuntime

        return OpenVinoRuntime(path, threads, precision)
    if name == "torch":
        from .torch_backend import TorchRuntime

        return TorchRuntime(path, place, threads, precision)
    from .tensorrt_backend import TensorRTRuntime

    return TensorRTRuntime(path, precision=precision, cache_dir=cache_dir)


def _tell_once(message: str) -> None:
    if message not in _told:
        _told.add(message)
        _log.warning(message)
