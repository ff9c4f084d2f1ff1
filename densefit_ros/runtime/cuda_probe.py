"""Is there a CUDA device?  Asked of the driver itself: importing torch for the answer takes seconds."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

_DRIVER_NAMES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")


@lru_cache(maxsize=1)
def cuda_device_count() -> int:
    """Number of CUDA devices that the driver shows; 0 without a driver."""
    for name in _DRIVER_NAMES:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
        return 0
    return 0


def device_answers() -> bool:
    """Whether the CUDA device still takes work from this process.  After some errors it refuses all until the process ends."""
    import warp as wp

    try:
        with wp.ScopedDevice("cuda"):
            ok = bool((wp.full(1, 7, dtype=wp.int32).numpy() == 7).all())
            wp.synchronize_device()
        return ok
    except RuntimeError:
        return False


def main() -> int:
    """For scripts, before anything is installed: exit status 1 and one line without a CUDA device."""
    if cuda_device_count():
        return 0
    print("[densefit] error: no CUDA device on this machine (no NVIDIA driver, or no GPU behind it)", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
