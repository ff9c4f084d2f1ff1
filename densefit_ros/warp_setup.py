"""One place that configures NVIDIA Warp before any kernel is built."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@functools.lru_cache(maxsize=1)
def init() -> None:
    """Initialise Warp quietly, once per process.  Kernels are cached on disk by Warp itself.

    Raises BackendUnavailable where no kernel can be kept.
    """
    import warp as wp

    from .errors import BackendUnavailable

    leveled = hasattr(wp.config, "log_level")  # since Warp 1.19
    if leveled:
        wp.config.log_level = wp.LOG_ERROR  # Warp warns of a missing CUDA driver at start; doctor and diagnostics say it better
    else:
        wp.config.quiet = True
    wp.config.enable_backward = False  # compiling adjoints of the rasteriser took 16 s instead of 4 s, and none is used
    try:
        wp.init()
    except OSError as e:
        raise BackendUnavailable(f"Warp cannot keep its kernels: {e}; set WARP_CACHE_PATH to a folder that can be written") from e
    if leveled:
        wp.config.log_level = wp.LOG_WARNING


@contextmanager
def without_collections() -> Iterator[None]:
    """For recording a CUDA graph: what a garbage collection frees, execution contexts and pinned memory, would break it."""
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
