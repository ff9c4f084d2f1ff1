"""Networks in ONNX Runtime: CPU, CUDA and its TensorRT execution provider, each by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import AssetError, BackendUnavailable
from .protocol import TensorSpec, check_inputs

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16", "tensor(int64)": "int64"}


class OnnxRuntime:
    """One ONNX Runtime session.

    ``threads`` is the size of the operator pool.  Its threads sleep when idle: spinning pools take the cores away from
    the renderer and the solver, which doubles the time of a frame on a two-core robot.
    Raises AssetError when the file is missing or damaged, BackendUnavailable when the provider cannot run here.
    """

    def __init__(self, path: str | Path, provider: str = "cpu", threads: int = 1) -> None:
        ort = _import()
        self.path = str(path)
        wanted = PROVIDERS[provider]
        if wanted not in ort.get_available_providers():
            have = ", ".join(ort.get_available_providers())
            raise BackendUnavailable(f"onnxruntime has no {wanted} here (it has {have}): pip install onnxruntime-gpu")
        if not Path(path).is_file():
            raise AssetError(f"{path}: network file not found (expected an .onnx file)")
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, int(threads))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        chain = [wanted] if provider == "cpu" else [wanted, PROVIDERS["cpu"]]
        try:
            self._session = ort.InferenceSession(str(path), options, providers=chain)
        except Exception as error:  # the binding raises a dozen unrelated types for one cause: it cannot read the file
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise AssetError(f"{path}: not a readable ONNX network, damaged or incomplete download? ({first_line})") from error
        running = self._session.get_providers()[0]
        if running != wanted:
            raise BackendUnavailable(f"onnxruntime started {running}, not {wanted}: check the CUDA and cuDNN libraries")
        self.name = f"onnxruntime:{provider}"
        self.inputs: Mapping[str, TensorSpec] = {i.name: _spec(i) for i in self._session.get_inputs()}
        self.outputs: Mapping[str, TensorSpec] = {o.name: _spec(o) for o in self._session.get_outputs()}
        self._names = list(self.outputs)

    @property
    def metadata(self) -> dict[str, str]:
        """Key-value pairs that the exporter wrote into the file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :class:`densefit_ros.runtime.protocol.Runtime`."""
        check_inputs(self, inputs)
        feed = {name: np.ascontiguousarray(inputs[name]) for name in self.inputs}
        return dict(zip(self._names, self._session.run(self._names, feed)))


def available_providers() -> tuple[str, ...]:
    """Short names of the providers that this machine's onnxruntime was built with; empty without onnxruntime."""
    try:
        ort = _import()
    except BackendUnavailable:
        return ()
    have = ort.get_available_providers()
    return tuple(short for short, full in PROVIDERS.items() if full in have)


def _import():
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable("onnxruntime is not installed: pip install onnxruntime") from error
    return onnxruntime


def _spec(value) -> TensorSpec:
    shape = tuple(n if isinstance(n, int) else None for n in value.shape)
    return TensorSpec(shape, _DTYPES.get(value.type, value.type))
