"""The lens between the picture as it was taken and the one that a pinhole of the same matrix would have taken.

Models and numbers are OpenCV's, as ROS names them in CameraInfo.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np

from ..errors import CameraError
from .camera import ROS_PIXEL_SHIFT_PX

# The first two are one model in OpenCV, whose order of the numbers both have; Orbbec's driver calls eight of them plumb_bob.
_BROWN_CONRADY = (4, 5, 8, 12, 14)
_COUNTS = {"plumb_bob": _BROWN_CONRADY, "rational_polynomial": _BROWN_CONRADY, "equidistant": (4,), "fisheye": (4,)}
_FISHEYE = ("equidistant", "fisheye")
# Names as others write them, of which case, spaces, hyphens and underscores do not count.  Without a name ROS means plumb_bob.
# librealsense's "Inverse Brown Conrady" is another model.
_OTHER_NAMES = {"": "plumb_bob", "brownconrady": "plumb_bob", "kannalabrandt": "equidistant", "kannalabrandt4": "equidistant"}
_NAMES = {**{m.replace("_", ""): m for m in _COUNTS}, **_OTHER_NAMES}
_STRAIGHT = ("none", "pinhole")
# OpenCV's own five steps miss by 8 px in the middle half of a 120 degree lens, where the picture's maps are exact; more of them
# lose a tenth of what a strong barrel shows, and Newton's go on there.
_ITERATIONS = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-8)
_MISS_PX = 0.5  # what does not come back to within this was not inverted: OpenCV says so for some fisheye points, by -1e6
_MAX_SLOPE = 5.0  # x/z and y/z; farther out, 79 degrees, one pixel of a fisheye would be dozens of the pinhole's
_NEWTON_STEPS, _NEWTON_STEP = 20, 0.3
# Not the border alone: of somebody near a fisheye only the middle of the box may have a picture.
_GRID = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9)), -1).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class Lens:
    """Pixel positions here have their centres at half-integers, in the picture as taken and in the pinhole's."""

    k: np.ndarray  # (3,3) of both, with centres at integers as OpenCV has them
    d: np.ndarray  # coefficients
    fisheye: bool

    def maps(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """For cv2.remap, from the picture as taken to the pinhole's: int16 positions and interpolation indices."""
        size = (width, height)
        if self.fisheye:
            maps = cv2.fisheye.initUndistortRectifyMap(self.k, self.d.reshape(4, 1), np.eye(3), self.k, size, cv2.CV_16SC2)
        else:
            maps = cv2.initUndistortRectifyMap(self.k, self.d, None, self.k, size, cv2.CV_16SC2)
        return maps[0], maps[1]

    def distort(self, slopes: np.ndarray) -> np.ndarray:
        """Where the lens puts what lies at x/z, y/z (N,2): px of the picture as taken."""
        slopes = np.asarray(slopes, np.float64).reshape(-1, 1, 2)
        if not slopes.size:
            return np.zeros((0, 2))
        if self.fisheye:
            uv = cv2.fisheye.distortPoints(slopes, self.k, self.d.reshape(4, 1))
        else:
            rays = np.concatenate([slopes, np.ones_like(slopes[..., :1])], -1)
            uv = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), self.k, self.d)[0]
        return uv[:, 0] + ROS_PIXEL_SHIFT_PX

    def place(self, slopes: np.ndarray) -> np.ndarray:
        """As :meth:`distort`, NaN for what the lens does not see.

        Beyond the angle that it was calibrated for a polynomial turns round, and feet far below the picture came back into it.
        """
        taken, plain = self.distort(slopes), np.asarray(slopes, np.float64).reshape(-1, 2)
        back = (self.undistort(taken) - ROS_PIXEL_SHIFT_PX - self.k[:2, 2]) / [self.k[0, 0], self.k[1, 1]]
        seen = np.abs(back - plain).max(-1) <= 0.02 * np.maximum(np.abs(plain).max(-1), 0.1)  # written so that NaN fails
        if self.fisheye:  # which undistort gives up on long before they end
            seen |= np.abs(plain).max(-1) > _MAX_SLOPE
        return np.where(seen[:, None], taken, np.nan)

    def undistort(self, uv: np.ndarray) -> np.ndarray:
        """Px (...,2) of the picture as taken -> px of the pinhole's.

        NaN where there is none: NaN itself, and what the model cannot have put there or lies too far off the axis.
        """
        if not uv.size:
            return uv
        taken = np.asarray(uv, np.float64).reshape(-1, 1, 2) - ROS_PIXEL_SHIFT_PX
        if self.fisheye:
            slopes = cv2.fisheye.undistortPoints(taken, self.k, self.d.reshape(4, 1))
        else:
            slopes = cv2.undistortPointsIter(taken, self.k, self.d, None, None, _ITERATIONS)
        slopes, taken = slopes[:, 0], taken[:, 0] + ROS_PIXEL_SHIFT_PX
        known = self._are_of(slopes, taken)
        again = ~known & np.isfinite(taken).all(-1)
        if again.any() and not self.fisheye:
            slopes[again] = self._by_newton(taken[again])
            known[again] = self._are_of(slopes[again], taken[again])
        plain = slopes * [self.k[0, 0], self.k[1, 1]] + self.k[:2, 2] + ROS_PIXEL_SHIFT_PX
        return np.where(known[:, None], plain, np.nan).reshape(uv.shape).astype(uv.dtype)

    def _are_of(self, slopes: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """(N,) bool: within _MAX_SLOPE, and what lies there does come to ``taken``."""
        near = np.abs(slopes).max(-1, initial=0.0) <= _MAX_SLOPE  # written so that NaN fails
        return near & (np.abs(self.distort(np.where(near[:, None], slopes, 0.0)) - taken).max(-1, initial=0.0) <= _MISS_PX)

    def _by_newton(self, taken: np.ndarray) -> np.ndarray:
        """Slopes (N,2) from where the pinhole would have them, in short steps."""
        focal, h = np.array([self.k[0, 0], self.k[1, 1]]), 1e-5
        slopes = (taken - ROS_PIXEL_SHIFT_PX - self.k[:2, 2]) / focal
        slopes /= np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1.0)
        for _ in range(_NEWTON_STEPS):
            here = self.distort(slopes)
            jacobian = np.stack([(self.distort(slopes + h * e) - here) / h for e in np.eye(2)], -1)
            usable = np.abs(np.linalg.det(jacobian)) > 1e-3 * focal[0] * focal[1]
            jacobian[~usable] = np.diag(focal)
            step = np.linalg.solve(jacobian, (taken - here)[..., None])[..., 0]
            length = np.linalg.norm(step, axis=1, keepdims=True)
            slopes = slopes + step * np.minimum(1.0, _NEWTON_STEP / np.maximum(length, 1e-12))
        return slopes

    def undistort_boxes(self, boxes_xywh: np.ndarray) -> np.ndarray:
        """Boxes (N,4) px of the picture as taken -> the smallest ones around what becomes of them.

        Those of which the pinhole's picture has nothing are left out.
        """
        uv = self.undistort(boxes_xywh[:, None, :2] + _GRID * boxes_xywh[:, None, 2:])
        seen = np.isfinite(uv)
        low, high = np.where(seen, uv, 1e9).min(1), np.where(seen, uv, -1e9).max(1)
        return np.concatenate([low, high - low], 1)[seen.all(-1).any(1)].astype(boxes_xywh.dtype)


def lens_of(model: str, coefficients: np.ndarray, k: np.ndarray) -> Lens | None:
    """The lens of a calibration with matrix ``k`` (3,3), centres at integers; None where it bends nothing.

    A fisheye of zeros is no pinhole: the angle off the axis is the distance from the middle.  Raises CameraError.
    """
    d = np.asarray(coefficients, np.float64).reshape(-1)
    plain = re.sub(r"[\s_-]", "", model).lower()
    name = _NAMES.get(plain, "")
    fisheye = name in _FISHEYE
    if not d.any():
        if not fisheye:
            return None
        d = np.zeros(4)
    said = f"distortion model {model[:32]!r} with {d.size} numbers"
    if plain in _STRAIGHT:
        raise CameraError(f"{said} that are not all zero: expected zeros or none; does the calibration name the wrong model?")
    if not name or d.size not in _COUNTS[name] or not np.isfinite(d).all():
        known = "; ".join(f"{m} with {' or '.join(map(str, n))} numbers" for m, n in _COUNTS.items())
        others = f"brown_conrady for plumb_bob; kannala_brandt for equidistant; {' or '.join(_STRAIGHT)} with zeros"
        raise CameraError(f"{said} is unknown; expected {known}, all finite; {others}")
    # OpenCV inverts all of K: a zero in its corner makes black pictures.
    return Lens(np.array([[k[0, 0], 0, k[0, 2]], [0, k[1, 1], k[1, 2]], [0, 0, 1.0]]), d, fisheye)
