"""The camera of an offline run: a calibration file as ROS writes it, a field of view, or a stated guess."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from ..errors import CameraError
from ..geometry.camera import camera_from_fov, camera_from_k
from ..geometry.lens import Lens, lens_of
from ..types import Camera

# Between a phone's main camera (about 75) and the lenses that people are photographed with (about 45).
ASSUMED_FOV_DEG = 60.0


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The pinhole camera in which bodies are fitted, and the lens between it and the picture."""

    camera: Camera
    lens: Lens | None
    assumed: bool

    def rectify(self, rgb: np.ndarray, nearest: bool = False) -> np.ndarray:
        """The picture as the pinhole would have taken it; ``nearest`` for pictures of labels."""
        if self.lens is None:
            return rgb
        return cv2.remap(rgb, *self.lens.maps(*rgb.shape[1::-1]), cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR)

    def to_picture(self, xyz_m: np.ndarray) -> np.ndarray:
        """Camera-frame points (N,3) m to pixels (N,2) of the picture as it was taken, centres at half-integers.

        NaN behind the camera, and where the lens has no place for what lies that far off its axis.
        """
        c, points = self.camera, np.asarray(xyz_m, np.float64)
        slopes = points[:, :2] / np.where(points[:, 2:] > 0, points[:, 2:], np.nan)
        return slopes * [c.fx, c.fy] + [c.cx, c.cy] if self.lens is None else self.lens.place(slopes)

    def from_picture(self, uv: np.ndarray) -> np.ndarray:
        """Pixels (...,2) of the picture as it was taken to pixels of the pinhole's picture, NaN where that has none."""
        return uv if self.lens is None else self.lens.undistort(uv)

    def boxes_from_picture(self, boxes_xywh: np.ndarray) -> np.ndarray:
        """Boxes (N,4) of the picture as it was taken: the smallest around where the lens's pinhole sees their borders."""
        return boxes_xywh if self.lens is None else self.lens.undistort_boxes(boxes_xywh)


@dataclass(frozen=True, eq=False)
class CameraChoice:
    """What the user said about the camera, before the size of a picture is known."""

    calibration: dict[str, Any] | None = None
    fov_deg: float | None = None
    name: str = ""

    @property
    def given(self) -> bool:
        """Whether the user said anything."""
        return self.calibration is not None or self.fov_deg is not None

    def for_size(self, width: int, height: int) -> Calibrated:
        """The camera of pictures of this size.  Raises CameraError when the calibration is for another shape."""
        if self.calibration is None:
            fov = ASSUMED_FOV_DEG if self.fov_deg is None else self.fov_deg
            return Calibrated(camera_from_fov(width, height, fov), None, self.fov_deg is None)
        info = self.calibration
        sx, sy = width / info["width"], height / info["height"]
        if abs(sx / sy - 1) > 0.01:
            raise CameraError(
                f"{self.name} is for {info['width']}x{info['height']} px, the picture has {width}x{height}: "
                "another camera, or a cropped picture"
            )
        k = np.array(info["k"], np.float64)
        # Pixel centres at integers: position p of the calibrated size is (p + .5) s - .5 of this one.
        k[[0, 2]] = k[0] * sx, (k[2] + 0.5) * sx - 0.5
        k[[4, 5]] = k[4] * sy, (k[5] + 0.5) * sy - 0.5
        return Calibrated(camera_from_k(k, width, height), lens_of(info["distortion_model"], info["d"], k.reshape(3, 3)), False)


def read_camera(path: str | Path) -> CameraChoice:
    """A YAML file as ``camera_calibration`` and ``camera_info_manager`` write it, or a dumped CameraInfo message.

    Raises CameraError, naming the file and what is wrong with it.
    """
    path = Path(path)
    try:
        tree = next(iter(yaml.safe_load_all(path.read_text())), None)  # "ros2 topic echo" ends its document with ---
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise CameraError(f"cannot read the camera file {path}: {str(e).splitlines()[0]}") from e
    if not isinstance(tree, dict):
        raise CameraError(f"{path}: expected a camera_info mapping, got {type(tree).__name__}")
    width, height = (_first(tree, path, *names) for names in (("image_width", "width"), ("image_height", "height")))
    k = _numbers(_first(tree, path, "camera_matrix", "k", "K"), path, "camera_matrix", (9,))
    model = tree.get("distortion_model", "plumb_bob") or "plumb_bob"
    d = tree.get("distortion_coefficients", tree.get("d", tree.get("D", [])))
    d = d.get("data", []) if isinstance(d, dict) else d
    d = _numbers(d, path, "distortion_coefficients", tuple(range(15)))
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        raise CameraError(f"{path}: expected a positive image_width and image_height, got {width} and {height}")
    try:  # a clear error now, not at the first picture
        camera_from_k(k, width, height)
        lens_of(str(model), d, k.reshape(3, 3))
    except CameraError as e:
        raise CameraError(f"{path}: {e}") from e
    return CameraChoice({"width": width, "height": height, "k": k, "d": d, "distortion_model": str(model)}, None, str(path))


def _first(tree: dict[str, Any], path: Path, *names: str) -> Any:
    for name in names:
        if name in tree:
            return tree[name]
    raise CameraError(f"{path}: expected '{names[0]}', got {sorted(map(str, tree))}: not a camera_info file?")


def _numbers(value: Any, path: Path, name: str, counts: tuple[int, ...]) -> np.ndarray:
    value = value.get("data") if isinstance(value, dict) else value
    try:
        numbers = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError) as e:
        raise CameraError(f"{path}: expected numbers in '{name}', got {value!r}") from e
    if numbers.size not in counts or not np.isfinite(numbers).all():
        raise CameraError(f"{path}: expected {' or '.join(map(str, counts))} finite numbers in '{name}', got {numbers.tolist()}")
    return numbers
