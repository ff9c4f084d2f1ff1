"""The boundary: checks what the caller gives and lays it out for the kernels.  Nothing that is not finite gets past."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from ..body.model import check_params
from ..errors import ShapeError
from ..types import NUM_JOINTS, BodyParams, Camera, Keypoints
from .layout import MAX_ANCHORS, MAX_LIMBS
from .limbs import limbs_of
from .options import Anchor, Claim, FitOptions

DOUBTFUL = 0.1  # keypoints of less confidence do not say how large a person is, where others do
MAX_VALUE = 1e7  # px, m or 1/px: beyond any camera; squares of it still fit float32


@dataclass(frozen=True)
class Staged:
    """What came through: numbers that select a recorded plan, and what the result needs later."""

    persons: int
    points: int  # of all persons
    most_points: int  # of one person
    valid_start: np.ndarray  # (P,) bool
    evidence: np.ndarray  # (P,) usable matches plus keypoints
    person_of_point: np.ndarray  # (points,)
    is_pixel: np.ndarray  # (points,) bool
    lasting: np.ndarray  # (points,) bool: covariances discount them
    landmarks: SimpleNamespace | None
    limbs: int
    start: BodyParams
    claims: tuple[Claim, ...]  # of each anchor, in the covariance


def stage_start(buffers, start: BodyParams) -> np.ndarray:
    """Parameters of the start; persons whose start is not finite get the rest pose and False.  Raises ShapeError."""
    p = check_params(start)
    rot = np.concatenate([np.asarray(start.root_rotvec).reshape(p, 1, 3), np.asarray(start.joint_rotvec).reshape(p, 23, 3)], 1)
    t = np.asarray(start.t_camera_root)
    betas = np.asarray(start.betas)
    with np.errstate(all="ignore"):  # comparisons with NaN are false
        ok = (np.abs(rot).max((1, 2)) < 1e4) & (np.abs(t).max(1) < 1e4) & (np.abs(betas).max(1) < 1e3)
    if not ok.all():
        rot = np.where(ok[:, None, None], rot, 0.0)
        t = np.where(ok[:, None], t, [0.0, 0.0, 3.0])
        betas = np.where(ok[:, None], betas, 0.0)
    buffers.rotvec.host[: 24 * p] = rot.reshape(-1, 3)
    buffers.in_t.host[:p] = t
    buffers.in_beta.host[:p] = betas
    return ok


def stage_cameras(buffers, camera, persons: int) -> None:
    """One camera for all, or one per person."""
    cameras = [camera] * persons if isinstance(camera, Camera) else list(camera)
    if len(cameras) != persons:
        raise ShapeError(f"expected one camera or {persons}, got {len(cameras)}")
    for i, c in enumerate(cameras):
        values = (c.fx, c.fy, c.cx, c.cy)
        if not np.isfinite(values).all() or c.fx <= 0 or c.fy <= 0:
            raise ShapeError(f"expected finite intrinsics with positive focal lengths, got {values}")
        buffers.camera.host[i] = values


def keypoint_weights(keypoints: Keypoints, placed: np.ndarray, options: FitOptions) -> np.ndarray:
    """(P,K) one over the standard deviation of each keypoint in px, 0 where it is missing, not finite or not placed."""
    uv = np.asarray(keypoints.uv, np.float64)
    confidence = np.asarray(keypoints.confidence, np.float64)
    good = (np.abs(uv) < MAX_VALUE).all(-1) & np.isfinite(confidence) & (confidence > 0) & placed[None]
    confidence = np.where(good, np.clip(confidence, 0.0, 1.0), 0.0)
    if options.keypoint_sigma_px is not None:
        return confidence / options.keypoint_sigma_px
    out = np.zeros_like(confidence)
    for p in range(len(uv)):
        # Not those with half of the best confidence: a sure face alone, at the edge of that, made body points count 9 times more.
        seen = confidence[p] > DOUBTFUL
        seen = seen if seen.any() else good[p]
        if seen.any():
            size = np.ptp(uv[p][seen], axis=0)
            out[p] = confidence[p] / max(options.keypoint_sigma_share * float(np.hypot(size[0], size[1])), 1.0)
    return out


def stage_keypoints(buffers, keypoints: Keypoints, landmarks: SimpleNamespace, persons: int, limbs: int, options) -> np.ndarray:
    """Keypoints and limb directions.  Returns usable keypoints per person."""
    uv = np.asarray(keypoints.uv)
    k = landmarks.count
    if uv.shape != (persons, k, 2) or np.shape(keypoints.confidence) != (persons, k):
        raise ShapeError(
            f"expected {keypoints.set_name} keypoints uv {(persons, k, 2)} and confidence {(persons, k)}, "
            f"got {uv.shape} and {np.shape(keypoints.confidence)}"
        )
    weight = keypoint_weights(keypoints, landmarks.placed, options)
    b = buffers
    b.key_uv.host[: 2 * persons * k] = np.where(np.abs(uv) < MAX_VALUE, uv, 0.0).reshape(-1)
    b.key_weight.host[: persons * k] = weight.reshape(-1)
    if limbs:
        _stage_limbs(b, keypoints, landmarks, persons, options)
    return (weight > 0).sum(1)


def _stage_limbs(b, keypoints: Keypoints, landmarks, persons: int, options) -> None:
    first, second = landmarks.limb_first, landmarks.limb_second
    n = len(first)
    xyz = np.asarray(keypoints.direction_xyz, np.float64)
    if xyz.shape != (persons, landmarks.count, 3):
        raise ShapeError(f"expected direction_xyz {(persons, landmarks.count, 3)}, got {xyz.shape}")
    d = xyz[:, second] - xyz[:, first]
    length = np.linalg.norm(d, axis=-1)
    good = np.isfinite(length) & (length > 1e-9)
    confidence = np.nan_to_num(np.clip(keypoints.confidence, 0, 1))
    weight = np.where(good, np.minimum(confidence[:, first], confidence[:, second]), 0.0) / options.direction_sigma
    b.limb_first.host[:n], b.limb_second.host[:n] = first, second
    b.limb_direction.host[: persons * n] = np.where(good[..., None], d / np.where(good, length, 1.0)[..., None], 0.0).reshape(
        -1, 3
    )
    b.limb_weight.host[: persons * n] = weight.reshape(-1)


def limb_table(landmarks: SimpleNamespace, names: tuple[str, ...]) -> None:
    """Find the limbs of a keypoint set once."""
    first, second = limbs_of(names, landmarks.placed)
    landmarks.limb_first, landmarks.limb_second = first[:MAX_LIMBS], second[:MAX_LIMBS]


def stage_anchors(buffers, anchors, persons: int, capacity: int) -> None:
    """Priors around given parameters; an anchor that is not finite does not pull."""
    if len(anchors) > MAX_ANCHORS:
        raise ShapeError(f"expected at most {MAX_ANCHORS} anchors, got {len(anchors)}")
    b = buffers
    b.anchors.host[0] = len(anchors)
    for a, anchor in enumerate(anchors):
        _stage_anchor(b, anchor, a, persons, capacity)


def _stage_anchor(b, anchor: Anchor, a: int, persons: int, capacity: int) -> None:
    p = anchor.params
    if check_params(p) != persons:
        raise ShapeError(f"expected an anchor for {persons} persons, got {len(p.betas)}")
    joints = slice(a * capacity * NUM_JOINTS, (a * capacity + persons) * NUM_JOINTS)
    people = slice(a * capacity, a * capacity + persons)
    rotvec = b.anchor_rotvec.host[joints].reshape(persons, NUM_JOINTS, 3)
    rotvec[:] = p.rotvec
    beta, t = b.anchor_beta.host[people], b.anchor_t.host[people]
    beta[:], t[:] = p.betas, p.t_camera_root
    rot_weight = b.inv_sigma_rotation.host[joints].reshape(persons, NUM_JOINTS)
    beta_weight, t_weight = b.inv_sigma_beta.host[people], b.inv_sigma_t.host[people]
    weights = ((rotvec, rot_weight, anchor.rot_sigma_rad), (beta, beta_weight, anchor.betas_sigma))
    for value, weight, sigma in (*weights, (t, t_weight, anchor.t_sigma_m)):
        s = np.asarray(sigma, np.float64)
        if not s.min() > 0:
            raise ShapeError(f"expected positive standard deviations of an anchor, got a minimum of {s.min()}")
        try:
            weight[:] = 1.0 / s
        except ValueError as error:
            raise ShapeError(f"expected standard deviations of an anchor that fit {weight.shape}, got {s.shape}") from error
        if not np.isfinite(value.sum()):
            good = np.isfinite(value).all(-1)
            value[~good] = 0.0
            weight[~good] = 0.0
