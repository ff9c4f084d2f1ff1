"""Upright people by OpenCV's histogram-of-gradients detector (Dalal and Triggs 2005): no weights, no extra package.

It finds people who stand or walk and are seen whole; for others use the MediaPipe finder or give boxes.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..types import Detection
from .protocol import check_image, suppress

# The trained window is 64 x 128 with the person inside a margin, measured on street scenes: share cut from each side.
MARGIN_X, MARGIN_Y = 0.22, 0.16
# A person fires many neighbouring windows, a chance pattern few.
MIN_SUPPORT = 3


class HogDetector:
    """People from 1/4 of the image's height upwards."""

    name = "hog"

    def __init__(self, long_side_px: int = 640, min_score: float = 0.5) -> None:
        """``long_side_px``: the search runs on the image scaled to this size, smaller images are enlarged."""
        self._long_side_px = long_side_px
        self._min_score = min_score
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())

    def detect(self, rgb: np.ndarray, enough: int = 1) -> list[Detection]:
        """See :class:`densefit_ros.detect.protocol.Detector`; always searches the whole image."""
        check_image(rgb)
        scale = self._long_side_px / max(rgb.shape[:2])
        size = (max(round(rgb.shape[1] * scale), 64), max(round(rgb.shape[0] * scale), 128))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        boxes, margins = self._hog.detectMultiScale(gray, winStride=(8, 8), padding=(16, 16), scale=1.06, groupThreshold=0)
        if not len(boxes):
            return []
        px = np.array([rgb.shape[1] / size[0], rgb.shape[0] / size[1]] * 2)
        raw = [Detection(_tight(np.asarray(b) * px), _score(float(m))) for b, m in zip(boxes, np.ravel(margins))]
        supported = [d for d in suppress(raw) if d.score >= self._min_score and _support(d, raw) >= MIN_SUPPORT]
        return supported


def _tight(window_xywh: np.ndarray) -> np.ndarray:
    x, y, w, h = window_xywh
    box = (x + MARGIN_X * w, y + MARGIN_Y * h, (1 - 2 * MARGIN_X) * w, (1 - 2 * MARGIN_Y) * h)
    return np.array(box, np.float32)


def _score(svm_margin: float) -> float:
    # Half the windows with margin 0.9 were people, on street scenes and on pictures without any.
    return float(1.0 / (1.0 + np.exp(-3.0 * (svm_margin - 0.9))))


def _support(detection: Detection, raw: list[Detection]) -> int:
    """Windows that agree: centre within a third of the height, height within a factor of 1.5."""
    boxes = np.array([d.box_xywh for d in raw])
    x, y, w, h = detection.box_xywh
    centre = boxes[:, :2] + boxes[:, 2:] / 2 - [x + w / 2, y + h / 2]
    ratio = boxes[:, 3] / h
    return int(np.sum((np.abs(centre).max(1) < h / 3) & (ratio < 1.5) & (ratio > 1 / 1.5)))
