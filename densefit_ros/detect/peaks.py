"""From the finder network's maps to boxes, and pictures into its window."""

from __future__ import annotations

import cv2
import numpy as np

from .contract import COLUMNS, HEIGHT_PX, PAD_GREY, ROWS, STRIDE_PX, WIDTH_PX

_MAX_PEAKS = 40
_MAX_LOG_SIZE = 4.2  # twice the window: what is larger is no box


def letterbox(rgb: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """(H,W,3) uint8 -> (192,256,3) uint8 that shows all of it, the scale (window px per px) and the corner (2,) px.

    window = scale * picture + corner, pixel centres at half-integers in both.
    """
    height, width = rgb.shape[:2]
    scale = min(WIDTH_PX / width, HEIGHT_PX / height)
    w, h = min(max(round(width * scale), 1), WIDTH_PX), min(max(round(height * scale), 1), HEIGHT_PX)
    small = cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    x, y = (WIDTH_PX - w) // 2, (HEIGHT_PX - h) // 2
    window = np.full((HEIGHT_PX, WIDTH_PX, 3), PAD_GREY, np.uint8)
    window[y : y + h, x : x + w] = small
    return window, scale, np.array([x, y], np.float32)


def decode_peaks(heat: np.ndarray, box: np.ndarray, min_logit: float) -> tuple[np.ndarray, np.ndarray]:
    """Local maxima of one window's maps: heat (1,24,32), box (4,24,32) -> boxes (N,4) x, y, w, h in window px, logits (N,).

    Surest first, at most 40, without suppression of overlapping boxes.
    """
    logit = heat[0]
    highest = cv2.dilate(logit, np.ones((3, 3), np.uint8))
    v, u = np.nonzero((logit >= highest) & (logit >= min_logit))
    order = np.argsort(-logit[v, u], kind="stable")[:_MAX_PEAKS]
    v, u = v[order], u[order]
    return cell_boxes(box)[:, v, u].T.astype(np.float32), logit[v, u]


def cell_boxes(box: np.ndarray) -> np.ndarray:
    """Every cell's box: (4,24,32) network units -> (4,24,32) x, y, w, h in window px."""
    size = STRIDE_PX * np.exp(np.clip(box[2:], -2.0, _MAX_LOG_SIZE))
    grid = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS))) + 0.5
    centre = STRIDE_PX * (grid + box[:2])
    return np.concatenate([centre - 0.5 * size, size])
