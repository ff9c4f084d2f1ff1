"""What a stereo depth camera makes of rendered distances: a scale of its own, noise that grows with the square, lost edges."""

from __future__ import annotations

import cv2
import numpy as np

# Of a camera with a baseline of 50 mm and a focal length of 600 px whose disparities are off by 0.08 px.
NOISE_PER_M2 = 0.0027
BLOB_PX = 2.5  # disparities are matched in windows: neighbours err alike
EDGE_PX = 2  # either side of an edge no window matches
EDGE_M = 0.05
HOLES = 0.02  # share of the pixels that nothing is measured at, in blots
FAR_M = 8.0
SCALE_SIGMA = 0.01  # a camera's distances are all off by about this much


def measured(depth_m: np.ndarray, wall_m: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """A depth image (H,W) float32 m, 0 where unknown.

    depth_m: (H,W) true distances along the axis, 0 where ``wall_m`` is behind; ``scale``: the camera's own, near 1.
    """
    true = np.where(depth_m > 0, depth_m, np.float32(wall_m)).astype(np.float32)
    window = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
    edge = cv2.dilate(true, window) - cv2.erode(true, window) > EDGE_M
    noise, blots = (_blobs(true.shape, rng) for _ in range(2))
    out = np.float32(scale) * true + np.float32(NOISE_PER_M2) * true**2 * noise
    out[edge | (blots > np.quantile(blots, 1 - HOLES)) | (true > FAR_M)] = 0.0
    return out


def _blobs(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Normal noise (H,W) float32 of standard deviation 1 whose neighbours are alike."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), BLOB_PX)
    return noise / noise.std()
