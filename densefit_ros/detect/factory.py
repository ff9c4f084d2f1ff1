"""Person finders by name."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import AssetError, BackendUnavailable, ConfigError
from .protocol import Detector

BACKENDS = ("auto", "both", "network", "mediapipe", "hog", "none")
AUTO_ORDER = ("both", "network", "hog")  # by measurement, docs/DECISIONS.md


def make_detector(
    backend: str = "auto",
    *,
    onnx: str | Path = "",
    runtime: str = "auto",
    device: str = "auto",
    threads: int = 1,
) -> Detector | None:
    """A person finder; ``none`` gives None, ``both`` MediaPipe's, and the network for whom it leaves out.

    ``auto`` is the first of AUTO_ORDER that runs here; when that is not the first of all, the log says why.  ``onnx``,
    ``runtime``, ``device`` and ``threads`` concern the network alone: its file (empty: the one that ships; a named file
    makes ``auto`` the network), and the arguments of :func:`densefit_ros.runtime.factory.make_runtime`.  Raises
    BackendUnavailable or AssetError for a named backend that is missing, ConfigError for an unknown name.
    """
    if backend == "none":
        return None
    if backend not in BACKENDS:
        raise ConfigError(f"detect.backend: expected one of {', '.join(BACKENDS)}, got '{backend}'")
    if backend == "auto" and onnx:
        backend = "network"
    if backend != "auto":
        return _make(backend, onnx, runtime, device, threads)
    reasons: list[str] = []
    for name in AUTO_ORDER:
        try:
            found = _make(name, onnx, runtime, device, threads)
        except (BackendUnavailable, AssetError) as e:
            reasons.append(str(e))
            continue
        if reasons:
            logging.getLogger("densefit").info("person finder: %s (%s)", found.name, "; ".join(reasons))
        return found
    raise BackendUnavailable("; ".join(reasons))


def _make(name: str, onnx: str | Path, runtime: str, device: str, threads: int) -> Detector:
    if name == "both":
        from .in_turn import InTurn

        return InTurn([_make(n, onnx, runtime, device, threads) for n in ("mediapipe", "network")])
    if name == "network":
        from ..runtime.factory import make_runtime
        from ..weights import weights_path
        from .network_finder import NetworkDetector

        return NetworkDetector(make_runtime(onnx or weights_path("finder.onnx"), runtime, device, threads))
    if name == "mediapipe":
        from .mediapipe_finder import MediapipeDetector

        return MediapipeDetector()
    from .hog import HogDetector

    return HogDetector()
