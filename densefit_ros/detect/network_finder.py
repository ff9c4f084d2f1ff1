"""People by the built-in network: one pass over the whole picture, and over its parts while too few people were found."""

from __future__ import annotations

import math

import numpy as np

from ..runtime.protocol import Runtime, check_contract
from ..types import Detection
from .contract import FINDER_CONTRACT
from .peaks import decode_peaks, letterbox
from .protocol import check_image, suppress

# The network's centre logits are those of a focal loss: on held-out scenes the share of right finds passes one half at
# THRESHOLD_LOGIT and rises as a logistic of this slope (fitted to the weights before finder7, which has -0.44 and 3.1).
THRESHOLD_LOGIT, SLOPE = -0.4, 2.84
MIN_SCORE = 0.1
PART_SHARE = 0.6  # of the picture's width and height: four parts that overlap by a third
PART_TRUST = 5 / 6  # parts show fragments of everything, magnified: a score of theirs is worth this much of the whole picture's
SURE_SCORE = 0.5


class NetworkDetector:
    """Stateless: every image is searched afresh.

    Boxes hold the visible part of a person.  In the whole picture people from an eighth of its height upwards are found,
    in its parts from a twelfth.
    """

    def __init__(self, runtime: Runtime, parts: bool = True) -> None:
        """``parts``: also search parts of the picture when needed.  Raises AssetError when the file is another network."""
        check_contract(runtime, FINDER_CONTRACT)
        self.runtime = runtime
        self.name = f"network ({runtime.name})"
        self._parts = parts

    def detect(self, rgb: np.ndarray, enough: int = 1) -> list[Detection]:
        """See :class:`densefit_ros.detect.protocol.Detector`; one pass, and four more while fewer than ``enough`` are sure."""
        check_image(rgb)
        height, width = rgb.shape[:2]
        found = suppress(self._search(rgb, (0, 0, width, height)))
        if not self._parts or sum(d.score >= SURE_SCORE for d in found) >= enough:
            return found
        w, h = math.ceil(PART_SHARE * width), math.ceil(PART_SHARE * height)
        for y in (0, height - h):
            for x in (0, width - w):
                part = self._search(rgb, (x, y, w, h))
                found += [Detection(d.box_xywh, PART_TRUST * d.score) for d in part]
        return suppress(found)

    def _search(self, rgb: np.ndarray, part_xywh: tuple[int, int, int, int]) -> list[Detection]:
        x, y, w, h = part_xywh
        window, scale, corner = letterbox(rgb[y : y + h, x : x + w])
        out = self.runtime({"image": window[None]})
        boxes, logits = decode_peaks(out["heat"][0], out["box"][0], logit_of(MIN_SCORE))
        boxes[:, :2] -= corner
        boxes = boxes / scale + np.array([x, y, 0, 0], np.float32)
        cut = _cut_by(boxes, part_xywh, rgb.shape)
        return [Detection(b, score_of(float(s))) for b, s, c in zip(boxes, logits, cut) if not c]


def _cut_by(boxes: np.ndarray, part_xywh: tuple[int, int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    """(N,) bool: the box ends at a border of the part that is none of the picture: somebody else's half."""
    x, y, w, h = part_xywh
    near_u, near_v = 0.03 * w, 0.03 * h
    left = (x > 0) & (boxes[:, 0] < x + near_u)
    top = (y > 0) & (boxes[:, 1] < y + near_v)
    right = (x + w < shape[1]) & (boxes[:, 0] + boxes[:, 2] > x + w - near_u)
    bottom = (y + h < shape[0]) & (boxes[:, 1] + boxes[:, 3] > y + h - near_v)
    return left | top | right | bottom


def score_of(logit: float) -> float:
    """Share of right finds among those with this logit, in [0,1]."""
    return 1.0 / (1.0 + math.exp(-min(max(SLOPE * (logit - THRESHOLD_LOGIT), -60.0), 60.0)))


def logit_of(score: float) -> float:
    """The logit with this score, for scores in (0, 1)."""
    return THRESHOLD_LOGIT + math.log(score / (1.0 - score)) / SLOPE
