"""Video files that ordinary players open."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..errors import AssetError, ShapeError

_HELD_S = 1.0  # clocks of files may jump by hours


class VideoWriter:
    """Writes RGB frames to an .mp4 file (MPEG-4 part 2); a context manager.

    The first frame sets the size; an odd last row or column is dropped, the codec takes even sizes only.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        self.frames = 0
        fps = fps if fps > 0 else 30.0
        # The codec's clock has 65,535 ticks a second at most, and OpenCV one for each decimal of the rate.
        self._fps = round(fps, 3 if fps < 65 else 2 if fps < 655 else 0)
        self._last: np.ndarray | None = None
        self._last_s = self._due_s = 0.0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, rgb: np.ndarray, at_s: float | None = None) -> None:
        """Append one (H,W,3) uint8 frame; with ``at_s`` the one before stays until then, for a second at most.

        Raises ShapeError when its size differs from the first's.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ShapeError(f"expected an (H,W,3) uint8 frame, got {rgb.shape} {rgb.dtype}")
        size = (rgb.shape[1] // 2 * 2, rgb.shape[0] // 2 * 2)
        if self._writer is None:
            self._open(size)
        if size != self._size:
            raise ShapeError(f"{self.path}: expected frames of {self._size[0]} x {self._size[1]} px, got {size[0]} x {size[1]}")
        if at_s is not None:
            self._due_s += min(at_s - self._last_s, _HELD_S)
            self._last_s = at_s
            while self._last is not None and self.frames < round(self._due_s * self._fps):
                self._append(self._last)
        self._last = cv2.cvtColor(np.ascontiguousarray(rgb[: size[1], : size[0]]), cv2.COLOR_RGB2BGR)
        self._append(self._last)

    def close(self) -> None:
        """Finish the file; without it the file has no index and does not play."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, bgr: np.ndarray) -> None:
        self._writer.write(bgr)
        self.frames += 1

    def _open(self, size: tuple[int, int]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._size = size
        self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), self._fps, size)
        if not self._writer.isOpened():
            raise AssetError(f"cannot write a video to {self.path}: is the folder writable, and was OpenCV built with FFmpeg?")
