"""The steps of a frame in one go on the device, for as long as there is nothing to decide between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..models import Models
from ..track.state import Track, TrackerState
from ..types import Correspondences, FitStatus, Frame, Measured
from . import conclude, find, identify, priors


def measure(models: Models, state: TrackerState, tracks: Sequence[Track], frame: Frame) -> Measured | None:
    """What the frame says of ``tracks``, predicted to its stamp; None when the single steps must be taken.

    That is when people may come in, when there is evidence besides the image, and, which is known afterwards only, when
    estimates of people who overlap change places or one is not finite: then the device's work is thrown away.
    """
    config, evidence = models.config, (frame.depth_m, frame.keypoints, frame.iuv, frame.ground)
    if not tracks or config.displace.passes > 1 or any(e is not None for e in evidence):
        return None
    if find.may_search(models, state, len(tracks), frame.stamp_ns):
        return None
    measured = models.device_frame.measure(frame, tracks, config)
    if measured is None:
        return None
    crop, estimate = measured.crop, measured.estimate
    if find.without_broken(estimate, tracks) is not estimate:
        return None
    if identify.settle(models, tracks, crop, estimate, frame)[1] is not estimate:
        return None
    if (measured.fit.status < FitStatus.REJECTED).all():
        return measured
    anchors = priors.anchors(tracks, estimate, config, frame.stamp_ns)
    fit = conclude.without_rejected(
        models, measured.fit, measured.start, frame.camera, Correspondences.empty(),
        keypoints=estimate.keypoints, depth=None, anchors=anchors,
        pose_gaussian=priors.pose_gaussian(models, measured.start, tracks, estimate, frame.stamp_ns),
    )  # fmt: skip
    return dataclasses.replace(measured, fit=fit, posed=models.skinner.pose(fit.params))
