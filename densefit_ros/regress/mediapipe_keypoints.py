"""33 landmarks of each person by MediaPipe's pose model, an optional extra (Apache-2.0).

Two ways in: the model packaged with release 0.10.21, run window by window without its own detector (a window is at hand
already), and a ``.task`` file for later releases.  Both are stateless: smoothing over time is the tracker's business.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import AssetError, BackendUnavailable
from ..types import Camera, Crop, Keypoints
from . import mediapipe_graph
from .decode import crop_intrinsics, ray_rotation

NUM_LANDMARKS = 33
SET_NAME = "mediapipe33"
# The model wants the circle round the body, enlarged by this, with the body upright in it (its own convention).
ROI_SCALE = 1.25
# A second look pays when the first shows the body turned, off-centre or of another size than the window supposed.
RETRY_TURN_RAD = math.radians(30)
RETRY_SHIFT = 0.15
RETRY_SIZE = (0.6, 1.35)
# The landmark model reads 256 px; windows of 192, 224 and 256 px score within the noise of each other on photographs (one of 11
# people more or less), and the smallest cost least.
WINDOW_PX = 192
# On 124 labelled points of photographs PCK@0.1 of its own points is 0.80, 0.77, 0.65 and 0.57 with 1.2, 1.1, 1.05 and 1.0.
WINDOW_MARGIN = 1.2
SEARCH_CENTRE = 0.55  # from the window's middle to the hips: those of people cut off at the waist lie on its border
_Roi = tuple[float, float, float, float]  # centre x, y and side as shares of the window, turn in rad


class KeypointSource(Protocol):
    """Finds the keypoints of the person in the middle of each window."""

    name: str
    size_px: int  # side of the windows that it reads
    margin: float | None  # side of the windows that it wants over the person's box; None: render.crop_margin

    def keypoints(self, crop: Crop, camera: Camera) -> Keypoints:
        """P windows -> P rows, confidence 0 where the window shows nobody.

        ``uv`` px in the full image; ``direction_xyz`` in camera axes: turned from the axes of the window's viewing ray
        into those of the camera.
        """
        ...


class MediapipeKeypoints:
    """The model of the wheel: about 10 ms a window, twice that where a second look is taken."""

    name = "mediapipe"
    size_px, margin = WINDOW_PX, WINDOW_MARGIN

    def __init__(self) -> None:
        """Raises BackendUnavailable when MediaPipe or its packaged model is missing."""
        self._graph = mediapipe_graph.make_graph(
            mediapipe_graph.LANDMARK_GRAPH, ("landmarks", "auxiliary", "world"), {"model_complexity": 1}
        )
        self._detector = mediapipe_graph.make_graph(mediapipe_graph.DETECTION_GRAPH, ("detections",))
        with mediapipe_graph.quiet_stderr():
            blank = np.zeros((64, 64, 3), np.uint8)
            self._look(blank, (0.5, 0.5, 1.0, 0.0))
            self._search(blank)

    def keypoints(self, crop: Crop, camera: Camera) -> Keypoints:
        """See :class:`KeypointSource`."""
        found = [self._person(np.ascontiguousarray(window)) for window in crop.rgb]
        return _to_keypoints(found, crop, camera)

    def _person(self, rgb: np.ndarray) -> np.ndarray | None:
        first, roi = self._look(rgb, (0.5, 0.5, 1.0, 0.0))
        if first is None:
            # Nobody who stands in the middle: perhaps somebody who lies, or who fills the window otherwise.
            roi = self._search(rgb)
            return None if roi is None else self._look(rgb, roi)[0]
        if not _worth_a_second_look(roi):
            return first
        # The landmarks of a badly placed window are themselves squeezed into it: the detector's word counts more.
        found = self._search(rgb)
        second, _ = self._look(rgb, found or roi)
        if second is None or (found is None and second[:, 5].mean() < first[:, 5].mean() - 0.1):
            return first
        return second

    def _search(self, rgb: np.ndarray) -> _Roi | None:
        """Where the model's own detector sees the clearest person whose hips are near the middle of the window."""
        best = None
        for d in self._detector.process({"image": rgb}).detections or ():
            hips, top = d.location_data.relative_keypoints[:2]
            central = max(abs(hips.x - 0.5), abs(hips.y - 0.5)) < SEARCH_CENTRE
            if central and (best is None or d.score[0] > best[0]):
                best = (d.score[0], _roi(hips, top))
        return None if best is None else best[1]

    def _look(self, rgb: np.ndarray, roi: _Roi) -> tuple[np.ndarray | None, _Roi]:
        """Landmarks (33,7): x, y as shares of the window, world x, y, z, presence, visibility; and the roi they suggest."""
        from mediapipe.framework.formats import rect_pb2

        x, y, side, turn = roi
        rect = rect_pb2.NormalizedRect(x_center=x, y_center=y, width=side, height=side, rotation=turn)
        out = self._graph.process({"image": rgb, "roi": rect})
        if out.landmarks is None or out.world is None or out.auxiliary is None:
            return None, roi
        rows = [(a.x, a.y, b.x, b.y, b.z, a.presence, a.visibility) for a, b in zip(out.landmarks.landmark, out.world.landmark)]
        return np.array(rows, np.float64), _roi(*out.auxiliary.landmark[:2])


class MediapipeTaskKeypoints:
    """A pose landmarker ``.task`` file, for releases whose wheel has no model."""

    name = "mediapipe-task"
    size_px, margin = WINDOW_PX, WINDOW_MARGIN

    def __init__(self, task_file: str | Path) -> None:
        """Raises AssetError when the file is missing or is no pose landmarker, BackendUnavailable without MediaPipe."""
        path = Path(task_file)
        if not path.is_file():
            raise AssetError(f"{path}: expected a MediaPipe pose landmarker .task file, found none")
        mp = mediapipe_graph.require()
        self._mp = mp
        with mediapipe_graph.quiet_stderr():
            try:
                from mediapipe.tasks.python import BaseOptions, vision

                options = vision.PoseLandmarkerOptions(base_options=BaseOptions(model_asset_path=str(path)))
                self._landmarker = vision.PoseLandmarker.create_from_options(options)
            except ImportError as e:
                raise BackendUnavailable(f"this MediaPipe has no tasks API ({e}): {mediapipe_graph.INSTALL_HINT}") from e
            except (RuntimeError, ValueError, OSError) as e:
                reason = (str(e).splitlines() or [type(e).__name__])[0]
                raise AssetError(f"{path}: not a MediaPipe pose landmarker .task file ({reason})") from e

    def keypoints(self, crop: Crop, camera: Camera) -> Keypoints:
        """See :class:`KeypointSource`."""
        found: list[np.ndarray | None] = []
        for window in crop.rgb:
            image = self._mp.Image(image_format=self._mp.ImageFormat.SRGB, data=np.ascontiguousarray(window))
            out = self._landmarker.detect(image)
            if not out.pose_landmarks:
                found.append(None)
                continue
            pairs = zip(out.pose_landmarks[0], out.pose_world_landmarks[0])
            found.append(np.array([(a.x, a.y, b.x, b.y, b.z, a.presence, a.visibility) for a, b in pairs], np.float64))
        return _to_keypoints(found, crop, camera)


def make_keypoint_source(task_file: str | Path | None = None) -> KeypointSource:
    """The ``.task`` file where one is given, else the packaged model.  Raises AssetError or BackendUnavailable."""
    return MediapipeTaskKeypoints(task_file) if task_file else MediapipeKeypoints()


def _roi(hips: Any, top: Any) -> _Roi:
    """The square round the circle about the hips that ``top`` lies on, turned so that ``top`` is up."""
    up = (top.x - hips.x, top.y - hips.y)
    return hips.x, hips.y, 2 * ROI_SCALE * math.hypot(*up), math.atan2(up[0], -up[1])


def _worth_a_second_look(roi: _Roi) -> bool:
    x, y, side, turn = roi
    shift = max(abs(x - 0.5), abs(y - 0.5))
    return abs(turn) > RETRY_TURN_RAD or shift > RETRY_SHIFT or not RETRY_SIZE[0] < side < RETRY_SIZE[1]


def _to_keypoints(found: list[np.ndarray | None], crop: Crop, camera: Camera) -> Keypoints:
    persons = len(found)
    uv = np.zeros((persons, NUM_LANDMARKS, 2), np.float32)
    confidence = np.zeros((persons, NUM_LANDMARKS), np.float32)
    direction = np.zeros((persons, NUM_LANDMARKS, 3), np.float32)
    # A network that sees a window thinks it looks along its middle.
    rays = ray_rotation(crop_intrinsics(camera, crop.image_from_crop, crop.size).astype(np.float64))
    for i, rows in enumerate(found):
        if rows is None:
            continue
        affine = crop.image_from_crop[i].astype(np.float64)
        # Shares of the window are positions, not pixel indices: half-integer centres come out by themselves.
        uv[i] = rows[:, :2] * crop.size @ affine[:, :2].T + affine[:, 2]
        confidence[i] = np.clip(np.minimum(rows[:, 5], rows[:, 6]), 0, 1)
        direction[i] = rows[:, 2:5] @ rays[i].T
    return Keypoints(SET_NAME, uv, confidence, direction)
