"""The one switch of the solver: who factors the 85 x 85 matrix.

``lapack``: LAPACK on the host between recorded pieces, the fastest on a CPU (20 us against 110 us).  ``tile``: Warp's tile
Cholesky, so that all iterations are one recorded graph; the only choice on CUDA.  The Gram matrix is Warp's own on both:
BLAS cannot skip the columns that a point does not move.
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


def step(gram_: np.ndarray, cur: np.ndarray, damping: np.ndarray, out: np.ndarray) -> None:
    """Damped step of each person.  NaN where the matrix is not positive definite: rejected later.

    Damping is relative to the diagonal.  Scaling the matrix by its diagonal first would change nothing: rounding in a
    Cholesky factorisation does not depend on the scale of the unknowns.
    """
    posv = lapack.sposv if gram_.dtype == np.float32 else lapack.dposv
    for p in range(len(cur)):
        h = gram_[cur[p], p]
        a = h[:N, :N].copy()
        diagonal = a.reshape(-1)[:: N + 1]
        diagonal += damping[p] * np.maximum(diagonal, 1e-12)
        # C order lower is Fortran order upper: no copy.
        _, x, info = posv(a.T, -h[COL_RESIDUAL, :N], lower=0, overwrite_a=1, overwrite_b=1)
        out[p, :N] = x if info == 0 else np.nan
