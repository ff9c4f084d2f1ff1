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
from ..offline import sources as files
from ..offline.cameras import ASSUMED_FOV_DEG
from ..types import BodyParams, Camera

MAX_SIDE_PX = 1280  # larger input is scaled down: people stay large enough, and messages stay small
LIVE_COPY = "input.mp4"  # what is kept of a device, which cannot be read again for the report
DEFAULT_FOV_DEG = ASSUMED_FOV_DEG  # diagonal: a video has one distance, whoever plays it


@dataclass(frozen=True, eq=False)
class Shot:
    """One image of a source."""

    rgb: np.ndarray  # (H,W,3) uint8
    camera: Camera
    name: str
    at_s: float  # after the first one


class Source(ABC):
    """Images with their cameras, in order; ``open_source`` makes one."""

    def __init__(self, kind: str, text: str, fps: float, count: int | None, stills: bool = False) -> None:
        self.kind = kind  # "synthetic", "video", "pictures", "device"
        self.text = text  # for people
        self.fps = fps  # Hz
        self.count = count  # images, None where unknown
        self.stills = stills  # every picture stands alone
        self.paths: list[Path] = []  # the files that are read
        self.problems: list[str] = []  # what was left out by ``shots`` because it could not be read

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
            yield Shot(self._sequence.frame(i)[0], self._sequence.camera, f"{i:06d}", i / self.fps)

    def truth(self, index: int) -> BodyParams:
        return self._sequence.params.person(index)


class FileSource(Source):
    """A video, a picture, or a directory of pictures, of which every one stands alone.

    What cannot be read is left out; AssetError when nothing can.
    """

    def __init__(self, path: str | Path, fov_deg: float) -> None:
        self._items, self._fov_deg = files.open_source(path), fov_deg
        video = self._items.is_video
        fps = self._items.fps if video else 1.0
        super().__init__("video" if video else "pictures", str(path), fps, self._items.count or None, stills=not video)
        self.paths = [self._items.path, *getattr(self._items, "files", ())]

    def shots(self) -> Iterator[Shot]:
        self.problems, any_read = [], False
        for item in self._items:
            if item.rgb is None:
                self.problems.append(item.problem)
                continue
            any_read = True
            name = f"{item.index:06d}" if self._items.is_video else item.file
            yield _shot(item.rgb, self._fov_deg, name, item.stamp_ns * 1e-9)
        if not any_read:
            raise AssetError(f"{self.text}: nothing could be read: {self.problems[0] if self.problems else 'it is empty'}")


class DeviceSource(Source):
    """A camera device through OpenCV."""

    def __init__(self, path: str, fov_deg: float) -> None:
        self._path, self._fov_deg = path, fov_deg
        capture = self._open()
        fps = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        super().__init__("device", path, fps if 1 <= fps <= 240 else 30.0, None)

    def shots(self) -> Iterator[Shot]:
        capture, n = self._open(), 0
        try:
            while True:
                ok, bgr = capture.read()
                if not ok:
                    if n == 0:
                        raise AssetError(f"{self._path} opens but gives no image: another program holds the camera?")
                    return
                yield _shot(np.ascontiguousarray(bgr[..., ::-1]), self._fov_deg, f"{n:06d}", n / self.fps)
                n += 1
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self._path)
        if not capture.isOpened():
            raise AssetError(f"cannot open {self._path} as a camera: expected /dev/videoN, or a file or directory")
        return capture


def open_source(text: str | None, fov_deg: float = DEFAULT_FOV_DEG) -> Source:
    """Source by name: nothing for the built-in sequence, a video file, a directory, a picture or /dev/videoN.

    Raises AssetError.
    """
    if not text:
        return SyntheticSource()
    if text.startswith("/dev/video"):
        return DeviceSource(text, fov_deg)
    return FileSource(text, fov_deg)


def _shot(rgb: np.ndarray, fov_deg: float, name: str, at_s: float) -> Shot:
    scale = MAX_SIDE_PX / max(rgb.shape[:2])
    if scale < 1:
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    # Videos have even sides: what is shown and what is kept of a camera must be as large.
    height, width = (max(n // 2 * 2, 1) for n in rgb.shape[:2])
    rgb = np.ascontiguousarray(rgb[:height, :width])
    return Shot(rgb, camera_from_fov(width, height, fov_deg), name, at_s)
