"""Belief about one person's shape: an information filter on the betas.

Shape does not change, so every measured frame may only sharpen the belief, and pose is left to carry the change from
frame to frame.  Neighbouring frames err alike; a frame therefore counts with the share of CORRELATION_S that it covers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..types import NUM_BETAS

CORRELATION_S = 1.0
MAX_PRECISION = 400.0  # sigma 0.05: leaves room for a body outside the model's shape space


@dataclass(frozen=True)
class ShapeBelief:
    """Gaussian over betas with independent coefficients."""

    mean: np.ndarray  # (10,)
    precision: np.ndarray  # (10,) one over the variance

    @staticmethod
    def prior(sigma: float = 1.0) -> ShapeBelief:
        """Mean shape, standard deviation ``sigma`` in every direction."""
        return ShapeBelief(np.zeros(NUM_BETAS, np.float32), np.full(NUM_BETAS, 1.0 / sigma**2, np.float32))

    @property
    def sigma(self) -> np.ndarray:
        """(10,) standard deviations."""
        return 1.0 / np.sqrt(self.precision)


def without_assumed_distance(information: np.ndarray, t_precision: np.ndarray) -> np.ndarray:
    """``information`` (85,85) of a fit without the precision (3,) that its priors lent the translation, its first unknowns.

    From one view size is known as well as distance is: a distance that was assumed, from the size as it was believed before,
    would count as evidence for that size.  A fiftieth stays, or size and distance together had no inverse.
    """
    out = np.array(information, np.float64)
    out[[0, 1, 2], [0, 1, 2]] -= 0.98 * t_precision
    return out


def update(belief: ShapeBelief, betas: np.ndarray, information: np.ndarray, dt_s: float) -> ShapeBelief:
    """Fold in one fit that used ``belief`` as its shape prior.

    betas (10,) the fit's posterior mode; information (85,85) its normal matrix, shape prior included.  A
    coefficient's own information is its element of the Schur complement over pose and translation.  A matrix that cannot be
    inverted, or anything not finite, leaves the belief as it was.
    """
    k = len(information) - NUM_BETAS
    a, b, c = information[:k, :k], information[:k, k:], information[k:, k:]
    try:
        own = np.diagonal(c - b.T @ np.linalg.solve(a + 1e-9 * np.trace(a) / k * np.eye(k), b))
    except np.linalg.LinAlgError:
        return belief
    if not (np.all(np.isfinite(own)) and np.all(np.isfinite(betas))):
        return belief
    share = min(max(dt_s, 0.0) / CORRELATION_S, 1.0)
    gained = np.maximum(own - belief.precision, 0.0)
    # What the image alone said, in natural parameters; a share of it counts.  Taking the fit's betas for the new mean would
    # count the image in full every time and forget where the belief began: bodies then grew into giants within seconds.
    said = (belief.precision + gained) * betas - belief.precision * belief.mean
    precision = belief.precision + share * gained
    mean = (belief.precision * belief.mean + share * said) / precision
    return ShapeBelief(mean.astype(np.float32), np.minimum(precision, MAX_PRECISION).astype(np.float32))
