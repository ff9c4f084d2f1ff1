"""A file that speaks of SMPL's shapes as far as anybody can tell: the free body's arrays under another list of faces."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np

from densefit_ros.body.assets import DEFAULT_BODY


@functools.lru_cache(maxsize=1)
def smpl_file() -> Path:
    """Path of the .npz; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="smpl_like_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with np.load(DEFAULT_BODY, allow_pickle=False) as free:
        arrays = {name: free[name] for name in free.files if name != "version"}
    arrays |= {name: np.roll(arrays[name], 1, axis=0) for name in ("f", "ft")}
    np.savez(folder / "SMPL_NEUTRAL.npz", **arrays)
    return folder / "SMPL_NEUTRAL.npz"
