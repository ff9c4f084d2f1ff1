"""Networks in ONNX Runtime: CPU, CUDA and its TensorRT execution provider, each by name."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AssetError, BackendUnavailable, ConfigError
from . import onnx_prepare
from .cache_file import make_folder
from .engine_cache import default_cache_dir, file_sha256
from .protocol import MAX_BATCH, TensorSpec, check_inputs, require_file
from .tensorrt_build import RECIPE

_log = logging.getLogger(__name__)
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16", "tensor(int64)": "int64"}


class OnnxRuntime:
    """One ONNX Runtime session.

    ``threads`` is the size of the operator pool.  Its threads sleep when idle: spinning pools take the cores away from
    the renderer and the solver, which doubles the time of a frame on a two-core robot.
    Raises AssetError when the file is missing or damaged, BackendUnavailable when the provider cannot run here.
    """

    concurrent = True
    capturable = False  # ONNX Runtime queues copies and host work of its own

    def __init__(
        self,
        path: str | Path,
        provider: str = "cpu",
        threads: int = 1,
        precision: str = "fp16",
        cache_dir: str | Path | None = None,
    ) -> None:
        """``precision`` concerns the providers "tensorrt" and "cuda" (fp32: no TF32 either), ``cache_dir`` "tensorrt" only."""
        self._ort = ort = _import()
        if provider == "tensorrt":  # its libraries, as a Python package, are on no library path: importing it loads them
            with suppress(ImportError, OSError):
                importlib.import_module("tensorrt")
        if provider != "cpu" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN that came as Python packages, torch's for one, are on no library path
        self.path, self._provider, self._threads = str(path), provider, threads
        self._precision, self._cache_dir = precision, Path(cache_dir) if cache_dir else default_cache_dir()
        wanted = PROVIDERS[provider]
        if wanted not in ort.get_available_providers():
            have = ", ".join(ort.get_available_providers())
            raise BackendUnavailable(
                f"onnxruntime has no {wanted} here (it has {have}): "
                "pip uninstall onnxruntime, then pip install onnxruntime-gpu; side by side they overwrite each other"
            )
        require_file(path)
        # As for TensorRT itself, or parts of the network would go to other providers, and shapes between them have no profile.
        self._network: str | bytes = self.path
        if provider == "tensorrt":
            self._network = onnx_prepare.bytes_cast_first(onnx_prepare.folded(path)).SerializeToString()
        self._session = self._open()
        self._on_stream: dict[int, Any] = {}
        self.name = f"onnxruntime:{provider}"
        self.device = "cpu" if provider == "cpu" else "cuda"
        self.inputs: Mapping[str, TensorSpec] = {i.name: _spec(i) for i in self._session.get_inputs()}
        self.outputs: Mapping[str, TensorSpec] = {o.name: _spec(o) for o in self._session.get_outputs()}
        self._names = list(self.outputs)

    def _open(self, stream: int = 0) -> Any:
        """A session; with a stream, its kernels are queued there."""
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = max(1, int(self._threads))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        chain = self._chain(stream)
        try:
            session = self._session_of(options, chain)
        except Exception as error:  # the binding raises a dozen unrelated types for one cause: it cannot read the file
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if self._provider != "cpu" and onnx_prepare.opens(self._ort, self.path):
                raise BackendUnavailable(f"onnxruntime cannot start its {PROVIDERS[self._provider]}: {first_line}") from error
            raise AssetError(
                f"{self.path}: not a readable ONNX network, damaged or incomplete download? ({first_line})"
            ) from error
        running, wanted = session.get_providers()[0], PROVIDERS[self._provider]
        if running != wanted:
            raise BackendUnavailable(
                f"onnxruntime started {running}, not {wanted}: check the CUDA and cuDNN libraries, and TensorRT's"
            )
        if stream and session.get_provider_options()[wanted].get("user_compute_stream") != str(stream):
            raise BackendUnavailable(f"onnxruntime {self._ort.__version__} does not queue on a stream of ours: 1.18 on do")
        return session

    def _session_of(self, options: Any, chain: list[Any]) -> Any:
        try:
            return self._ort.InferenceSession(self._network, options, providers=chain, enable_fallback=0)
        except Exception as error:  # as in _open
            if "shape profiles" not in str(error):
                raise
            # Parts of the network are nothing for TensorRT, and what lies between the others has no profile of ours.
            _log.warning("%s: TensorRT does not take all of it: batches larger than any before build an engine anew", self.path)
            engines = {name: value for name, value in chain[0][1].items() if not name.startswith("trt_profile_")}
            chain[0] = (chain[0][0], engines)
            return self._ort.InferenceSession(self._network, options, providers=chain, enable_fallback=0)

    def _chain(self, stream: int) -> list[Any]:
        """Providers with their options, the wanted one first."""
        on_stream = {"user_compute_stream": str(stream)} if stream else {}
        cpu = PROVIDERS["cpu"]
        if self._provider == "cpu":
            return [cpu]
        exact = {"use_tf32": "0"} if self._precision == "fp32" else {}
        cuda = (PROVIDERS["cuda"], {**exact, **on_stream})
        if self._provider == "cuda":
            return [cuda, cpu]
        if self._precision == "int8":
            raise ConfigError("onnxruntime-tensorrt runs fp16 or fp32, not int8: set runtime.backend tensorrt")
        engines = {"trt_fp16_enable": str(self._precision == "fp16")}  # it knows True and False, and no numbers
        engines |= self._profile()
        # Its own key knows shapes and not weights: another network of one structure would run as this one.
        own = None
        if self._cache_dir:
            own = self._cache_dir / f"{file_sha256(Path(self.path))[:16]}-{self._precision}-{RECIPE}"
        if make_folder(own, "the engine"):
            folder = str(own)
            engines |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": folder,
                        "trt_timing_cache_enable": "True", "trt_timing_cache_path": folder}  # fmt: skip
        return [(PROVIDERS["tensorrt"], {**engines, **on_stream}), cuda, cpu]

    def _profile(self) -> dict[str, str]:
        """One engine for 1 to MAX_BATCH persons, best at 1: otherwise each batch larger than any before builds one, mid-run."""
        try:
            inputs = self._ort.InferenceSession(self.path, providers=[PROVIDERS["cpu"]]).get_inputs()
        except Exception:  # it is opened again right after this, and says what is wrong
            return {}
        rest = {i.name: i.shape[1:] for i in inputs if not isinstance(i.shape[0], int)}
        if not rest or not all(isinstance(n, int) for shape in rest.values() for n in shape):
            return {}

        def of(batch: int) -> str:
            return ",".join(f"{name}:{'x'.join(map(str, (batch, *shape)))}" for name, shape in rest.items())

        return {"trt_profile_min_shapes": of(1), "trt_profile_opt_shapes": of(1), "trt_profile_max_shapes": of(MAX_BATCH)}

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], stream: int) -> Callable[[], None]:
        """See :class:`densefit_ros.runtime.protocol.DeviceRuntime`."""
        names = list(outputs)
        if self._provider == "cpu":

            def run_on_cpu() -> None:
                for name, value in zip(names, self._session.run(names, inputs)):
                    outputs[name][...] = value

            return run_on_cpu
        if stream not in self._on_stream:
            self._on_stream[stream] = self._open(stream)
        session = self._on_stream[stream]
        binding = session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_input(name, "cuda", 0, np.dtype(self.inputs[name].dtype), tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in outputs.items():
            binding.bind_output(name, "cuda", 0, np.dtype(self.outputs[name].dtype), tuple(tensor.shape), tensor.data_ptr())
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        held = (inputs, outputs)

        def run_on_device(held: Any = held) -> None:
            session.run_with_iobinding(binding, options)

        return run_on_device

    @property
    def metadata(self) -> dict[str, str]:
        """Key-value pairs that the exporter wrote into the file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See :class:`densefit_ros.runtime.protocol.Runtime`."""
        check_inputs(self, inputs)
        feed = {name: np.ascontiguousarray(inputs[name]) for name in self.inputs}
        return dict(zip(self._names, self._session.run(self._names, feed)))


def _import():
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable("onnxruntime is not installed: pip install onnxruntime") from error
    return onnxruntime


def _spec(value) -> TensorSpec:
    shape = tuple(n if isinstance(n, int) else None for n in value.shape)
    return TensorSpec(shape, _DTYPES.get(value.type, value.type))
