"""Small networks in NumPy that carry derivatives forward: values (n,) with tangents (n,d)."""

from __future__ import annotations

import numpy as np


def linear(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, dx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """weight @ x + bias."""
    return weight @ x + bias, weight @ dx


def leaky_relu(x: np.ndarray, dx: np.ndarray, slope: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """x where positive, slope * x elsewhere."""
    gain = np.where(x > 0, 1.0, slope)
    return gain * x, gain[:, None] * dx


def tanh(x: np.ndarray, dx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hyperbolic tangent."""
    y = np.tanh(x)
    return y, (1.0 - y * y)[:, None] * dx
