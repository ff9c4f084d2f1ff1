"""Sparse linear regressors of the conversion: joints and keypoints as non-negative mixtures of vertices."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls


def sparse_regressor(
    points: np.ndarray, targets: np.ndarray, candidates: np.ndarray, limit: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative weights, summing to 1, of a few vertices that reproduce a point over many samples.

    points (N,V,3) m, targets (N,3) m, candidates (C,) vertex ids -> vertex ids (M,), weights (M,), M <= limit.
    The sum is enforced by a heavy row, then exactly; the smallest weights beyond ``limit`` are dropped and the rest refitted.
    """
    chosen = np.asarray(candidates)
    while True:
        matrix = (points[:, chosen] - targets[:, None]).transpose(0, 2, 1).reshape(-1, len(chosen))
        scale = 10.0 * np.abs(matrix).max()
        system = np.concatenate([matrix, np.full((1, len(chosen)), scale * np.sqrt(len(matrix)))])
        right = np.zeros(len(system))
        right[-1] = scale * np.sqrt(len(matrix))
        weights = nnls(system, right, maxiter=20 * len(chosen))[0]
        keep = np.flatnonzero(weights > 1e-4)
        if len(keep) <= limit:
            return chosen[keep], weights[keep] / weights[keep].sum()
        chosen = chosen[np.sort(np.argsort(-weights)[:limit])]


def mean_error(points: np.ndarray, targets: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> float:
    """Mean distance in m between the regressed and the true points."""
    return float(np.linalg.norm(np.einsum("nmc,m->nc", points[:, ids], weights) - targets, axis=-1).mean())


def nearby(points: np.ndarray, target: np.ndarray, allowed: np.ndarray, count: int = 300) -> np.ndarray:
    """The allowed vertices nearest to a target, at the mean sample: ids (count,).

    points (V,3), target (3,), allowed (V,) bool.
    """
    ids = np.flatnonzero(allowed)
    return ids[np.argsort(np.linalg.norm(points[ids] - target, axis=1))[:count]]
