"""What a person finder takes and gives, and what all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..errors import ShapeError
from ..types import Detection


class Detector(Protocol):
    """Finds people without any hint."""

    name: str

    def detect(self, rgb: np.ndarray, enough: int = 1) -> list[Detection]:
        """People in an (H,W,3) uint8 image, surest first.

        A search may stop once ``enough`` people are found.  Boxes are full-image px and may reach beyond the image
        where a part of the person does.  Scores lie in [0,1]; 0.5 is as good as a coin.
        """
        ...


def check_image(rgb: np.ndarray) -> None:
    """Raise ShapeError unless ``rgb`` is an (H,W,3) uint8 image of at least 16 x 16 px."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or min(rgb.shape[:2]) < 16:
        raise ShapeError(f"expected an (H,W,3) uint8 image of at least 16 x 16 px, got {rgb.shape} {rgb.dtype}")


def suppress(detections: Sequence[Detection], overlap: float = 0.35) -> list[Detection]:
    """Non-maximum suppression: surest first, without boxes that lie on a surer one.

    Two boxes lie on one another when their intersection covers more than ``overlap`` of their union, or 70 % of the
    smaller one: the second rule removes a torso found inside its person.
    """
    kept: list[Detection] = []
    for candidate in sorted(detections, key=lambda d: -d.score):
        if all(not _same(candidate.box_xywh, k.box_xywh, overlap) for k in kept):
            kept.append(candidate)
    return kept


def _same(a: np.ndarray, b: np.ndarray, overlap: float) -> bool:
    size = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(size, 0.0)))
    area_a, area_b = float(a[2] * a[3]), float(b[2] * b[3])
    return common > overlap * (area_a + area_b - common) or common > 0.7 * min(area_a, area_b)
