"""Which detection belongs to which track, and the names of tracks."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

_LETTERS = 26**5


def iou(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes x, y, w, h.  (A,4), (B,4) -> (A,B)."""
    a, b = np.asarray(boxes_a, float).reshape(-1, 1, 4), np.asarray(boxes_b, float).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inter = np.prod(np.maximum(high - low, 0), -1)
    union = np.prod(a[..., 2:], -1) + np.prod(b[..., 2:], -1) - inter
    return np.where(union > 0, inter / np.maximum(union, 1e-9), 0.0)


def assign(track_boxes: np.ndarray, detection_boxes: np.ndarray, min_iou: float = 0.3) -> tuple[list[tuple[int, int]], list[int]]:
    """Best one-to-one matching by overlap.

    Returns pairs (track, detection) and the detections that overlap *no* track by ``min_iou``: those may start tracks.
    A detection that overlaps a track but lost it to a better one starts nothing: it is a second box on that person.
    """
    overlap = iou(track_boxes, detection_boxes)
    # Pairs that will not stand must not take partners away from those that would.
    rows, cols = linear_sum_assignment(-np.where(overlap >= min_iou, overlap, 0.0))
    pairs = [(int(r), int(c)) for r, c in zip(rows, cols) if overlap[r, c] >= min_iou]
    free = [j for j in range(overlap.shape[1]) if overlap.shape[0] == 0 or overlap[:, j].max() < min_iou]
    return pairs, free


def track_name(number: int) -> str:
    """Five lower-case letters for the n-th track (REP-155), all different for 11.8 million tracks.

    A multiplicative scramble keeps the names of successive people from looking alike on a screen.
    """
    n = (number * 5_718_563 + 2_468_013) % _LETTERS  # 5718563 is odd and no multiple of 13: coprime to 26^5
    letters = []
    for _ in range(5):
        n, r = divmod(n, 26)
        letters.append(chr(ord("a") + r))
    return "".join(letters)
