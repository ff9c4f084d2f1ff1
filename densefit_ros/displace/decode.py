"""Displacement fields to correspondences between the body's surface and the image, and to planes that it should lie on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ShapeError
from ..types import Camera, Correspondences, Crop, DepthPoints, DisplacementField, Surface


@dataclass(frozen=True)
class DecodeOptions:
    """Which cells become matches."""

    max_sigma_px: float = 4.0  # crop px; less certain cells are dropped
    sigma_scale: float = 1.0  # factor on the predicted standard deviations
    depth_edge_m: float = 0.08  # a depth step within the 3x3 neighbourhood above this marks an occlusion boundary
    max_points: int = 1000  # per person
    max_depth_sigma_m: float = 0.2  # as max_sigma_px, of displacements in depth; 0: use none
    depth_sigma_scale: float = 1.0  # as sigma_scale, of displacements in depth


_DEFAULTS = DecodeOptions()


def decode(field: DisplacementField, surface: Surface, crop: Crop, options: DecodeOptions = _DEFAULTS) -> Correspondences:
    """One match per rendered cell that survives the tests.

    The cell (r, c) is read at the rendered pixel (r * stride + stride // 2, c * stride + stride // 2): that pixel's face
    and barycentrics are the surface point, its centre plus the flow is the target, taken to full-image pixels.  Dropped
    are cells without surface, at depth edges (the flow there mixes two surfaces), less certain than ``max_sigma_px``,
    and those whose target leaves the crop or lies where the crop holds no image.  More than ``max_points`` are thinned
    evenly.  ``sqrt_weight`` is one over the standard deviation in full-image px.
    """
    persons, _, rows, columns = field.flow.shape
    stride = field.stride
    height, width = surface.face_id.shape[1:]
    if (rows * stride, columns * stride) != (height, width) or len(surface.face_id) != persons:
        raise ShapeError(f"flow {field.flow.shape} at stride {stride} does not cover the surface {surface.face_id.shape}")
    keep = covered_cells(surface, stride, options.depth_edge_m)
    sigma = np.sqrt(np.exp(field.log_var[:, 0])) * options.sigma_scale
    keep &= sigma <= options.max_sigma_px
    half = stride // 2
    u = (np.arange(columns, dtype=np.float32) * stride + half + 0.5) + field.flow[:, 0]
    v = (np.arange(rows, dtype=np.float32) * stride + half + 0.5)[:, None] + field.flow[:, 1]
    keep &= (u >= 0) & (u < width) & (v >= 0) & (v < height) & np.isfinite(sigma)
    person, r, c = np.nonzero(keep)
    u, v, sigma = u[person, r, c], v[person, r, c], sigma[person, r, c]
    seen = crop.inside[person, v.astype(np.int64), u.astype(np.int64)]
    chosen = np.nonzero(seen)[0]
    chosen = _thin(person[chosen], chosen, persons, options.max_points)
    person, r, c, u, v, sigma = (a[chosen] for a in (person, r, c, u, v, sigma))
    at = (person, r * stride + half, c * stride + half)
    affine = crop.image_from_crop[person]
    target = np.einsum("nij,nj->ni", affine[:, :, :2], np.stack([u, v], -1)) + affine[:, :, 2]
    scale = np.maximum(sigma, 1e-6) * affine[:, 0, 0]
    return Correspondences(
        person.astype(np.int32),
        surface.face_id[at].astype(np.int32),
        surface.bary[at].astype(np.float32),
        target.astype(np.float32),
        (1.0 / scale).astype(np.float32),
    )


def decode_depth(
    field: DisplacementField,
    surface: Surface,
    camera: Camera | Sequence[Camera],
    t_camera_root: np.ndarray,
    options: DecodeOptions = _DEFAULTS,
) -> DepthPoints | None:
    """Displacements in depth as planes across the ray of the crop's centre; None where the network gives none.

    Every other cell in each direction, read as in :func:`decode`: depth varies slowly, and a cell costs as much as a match.
    ``camera`` is everybody's or one per person, t_camera_root (P,3) that of the rendered bodies: planes are told from there,
    because the network holds both bodies' translations in one place.
    """
    if field.depth_m is None or options.max_depth_sigma_m <= 0:
        return None
    half, size = field.stride // 2, surface.face_id.shape[1]
    sigma = np.sqrt(np.exp(field.depth_log_var[:, 0])) * options.depth_sigma_scale
    keep = covered_cells(surface, field.stride, options.depth_edge_m) & (sigma <= options.max_depth_sigma_m)
    keep[:, 0::2] = keep[:, :, 0::2] = False
    person, r, c = np.nonzero(keep)
    at = (person, r * field.stride + half, c * field.stride + half)
    fx, fy, cx, cy = _intrinsics(camera, len(surface.face_id))
    affine = surface.image_from_crop
    u, v = (affine[person, i, i] * (at[2 - i] + 0.5) + affine[person, i, 2] for i in (0, 1))
    z = surface.depth_m[at]
    point = np.stack([(u - cx[person]) / fx[person] * z, (v - cy[person]) / fy[person] * z, z], -1)
    middle = affine[:, [0, 1], [0, 1]] * (0.5 * size) + affine[:, :, 2]
    ray = np.stack([(middle[:, 0] - cx) / fx, (middle[:, 1] - cy) / fy, np.ones(len(middle))], -1)
    ray = (ray / np.linalg.norm(ray, axis=-1, keepdims=True))[person]
    xyz = point - t_camera_root[person] + field.depth_m[person, 0, r, c][:, None] * ray
    f = np.float32
    return DepthPoints(
        person.astype(np.int32), surface.face_id[at].astype(np.int32), surface.bary[at].astype(f), xyz.astype(f), ray.astype(f),
        (1.0 / np.maximum(sigma[person, r, c], 1e-4)).astype(f), np.ones(len(person), bool),
    )  # fmt: skip


def _intrinsics(camera: Camera | Sequence[Camera], persons: int) -> np.ndarray:
    """(4,P) fx, fy, cx, cy."""
    cameras = [camera] * persons if isinstance(camera, Camera) else camera
    return np.array([(c.fx, c.fy, c.cx, c.cy) for c in cameras]).T


def covered_cells(surface: Surface, stride: int, depth_edge_m: float) -> np.ndarray:
    """(P,h/stride,w/stride) bool: the cell's pixel shows the surface, away from depth edges."""
    half = stride // 2
    face = surface.face_id[:, half::stride, half::stride]
    near = np.full(face.shape, np.inf, np.float32)
    far = np.full(face.shape, -np.inf, np.float32)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            depth = surface.depth_m[:, half + dr :: stride, half + dc :: stride]
            hit = surface.face_id[:, half + dr :: stride, half + dc :: stride] >= 0
            near = np.where(hit, np.minimum(near, depth), near)
            far = np.where(hit, np.maximum(far, depth), far)
    return (face >= 0) & (far - near <= depth_edge_m)


def _thin(person: np.ndarray, index: np.ndarray, persons: int, most: int) -> np.ndarray:
    parts = []
    for p in range(persons):
        own = index[person == p]
        if len(own) > most:
            own = own[np.linspace(0, len(own) - 1, most).round().astype(np.int64)]
        parts.append(own)
    return np.concatenate(parts) if parts else index
