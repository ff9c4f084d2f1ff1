"""Metrics of body estimates against ground truth.

Convention: points are metres, (...,K,3), last axis x, y, z; results are millimetres, pixels, or the unit in the name.
Every function returns one number per pose (or per frame), never a mean: means, and their confidence intervals, are the
report's business.  float64 inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ShapeError

MM_PER_M = 1000.0


def mpjpe_mm(predicted_m: np.ndarray, truth_m: np.ndarray, root: int | None = 0) -> np.ndarray:
    """Mean per-joint position error.  (...,K,3), (...,K,3) m -> (...) mm.

    ``root`` is the joint moved onto its true position first; None compares absolute positions.
    """
    a, b = _pair(predicted_m, truth_m)
    return MM_PER_M * np.linalg.norm(root_aligned(a, root) - root_aligned(b, root), axis=-1).mean(-1)


def root_aligned(points_m: np.ndarray, root: int | None) -> np.ndarray:
    """Points relative to joint ``root``; None returns them as they are.  (...,K,3) -> (...,K,3)."""
    return points_m if root is None else points_m - points_m[..., root : root + 1, :]


def pa_mpjpe_mm(predicted_m: np.ndarray, truth_m: np.ndarray) -> np.ndarray:
    """Mean per-joint error after the best similarity transform (rotation, scale, translation).  (...,K,3) -> (...) mm."""
    a, b = _pair(predicted_m, truth_m)
    return MM_PER_M * np.linalg.norm(procrustes_align(a, b) - b, axis=-1).mean(-1)


def procrustes_align(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``source`` moved onto ``target`` by the least-squares similarity transform.  (...,K,3), (...,K,3) -> (...,K,3).

    A reflection is never used: when the best orthogonal matrix has determinant -1, the axis of the smallest singular
    value is turned round (Umeyama 1991, eq. 39 to 42).  A source with no extent lands on the target's mean.
    """
    a, b = _pair(source, target)
    mean_a, mean_b = a.mean(-2, keepdims=True), b.mean(-2, keepdims=True)
    a0, b0 = a - mean_a, b - mean_b
    u, s, vt = np.linalg.svd(np.swapaxes(b0, -1, -2) @ a0)
    sign = np.ones(s.shape)
    sign[..., -1] = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    rotmat = (u * sign[..., None, :]) @ vt
    power = np.sum(a0 * a0, axis=(-1, -2))
    scale = np.sum(s * sign, -1) / np.where(power > 0, power, 1.0)
    return scale[..., None, None] * (a0 @ np.swapaxes(rotmat, -1, -2)) + mean_b


def pve_mm(
    predicted_m: np.ndarray,
    truth_m: np.ndarray,
    predicted_root_m: np.ndarray | None = None,
    truth_root_m: np.ndarray | None = None,
) -> np.ndarray:
    """Per-vertex error.  (...,V,3) -> (...) mm; with the two roots (...,3) given, both bodies are moved to their own root."""
    a, b = _pair(predicted_m, truth_m)
    if (predicted_root_m is None) != (truth_root_m is None):
        raise ShapeError("pve_mm expects both roots or none: aligning only one body measures the translation")
    if predicted_root_m is not None:
        a = a - np.asarray(predicted_root_m, np.float64)[..., None, :]
        b = b - np.asarray(truth_root_m, np.float64)[..., None, :]
    return MM_PER_M * np.linalg.norm(a - b, axis=-1).mean(-1)


def reprojection_px(predicted_uv: np.ndarray, truth_uv: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of projected points.  (...,K,2) px -> (...) px; NaN where nothing is visible."""
    distance = _distance_px(predicted_uv, truth_uv)
    return _masked_mean(distance, visible)


def pck(
    predicted_uv: np.ndarray, truth_uv: np.ndarray, size_px: np.ndarray, threshold: float, visible: np.ndarray | None = None
) -> np.ndarray:
    """Share of points closer than ``threshold`` times the person's size.

    (...,K,2) px, ``size_px`` (...) (here: the longer side of the true box) -> (...) in [0,1]; NaN where nothing is visible.
    """
    close = _distance_px(predicted_uv, truth_uv) <= threshold * np.asarray(size_px, np.float64)[..., None]
    return _masked_mean(close.astype(np.float64), visible)


def acceleration_error_m_s2(predicted_m: np.ndarray, truth_m: np.ndarray, fps: float) -> np.ndarray:
    """Error of the second difference in time.  (T,K,3) m -> (T-2,) m/s^2, mean over joints."""
    a, b = _pair(predicted_m, truth_m)
    return np.linalg.norm(_difference(a, 2) - _difference(b, 2), axis=-1).mean(-1) * fps**2


def jitter_10m_s3(points_m: np.ndarray, fps: float) -> np.ndarray:
    """Mean |third difference| * fps^3 / 10.  (T,K,3) m -> (T-3,), unit 10 m/s^3."""
    return np.linalg.norm(_difference(np.asarray(points_m, np.float64), 3), axis=-1).mean(-1) * fps**3 / 10.0


def bone_length_variation_mm(joints_m: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Standard deviation of every bone's length over time.  (T,K,3) m, parents (K,), root -1 -> (bones,) mm."""
    joints = np.asarray(joints_m, np.float64)
    parents = np.asarray(parents)
    if joints.ndim != 3 or parents.shape != (joints.shape[1],):
        raise ShapeError(f"expected joints (T,K,3) and parents (K,), got {joints.shape} and {parents.shape}")
    child = np.flatnonzero(parents >= 0)
    lengths = np.linalg.norm(joints[:, child] - joints[:, parents[child]], axis=-1)
    return MM_PER_M * lengths.std(0)


def mean_interval(
    values: np.ndarray, groups: Sequence[str] | None = None, rounds: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval of a sample; NaN entries are left out.  -> (mean, low, high).

    With ``groups``, one label per value, whole groups are drawn: frames of one sequence err alike, and to take them for
    independent makes intervals far too narrow.  Of a single group nothing is known but the mean: the bounds are NaN.
    """
    values = np.asarray(values, np.float64).ravel()
    good = np.isfinite(values)
    values = values[good]
    if not len(values):
        return (float("nan"),) * 3
    labels = np.arange(len(values)) if groups is None else np.asarray(groups)[good]
    number = np.unique(labels, return_inverse=True)[1]
    total, count = np.bincount(number, values), np.bincount(number)
    if len(total) < 2:
        return float(values.mean()), float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(total), (rounds, len(total)))
    means = total[drawn].sum(1) / count[drawn].sum(1)
    return float(values.mean()), float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    # A transposed (3,K) array must fail here: guessing the layout from the shape has spoilt published numbers.
    if a.shape != b.shape or a.ndim < 2 or a.shape[-1] != 3:
        raise ShapeError(f"expected two arrays (...,K,3) of one shape, got {a.shape} and {b.shape}")
    return a, b


def _distance_px(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.shape[-1:] != (2,):
        raise ShapeError(f"expected two arrays (...,K,2) of one shape, got {a.shape} and {b.shape}")
    return np.linalg.norm(a - b, axis=-1)


def _masked_mean(values: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
    if visible is None:
        return values.mean(-1)
    visible = np.broadcast_to(np.asarray(visible, bool), values.shape)
    count = visible.sum(-1)
    # An unseen point may carry NaN: it must not reach the sum.
    total = np.where(visible, values, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _difference(points: np.ndarray, order: int) -> np.ndarray:
    if points.ndim != 3 or len(points) <= order:
        raise ShapeError(f"expected points (T,K,3) with more than {order} frames, got {points.shape}")
    return np.diff(points, order, axis=0)
