"""Arrays of prior files, checked for shape and finiteness."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import AssetError


def array(data: dict, key: str, shape: tuple[int | None, ...], path: Path) -> np.ndarray:
    """One float64 array of the given shape (None: any size)."""
    if key not in data:
        raise AssetError(f"expected '{key}' in {path}, found {sorted(data)[:12]}")
    value = np.asarray(data[key], np.float64)
    fits = value.ndim == len(shape) and all(want is None or want == got for want, got in zip(shape, value.shape))
    if not fits or not np.isfinite(value).all():
        raise AssetError(f"expected finite '{key}' of shape {shape} in {path}, got {value.shape}")
    return value
