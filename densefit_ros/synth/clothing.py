"""Clothes as geometry: offsets of the rest surface, smooth over the body, under which the true body stays as it is.

Only the *rendered* surface is dressed.  Offsets live in the T-pose and are skinned with the body, so folds and hems move
along.  A skirt unrolls each leg's round onto half of a common cone and shares its skinning between both legs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from ..body.joints import JOINT_INDEX
from ..body.model import BodyModel, joint_transforms, rest_vertices
from ..types import BodyParams
from .outfit import Coverage, Outfit, coverage
from .surface import SurfacePoints, dense_weights, smooth_step, vertex_points, wave_noise

_MAX_OFFSET_M = 0.07  # of garments that hang on the body; skirts and backpacks stand off further


@dataclass(frozen=True, eq=False)
class Clothes:
    """Geometry of one outfit on one body topology."""

    offset_m: np.ndarray  # (V,3) float16, added to the rest vertices
    weights: np.ndarray | None  # (V,24) float32 skinning where it differs from the body's (skirts), else None


class Wardrobe:
    """Dresses one body model.  Holds what depends on the body only."""

    def __init__(self, body: BodyModel) -> None:
        self.body = body
        self.points: SurfacePoints = vertex_points(body)
        self.weights = dense_weights(body)
        self._smoother = _averaging(body.faces, body.num_vertices)

    def make(self, rng: np.random.Generator, outfit: Outfit) -> Clothes:
        """Offsets of one outfit; ``rng`` gives the folds."""
        points, cover = self.points, coverage(outfit, self.points)
        thickness = _thickness(rng, outfit, cover, points)
        for _ in range(2):
            thickness = self._smoother @ thickness
        direction = points.normal.copy()
        for _ in range(3):  # smooth normals keep offsets from crossing in armpits and between fingers
            direction = self._smoother @ direction
        direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-3)
        offset = direction * thickness[:, None]
        weights = None
        if outfit.skirt > 0:
            offset, weights = self._skirt(outfit, cover, offset)
        return Clothes(offset.astype(np.float16), weights)

    def _skirt(self, outfit: Outfit, cover: Coverage, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of each leg go round half of an ellipse that both legs share: leg angle a -> ellipse angle a / 2."""
        p, body = self.points, self.body
        position = p.position
        hip, knee = (np.abs(np.asarray(body.joint_template[JOINT_INDEX[f"left_{n}"]])) for n in ("hip", "knee"))
        t = np.clip(p.along_leg, 0, 2)
        centre_x = p.side * (hip[0] + (knee[0] - hip[0]) * np.minimum(t, 1))
        centre_z = np.float32(np.median(position[(p.leg > 0.8) & (p.along_leg < 1), 2]))
        angle = np.arctan2(position[:, 2] - centre_z, (position[:, 0] - centre_x) * p.side)  # 0 outward, +-pi inward
        # The innermost points of both legs meet in the middle plane: without the 1.3 a slit as wide as a face stays open.
        angle = np.clip(1.3 * angle, -np.pi, np.pi)
        mask = cover.skirt * smooth_step(p.along_leg, -0.15, 0.25)
        # The cone's half axes: wide enough for both legs at the hips, then flaring.
        on_skirt = cover.skirt > 0.5
        wide = np.abs(position[on_skirt, 0]).max() * 0.97 + outfit.bottom_loose
        deep = np.abs(position[on_skirt, 2] - centre_z).max() * 0.9 + outfit.bottom_loose
        flare = outfit.skirt_flare * np.clip(t / max(outfit.skirt, 0.3), 0, 1)
        target = position + offset
        target[:, 0] = p.side * (wide + flare) * np.cos(angle / 2)
        target[:, 2] = centre_z + (deep + 0.6 * flare) * np.sin(angle / 2)
        offset = offset + mask[:, None] * (target - position - offset)
        weights = self.weights.copy()
        inner = mask * (0.5 - 0.5 * np.cos(angle / 2)) + mask * 0.12  # share of the other leg: half in the middle
        for part in ("hip", "knee", "ankle"):
            left, right = JOINT_INDEX[f"left_{part}"], JOINT_INDEX[f"right_{part}"]
            a, b = weights[:, left].copy(), weights[:, right].copy()
            share = np.clip(inner * 0.5 / 0.62, 0, 0.5)
            weights[:, left], weights[:, right] = (1 - share) * a + share * b, (1 - share) * b + share * a
        for side in ("left", "right"):  # cloth does not follow the knee all the way
            hip_i, knee_i = JOINT_INDEX[f"{side}_hip"], JOINT_INDEX[f"{side}_knee"]
            moved = 0.65 * mask * weights[:, knee_i]
            weights[:, knee_i] -= moved
            weights[:, hip_i] += moved
        return offset, weights


def skin(wardrobe: Wardrobe, params: BodyParams, clothes: list[Clothes | None]) -> tuple[np.ndarray, np.ndarray]:
    """Dressed surfaces (P,V,3) and joints (P,24,3), camera frame, float32.  None instead of clothes is the naked body."""
    body = wardrobe.body
    rotmat, position, rest = joint_transforms(body, params)
    shift = position - np.einsum("pjab,pjb->pja", rotmat, rest)
    transform = np.concatenate([rotmat, shift[..., None]], -1).reshape(len(params), 24, 12).astype(np.float32)
    vertices = rest_vertices(body, params.betas).astype(np.float32)
    if body.posedirs is not None:
        from ..geometry import so3

        feature = (so3.exp(params.joint_rotvec) - np.eye(3, dtype=np.float32)).reshape(len(params), -1)
        vertices = vertices + (feature.astype(np.float32) @ body.posedirs).reshape(vertices.shape)
    out = np.empty_like(vertices)
    for i, garment in enumerate(clothes):
        weights = wardrobe.weights if garment is None or garment.weights is None else garment.weights
        v = vertices[i] if garment is None else vertices[i] + garment.offset_m
        m = (weights @ transform[i]).T  # (12,V): rows are contiguous
        x, y, z = np.ascontiguousarray(v.T)
        for axis in range(3):
            a, b, c, d = m[4 * axis : 4 * axis + 4]
            out[i, :, axis] = a * x + b * y + c * z + d
    return out, position.astype(np.float32)


def _thickness(rng: np.random.Generator, outfit: Outfit, cover: Coverage, points: SurfacePoints) -> np.ndarray:
    """How far the dressed surface stands off along the normal, m."""
    position = points.position
    folds = wave_noise(rng, position * (1.0, 0.6, 1.0), 0.16) * 0.6 + wave_noise(rng, position, 0.07) * 0.4
    drape = 1 + outfit.wrinkle * folds
    # Cloth hangs from shoulders and waist: looser towards hems and under the bust, tight on the shoulders.
    low = np.clip(1.15 - points.up_trunk, 0.25, 1.2) * (points.arm < 0.5) + np.clip(0.55 + 0.35 * points.along_arm, 0.3, 1.2) * (
        points.arm >= 0.5
    )
    leg = np.clip(0.45 + 0.4 * points.along_leg, 0.3, 1.2)
    t = np.maximum(cover.top * outfit.top_loose * low, cover.bottom * outfit.bottom_loose * leg)
    t = np.maximum(t, cover.jacket * (outfit.top_loose * 0.5 + outfit.jacket) * np.clip(low, 0.6, 1.2)) * drape
    t = np.clip(t, 0, _MAX_OFFSET_M)
    t = np.maximum(t, cover.shoes * outfit.shoe_loose)
    curls = 1 + 0.5 * outfit.wrinkle * wave_noise(rng, position, 0.05)
    t = np.maximum(t, cover.hair * outfit.hair_volume * curls)
    # From the skull long hair hangs straight: it fills the hollow of the neck.
    hollow = 0.03 * np.exp(-(((points.up_trunk - 1.12) / 0.12) ** 2))
    t = np.maximum(t, cover.fall * (outfit.fall_volume * curls + hollow))
    t = np.maximum(t, cover.hat * (0.012 + 0.5 * outfit.hair_volume))
    t = np.maximum(t, cover.beard * 0.012)
    t = np.maximum(t, cover.backpack * outfit.backpack)
    return np.maximum(t, 0).astype(np.float32)


def _averaging(faces: np.ndarray, num_vertices: int) -> scipy.sparse.csr_matrix:
    """(V,V) matrix that replaces each vertex by the mean of itself and its neighbours."""
    i = np.concatenate([faces[:, a] for a in (0, 1, 2, 1, 2, 0)] + [np.arange(num_vertices)])
    j = np.concatenate([faces[:, a] for a in (1, 2, 0, 0, 1, 2)] + [np.arange(num_vertices)])
    m = scipy.sparse.csr_matrix((np.ones(len(i), np.float32), (i, j)), shape=(num_vertices, num_vertices))
    m.data[:] = 1
    return scipy.sparse.diags(1 / np.maximum(np.asarray(m.sum(1)).ravel(), 1)).astype(np.float32).tocsr() @ m
