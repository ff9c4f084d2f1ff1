"""The one switch of the solver: who multiplies J^T J and factors 85 x 85.

``lapack``: NumPy and LAPACK with the host in the loop, the fastest on a CPU.  ``tile``: Warp kernels on the device, so
that all iterations are one recorded graph; the only choice on CUDA.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from ..errors import ConfigError
from ..types import NUM_UNKNOWNS
from .layout import COL_RESIDUAL

N = NUM_UNKNOWNS


def choose(requested: str, is_cpu: bool) -> str:
    """Resolve ``auto``; refuse LAPACK on a GPU."""
    if requested == "auto":
        return "lapack" if is_cpu else "tile"
    if requested == "lapack" and not is_cpu:
        raise ConfigError("fit.linear=lapack needs device cpu: on CUDA the normal equations never leave the device (use tile)")
    return requested


def gram(rows: np.ndarray, row_start: np.ndarray, cur: np.ndarray, out: np.ndarray) -> None:
    """Gram matrix of each person's rows into its trial slot.  rows (R,88); out (2,P,88,88)."""
    for p in range(len(cur)):
        j = rows[row_start[p] : row_start[p + 1]]
        np.dot(j.T, j, out=out[1 - cur[p], p])


def step(gram_: np.ndarray, cur: np.ndarray, damping: np.ndarray, out: np.ndarray) -> None:
    """Damped, Jacobi-scaled step of each person.  NaN where the matrix is not positive definite: rejected later."""
    posv = lapack.sposv if gram_.dtype == np.float32 else lapack.dposv
    for p in range(len(cur)):
        h = gram_[cur[p], p]
        s = 1.0 / np.sqrt(np.maximum(h.diagonal()[:N], 1e-12))
        a = h[:N, :N] * s
        a *= s[:, None]
        a.reshape(-1)[:: N + 1] += damping[p]
        # C order lower is Fortran order upper: no copy.
        _, x, info = posv(a.T, -s * h[COL_RESIDUAL, :N], lower=0, overwrite_a=1, overwrite_b=1)
        out[p, :N] = s * x if info == 0 else np.nan
