"""Video files that ordinary players open."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..errors import AssetError, ShapeError


class VideoWriter:
    """Writes RGB frames to an .mp4 file (MPEG-4 part 2); a context manager.

    The first frame sets the size; an odd last row or column is dropped, the codec takes even sizes only.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        self.frames = 0
        self._fps = fps if fps > 0 else 30.0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, rgb: np.ndarray) -> None:
        """Append one (H,W,3) uint8 frame.  Raises ShapeError when its size differs from the first's."""
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ShapeError(f"expected an (H,W,3) uint8 frame, got {rgb.shape} {rgb.dtype}")
        size = (rgb.shape[1] // 2 * 2, rgb.shape[0] // 2 * 2)
        if self._writer is None:
            self._open(size)
        if size != self._size:
            raise ShapeError(f"{self.path}: expected frames of {self._size[0]} x {self._size[1]} px, got {size[0]} x {size[1]}")
        self._writer.write(cv2.cvtColor(np.ascontiguousarray(rgb[: size[1], : size[0]]), cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self) -> None:
        """Finish the file; without it the file has no index and does not play."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, size: tuple[int, int]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._size = size
        self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), self._fps, size)
        if not self._writer.isOpened():
            raise AssetError(f"cannot write a video to {self.path}: is the folder writable, and was OpenCV built with FFmpeg?")
