"""First estimates that another program made of this very image: they propose people, and take the place of ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ShapeError
from ..evidence import densepose
from ..evidence.keypoints import of_boxes, rows_of
from ..geometry.camera import mesh_box
from ..models import Models
from ..track import association
from ..track.state import Track
from ..types import NUM_JOINTS, BodyParams, Camera, Correspondences, Crop, Estimate, Frame, Keypoints
from . import find

# How far somebody else's joint rotations may be off where they do not say it themselves.
NOMINAL_ROT_SIGMA_RAD = 0.2
IUV_MARGIN = 0.1  # of the longer side of a person's box


def mesh_boxes(models: Models, estimates: Estimate, camera: Camera) -> np.ndarray:
    """Boxes (N,4) px around the projected meshes of the estimates.  Raises ShapeError on numbers that are no body."""
    params = estimates.params
    finite = all(np.isfinite(a).all() for a in (params.betas, params.root_rotvec, params.joint_rotvec, params.t_camera_root))
    if not finite or estimates.confidence.shape != (len(params),):
        raise ShapeError(f"expected {len(params)} finite bodies with a confidence each, got {estimates.confidence.shape}")
    sigma = estimates.rot_sigma_rad
    if sigma is not None and (np.shape(sigma) != (len(params), NUM_JOINTS) or not (sigma > 0).all()):
        raise ShapeError(f"expected rot_sigma_rad ({len(params)},{NUM_JOINTS}) above 0, got {np.shape(sigma)}")
    outlines = [models.skinner.outline(params.person(i))[0] for i in range(len(params))]  # may be more than we track
    return np.reshape([mesh_box(camera, v) for v in outlines], (-1, 4)).astype(np.float32)


def proposals(
    boxes_xywh: np.ndarray | None, estimate_boxes: np.ndarray, confidence: np.ndarray, camera: Camera, enough: float
) -> np.ndarray:
    """Where people are: the boxes of the estimates in the image, the surest first, and given boxes that no estimate covers.

    Not all may be looked at: without that order the last of many would be left out, however sure they are.  Estimates of less
    confidence than is ``enough`` for a newcomer, or outside the image, propose nobody.
    """
    order = np.argsort(-confidence, kind="stable")
    proposing = (find.visible(estimate_boxes, camera)[:, 2:].min(1) > 0) & (confidence >= enough)
    estimate_boxes = estimate_boxes[order[proposing[order]]]
    if boxes_xywh is None:
        return find.checked_boxes(estimate_boxes)
    boxes = find.checked_boxes(boxes_xywh)
    _, free = association.assign(find.visible(estimate_boxes, camera), find.visible(boxes, camera), find.MIN_OVERLAP)
    return np.concatenate([estimate_boxes, boxes[free]])


def first_estimate(
    models: Models,
    crop: Crop,
    frame: Frame,
    tracks: Sequence[Track],
    boxes: np.ndarray,
    given: Estimate,
    given_boxes: np.ndarray,
) -> Estimate:
    """One estimate per window: the given one that overlaps its box, our own for those whom nobody gave.

    ``boxes`` (P,4) px belong to the windows of ``crop``, tracks first; ``given_boxes`` (N,4) px to ``given``.
    """
    pairs, _ = association.assign(find.visible(boxes, frame.camera), find.visible(given_boxes, frame.camera), find.MIN_OVERLAP)
    mine = dict(pairs)  # window -> given estimate
    rest = [i for i in range(len(boxes)) if i not in mine]
    tracked = [tracks[i] for i in rest if i < len(tracks)]
    # Whose keypoints they are is settled among all windows: else one person's go to the neighbour of somebody given as well.
    everyone = None if frame.keypoints is None else of_boxes(frame.keypoints, boxes)
    own = find.first_estimate(
        models, find.take_crop(crop, rest), boxes[rest], frame, tracked, None if everyone is None else rows_of(everyone, rest)
    )
    if not mine:
        return own
    # Rows of (own, given) one below the other, for each window.
    rows = np.array([len(rest) + mine[i] if i in mine else rest.index(i) for i in range(len(boxes))])
    both = BodyParams.stack([own.params, given.params])
    sigma = np.concatenate([_sigma(own), _sigma(given)])
    return Estimate(
        both.rows(rows),
        np.concatenate([own.confidence, given.confidence])[rows].astype(np.float32),
        _keypoints(own.keypoints, rest, len(boxes)) if everyone is None else models.lifting.weighted(everyone),
        source=given.source,
        rot_sigma_rad=sigma[rows],
        uv_sigma=_uv_sigma(own, given)[rows],
        sources=tuple(given.source_of(mine[i]) if i in mine else own.source_of(rest.index(i)) for i in range(len(boxes))),
    )


def iuv_matches(models: Models, frame: Frame, params: BodyParams) -> Correspondences:
    """DensePose's map of the frame as matches of the people in ``params``; empty without a map."""
    if frame.iuv is None:
        return Correspondences.empty()
    posed = models.skinner.pose(params)
    boxes = np.stack([mesh_box(frame.camera, v) for v in posed.vertices])
    # The start may be off: a box a little larger still finds the person's hands.
    margin = IUV_MARGIN * boxes[:, 2:].max(1)
    grown = boxes + margin[:, None] * [-1, -1, 2, 2]
    return densepose.people_matches(frame.iuv, grown, models.chart)


def _sigma(estimate: Estimate) -> np.ndarray:
    if estimate.rot_sigma_rad is not None:
        return estimate.rot_sigma_rad
    return np.full((len(estimate.params), NUM_JOINTS), NOMINAL_ROT_SIGMA_RAD, np.float32)


def _uv_sigma(*estimates: Estimate) -> np.ndarray:
    """Of those who say nothing about it 0: they vouch for their joints themselves."""
    none = [np.zeros((len(e.params), NUM_JOINTS), np.float32) for e in estimates]
    return np.concatenate([n if e.uv_sigma is None else e.uv_sigma for e, n in zip(estimates, none)])


def _keypoints(own: Keypoints | None, rest: Sequence[int], count: int) -> Keypoints | None:
    """Keypoints of ``count`` windows: those that our own estimate of the ``rest`` was made from."""
    if own is None:
        return None
    shape = (count, own.uv.shape[1])
    xyz = None if own.direction_xyz is None else np.zeros((*shape, 3), np.float32)
    everyone = Keypoints(own.set_name, np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32), xyz)
    everyone.uv[list(rest)], everyone.confidence[list(rest)] = own.uv, own.confidence
    if xyz is not None:
        xyz[list(rest)] = own.direction_xyz
    return everyone
