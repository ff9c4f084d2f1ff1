"""What the frame on the device answers."""

from __future__ import annotations

import dataclasses

from ..types import BodyParams, Correspondences, Crop, Estimate, FitResult, PosedBody


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What the steps of :mod:`densefit_ros.pipeline` would have found for the same tracks."""

    crop: Crop
    estimate: Estimate
    start: BodyParams
    matches: Correspondences
    fit: FitResult
    posed: PosedBody
