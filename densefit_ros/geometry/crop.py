"""Square crops around persons, of which the networks look at the middle columns.

People are taller than wide: half of their boxes are half as wide as tall, or narrower.  In a square window most columns
show nobody, so the networks see a portrait of the same number of pixels on which people are larger.  Windows, intrinsics and
everything that is measured in a crop stay square.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..errors import ShapeError
from ..types import Crop

ASPECT = 4 / 7  # columns over rows of what the networks see
_CELL_PX = 32  # of the coarsest features


def square_around(box_xywh: np.ndarray, margin: float, aspect: float = ASPECT) -> np.ndarray:
    """The square (x, y, side, side) px with the box's centre whose middle ``aspect`` holds ``margin`` times the box."""
    x, y, w, h = (float(v) for v in box_xywh)
    side = max(w / aspect, h, 2.0) * margin
    return np.array([x + w / 2 - side / 2, y + h / 2 - side / 2, side, side], np.float32)


def columns_seen(size: int) -> slice:
    """The columns of crops of ``size`` px that the networks look at: of 224 px the middle 128."""
    width = max(round(size * ASPECT / _CELL_PX), 1) * _CELL_PX
    return slice((size - width) // 2, (size + width) // 2)


def image_from_crop(square_xywh: np.ndarray, size: int) -> np.ndarray:
    """(2,3) matrix from crop pixels to image pixels for a square window."""
    s = float(square_xywh[2]) / size
    return np.array([[s, 0, square_xywh[0]], [0, s, square_xywh[1]]], np.float32)


def extract(rgb: np.ndarray, squares_xywh: np.ndarray, size: int) -> Crop:
    """Resample one square window per person.

    rgb (H,W,3) uint8; squares_xywh (P,4) px -> Crop with P windows.  Beyond the image the border colour is repeated;
    the mask ``inside`` tells where.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ShapeError(f"expected an (H,W,3) uint8 image, got {rgb.shape} {rgb.dtype}")
    height, width = rgb.shape[:2]
    squares = np.asarray(squares_xywh, np.float32).reshape(-1, 4)
    n = len(squares)
    out = np.empty((n, size, size, 3), np.uint8)
    inside = np.empty((n, size, size), bool)
    affine = np.empty((n, 2, 3), np.float32)
    centres = np.arange(size, dtype=np.float32) + 0.5
    for i, square in enumerate(squares):
        affine[i] = a = image_from_crop(square, size)
        # OpenCV counts pixel centres at integers: shift both ends by half a pixel.
        m = a.astype(np.float64).copy()
        m[:, 2] += 0.5 * a[0, 0] - 0.5
        # INTER_AREA does not exist for warps: blur-free bilinear aliases past 2x, so shrink the source first.
        source, m = _prefilter(rgb, m, square)
        cv2.warpAffine(
            source, m, (size, size), dst=out[i], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        u = a[0, 0] * centres + a[0, 2]
        v = a[1, 1] * centres + a[1, 2]
        inside[i] = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))[None, :]
    return Crop(out, inside, affine, size)


def _prefilter(rgb: np.ndarray, m: np.ndarray, square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    factor = int(m[0, 0])
    if factor < 2:
        return rgb, m
    height, width = rgb.shape[:2]
    x0, y0 = max(int(square[0]) - factor, 0), max(int(square[1]) - factor, 0)
    x1 = min(int(square[0] + square[2]) + 2 * factor, width)
    y1 = min(int(square[1] + square[3]) + 2 * factor, height)
    w, h = (x1 - x0) // factor, (y1 - y0) // factor
    if w < 2 or h < 2:
        return rgb, m
    small = cv2.resize(rgb[y0 : y0 + h * factor, x0 : x0 + w * factor], (w, h), interpolation=cv2.INTER_AREA)
    m = m.copy()
    m[:, 2] = (m[:, 2] + 0.5 - np.array([x0, y0])) / factor - 0.5
    m[:, :2] /= factor
    return small, m
