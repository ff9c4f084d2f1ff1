"""Pictures and videos as one stream of images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ..errors import AssetError, ConfigError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ogv", ".wmv", ".gif")
DEFAULT_FPS = 30.0


@dataclass(frozen=True)
class Item:
    """One image of a source; ``rgb`` is None where the file is damaged, and ``problem`` says how."""

    file: str  # file name
    index: int  # frame of a video, number of a picture
    rgb: np.ndarray | None
    problem: str = ""
    stamp_ns: int = 0  # after the first image


class Source(Protocol):
    """Images in order.  ``count`` is an estimate for videos, 0 where unknown."""

    path: Path
    is_video: bool
    fps: float
    count: int

    def __iter__(self) -> Iterator[Item]: ...


def _as_counted(path: Path) -> list[Any]:
    """Sorting key: frame_2 before frame_10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", path.name))]


def open_source(path: str | Path) -> Source:
    """A video file, a picture, or a folder of pictures.  Raises AssetError, naming what was found instead."""
    path = Path(path)
    if not path.exists():
        raise AssetError(f"{path}: no such file or folder")
    if path.is_dir():
        files = sorted((p for p in path.iterdir() if p.is_file() and p.suffix.lower() in PICTURES), key=_as_counted)
        if not files:
            others = ", ".join(sorted({p.suffix or "no suffix" for p in path.iterdir() if p.is_file()})) or "nothing"
            raise AssetError(f"{path}: expected pictures ({', '.join(PICTURES)}), found {others}")
        return Pictures(path, files)
    if not path.is_file():
        raise AssetError(f"{path}: expected a file or a folder; live cameras are the business of the ROS node and `make demo`")
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return Pictures(path, [path])
    if suffix in VIDEOS:
        return Video(path)
    # An unusual name: what the bytes say counts.
    return Pictures(path, [path]) if _decode(path)[0] is not None else Video(path)


def check_apart(inputs: Iterable[Path | None], outputs: Iterable[Path]) -> None:
    """Raise ConfigError when an input is among the outputs or lies below one."""
    written = {path.resolve() for path in outputs}
    for path in filter(None, inputs):
        resolved = path.resolve()
        if not written.isdisjoint((resolved, *resolved.parents)):
            raise ConfigError(f"--out would write over the input: {path} is among its files; choose another folder")


class Pictures:
    """Picture files.

    Orientation tags are applied (WebP's where OpenCV does, which 4.11 does not): "image pixels" are those that viewers show.
    """

    is_video = False
    fps = DEFAULT_FPS

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path, self.files, self.count = path, files, len(files)

    def __iter__(self) -> Iterator[Item]:
        for index, file in enumerate(self.files):
            rgb, problem = _decode(file)
            yield Item(file.name, index, rgb, problem, round(index * 1e9 / self.fps))


class FrameClock:
    """When the frames of an opened video are shown, in ns after the first one."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        # OpenCV guesses 1000 Hz where frames come irregularly.
        self.fps = fps if 0.1 < fps < 1000 else DEFAULT_FPS
        self.duration_s = max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0.0) / fps if fps > 0 else 0.0
        self._first_ms: float | None = None
        self._last_ns = -1

    def read(self) -> int:
        """Of the frame that was read last: what the file says, or one period more where it says nothing."""
        ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._first_ms is None:
            self._first_ms, self._last_ns = ms, 0
        else:
            stamp_ns = round((ms - self._first_ms) * 1e6)
            self._last_ns = stamp_ns if stamp_ns > self._last_ns else self._last_ns + round(1e9 / self.fps)
        return self._last_ns

    @property
    def end_s(self) -> float:
        """When the last frame has been shown."""
        return self._last_ns * 1e-9 + 1 / self.fps


class Video:
    """A video file.  Raises AssetError on opening when not a single frame can be decoded."""

    is_video = True

    def __init__(self, path: Path) -> None:
        self.path = path
        capture = self._open()
        clock = FrameClock(capture)
        self.fps, self.count = clock.fps, round(clock.duration_s * clock.fps)
        readable, _ = capture.read()
        capture.release()
        if not readable:
            raise AssetError(f"{path}: no frame can be decoded: not a video, damaged, or of an unknown codec")

    def __iter__(self) -> Iterator[Item]:
        capture = self._open()
        clock = FrameClock(capture)
        try:
            index = 0
            while True:
                readable, bgr = capture.read()
                if not readable:
                    break
                yield Item(self.path.name, index, np.ascontiguousarray(bgr[..., ::-1]), stamp_ns=clock.read())
                index += 1
        finally:
            capture.release()
        # Frames are not counted: where the container does not, OpenCV's count is the duration by a guessed rate.
        if clock.end_s < 0.9 * clock.duration_s:
            problem = f"{self.path}: ends after {clock.end_s:.1f} of {clock.duration_s:.1f} s: truncated or damaged"
            yield Item(self.path.name, index, None, problem)

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise AssetError(f"{self.path}: cannot be opened as a video: not a video, damaged, or of an unknown codec")
        return capture


def _decode(file: Path) -> tuple[np.ndarray | None, str]:
    try:
        data = np.frombuffer(file.read_bytes(), np.uint8)
    except OSError as e:
        return None, f"{file}: cannot be read ({e.strerror})"
    if not len(data):
        return None, f"{file}: the file is empty"
    try:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        bgr = None
    if bgr is None:
        return None, f"{file}: not a picture, or damaged"
    if min(bgr.shape[:2]) < 16:
        return None, f"{file}: {bgr.shape[1]} x {bgr.shape[0]} px is too small for a person"
    if max(bgr.shape[:2]) >= 32_767:  # OpenCV's warps end there
        return None, f"{file}: {bgr.shape[1]} x {bgr.shape[0]} px: sides may have 32,766 at most"
    return np.ascontiguousarray(bgr[..., ::-1]), ""
