"""People by the detector stage of MediaPipe's pose model (BlazePose), searched from coarse to fine.

The model answers with the middle of the hips and the radius of the circle round the whole body, also for people who
lie, crouch, or are cut off by the image border.  It sees people who fill a quarter or more of its window and reports
only the clearest of those close together, so windows of three sizes slide over the image.
"""

from __future__ import annotations

import numpy as np

from ..regress import mediapipe_graph
from ..types import Detection
from .protocol import check_image, suppress

# Fine windows meet fragments of people and of everything else: they must be surer.
LEVELS = ((1.0, 0.62), (0.5, 0.65))  # window side over the image's short side, least score
WHOLE_MIN_SCORE = 0.55
SURE_SCORE = 0.7  # weaker finds do not end the search
CIRCLE_SHRINK = 0.92  # the circle is drawn with some air
WIDTH_SHARE = 0.5  # of a box along the body's axis: an average of arms down and arms spread


class MediapipeDetector:
    """Stateless: every image is searched afresh."""

    name = "mediapipe"

    def __init__(self) -> None:
        """Raises BackendUnavailable when MediaPipe or its packaged model is missing."""
        self._graph = mediapipe_graph.make_graph(mediapipe_graph.DETECTION_GRAPH, ("detections",))
        with mediapipe_graph.quiet_stderr():
            self._graph.process({"image": np.zeros((64, 64, 3), np.uint8)})

    def detect(self, rgb: np.ndarray, enough: int = 1) -> list[Detection]:
        """See :class:`densefit_ros.detect.protocol.Detector`.

        The whole image costs one pass of the model, the middle windows about three more, the fine ones about twenty.
        """
        check_image(rgb)
        height, width = rgb.shape[:2]
        found = self._search(rgb, 0, 0, WHOLE_MIN_SCORE)
        for share, min_score in LEVELS:
            if sum(d.score >= SURE_SCORE for d in found) >= enough:
                break
            side = int(share * min(height, width))
            if side == max(height, width):
                continue  # a square image: the whole was that window
            for y in _starts(height, side):
                for x in _starts(width, side):
                    found += self._search(np.ascontiguousarray(rgb[y : y + side, x : x + side]), x, y, min_score)
            found = suppress(found)
        return found

    def _search(self, window: np.ndarray, x0: int, y0: int, min_score: float) -> list[Detection]:
        height, width = window.shape[:2]
        size = np.array([width, height], np.float64)
        out = []
        for d in self._graph.process({"image": window}).detections or ():
            points = np.array([(k.x, k.y) for k in d.location_data.relative_keypoints[:2]]) * size
            score = float(d.score[0])
            hips, top = points
            # Hips beyond the window are a guess about what it does not show.
            if score >= min_score and np.all(hips > -0.05 * size) and np.all(hips < 1.05 * size):
                out.append(Detection(_box_of_circle(hips, top - hips) + np.array([x0, y0, 0, 0], np.float32), score))
        return out


def _box_of_circle(hips: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Upright box round a body whose axis is ``up`` (its length is the circle's radius)."""
    radius = CIRCLE_SHRINK * float(np.linalg.norm(up))
    along = np.abs(up) / max(float(np.linalg.norm(up)), 1e-6)
    half = radius * (along + WIDTH_SHARE * along[::-1])
    half = np.minimum(half, radius)
    return np.concatenate([hips - half, 2 * half]).astype(np.float32)


def _starts(length: int, side: int) -> list[int]:
    """Offsets of windows that overlap by half and cover the length."""
    room = length - side
    count = int(np.ceil(2 * room / side)) + 1
    return [round(v) for v in np.linspace(0, room, count)]
