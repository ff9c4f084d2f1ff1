"""The steps of :mod:`densefit_ros.pipeline` that join the rooms: each a function of a few lines over frozen values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .config import Config
from .displace.decode import DecodeOptions
from .errors import ShapeError
from .evidence.depth import distance_ratio
from .fit.solver import Anchor
from .geometry.camera import project
from .models import Models
from .render.appearance import neutral_appearance, update_appearance
from .track import association, motion, shape
from .track import state as tracking
from .track.state import Track, TrackerState
from .types import (
    BodyParams,
    Camera,
    Correspondences,
    Crop,
    Estimate,
    FitResult,
    FitStatus,
    Frame,
    FrameResult,
    PersonResult,
    PosedBody,
    Surface,
    TrackingState,
)

NOMINAL_DT_S = 1 / 30  # the motion sigmas of FitConfig are for one frame at 30 Hz; they grow with the root of time
KEYPOINT_ROT_SIGMA_RAD = 0.35  # how far a lifted pose may be off per joint; keypoints enter the fit a second time, so loose
MIN_OVERLAP = 0.3  # a detection that overlaps a track this much is that track's person


@dataclass(frozen=True, eq=False)
class Concluded:
    """One person after the frame: what is remembered and what is published."""

    track: Track
    result: PersonResult
    index: int  # person in this frame's batch
    measured: bool


def check_frame(frame: Frame) -> None:
    """Raise ShapeError unless the image is (H,W,3) uint8 and as large as its camera says."""
    rgb, camera = frame.rgb, frame.camera
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ShapeError(f"expected an (H,W,3) uint8 image, got {rgb.shape} {rgb.dtype}")
    if rgb.shape[:2] != (camera.height, camera.width):
        raise ShapeError(
            f"the image is {rgb.shape[1]}x{rgb.shape[0]} but its camera is {camera.width}x{camera.height}: "
            "camera_info belongs to another resolution"
        )
    if frame.depth_m is not None and frame.depth_m.shape != rgb.shape[:2]:
        raise ShapeError(f"expected depth aligned to the image, {rgb.shape[:2]}, got {frame.depth_m.shape}")


def restart_if_clock_went_back(state: TrackerState, stamp_ns: int) -> TrackerState:
    """Drop all tracks when stamps do not advance; names go on counting."""
    if state.stamp_ns is None or stamp_ns > state.stamp_ns:
        return state
    return TrackerState(born=state.born)


def mesh_boxes(models: Models, tracks: Sequence[Track], camera: Camera) -> np.ndarray:
    """Boxes (P,4) px around the projected meshes of the tracks."""
    if not tracks:
        return np.zeros((0, 4), np.float32)
    posed = models.skinner.pose(BodyParams.stack([t.params for t in tracks]))
    return np.stack([box_of(project(camera, v)) for v in posed.vertices])


def box_of(uv: np.ndarray) -> np.ndarray:
    """Smallest box x, y, w, h around points (N,2) px, NaN ignored; all NaN gives zeros."""
    uv = uv[np.isfinite(uv).all(-1)]
    if not len(uv):
        return np.zeros(4, np.float32)
    low = uv.min(0)
    return np.concatenate([low, uv.max(0) - low]).astype(np.float32)


def find_newcomers(
    models: Models, state: TrackerState, frame: Frame, track_boxes: np.ndarray, boxes_xywh: np.ndarray | None
) -> tuple[np.ndarray, TrackerState]:
    """Boxes (N,4) px of people who are not tracked yet.

    Given boxes are always used; the built-in finder looks at most every ``detect.interval_s`` and only while there is
    room for another person.
    """
    config = models.config
    room = config.track.max_people - len(track_boxes)
    if boxes_xywh is not None:
        boxes = np.asarray(boxes_xywh, np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ShapeError(f"expected finite boxes (N,4) of x, y, w, h in px, got {boxes.shape}")
    elif models.finder is None or room <= 0 or not _search_is_due(state, frame.stamp_ns, config):
        return np.zeros((0, 4), np.float32), state
    else:
        state = dataclasses.replace(state, searched_ns=frame.stamp_ns)
        found = models.finder.detect(frame.rgb, enough=config.track.max_people)
        found = [d.box_xywh for d in found if d.score >= config.detect.min_score]
        boxes = np.reshape(found, (-1, 4)).astype(np.float32)
    _, free = association.assign(track_boxes, boxes, MIN_OVERLAP)
    return boxes[free[: max(room, 0)]], state


def _search_is_due(state: TrackerState, stamp_ns: int, config: Config) -> bool:
    # With nobody tracked a search is the only thing there is to do; it still keeps to half the interval, so that an
    # empty room does not cost a detector run per frame.
    interval_s = config.detect.interval_s * (1.0 if state.tracks else 0.5)
    return state.searched_ns is None or (stamp_ns - state.searched_ns) * 1e-9 >= interval_s


def first_estimate(models: Models, crop: Crop, camera: Camera, tracks: Sequence[Track]) -> Estimate:
    """One estimate per crop; tracks come first in the batch, and their predictions help sources that can use them."""
    if not len(crop.rgb):
        return Estimate(BodyParams.rest(0), np.zeros(0, np.float32))
    return models.estimator.estimate(crop, camera, warm=[t.params for t in tracks])


def admit(
    models: Models, state: TrackerState, tracks: Sequence[Track], estimate: Estimate, stamp_ns: int
) -> tuple[TrackerState, list[Track], list[int]]:
    """Start tracks for newcomers with enough confidence.  Returns the batch's tracks and the rows of it that stay."""
    everyone, kept = list(tracks), list(range(len(tracks)))
    for i in range(len(tracks), len(estimate.params)):
        if estimate.confidence[i] >= models.config.regress.min_confidence:
            belief = shape.ShapeBelief.prior(models.config.fit.betas_sigma)
            state, track = tracking.birth(state, estimate.params.person(i), belief, neutral_appearance(models.body), stamp_ns)
            everyone.append(track)
            kept.append(i)
    return state, everyone, kept


def take_crop(crop: Crop, kept: Sequence[int]) -> Crop:
    """The windows of some persons."""
    k = list(kept)
    return Crop(crop.rgb[k], crop.inside[k], crop.image_from_crop[k], crop.size)


def take_estimate(estimate: Estimate, kept: Sequence[int]) -> Estimate:
    """The estimates of some persons."""
    k = list(kept)
    keypoints = estimate.keypoints
    if keypoints is not None:
        xyz = keypoints.direction_xyz
        keypoints = dataclasses.replace(
            keypoints, uv=keypoints.uv[k], confidence=keypoints.confidence[k], direction_xyz=None if xyz is None else xyz[k]
        )
    return dataclasses.replace(
        estimate,
        params=BodyParams.stack([estimate.params.person(i) for i in k]),
        confidence=estimate.confidence[k],
        keypoints=keypoints,
        feature=None if estimate.feature is None else estimate.feature[k],
        rot_sigma_rad=None if estimate.rot_sigma_rad is None else estimate.rot_sigma_rad[k],
    )


def prediction_sigmas(tracks: Sequence[Track], config: Config, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """How far the predictions may be off: rotations (P,1) rad, translation (P,1) m; infinite in the frame of birth."""
    since_s = np.array([[(stamp_ns - t.measured_ns) * 1e-9] for t in tracks])
    growth = np.where(since_s > 0, np.sqrt(np.maximum(since_s, 0) / NOMINAL_DT_S), np.inf)
    return config.fit.prediction_rot_sigma_rad * growth, config.fit.prediction_t_sigma_m * growth


def estimate_sigmas(estimate: Estimate, config: Config) -> np.ndarray:
    """(P,24) rad: how far each joint rotation of the first estimate may be off."""
    sigma = estimate.rot_sigma_rad
    if sigma is None:
        sigma = np.full((len(estimate.params), 24), KEYPOINT_ROT_SIGMA_RAD, np.float32)
    return sigma * config.fit.estimate_sigma_scale


def fuse(tracks: Sequence[Track], estimate: Estimate, config: Config, stamp_ns: int) -> BodyParams:
    """The start of the fit: prediction and first estimate, each joint weighted by its precision.

    Shape is the track's belief; where the estimate is worthless (confidence below regress.min_confidence) the
    prediction stands alone.
    """
    predicted = BodyParams.stack([t.params for t in tracks])
    rot_sigma, t_sigma = prediction_sigmas(tracks, config, stamp_ns)
    usable = (estimate.confidence >= config.regress.min_confidence)[:, None]
    newborn = ~np.isfinite(rot_sigma)
    est2 = estimate_sigmas(estimate, config) ** 2
    pre2 = np.where(newborn, 1.0, rot_sigma) ** 2
    share = np.where(newborn, 1.0, pre2 / (pre2 + est2)) * usable
    t_est2 = ESTIMATE_T_SIGMA_M**2
    t_pre2 = np.where(newborn, 1.0, t_sigma) ** 2
    t_share = np.where(newborn, 1.0, t_pre2 / (t_pre2 + t_est2)) * usable
    start = motion.blend(predicted, estimate.params, share, t_share[:, 0])
    betas = np.stack([t.shape.mean if t.state is not TrackingState.DETECTED else t.params.betas[0] for t in tracks])
    return dataclasses.replace(start, betas=betas.astype(np.float32))


ESTIMATE_T_SIGMA_M = 0.25  # a single view leaves depth this loose at a few metres


def anchors(tracks: Sequence[Track], estimate: Estimate, config: Config, stamp_ns: int) -> list[Anchor]:
    """The priors of the fit: the track's prediction and shape belief, and the first estimate with its own precision."""
    rot_sigma, t_sigma = prediction_sigmas(tracks, config, stamp_ns)
    predicted = dataclasses.replace(
        BodyParams.stack([t.params for t in tracks]), betas=np.stack([t.shape.mean for t in tracks]).astype(np.float32)
    )
    usable = (estimate.confidence >= config.regress.min_confidence)[:, None]
    everyone = len(tracks)
    return [
        Anchor(
            params=predicted,
            rot_sigma_rad=np.broadcast_to(rot_sigma, (everyone, 24)),
            betas_sigma=np.stack([t.shape.sigma for t in tracks]),
            t_sigma_m=np.broadcast_to(t_sigma, (everyone, 3)),
        ),
        Anchor(
            params=estimate.params,
            rot_sigma_rad=np.where(usable, estimate_sigmas(estimate, config), np.inf),
            betas_sigma=np.full((everyone, 10), np.inf),
            t_sigma_m=np.where(usable, ESTIMATE_T_SIGMA_M, np.inf) * np.ones((everyone, 3)),
        ),
    ]


def scale_to_depth(
    models: Models, params: BodyParams, anchors: Sequence[Anchor], frame: Frame, crop: Crop
) -> tuple[BodyParams, list[Anchor], np.ndarray]:
    """Move everybody along their ray to where the depth image says they are; (P,) bool tells whose depth is known.

    The priors move along: they know the direction, and as long as size is a guess, nothing about the distance.
    """
    vertices = models.skinner.pose(params).vertices
    face_id, rendered_m = models.renderer.render_depth(vertices, frame.camera, crop.image_from_crop, crop.size)
    ratio = distance_ratio(frame.depth_m, face_id, rendered_m, crop.image_from_crop)
    known = np.isfinite(ratio)
    scale = np.where(known, ratio, 1.0)[:, None].astype(np.float32)

    def moved(body: BodyParams) -> BodyParams:
        return dataclasses.replace(body, t_camera_root=body.t_camera_root * scale)

    moved_params = moved(params)
    # One view's distance is a guess, a measured one is not: both anchors now stand where the depth put the start.
    return (
        moved_params,
        [dataclasses.replace(a, params=dataclasses.replace(a.params, t_camera_root=moved_params.t_camera_root)) for a in anchors],
        known,
    )


def render(models: Models, params: BodyParams, tracks: Sequence[Track], camera: Camera, crop: Crop) -> Surface:
    """Render the bodies with their own textures into their crops."""
    vertices = models.skinner.pose(params).vertices
    return models.renderer.render(vertices, [t.appearance for t in tracks], camera, crop.image_from_crop, crop.size)


def decode_options(config: Config) -> DecodeOptions:
    """The settings of the decoder."""
    d = config.displace
    return DecodeOptions(max_sigma_px=d.max_sigma_px, sigma_scale=d.sigma_scale, max_points=config.fit.max_points)


def conclude(
    models: Models,
    before: Mapping[str, Track],
    tracks: Sequence[Track],
    estimate: Estimate,
    fit: FitResult,
    posed: PosedBody,
    matches: Correspondences,
    on_scale: np.ndarray,
    frame: Frame,
) -> list[Concluded]:
    """Update each track with what the fit found, and say what is published of it."""
    config, people = models.config, []
    for i, predicted in enumerate(tracks):
        measured = bool(_is_seen(config, estimate, fit, i, models.displacer is not None))
        if measured:
            last = before.get(predicted.track_id, predicted)
            track = tracking.measured(
                last, fit.params.person(i), fit.information[i], fit.joint_covariance[i], frame.stamp_ns, config.track
            )
        else:
            track = predicted
        if tracking.is_lost(track, frame.stamp_ns, config.track):
            continue
        result = _result(models, track, i, measured, estimate, fit, posed, matches, frame)
        if on_scale[i] and measured:
            result = dataclasses.replace(result, scale_source="depth")
        people.append(Concluded(track, result, i, measured))
    return people


def _is_seen(config: Config, estimate: Estimate, fit: FitResult, i: int, dense: bool) -> bool:
    if estimate.confidence[i] < config.regress.min_confidence or fit.status[i] == FitStatus.INVALID_START:
        return False
    return not dense or fit.inlier_share[i] >= config.track.min_inliers or estimate.keypoints is not None


def _result(
    models: Models,
    track: Track,
    i: int,
    measured: bool,
    estimate: Estimate,
    fit: FitResult,
    posed: PosedBody,
    matches: Correspondences,
    frame: Frame,
) -> PersonResult:
    if measured:
        vertices, joints, covariance = posed.vertices[i], posed.joints[i], fit.joint_covariance[i]
    else:
        coasting = models.skinner.pose(track.params)
        vertices, joints, covariance = coasting.vertices[0], coasting.joints[0], track.joint_covariance
    return PersonResult(
        track_id=track.track_id,
        tracking_state=track.state,
        status=FitStatus(int(fit.status[i])),
        params=track.params,
        first_estimate=estimate.params.person(i),
        source=estimate.source,
        vertices=np.array(vertices),
        joints=np.array(joints),
        joint_covariance=np.array(covariance),
        box_xywh=box_of(project(frame.camera, vertices)),
        fit_error_px=_median_residual_px(models, posed, matches, i, frame.camera),
        iterations=int(fit.accepted[i]),
        confidence=float(estimate.confidence[i]) if measured else 0.0,
        scale_source="prior",
    )


def _median_residual_px(models: Models, posed: PosedBody, matches: Correspondences, i: int, camera: Camera) -> float:
    mine = matches.person == i
    if not mine.any():
        return float("nan")
    corners = posed.vertices[i][models.body.faces[matches.face[mine]]]
    uv = project(camera, np.einsum("nk,nkc->nc", matches.bary[mine], corners))
    return float(np.nanmedian(np.linalg.norm(uv - matches.target_uv[mine], axis=-1)))


def learn_appearance(models: Models, people: list[Concluded], crop: Crop, frame: Frame) -> list[Concluded]:
    """Fold this image into the textures of the people that were measured well in it."""
    if not models.config.track.appearance or models.displacer is None:
        return people
    well = [p for p in people if p.measured and p.result.status in (FitStatus.CONVERGED, FitStatus.MAX_ITERATIONS)]
    if not well:
        return people
    k = [p.index for p in well]
    vertices = np.stack([p.result.vertices for p in well])
    # Visibility comes from the refined body, not from the start that was rendered for the network.
    _, depth_m = models.renderer.render_depth(vertices, frame.camera, crop.image_from_crop[k], crop.size)
    learnt: dict[int, Any] = {}
    for row, p in enumerate(well):
        learnt[p.index] = update_appearance(
            models.body,
            p.track.appearance,
            vertices[row],
            crop.rgb[p.index],
            crop.image_from_crop[p.index],
            frame.camera,
            depth_m[row],
            crop.size,
        )
    return [
        dataclasses.replace(p, track=dataclasses.replace(p.track, appearance=learnt.get(p.index, p.track.appearance)))
        for p in people
    ]


def finish(
    state: TrackerState, tracks: Sequence[Track], frame: Frame, stage_ms: dict[str, float], results: Sequence[PersonResult]
) -> tuple[TrackerState, FrameResult]:
    """The next state and the answer."""
    state = dataclasses.replace(state, tracks=tuple(tracks), stamp_ns=frame.stamp_ns)
    return state, FrameResult(frame.stamp_ns, frame.camera, tuple(results), stage_ms)
