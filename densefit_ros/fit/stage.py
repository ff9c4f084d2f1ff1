"""The boundary: checks what the caller gives and lays it out for the kernels.  Nothing that is not finite gets past."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from ..errors import ShapeError
from ..types import NUM_JOINTS, BodyParams, Camera, Correspondences, DepthPoints, Keypoints
from .layout import KIND_PIXEL, KIND_PLANE, MAX_ANCHORS, MAX_LIMBS, WIDTH
from .limbs import limbs_of
from .options import Anchor, FitOptions

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
    landmarks: SimpleNamespace | None
    limbs: int
    start: BodyParams


def stage_start(buffers, start: BodyParams) -> np.ndarray:
    """Parameters of the start; persons whose start is not finite get the rest pose and False."""
    p = len(start.betas)
    rot = np.concatenate([np.asarray(start.root_rotvec).reshape(p, 1, 3), np.asarray(start.joint_rotvec).reshape(p, 23, 3)], 1)
    t = np.asarray(start.t_camera_root)
    betas = np.asarray(start.betas)
    ok = np.isfinite(rot).all((1, 2)) & np.isfinite(t).all(1) & np.isfinite(betas).all(1)
    ok &= (np.abs(rot).max((1, 2)) < 1e4) & (np.abs(t).max(1) < 1e4) & (np.abs(betas).max(1) < 1e3)
    if not ok.all():
        rot = np.where(ok[:, None, None], rot, 0.0)
        t = np.where(ok[:, None], t, [0.0, 0.0, 3.0])
        betas = np.where(ok[:, None], betas, 0.0)
    buffers.rotvec.host[: 24 * p] = rot.reshape(-1, 3)
    buffers.in_t.host[:p] = t
    buffers.in_beta.host[:p] = betas
    for m in (buffers.rotvec, buffers.in_t, buffers.in_beta):
        m.push()
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
    buffers.camera.push()


def stage_points(
    buffers, matches: Correspondences, depth: DepthPoints | None, persons: int, faces: int, limit: int, rows_extra: int
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Dense evidence, sorted by person.  Returns the number of points, person and kind of each, usable matches per person.

    Matches that are not finite or have no weight are dropped; more than ``limit`` for one person are thinned evenly.
    """
    arrays = [_pixels(matches)]
    if depth is not None and len(depth):
        arrays.append(_planes(depth))
    person, face, bary, target, normal, weight, kind = (
        arrays[0] if len(arrays) == 1 else tuple(np.concatenate(a) for a in zip(*arrays))
    )
    n = len(person)
    if n:
        with np.errstate(all="ignore"):
            total = np.abs(target).sum(1) + np.abs(bary).sum(1) + weight + np.abs(normal).sum(1)
            finite = total < MAX_VALUE  # false for NaN
        keep = finite & (weight > 0) & (person >= 0) & (person < persons) & (face >= 0) & (face < faces)
        if (face[finite] >= faces).any() or (person[finite] >= persons).any():
            raise ShapeError(
                f"expected person < {persons} and face < {faces}, got up to {person.max()} and {face.max()}: "
                "matches of another body model?"
            )
        if not keep.all():
            person, face, bary, target, normal, weight, kind = (
                a[keep] for a in (person, face, bary, target, normal, weight, kind)
            )
    counts = np.bincount(person, minlength=persons) if len(person) else np.zeros(persons, np.int64)
    order = None
    if len(person) and (np.diff(person) < 0).any():
        order = np.argsort(person, kind="stable")
    if len(person) and counts.max() > limit:
        order = np.arange(len(person)) if order is None else order
        starts = np.concatenate([[0], np.cumsum(counts)])
        picks = [order[s + np.linspace(0, c - 1, min(c, limit)).astype(int)] for s, c in zip(starts, counts) if c]
        order = np.concatenate(picks)
        counts = np.minimum(counts, limit)
    if order is not None:
        person, face, bary, target, normal, weight, kind = (a[order] for a in (person, face, bary, target, normal, weight, kind))
    n = len(person)
    b = buffers
    b.point_start.host[0] = 0
    np.cumsum(counts, out=b.point_start.host[1 : persons + 1])
    b.face.host[:n], b.kind.host[:n] = face, kind
    b.bary.host[:n], b.target.host[:n], b.normal.host[:n] = bary, target, normal
    b.sqrt_weight.host[:n] = weight
    row_start = b.row_start.host
    row_start[0] = 0
    np.cumsum(2 * counts + rows_extra, out=row_start[1 : persons + 1])
    # Points of person p start at row_start[p] - p * rows_extra when no other rows lie between.
    b.row0.host[:n] = 2 * np.arange(n) + rows_extra * person
    # The kernels write a point's non-zero columns only, and those never change within a solve.
    b.rows.clear(int(row_start[persons]) * WIDTH)
    for m in (b.point_start, b.face, b.kind, b.bary, b.target, b.normal, b.sqrt_weight, b.row0, b.row_start):
        m.push()
    return n, person, kind == KIND_PIXEL, counts


def _pixels(m: Correspondences):
    n = len(m.person)
    target = np.zeros((n, 3))
    target[:, :2] = m.target_uv
    return (
        np.asarray(m.person), np.asarray(m.face), np.asarray(m.bary), target, np.zeros((n, 3)), np.asarray(m.sqrt_weight),
        np.full(n, KIND_PIXEL, np.int32),
    )  # fmt: skip


def _planes(d: DepthPoints):
    return (
        np.asarray(d.person), np.asarray(d.face), np.asarray(d.bary), np.asarray(d.xyz_m), np.asarray(d.normal),
        np.asarray(d.sqrt_weight), np.full(len(d), KIND_PLANE, np.int32),
    )  # fmt: skip


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
        sure = good[p] & (confidence[p] >= 0.5 * confidence[p].max(initial=0.0))
        if sure.any():
            size = np.ptp(uv[p][sure], axis=0)
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
    first_key_row = b.row_start.host[1 : persons + 1] - 2 * k - 3 * limbs
    b.key_row0.host[:persons] = first_key_row
    b.limb_row0.host[:persons] = first_key_row + 2 * k
    for m in (b.key_uv, b.key_weight, b.key_row0):
        m.push()
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
    for m in (b.limb_first, b.limb_second, b.limb_direction, b.limb_weight, b.limb_row0):
        m.push()


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
    b.anchors.push()
    for a, anchor in enumerate(anchors):
        _stage_anchor(b, anchor, a, persons, capacity)
    if anchors:
        for m in (b.anchor_rotvec, b.anchor_beta, b.anchor_t, b.inv_sigma_rotation, b.inv_sigma_beta, b.inv_sigma_t):
            m.push()


def _stage_anchor(b, anchor: Anchor, a: int, persons: int, capacity: int) -> None:
    p = anchor.params
    if len(p.betas) != persons:
        raise ShapeError(f"expected an anchor for {persons} persons, got {len(p.betas)}")
    rot = np.concatenate([np.asarray(p.root_rotvec)[:, None], np.asarray(p.joint_rotvec)], 1)
    joints = slice(a * capacity * 24, a * capacity * 24 + persons * 24)
    people = slice(a * capacity, a * capacity + persons)
    rot_weight = _inverse(anchor.rot_sigma_rad, (persons, NUM_JOINTS)).reshape(-1)
    betas_weight, t_weight = _inverse(anchor.betas_sigma, (persons, 10)), _inverse(anchor.t_sigma_m, (persons, 3))
    values = (
        (b.anchor_rotvec, b.inv_sigma_rotation, joints, rot.reshape(-1, 3), rot_weight),
        (b.anchor_beta, b.inv_sigma_beta, people, np.asarray(p.betas), betas_weight),
        (b.anchor_t, b.inv_sigma_t, people, np.asarray(p.t_camera_root), t_weight),
    )
    for value_mirror, weight_mirror, where, value, weight in values:
        good = np.isfinite(value).all(-1)
        if not good.all():
            value = np.where(good[:, None], value, 0.0)
            weight = np.where(good if weight.ndim == 1 else good[:, None], weight, 0.0)
        value_mirror.host[where] = value
        weight_mirror.host[where] = weight


def _inverse(sigma, shape: tuple[int, ...]) -> np.ndarray:
    s = np.asarray(sigma, np.float64)
    if not (s > 0).all():
        raise ShapeError(f"expected positive standard deviations of an anchor, got a minimum of {s.min()}")
    return np.broadcast_to(1.0 / s, shape)
