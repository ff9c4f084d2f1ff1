"""The guard: a refinement never makes things worse in silence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .options import FitOptions
from .outcome import Squared


@dataclass(frozen=True)
class Support:
    """How well some parameters explain the evidence, priors left out."""

    cost: float  # sum of robust costs
    inlier_share: float


def support(r2: Squared, options: FitOptions) -> Support:
    """From one person's residuals."""
    c2 = options.robust_scale**2
    k2 = c2 * options.keypoint_scale_ratio**2
    cost = float(np.sum(r2.share * c2 * r2.dense / (c2 + r2.dense)))
    inside = np.count_nonzero(r2.dense < options.inlier_sigma**2)
    if len(r2.keypoints):
        cost += float(np.sum(k2 * r2.keypoints / (k2 + r2.keypoints)))
        inside += np.count_nonzero(r2.keypoints < options.inlier_sigma**2)
    return Support(cost, inside / max(len(r2.dense) + len(r2.keypoints), 1))


def keeps_result(start: Support, result: Support, options: FitOptions) -> bool:
    """Does the evidence itself speak for the result?

    At least ``guard_inlier_min`` of it must agree with the result, the robust cost must drop by more than the fraction
    ``guard_gain``, and the share of inliers must not fall by more than ``guard_inlier_loss``.  A start that explains
    everything has nothing to lose: rounding must not reject it.
    """
    if result.inlier_share < options.guard_inlier_min:
        return False
    gained = result.cost <= (1.0 - options.guard_gain) * start.cost + 1e-3
    return gained and start.inlier_share - result.inlier_share <= options.guard_inlier_loss


def believed(residuals: list[tuple[Squared, Squared]], options: FitOptions) -> np.ndarray:
    """(P,) bool: False where the evidence does not speak for the result.

    residuals: those of :func:`densefit_ros.fit.outcome.residuals`.  People with depth points alone are not judged: a sensor's
    points do not lie as a network's matches may.
    """
    out = np.ones(len(residuals), bool)
    for i, (start, final) in enumerate(residuals):
        if options.guard and len(start.dense) + len(start.keypoints):
            out[i] = keeps_result(support(start, options), support(final, options), options)
    return out
