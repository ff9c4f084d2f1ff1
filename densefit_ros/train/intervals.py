"""How sure a mean is."""

from __future__ import annotations

import numpy as np


def interval(values: np.ndarray, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (N,) numbers, one per person."""
    picked = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[picked].mean(1), [2.5, 97.5])
    return float(low), float(high)
