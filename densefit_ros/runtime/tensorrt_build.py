"""ONNX file to TensorRT engine.  What differs between TensorRT 8.5 and 11 when building is in this file.

Up to version 10 precision is a permission given by builder flags; from 11 on networks are strongly typed and precision is
in the graph.  Explicit batch is a flag up to version 10 and the only mode from 11 on.  Timing caches and named tensors are
the same in all of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable
from . import onnx_prepare
from .cache_file import keep

WORKSPACE_BYTES = 1 << 30
HEARTBEAT_S = 10.0
RECIPE = 4  # raised when the same network would become another engine
_FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}
PRECISIONS = tuple(_FLAGS)
_log = logging.getLogger(__name__)


def build_engine(
    trt: Any, logger: Any, source: str | Path, precision: str, max_batch: int, timing_cache: Path | None = None
) -> bytes:
    """Engine of the network file ``source`` with one batch profile of 1 to ``max_batch`` persons, best at 1.

    For "int8" the source is what :func:`densefit_ros.runtime.onnx_prepare.quantise` wrote.  ``timing_cache`` keeps what the
    builder measured, so that the next engine on this machine takes a fraction of the time.  Raises AssetError for a damaged
    file, BackendUnavailable where this TensorRT cannot build a good one.
    """
    graph = _graph(trt, source, precision)
    builder = started(trt.Builder, logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(1 << int(explicit) if explicit is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        first = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise BackendUnavailable(f"{source}: TensorRT {trt.__version__} cannot read this network ({first})")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    for name in _FLAGS[precision]:
        if hasattr(trt.BuilderFlag, name):
            config.set_flag(getattr(trt.BuilderFlag, name))
    if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default from Ampere on, and as coarse as half precision
    sharing = _profile_sharing(trt)
    if sharing is not None and _major(trt) == 8:  # from 10 on it is always on
        config.set_preview_feature(sharing, True)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, rest = tensor.shape[0], tuple(tensor.shape)[1:]
        least, most = (1, max_batch) if batch < 0 else (batch, batch)  # exported for so many, and for no others
        profile.set_shape(tensor.name, (least, *rest), (least, *rest), (most, *rest))
    config.add_optimization_profile(profile)
    _load_timings(config, timing_cache)
    begin = time.monotonic()
    with _progress(trt, config, Path(source).name, begin):
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise BackendUnavailable(f"{source}: TensorRT {trt.__version__} could not build an engine (its log says why)")
    _log.warning("built the TensorRT engine of %s in %.0f s", Path(source).name, time.monotonic() - begin)
    _save_timings(config, timing_cache)
    return bytes(serialized)


def started(kind: Callable[[Any], Any], logger: Any) -> Any:
    """TensorRT's runtime or builder.  Raises BackendUnavailable where it does not start."""
    try:
        return kind(logger)
    except TypeError as e:  # the binding's word for a null pointer
        raise BackendUnavailable(
            "TensorRT is installed and does not start: it needs a newer NVIDIA driver, or another version of TensorRT"
        ) from e


def shares_profiles(trt: Any) -> bool:
    """Whether several execution contexts may use the one profile: from 8.6 on, there by a preview feature."""
    return _major(trt) != 8 or _profile_sharing(trt) is not None


def _profile_sharing(trt: Any) -> Any | None:
    return getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)


def _major(trt: Any) -> int:
    return int(trt.__version__.split(".")[0])


def _graph(trt: Any, source: str | Path, precision: str) -> bytes:
    if precision == "int8":
        return Path(source).read_bytes()  # prepared when it was quantised
    model = onnx_prepare.bytes_cast_first(onnx_prepare.folded(source))
    if precision == "fp16" and not hasattr(trt.BuilderFlag, "FP16"):
        model = onnx_prepare.half(model)
    return model.SerializeToString()


def _load_timings(config: Any, path: Path | None) -> None:
    if path is None:
        return
    try:
        stored = path.read_bytes() if path.is_file() else b""
    except OSError as e:
        _log.warning("%s cannot be read (%s): the builder measures anew", path, e)
        stored = b""
    # None of a file that cannot be read, refused if of another machine or version; then this build fills a new one.
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timings(config: Any, path: Path | None) -> None:
    if path is None:
        return
    keep(path, bytes(config.get_timing_cache().serialize()), "what the builder measured")


@contextmanager
def _progress(trt: Any, config: Any, name: str, begin: float) -> Iterator[None]:
    """Say every few seconds that the build is alive, and what it does where TensorRT (10 on) tells."""
    phases: list[str] = []
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, phases)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            doing = f", {phases[-1]}" if phases else ""
            _log.warning("building the TensorRT engine of %s: %.0f s so far%s", name, time.monotonic() - begin, doing)

    thread = threading.Thread(target=beat, name="densefit_build_progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _monitor(trt: Any, phases: list[str]) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            phases.append(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            phases.append(f"{phase} {step + 1}/{self._steps.get(phase, 0)}")
            del phases[:-64]
            return True  # carry on

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

    return Monitor()
