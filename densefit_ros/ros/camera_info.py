"""CameraInfo to a rectified pinhole camera, and the maps that undistort an image of it.

Bodies are estimated in the frame of the image as it was taken: the maps remove lens distortion only and keep K, so the
``frame_id`` of the image stays right.  Images that a driver has rectified already use P instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..errors import CameraError
from ..geometry.camera import camera_from_fov, camera_from_k
from ..geometry.lens import Lens, lens_of
from ..types import Camera


@dataclass(frozen=True, eq=False)
class Calibration:
    """A camera and, where its images are distorted, the maps that undistort them."""

    camera: Camera
    maps: tuple[np.ndarray, np.ndarray] | None  # for cv2.remap: int16 positions and interpolation indices
    state: str  # one word for diagnostics: "pinhole", "rectified", "undistorting", "assumed"
    lens: Lens | None = None  # where maps are not None

    def undistort(self, image: np.ndarray, labels: bool = False) -> np.ndarray:
        """Image, depth or labels as the pinhole camera would have seen them; the same array where there is no distortion."""
        if self.maps is None:
            return image
        is_depth = image.dtype != np.uint8
        nearest = labels or is_depth  # neither must be blended across edges
        fill = np.nan if is_depth else 0
        flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return cv2.remap(image, *self.maps, flags, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)

    def undistort_points(self, uv_px: np.ndarray) -> np.ndarray:
        """Points (...,2) px of the image as it came -> px of the undistorted image, NaN where it has none."""
        return uv_px if self.lens is None else self.lens.undistort(uv_px)

    def undistort_boxes(self, boxes_xywh: np.ndarray) -> np.ndarray:
        """Boxes (N,4) px likewise, without those of whom the undistorted image shows nothing."""
        return boxes_xywh if self.lens is None else self.lens.undistort_boxes(boxes_xywh)


def assumed(width: int, height: int, fov_deg: float) -> Calibration:
    """No camera_info: a centred pinhole with this diagonal field of view.  Metric depth is as good as the guess."""
    return Calibration(camera_from_fov(width, height, fov_deg), None, "assumed")


def calibration(info: Any, width: int, height: int, rectified: bool) -> Calibration:
    """Calibration for images of ``width`` x ``height`` px.

    ``rectified``: the images come from an ``image_rect`` topic, so P holds and the distortion has been removed.
    Raises CameraError when the message describes no camera, another image size, or an unknown distortion.
    """
    k, size = _scaled_k(info, width, height, rectified)
    camera = camera_from_k(k, *size)
    if size != (width, height):
        raise CameraError(
            f"camera_info is for {info.width}x{info.height} px (binning and region applied: {size[0]}x{size[1]}), "
            f"the image is {width}x{height}: the two topics are of different streams"
        )
    if rectified:
        return Calibration(camera, None, "rectified")
    lens = lens_of(str(info.distortion_model), info.d, k)
    if lens is None:
        return Calibration(camera, None, "pinhole")
    return Calibration(camera, lens.maps(width, height), "undistorting", lens)


def _scaled_k(info: Any, width: int, height: int, rectified: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """K (or the left of P) for the image as delivered: a region of interest shifts it, binning divides it (REP-104)."""
    k = np.asarray(info.k, np.float64).reshape(3, 3).copy()
    p = np.asarray(info.p, np.float64).reshape(3, 4)[:, :3]
    if rectified and p.any():
        k = p.copy()
    if not k.any():
        camera_from_k(k, width, height)  # raises with the message about uncalibrated cameras
    full = (int(info.width) or width, int(info.height) or height)
    roi = info.roi
    if roi.width and roi.height and (roi.width, roi.height) != full:
        k[0, 2] -= roi.x_offset
        k[1, 2] -= roi.y_offset
        full = (int(roi.width), int(roi.height))
    bins = max(int(info.binning_x), 1), max(int(info.binning_y), 1)
    if bins != (1, 1) and full != (width, height):  # some drivers state the binned size already
        for axis, b in enumerate(bins):
            k[axis, axis] /= b
            # Pixel centres at integers: the centre of a binned pixel is that of its block.
            k[axis, 2] = (k[axis, 2] + 0.5) / b - 0.5
        full = (full[0] // bins[0], full[1] // bins[1])
    return k, full
