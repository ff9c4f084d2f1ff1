"""An aligned depth image as evidence: metric distance first, then the surface itself, point to plane.

A single colour image fixes a body up to scale; the size prior then decides how far away it stands.  A depth camera knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..types import Camera, DepthPoints, Surface


@dataclass(frozen=True)
class DepthOptions:
    """How depth is read."""

    stride: int = 6  # crop px between samples
    min_share: float = 0.3  # of a person's samples that must carry a depth, or the person's depth is unknown
    gate_m: float = 0.20  # samples further from the rendered surface than this are something else, or not aligned yet
    sigma_m: float = 0.01  # of a sample near the camera: clothes as much as noise
    sigma_per_m2: float = 0.003  # growth with the square of the distance, as triangulating cameras have it
    independent: float = 40.0  # samples of one person count as this many independent ones at most


_DEFAULTS = DepthOptions()


def distance_ratio(depth_m: np.ndarray, face_id: np.ndarray, rendered_m: np.ndarray, image_from_crop: np.ndarray,
                   options: DepthOptions = _DEFAULTS) -> np.ndarray:  # fmt: skip
    """Measured over rendered distance, the median over each person's pixels; NaN where too little is measured.

    Where enough samples lie about as far away as the rendered body, they alone count: what hides the rest of a person whose
    distance is known would else move the person to itself.

    depth_m (H,W) of the image, NaN or <= 0 where unknown; face_id, rendered_m (P,h,w) of the crops -> (P,).
    """
    out = np.full(len(face_id), np.nan)
    for p in range(len(face_id)):
        r, c, measured = _samples(depth_m, face_id[p], image_from_crop[p], options.stride)
        good = measured > 0
        near = good & (np.abs(measured - rendered_m[p][r, c]) < options.gate_m)
        if len(r) and near.mean() >= options.min_share:
            good = near
        if len(r) and good.mean() >= options.min_share:
            out[p] = np.median(measured[good] / rendered_m[p][r[good], c[good]])
    return out


def depth_points(depth_m: np.ndarray, surface: Surface, camera: Camera, trusted: np.ndarray,
                 options: DepthOptions = _DEFAULTS) -> DepthPoints:  # fmt: skip
    """Surface points of the ``trusted`` (P,) bool persons against the measured planes behind their pixels.

    The plane's normal is the rendered one: at the distance of the gate the two surfaces are parallel enough, and depth
    images differentiate badly.
    """
    parts = []
    for p in np.flatnonzero(trusted):
        affine = surface.image_from_crop[p]
        r, c, z = _samples(depth_m, surface.face_id[p], affine, options.stride)
        near = (z > 0) & (np.abs(z - surface.depth_m[p][r, c]) < options.gate_m)
        r, c, z = r[near], c[near], z[near]
        u, v = affine[0, 0] * (c + 0.5) + affine[0, 2], affine[1, 1] * (r + 0.5) + affine[1, 2]
        xyz = np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], -1)
        weight = 1.0 / (options.sigma_m + options.sigma_per_m2 * z**2)
        share = np.full(len(z), options.independent / max(len(z), options.independent))
        points = (surface.face_id[p][r, c], surface.bary[p][r, c], xyz, surface.normals[p][r, c])
        parts.append((np.full(len(z), p), *points, weight, share))
    if not parts:
        none = np.zeros(0)
        parts = [(none, none, *[np.zeros((0, 3))] * 3, none, none)]
    person, face, *rest = (np.concatenate(a) for a in zip(*parts))
    rest = [a.astype(np.float32) for a in rest]
    return DepthPoints(person.astype(np.int32), face.astype(np.int32), *rest, lasting=np.ones(len(person), bool))


def _samples(depth_m: np.ndarray, face_id: np.ndarray, affine: np.ndarray, stride: int) -> tuple[np.ndarray, ...]:
    """Rows and columns (crop) of the person's samples inside the image, and the depth measured there, 0 where unknown."""
    half = stride // 2
    r, c = np.nonzero(face_id[half::stride, half::stride] >= 0)
    r, c = r * stride + half, c * stride + half
    u = np.floor(affine[0, 0] * (c + 0.5) + affine[0, 2]).astype(np.int64)
    v = np.floor(affine[1, 1] * (r + 0.5) + affine[1, 2]).astype(np.int64)
    inside = (u >= 0) & (u < depth_m.shape[1]) & (v >= 0) & (v < depth_m.shape[0])
    r, c, u, v = r[inside], c[inside], u[inside], v[inside]
    z = depth_m[v, u].astype(np.float64)
    return r, c, np.where(np.isfinite(z) & (z > 0), z, 0.0)
