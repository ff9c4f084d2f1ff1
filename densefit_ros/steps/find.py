"""Who is in the image: tracks moved on to it, newcomers, and which of them are people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ..body.joints import Landmarks
from ..config import Config, TrackConfig
from ..errors import ShapeError
from ..evidence.keypoints import boxes_of_keypoints, rows_of
from ..geometry import crop as crops
from ..geometry.camera import mesh_box
from ..models import FirstEstimator, Models
from ..regress.mediapipe_keypoints import KeypointSource
from ..render.appearance import neutral_appearance
from ..track import association, shape
from ..track import state as tracking
from ..track.state import Track, TrackerState
from ..types import (
    NUM_JOINTS,
    BodyParams,
    Camera,
    Crop,
    Estimate,
    Frame,
    Keypoints,
)

SPARE = 2  # boxes looked at beyond the people there is room for: not every box is a person
EVEN_SCORE = 0.5  # as good as a coin: what a finder's word is worth where nobody looks again
TWIN_OVERLAP = 0.9  # two given boxes that overlap more than this are one person's
LONGER = 0.35  # share of its height by which a newcomer's box is looked at again (docs/DECISIONS.md)
MIN_OVERLAP = 0.3  # a detection that overlaps a track this much is that track's person


def check_frame(frame: Frame, landmarks: Mapping[str, Landmarks]) -> None:
    """Raise ShapeError unless the image is (H,W,3) uint8, as large as its camera says, and what comes with it fits to it.

    ``landmarks``: the body's keypoint sets by name.
    """
    rgb, camera = frame.rgb, frame.camera
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ShapeError(f"expected an (H,W,3) uint8 image, got {rgb.shape} {rgb.dtype}")
    if rgb.shape[:2] != (camera.height, camera.width):
        raise ShapeError(
            f"the image is {rgb.shape[1]}x{rgb.shape[0]} but its camera is {camera.width}x{camera.height}: "
            "camera_info belongs to another resolution"
        )
    k = np.array([camera.fx, camera.fy, camera.cx, camera.cy], float)
    if not np.isfinite(k).all() or k[:2].min() <= 0:
        raise ShapeError(f"expected a camera with positive focal lengths, got fx, fy, cx, cy = {k.tolist()}: is it calibrated?")
    if frame.depth_m is not None and (frame.depth_m.shape != rgb.shape[:2] or frame.depth_m.dtype.kind != "f"):
        got = f"{frame.depth_m.shape} {frame.depth_m.dtype}"
        raise ShapeError(f"expected depth aligned to the image, {rgb.shape[:2]}, in m as floats, got {got} (millimetres?)")
    T = frame.T_world_camera
    if T is not None and (
        np.shape(T) != (4, 4)
        or not np.isfinite(T).all()
        or np.abs(T[:3, :3] @ T[:3, :3].T - np.eye(3)).max() > 1e-3
        or np.linalg.det(T[:3, :3]) < 0
        or np.abs(T[3] - [0, 0, 0, 1]).max() > 1e-6
    ):
        raise ShapeError(f"expected T_world_camera (4,4) with a rotation, got {np.array2string(np.asarray(T), precision=3)}")
    g = frame.ground
    if g is not None and (np.shape(g) != (4,) or not np.isfinite(g).all() or abs(np.linalg.norm(g[:3]) - 1) > 1e-3 or g[3] <= 0):
        got = np.array2string(np.asarray(g), precision=3)
        raise ShapeError(f"expected ground (4,): a unit vector that points up and the camera's height above the floor, got {got}")
    k = frame.keypoints
    if k is not None:
        if k.set_name not in landmarks:
            raise ShapeError(f"expected keypoints of one of the sets {sorted(landmarks)}, got {k.set_name!r}")
        count, shapes = len(landmarks[k.set_name].names), (np.shape(k.uv), np.shape(k.confidence))
        if shapes != ((len(k.uv), count, 2), (len(k.uv), count)):
            raise ShapeError(f"expected {k.set_name} keypoints (P,{count},2) and confidence (P,{count}), got {shapes}")
        if k.direction_xyz is not None and np.shape(k.direction_xyz) != (len(k.uv), count, 3):
            raise ShapeError(
                f"expected direction_xyz ({len(k.uv)},{count},3) beside the keypoints, got {np.shape(k.direction_xyz)}"
            )
    if frame.iuv is not None and (frame.iuv.shape != rgb.shape or frame.iuv.dtype != np.uint8):
        raise ShapeError(f"expected a DensePose map {rgb.shape} uint8 of this image, got {frame.iuv.shape} {frame.iuv.dtype}")


SLOWEST_S = 10.0  # between images of a stream: whoever is measured in each of them is tracked


def still_valid(state: TrackerState, stamp_ns: int, config: TrackConfig) -> TrackerState:
    """Without tracks when stamps do not advance, and without those whose names have run out; names go on counting.

    A stream that paused for minutes shows somebody else in the same place: a name outlasts track.lost_after_s and
    track.reidentify_s, or SLOWEST_S where that is longer, not more.
    """
    if state.stamp_ns is not None and stamp_ns <= state.stamp_ns:
        return TrackerState(born=state.born)
    window_s = max(config.lost_after_s + config.reidentify_s, SLOWEST_S)
    known = tuple(t for t in state.tracks if (stamp_ns - t.measured_ns) * 1e-9 <= window_s)
    return state if len(known) == len(state.tracks) else dataclasses.replace(state, tracks=known)


def mesh_boxes(models: Models, tracks: Sequence[Track], camera: Camera) -> np.ndarray:
    """Boxes (P,4) px around the projected meshes of the tracks."""
    if not tracks:
        return np.zeros((0, 4), np.float32)
    outlines = models.skinner.outline(BodyParams.stack([t.params for t in tracks]))
    return np.stack([mesh_box(camera, v) for v in outlines])


def newcomers(
    models: Models, state: TrackerState, frame: Frame, track_boxes: np.ndarray, boxes_xywh: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, TrackerState]:
    """Boxes (N,4) px of people who are not tracked yet, and (N,) in [0,1]: how sure it is that they are people.

    Given boxes, surest first, and given keypoints are always used; the built-in finder looks at most every
    ``detect.interval_s`` and only while there is room for another person.  SPARE more boxes than there is room for are looked at.
    """
    config = models.config
    room = config.track.max_people - len(track_boxes)
    if boxes_xywh is None and frame.keypoints is not None:
        surest = np.argsort(-frame.keypoints.confidence.mean(1), kind="stable")
        boxes_xywh = boxes_of_keypoints(rows_of(frame.keypoints, surest))
    if boxes_xywh is not None:
        boxes = without_twins(checked_boxes(boxes_xywh))
        scores = np.ones(len(boxes))
    elif not may_search(models, state, len(track_boxes), frame.stamp_ns):
        return np.zeros((0, 4), np.float32), np.zeros(0), state
    else:
        state = dataclasses.replace(state, searched_ns=frame.stamp_ns)
        found = models.finder.detect(frame.rgb, enough=config.track.max_people)
        found = [d for d in found if d.score >= config.detect.min_score]
        boxes = np.reshape([d.box_xywh for d in found], (-1, 4)).astype(np.float32)
        scores = np.array([d.score for d in found])
    seen = visible(boxes, frame.camera)
    _, free = association.assign(visible(track_boxes, frame.camera), seen, MIN_OVERLAP)
    free = [i for i in free if seen[i, 2:].min() > 0][: room + SPARE if room > 0 else 0]
    return boxes[free], scores[free], state


def settled(models: Models, frame: Frame, boxes: np.ndarray, known: int, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N,4) px, those behind the first ``known`` moved to the body that the regressor sees in them.

    Finders' boxes are rough, and the networks know people in the middle of tight windows.  Some end at the knees, so what is
    below them is looked at as well.  A box stays where it is if the regressor sees nobody in it, or somebody elsewhere, or
    somebody who has a box; if its score (N - known,) is below ``detect.sure_score``, it goes.  Where the regressor is not
    asked, boxes stay whose score is at least EVEN_SCORE.
    Returns those that stay, as they were and as they are now.  docs/DECISIONS.md has the measurements.
    """
    config, camera, source = models.config, frame.camera, models.estimator
    lifted = frame.keypoints is not None or models.keypoint_source is not None
    alone = lifted and not config.regress.keypoint_prior
    asked = len(boxes) > known and config.regress.recrop and not alone and source.margin is None
    sure = scores >= (config.detect.sure_score if asked else EVEN_SCORE)
    around, stays = boxes.copy(), np.concatenate([np.ones(known, bool), sure])
    if asked:
        seen = _surer_looks(models, frame, boxes[known:])
        # A run that answers whatever has a box (new_confidence 0) still moves boxes only to bodies that are seen.
        seeing = max(config.regress.new_confidence, config.regress.min_confidence)
        needed = np.where(sure, seeing, config.regress.sure_confidence)
        for i in np.flatnonzero(seen.confidence >= needed):
            box = mesh_box(camera, models.skinner.outline(seen.params.person(i))[0])  # may be more than we track
            two, all_of_them = visible([box, around[known + i]], camera), visible(around, camera)
            shared, others = association.iou(two, all_of_them), np.arange(len(boxes)) != known + i
            crowd = shared[:, others & stays].max(1, initial=0.0)
            if shared[0, known + i] >= MIN_OVERLAP and crowd[0] <= max(crowd[1], MIN_OVERLAP):
                around[known + i], stays[known + i] = box, True
    return boxes[stays], around[stays]


def _surer_looks(models: Models, frame: Frame, boxes: np.ndarray) -> Estimate:
    """What the regressor sees in each box (N,4) px, or in one longer by LONGER if it knows better there where the joints are."""
    config, source = models.config, models.estimator
    longer = boxes * np.float32([1, 1, 1, 1 + LONGER])
    squares = np.stack([crops.square_around(b, config.render.crop_margin) for b in np.concatenate([boxes, longer])])
    seen = source.estimate(crops.extract(frame.rgb, squares, source.size_px), frame.camera)
    chosen = np.arange(len(boxes))
    if seen.uv_sigma is not None:
        sigma_px = np.where(seen.confidence >= config.regress.new_confidence, _joint_sigma(seen) * squares[:, 2], np.inf)
        chosen += len(boxes) * (sigma_px[len(boxes) :] < sigma_px[: len(boxes)])
    return take_estimate(seen, chosen)


def without_twins(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N,4) px without those that lie on an earlier one: twins would be two people for good."""
    lies_on = np.triu(association.iou(boxes, boxes) > TWIN_OVERLAP, 1)
    return boxes[~lies_on.any(0)]


def checked_boxes(boxes_xywh: np.ndarray) -> np.ndarray:
    """Boxes (N,4) px as float32.  Raises ShapeError."""
    boxes = np.asarray(boxes_xywh, np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ShapeError(f"expected finite boxes (N,4) of x, y, w, h in px, got {boxes.shape}")
    return boxes


def visible(boxes_xywh: np.ndarray, camera: Camera) -> np.ndarray:
    """The part of boxes (N,4) px that lies in the image; empty ones where nothing does.

    Meshes reach beyond the border and finders' boxes do not: of somebody at arm's length they would not overlap.
    """
    boxes = np.reshape(boxes_xywh, (-1, 4))
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], [camera.width, camera.height])
    return np.concatenate([low, np.maximum(high - low, 0)], 1).astype(np.float32)


def may_search(models: Models, state: TrackerState, tracked: int, stamp_ns: int) -> bool:
    """Whether the built-in finder looks at the image of ``stamp_ns`` while ``tracked`` people are."""
    room = models.config.track.max_people - tracked
    return models.finder is not None and room > 0 and _search_is_due(state, stamp_ns, models.config)


def _search_is_due(state: TrackerState, stamp_ns: int, config: Config) -> bool:
    # With nobody tracked a search is the only thing there is to do; it still keeps to half the interval, so that an
    # empty room does not cost a detector run per frame.
    interval_s = config.detect.interval_s * (1.0 if state.tracks else 0.5)
    return state.searched_ns is None or (stamp_ns - state.searched_ns) * 1e-9 >= interval_s


def first_estimate(
    models: Models, crop: Crop, boxes: np.ndarray, frame: Frame, tracks: Sequence[Track], keypoints: Keypoints | None
) -> Estimate:
    """One estimate per crop; tracks come first in the batch, and their predictions help sources that can use them.

    ``boxes`` (P,4) px are the tracks' and the finder's: sources with windows of their own have these cut around them, while the
    crops may lie closer (:func:`settled`).  ``keypoints``, given ones in the order of the crops, or those of the models' own
    source are lifted, from what the estimator says of the same people.
    """
    if not len(crop.rgb):
        return Estimate(BodyParams.rest(0), np.zeros(0, np.float32))
    warm, camera, config, name = [t.params for t in tracks], frame.camera, models.config, "keypoints"

    def seen_by(source: FirstEstimator | KeypointSource) -> Crop:
        return windows(source, crop, boxes, frame.rgb, config.render.crop_margin)

    if keypoints is None and models.keypoint_source is not None:
        keypoints, name = models.keypoint_source.keypoints(seen_by(models.keypoint_source), camera), "mediapipe"
    if keypoints is not None and not config.regress.keypoint_prior:
        return models.lifting.estimate(keypoints, crop, camera, warm, name)
    estimate = models.estimator.estimate(seen_by(models.estimator), camera, warm=warm)
    if keypoints is None:
        return estimate
    # Lifting begins with all bodies at once, so a broken one would be everybody's.
    return models.lifting.estimate(keypoints, crop, camera, warm, name, without_broken(estimate, tracks))


def without_broken(estimate: Estimate, tracks: Sequence[Track]) -> Estimate:
    """``estimate`` with who is not finite in it taken for not seen: half precision overflows, and one would cost all the frame.

    Tracks come first; theirs is then their prediction.
    """
    p, count = estimate.params, len(estimate.confidence)
    finite = np.isfinite(np.concatenate([p.betas, p.root_rotvec, p.joint_rotvec.reshape(count, 69), p.t_camera_root], 1)).all(1)
    sigmas = [s for s in (estimate.rot_sigma_rad, estimate.uv_sigma) if s is not None]  # infinite ones say nothing, and may
    fine = finite & np.isfinite(estimate.confidence) & ~np.any([np.isnan(s).any(1) for s in sigmas], axis=0)
    if fine.all():
        return estimate
    instead = [t.params for t in tracks] + [BodyParams.rest(1)] * (count - len(tracks))
    others = {n: _zero_where(~fine, getattr(estimate, n)) for n in ("confidence", "feature", "uv_sigma")}
    keypoints = estimate.keypoints
    if keypoints is not None:
        keypoints = dataclasses.replace(
            keypoints, uv=_zero_where(~fine, keypoints.uv), confidence=_zero_where(~fine, keypoints.confidence)
        )
    sigma = estimate.rot_sigma_rad
    return dataclasses.replace(
        estimate,
        params=BodyParams.stack([p.person(i) if good else instead[i] for i, good in enumerate(fine)]),
        keypoints=keypoints,
        rot_sigma_rad=None if sigma is None else np.where(fine[:, None], sigma, np.float32(np.pi)),
        **others,
    )


def _zero_where(rows: np.ndarray, values: np.ndarray | None) -> np.ndarray | None:
    if values is None:
        return None
    return np.where(rows.reshape(-1, *[1] * (values.ndim - 1)), np.zeros((), values.dtype), values)


def windows(source: FirstEstimator | KeypointSource, crop: Crop, boxes: np.ndarray, rgb: np.ndarray, margin: float) -> Crop:
    """The windows of ``crop``, cut around ``boxes`` with ``margin``, as ``source`` wants them: its resolution and margin.

    Sources with a margin of their own look at whole squares.
    """
    if source.margin is None and source.size_px == crop.size:
        return crop
    margin, aspect = (margin, crops.ASPECT) if source.margin is None else (source.margin, 1.0)
    return crops.extract(rgb, np.reshape([crops.square_around(b, margin, aspect) for b in boxes], (-1, 4)), source.size_px)


def admit(
    models: Models, state: TrackerState, tracks: Sequence[Track], estimate: Estimate, stamp_ns: int
) -> tuple[TrackerState, list[Track], list[int]]:
    """Start tracks for newcomers with enough confidence and joints, the surest first, as far as there is room.

    Returns the batch's tracks and the rows of it that stay.  In the finder's order, 62 of 65 people with a box were taken.
    """
    everyone, kept = list(tracks), list(range(len(tracks)))
    welcome = (estimate.confidence >= models.config.regress.new_confidence) & _has_joints(estimate, models.config)
    for i in len(tracks) + np.argsort(-estimate.confidence[len(tracks) :], kind="stable"):
        if welcome[i] and len(everyone) < models.config.track.max_people:
            belief = shape.ShapeBelief.prior(models.config.fit.betas_sigma)
            state, track = tracking.birth(state, estimate.params.person(i), belief, neutral_appearance(models.body), stamp_ns)
            everyone.append(track)
            kept.append(int(i))
    return state, everyone, kept


def _has_joints(estimate: Estimate, config: Config) -> np.ndarray:
    """(P,) bool: half of the joints have a place in the window, as far as the source of the estimate says.

    Of animals and of things the network is as sure to see a person in the middle as of people, and has no idea where their
    joints are (docs/DECISIONS.md).
    """
    if estimate.uv_sigma is None:
        return np.ones(len(estimate.confidence), bool)
    return _joint_sigma(estimate) <= config.regress.max_joint_sigma


def _joint_sigma(estimate: Estimate) -> np.ndarray:
    """(P,) mean standard deviation of the surer half of the 2D joints, in sides of the window.  Half: hips may be cut off."""
    return np.sort(estimate.uv_sigma, axis=1)[:, : NUM_JOINTS // 2].mean(1)


def take_crop(crop: Crop, kept: Sequence[int]) -> Crop:
    """The windows of some persons."""
    k = list(kept)
    return Crop(crop.rgb[k], crop.inside[k], crop.image_from_crop[k], crop.size)


def take_estimate(estimate: Estimate, kept: Sequence[int]) -> Estimate:
    """The estimates of some persons."""
    k = list(kept)
    return dataclasses.replace(
        estimate,
        params=estimate.params.rows(k),
        confidence=estimate.confidence[k],
        keypoints=None if estimate.keypoints is None else rows_of(estimate.keypoints, k),
        feature=None if estimate.feature is None else estimate.feature[k],
        rot_sigma_rad=None if estimate.rot_sigma_rad is None else estimate.rot_sigma_rad[k],
        uv_sigma=None if estimate.uv_sigma is None else estimate.uv_sigma[k],
        sources=tuple(estimate.sources[i] for i in k) if estimate.sources else (),
        seen=None if estimate.seen is None else estimate.seen.take(k),
    )
