"""Displacement fields to correspondences between the body's surface and the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ShapeError
from ..types import Correspondences, Crop, DisplacementField, Surface


@dataclass(frozen=True)
class DecodeOptions:
    """Which cells become matches."""

    max_sigma_px: float = 4.0  # crop px; less certain cells are dropped
    sigma_scale: float = 1.0  # factor on the predicted standard deviations
    depth_edge_m: float = 0.08  # a depth step within the 3x3 neighbourhood above this marks an occlusion boundary
    max_points: int = 1000  # per person


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
