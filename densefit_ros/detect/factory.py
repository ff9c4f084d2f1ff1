"""Person finders by name."""

from __future__ import annotations

import logging

from ..errors import BackendUnavailable, ConfigError
from .protocol import Detector

BACKENDS = ("auto", "mediapipe", "hog", "none")


def make_detector(backend: str = "auto") -> Detector | None:
    """``auto`` is MediaPipe where it is installed, else HOG, and says which; ``none`` gives None.

    Raises BackendUnavailable for a named backend that is missing, ConfigError for an unknown name.
    """
    if backend == "none":
        return None
    if backend not in BACKENDS:
        raise ConfigError(f"detect.backend: expected one of {', '.join(BACKENDS)}, got '{backend}'")
    if backend in ("auto", "mediapipe"):
        from .mediapipe_finder import MediapipeDetector

        try:
            return MediapipeDetector()
        except BackendUnavailable as e:
            if backend == "mediapipe":
                raise
            logging.getLogger("densefit").info("person finder: hog (%s)", e)
    from .hog import HogDetector

    return HogDetector()
