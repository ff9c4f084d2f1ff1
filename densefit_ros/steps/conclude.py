"""What a fitted frame means: for the tracks, for their textures, and for those who listen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Config
from ..geometry.camera import mesh_box, project
from ..models import Models
from ..render.appearance import update_appearance
from ..track import shape
from ..track import state as tracking
from ..track.state import Track, TrackerState
from ..types import (
    BodyParams,
    Camera,
    Correspondences,
    Crop,
    Estimate,
    FitResult,
    FitStatus,
    Frame,
    FrameResult,
    Measured,
    PersonResult,
    PosedBody,
    TrackingState,
)
from . import priors

# How fast somebody unseen leaves the prediction, per axis: of held-out people who move, the errors of joints grew by 41, 74 and
# 137 mm within 100, 200 and 400 ms.  The motion sigmas of the fit, which are wide on purpose, would make 104, 147 and 208 of it.
DRIFT_M_S = 0.35
LEARN_EVERY_NS = 90_000_000  # every third image at 30 Hz


@dataclass(frozen=True, eq=False)
class Concluded:
    """One person after the frame: what is remembered and what is published."""

    track: Track
    result: PersonResult
    index: int  # person in this frame's batch
    measured: bool


def without_rejected(
    models: Models, fit: FitResult, start: BodyParams, camera: Camera, mapped: Correspondences, **sober: Any
) -> FitResult:
    """``fit``, with those whom the guard rejected solved again without displacements, on keypoints and DensePose's map.

    Keeping their start instead throws away keypoints and priors with the displacements: on the built-in sequence with lifted
    keypoints that made 79 mm of vertex error 92.
    """
    rejected = fit.status == FitStatus.REJECTED
    if sober["keypoints"] is None:  # who has no pixels in the map either would be solved from nothing
        rejected = rejected & (np.bincount(mapped.person, minlength=len(rejected)) > 0)
    if not rejected.any():
        return fit
    return _rows_where(rejected, models.fitter.solve(start, camera, mapped, **sober), fit)


def with_former(fit: FitResult, former: FitResult) -> FitResult:
    """``fit`` of a later pass, with those whom the guard rejected in it as the pass before left them."""
    rejected = fit.status == FitStatus.REJECTED
    return _rows_where(rejected, former, fit) if rejected.any() else fit


def _rows_where(rejected: np.ndarray, again: FitResult, fit: FitResult) -> FitResult:
    names = [f.name for f in dataclasses.fields(FitResult) if f.name != "params"]
    rows = {n: np.where(_like(rejected, getattr(fit, n)), getattr(again, n), getattr(fit, n)) for n in names}
    params = BodyParams.stack([(again if r else fit).params.person(i) for i, r in enumerate(rejected)])
    return FitResult(params=params, **rows)


def _like(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    return mask.reshape((-1,) + (1,) * (values.ndim - 1))


def people(
    models: Models, before: Mapping[str, Track], tracks: Sequence[Track], measured: Measured, frame: Frame
) -> list[Concluded]:
    """Update each track with what the fit found, and say what is published of it."""
    config, fit, people = models.config, measured.fit, []
    held = priors.translation_precision(tracks, measured.estimate, config, frame.stamp_ns)
    for i, predicted in enumerate(tracks):
        newborn = predicted.state is TrackingState.DETECTED
        seen = bool(_is_seen(config, measured.estimate, fit, i, models.displacer is not None, newborn))
        if seen:
            last = before.get(predicted.track_id, predicted)
            information = fit.information[i]
            if not measured.on_scale[i]:
                information = shape.without_assumed_distance(information, held[i])
            track = tracking.measured(
                last, fit.params.person(i), information, fit.joint_covariance[i], frame.stamp_ns, config.track
            )
        elif newborn:
            continue  # found, and then not seen in this very image
        else:
            track = predicted
        if not tracking.is_lost(track, frame.stamp_ns, config.track):
            people.append(Concluded(track, _result(models, track, i, seen, measured, frame), i, seen))
    return people


def _is_seen(config: Config, estimate: Estimate, fit: FitResult, i: int, dense: bool, newborn: bool) -> bool:
    needed = config.regress.new_confidence if newborn else config.regress.min_confidence
    if estimate.confidence[i] < needed or fit.status[i] == FitStatus.INVALID_START:
        return False
    # A handful of matches agrees with whatever body is bent to them.
    agrees = dense and fit.status[i] != FitStatus.NO_EVIDENCE and fit.inlier_share[i] >= config.track.min_inliers
    source = estimate.source_of(i)
    if source == "track":
        return agrees  # nothing but the displacements has looked at this image
    return agrees or not dense or source == "external" or estimate.keypoints is not None


def _result(models: Models, track: Track, i: int, seen: bool, measured: Measured, frame: Frame) -> PersonResult:
    estimate, fit, posed = measured.estimate, measured.fit, measured.posed
    if seen:
        vertices, joints, covariance = posed.vertices[i], posed.joints[i], fit.joint_covariance[i]
    else:
        coasting = models.skinner.pose(track.params)
        vertices, joints = coasting.vertices[0], coasting.joints[0]
        drift_m = DRIFT_M_S * (frame.stamp_ns - track.measured_ns) * 1e-9
        covariance = track.joint_covariance + drift_m**2 * np.eye(3, dtype=np.float32)
    return PersonResult(
        track_id=track.track_id,
        tracking_state=track.state,
        status=FitStatus(int(fit.status[i])),
        params=track.params,
        first_estimate=estimate.params.person(i),
        source=estimate.source_of(i),
        vertices=np.array(vertices),
        joints=np.array(joints),
        velocity_m_s=track.velocity.t_m_s,
        joint_covariance=np.array(covariance),
        box_xywh=mesh_box(frame.camera, vertices),
        fit_error_px=_median_residual_px(models, posed, measured.matches, i, frame.camera),
        iterations=int(fit.accepted[i]),
        confidence=float(estimate.confidence[i]) if seen else 0.0,
        scale_source=_scale_source(measured, i) if seen else "prior",
    )


def _scale_source(measured: Measured, i: int) -> str:
    if measured.on_scale[i]:
        return "depth"
    return "ground" if measured.on_floor[i] else "prior"


def _median_residual_px(models: Models, posed: PosedBody, matches: Correspondences, i: int, camera: Camera) -> float:
    mine = matches.person == i
    if not mine.any():
        return float("nan")
    corners = posed.vertices[i][models.body.faces[matches.face[mine]]]
    uv = project(camera, np.einsum("nk,nkc->nc", matches.bary[mine], corners))
    return float(np.nanmedian(np.linalg.norm(uv - matches.target_uv[mine], axis=-1)))


def learn_appearance(models: Models, people: list[Concluded], crop: Crop, frame: Frame) -> list[Concluded]:
    """Fold this image into one person's texture: of those measured well in it, who has waited longest, LEARN_EVERY_NS or more.

    Neighbouring images show the same, and learning costs as much as the fit: with three people at ten images a second, all
    learnt from every image, this stage took 17 of 91 ms, and takes 9 of 80 in turn.  Newborn tracks do not wait: whether
    they are somebody who was here before is decided in this frame, by their colours too.
    """
    if not models.config.track.appearance or models.displacer is None:
        return people
    due = [
        p
        for p in people
        if p.measured
        and p.result.status in (FitStatus.CONVERGED, FitStatus.MAX_ITERATIONS)
        and (p.track.learnt_ns is None or frame.stamp_ns - p.track.learnt_ns >= LEARN_EVERY_NS)
    ]
    if not due:
        return people
    newborn = [p for p in due if p.track.learnt_ns is None]
    now = newborn or [min(due, key=lambda p: p.track.learnt_ns)]
    return [_learnt(models, p, crop, frame) if p in now else p for p in people]


def _learnt(models: Models, one: Concluded, crop: Crop, frame: Frame) -> Concluded:
    affine = crop.image_from_crop[one.index]
    vertices = one.result.vertices
    # Visibility comes from the refined body, not from the start that was rendered for the network.
    _, depth_m = models.renderer.render_depth(vertices[None], frame.camera, affine[None], crop.size)
    appearance = update_appearance(
        models.body, one.track.appearance, vertices, crop.rgb[one.index], affine, frame.camera, depth_m[0], crop.size
    )
    track = dataclasses.replace(one.track, appearance=appearance, learnt_ns=frame.stamp_ns)
    return dataclasses.replace(one, track=track)


def finish(
    config: Config,
    state: TrackerState,
    tracks: Sequence[Track],
    frame: Frame,
    stage_ms: dict[str, float],
    results: Sequence[PersonResult],
) -> tuple[TrackerState, FrameResult]:
    """The next state and the answer."""
    lost = tracking.missing(state, {t.track_id for t in tracks}, frame.stamp_ns, config.track)
    state = dataclasses.replace(state, tracks=tuple(tracks), stamp_ns=frame.stamp_ns, lost=lost)
    return state, FrameResult(
        frame.stamp_ns, frame.camera, tuple(results), stage_ms, camera_motion_known=frame.T_world_camera is not None
    )
