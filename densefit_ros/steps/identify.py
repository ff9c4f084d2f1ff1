"""Which estimate belongs to which track where people overlap, and who of the newcomers has been here before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..body.model import joint_transforms
from ..geometry.camera import mesh_box
from ..models import Models
from ..render.appearance import neutral_appearance, update_appearance
from ..render.look import seen_colors
from ..track import association, identity
from ..track import state as tracking
from ..track.identity import Look, Traits
from ..track.state import Track, TrackerState
from ..types import BodyParams, Crop, Estimate, Frame, TrackingState
from .conclude import Concluded
from .find import take_crop, take_estimate

# Where an estimate is somebody's own, and not what was seen in a window: two that overlap are two people.
NAMED = ("external", "keypoints", "track")
OVERLAP = 0.2  # estimates whose boxes overlap less are surely of different people, each in the own window


def settle(models: Models, tracks: Sequence[Track], crop: Crop, estimate: Estimate, frame: Frame) -> tuple[Crop, Estimate]:
    """Windows and estimates in the order of the tracks whose person they show.

    Where people overlap in the image an estimate may show the neighbour.  Position, shape and colours then decide whose
    it is, and a track whose person is hidden is left without (confidence 0): it coasts.
    """
    count = len(tracks)
    seen = np.flatnonzero(estimate.confidence[:count] >= models.config.regress.min_confidence)
    if len(seen) < 2:
        return crop, estimate
    _, joints, _ = joint_transforms(models.body, estimate.params)
    boxes = np.stack([mesh_box(frame.camera, joints[i]) for i in seen])
    overlap = association.iou(boxes, boxes)
    crowded = np.flatnonzero((overlap > OVERLAP).sum(1) > 1)
    if not len(crowded):
        return crop, estimate
    rows = seen[crowded]
    known = [_traits(models, tracks[i], frame.stamp_ns) for i in rows]
    found = _traits_of_estimates(models, crop, estimate, joints, rows, frame)
    named = np.array([estimate.source_of(i) in NAMED for i in rows])
    shared = np.where(named[:, None] & named & ~np.eye(len(rows), dtype=bool), 0.0, overlap[np.ix_(crowded, crowded)])
    groups = identity.people_in(shared, estimate.confidence[rows] + named)
    order, confidence = np.arange(len(estimate.params)), estimate.confidence.copy()
    for i, own in enumerate(identity.own_rows(known, found, groups)):
        if own is None:
            confidence[rows[i]] = 0.0
        else:
            order[rows[i]] = rows[own]
            confidence[rows[i]] = estimate.confidence[rows[own]]
    if np.array_equal(order, np.arange(len(order))) and np.array_equal(confidence, estimate.confidence):
        return crop, estimate  # itself: what was measured from it in one go on the device stands
    estimate = dataclasses.replace(take_estimate(estimate, order), confidence=confidence)
    return take_crop(crop, order), estimate


def recognise(models: Models, state: TrackerState, people: Sequence[Concluded], stamp_ns: int) -> list[Concluded]:
    """Newborn tracks that are somebody lost a moment ago, or coasting elsewhere, take the old name back."""
    newborn = [p for p in people if p.track.state is TrackingState.DETECTED]
    if not newborn or models.config.track.reidentify_s <= 0:
        return list(people)
    coasting = [p for p in people if not p.measured]
    present = {p.track.track_id for p in people}  # without the tracks that end with this very frame
    missing = [*tracking.missing(state, present, stamp_ns, models.config.track), *(p.track for p in coasting)]
    if not missing:
        return list(people)
    known = [_traits(models, tracking.predicted(t, stamp_ns), stamp_ns) for t in missing]
    pairs = identity.match(known, [_traits(models, p.track, stamp_ns) for p in newborn])
    back = {newborn[j].track.track_id: missing[i] for i, j in pairs}
    replaced = {t.track_id for t in back.values()}
    out = []
    for p in people:
        if p.track.track_id in replaced:
            continue  # the coasting ghost of somebody who was found elsewhere
        if p.track.track_id in back:
            track = tracking.returned(p.track, back[p.track.track_id])
            p = dataclasses.replace(p, track=track, result=dataclasses.replace(p.result, track_id=track.track_id))
        out.append(p)
    return out


def _traits(models: Models, track: Track, stamp_ns: int) -> Traits:
    return Traits(
        _pelvis(models, track.params),
        track.shape.mean,
        track.shape.sigma,
        Look(*seen_colors(models.body, track.appearance)) if models.config.track.appearance else None,
        max(stamp_ns - track.measured_ns, 0) * 1e-9,
    )


def _traits_of_estimates(
    models: Models, crop: Crop, estimate: Estimate, joints: np.ndarray, rows: np.ndarray, frame: Frame
) -> list[Traits]:
    """Traits of some estimates; their colours are those of the image where the estimated bodies cover it."""
    people = estimate.params.rows(rows)
    looks: list[Look | None] = [None] * len(rows)
    if models.config.track.appearance:
        vertices, windows = np.array(models.skinner.pose(people).vertices), crop.image_from_crop[rows]
        _, depth_m = models.renderer.render_depth(vertices, frame.camera, windows, crop.size)
        fresh = neutral_appearance(models.body)
        for k, i in enumerate(rows):
            seen = update_appearance(
                models.body, fresh, vertices[k], crop.rgb[i], windows[k], frame.camera, depth_m[k], crop.size
            )
            looks[k] = Look(*seen_colors(models.body, seen))
    sigma = np.full(people.betas.shape[1], identity.ESTIMATE_BETAS_SIGMA)
    return [Traits(joints[i, 0], people.betas[k], sigma, looks[k]) for k, i in enumerate(rows)]


def _pelvis(models: Models, params: BodyParams) -> np.ndarray:
    return joint_transforms(models.body, params)[1][0, 0]
