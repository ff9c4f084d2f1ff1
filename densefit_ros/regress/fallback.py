"""Two sources of first estimates, the second for the windows in which the first sees nobody."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..types import BodyParams, Camera, Crop, Estimate


class _Estimator(Protocol):
    name: str

    def estimate(self, crop: Crop, camera: Camera, warm: Sequence[BodyParams] = ()) -> Estimate: ...


class FallbackEstimator:
    """Keypoint detectors refuse small, blurred or hidden people; a regressor always answers."""

    def __init__(self, first: _Estimator, second: _Estimator, min_confidence: float = 0.2) -> None:
        """``second`` is asked where the confidence of ``first`` is below ``min_confidence``, and taken where it is surer."""
        self.name = f"{first.name}, else {second.name}"
        self._first, self._second, self._min_confidence = first, second, min_confidence

    def estimate(self, crop: Crop, camera: Camera, warm: Sequence[BodyParams] = ()) -> Estimate:
        """One estimate per window; ``source`` names the source of most of them.

        Rows of the second source carry no keypoints: a batch has one set, that of the first.
        """
        answer = self._first.estimate(crop, camera, warm)
        weak = np.flatnonzero(answer.confidence < self._min_confidence)
        if not len(weak):
            return answer
        part = Crop(crop.rgb[weak], crop.inside[weak], crop.image_from_crop[weak], crop.size)
        other = self._second.estimate(part, camera)
        taken = np.flatnonzero(other.confidence > answer.confidence[weak])
        if not len(taken):
            return answer
        rows = weak[taken]
        params = [answer.params.person(i) for i in range(len(answer.params))]
        for row, k in zip(rows, taken):
            params[row] = other.params.person(int(k))
        confidence = answer.confidence.copy()
        confidence[rows] = other.confidence[taken]
        keypoints = answer.keypoints
        if keypoints is not None:
            weights = keypoints.confidence.copy()
            weights[rows] = 0.0
            keypoints = dataclasses.replace(keypoints, confidence=weights)
        return Estimate(
            BodyParams.stack(params),
            confidence,
            keypoints,
            other.source if 2 * len(rows) > len(params) else answer.source,
            rot_sigma_rad=_merged(answer.rot_sigma_rad, other.rot_sigma_rad, rows, taken),
        )


def _merged(first: np.ndarray | None, second: np.ndarray | None, rows: np.ndarray, taken: np.ndarray) -> np.ndarray | None:
    if first is None or second is None:
        return None
    out = first.copy()
    out[rows] = second[taken]
    return out
