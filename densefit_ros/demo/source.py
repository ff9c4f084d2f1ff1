"""Where the demo's images come from.  ROS-free: the camera process plays a source, the report reads it again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..errors import AssetError
from ..geometry.camera import camera_from_fov
from ..types import BodyParams, Camera

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_SIDE_PX = 1280  # larger input is scaled down: people stay large enough, and messages stay small
DEFAULT_FOV_DEG = 65.0  # diagonal, between a webcam's and a phone's


@dataclass(frozen=True, eq=False)
class Shot:
    """One image of a source."""

    rgb: np.ndarray  # (H,W,3) uint8
    camera: Camera
    name: str


class Source(ABC):
    """Images with their cameras, in order; ``open_source`` makes one."""

    def __init__(self, kind: str, text: str, fps: float, count: int | None, stills: bool = False) -> None:
        self.kind = kind  # "synthetic", "video", "pictures", "device"
        self.text = text  # for people
        self.fps = fps  # Hz
        self.count = count  # images, None where unknown
        self.stills = stills  # every picture stands alone

    @abstractmethod
    def shots(self) -> Iterator[Shot]:
        """The images from the start.  Raises AssetError when one cannot be read."""

    def truth(self, index: int) -> BodyParams | None:
        """Exact body of image ``index`` in the camera frame, a batch of one, where it is known."""
        return None


class SyntheticSource(Source):
    """The built-in sequence, with truth."""

    def __init__(self) -> None:
        from ..body.assets import load_body
        from ..synth.sequence import demo_sequence

        self.body = load_body()
        self._sequence = demo_sequence(self.body)
        super().__init__("synthetic", "built-in synthetic sequence", self._sequence.fps, len(self._sequence))

    def shots(self) -> Iterator[Shot]:
        for i in range(len(self._sequence)):
            yield Shot(self._sequence.frame(i)[0], self._sequence.camera, f"{i:06d}")

    def truth(self, index: int) -> BodyParams:
        return self._sequence.params.person(index)


class VideoSource(Source):
    """A video file, or a camera device, through OpenCV."""

    def __init__(self, path: str, fov_deg: float) -> None:
        self._path, self._fov_deg = path, fov_deg
        device = path.startswith("/dev/video")
        capture = self._open()
        fps = capture.get(cv2.CAP_PROP_FPS)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if not 1 <= fps <= 240:
            fps = 30.0
        super().__init__("device" if device else "video", path, fps, None if device or count <= 0 else count)

    def shots(self) -> Iterator[Shot]:
        capture, n = self._open(), 0
        try:
            while True:
                ok, bgr = capture.read()
                if not ok:
                    if n == 0:
                        raise AssetError(
                            f"{self._path} opens but gives no image: it is damaged, or another program holds the camera"
                        )
                    return
                yield _shot(bgr, self._fov_deg, f"{n:06d}")
                n += 1
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self._path)
        if not capture.isOpened():
            raise AssetError(
                f"cannot open {self._path} as a video: expected a video file, a picture, a directory of pictures or /dev/videoN"
            )
        return capture


class PictureSource(Source):
    """A picture or all pictures of a directory, in the order of their names; every one stands alone."""

    def __init__(self, path: Path, fov_deg: float) -> None:
        self.files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
        self._fov_deg = fov_deg
        if not self.files:
            raise AssetError(f"{path} holds no pictures; expected files ending in {', '.join(PICTURES)}")
        super().__init__("pictures", str(path), 1.0, len(self.files), stills=True)

    def shots(self) -> Iterator[Shot]:
        for path in self.files:
            bgr = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
            if bgr is None:
                raise AssetError(f"cannot read {path}: it is not a picture or it is damaged")
            yield _shot(bgr, self._fov_deg, path.name)


def open_source(text: str | None, fov_deg: float = DEFAULT_FOV_DEG) -> Source:
    """Source by name: nothing for the built-in sequence, a video file, a directory, a picture or /dev/videoN.

    Raises AssetError.
    """
    if not text:
        return SyntheticSource()
    path = Path(text)
    if not path.exists():
        raise AssetError(f"INPUT {text} does not exist")
    if path.is_dir() or path.suffix.lower() in PICTURES:
        return PictureSource(path, fov_deg)
    return VideoSource(text, fov_deg)


def _shot(bgr: np.ndarray, fov_deg: float, name: str) -> Shot:
    scale = MAX_SIDE_PX / max(bgr.shape[:2])
    if scale < 1:
        bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = bgr.shape[:2]
    return Shot(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), camera_from_fov(width, height, fov_deg), name)
