"""Where on the body a point lies: the coordinates in which clothes, hair and skin are described.

The same description serves vertices (clothing geometry) and texels of the UV atlas (colours), so both agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from ..body.joints import JOINT_INDEX
from ..body.model import BodyModel

J = JOINT_INDEX


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """N points of the rest surface of the mean body and their anatomical coordinates; units metres unless said."""

    position: np.ndarray  # (N,3) T-pose
    normal: np.ndarray  # (N,3) unit, T-pose
    arm: np.ndarray  # (N,) share of skinning by the arm (shoulder to hand)
    along_arm: np.ndarray  # (N,) 0 at the shoulder, 1 elbow, 2 wrist, beyond 2 the hand
    leg: np.ndarray  # (N,) share of skinning by the leg
    along_leg: np.ndarray  # (N,) 0 at the hip, 1 knee, 2 ankle, beyond 2 the foot
    head: np.ndarray  # (N,) share of skinning by head and half of the neck
    up_trunk: np.ndarray  # (N,) 0 at the hips' height, 1 at the neck joint's
    head_direction: np.ndarray  # (N,3) unit, from the middle of the skull
    side: np.ndarray  # (N,) +1 left, -1 right


@dataclass(frozen=True, eq=False)
class Atlas:
    """Texels of the body's UV map as surface points."""

    points: SurfacePoints  # of the covered texels
    texel: np.ndarray  # (N,) flat index row * size + column of each point
    nearest: np.ndarray  # (size*size,) index into points: fills the gaps between charts
    size: int


def dense_weights(body: BodyModel) -> np.ndarray:
    """Skinning weights as a full (V,24) float32 matrix."""
    out = np.zeros((body.num_vertices, 24), np.float32)
    rows = np.arange(body.num_vertices)
    for slot in range(body.skin_joint.shape[1]):
        np.add.at(out, (rows, body.skin_joint[:, slot]), body.skin_weight[:, slot])
    return out


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals: (V,3), (F,3) -> (V,3) float32."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    out = np.zeros_like(vertices, np.float64)
    for k in range(3):
        for axis in range(3):
            out[:, axis] += np.bincount(faces[:, k], face[:, axis], len(vertices))
    return (out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def vertex_points(body: BodyModel) -> SurfacePoints:
    """The vertices of the mean body."""
    normal = vertex_normals(body.v_template, body.faces)
    return describe(body, body.v_template, normal, dense_weights(body))


def atlas(body: BodyModel, size: int) -> Atlas | None:
    """Texels of a ``size`` x ``size`` texture, or None for a body without UVs."""
    if body.uv is None or body.uv_faces is None:
        return None
    face, bary = rasterise_uv(body.uv, body.uv_faces, size)
    texel = np.flatnonzero(face.ravel() >= 0)
    f, b = face.ravel()[texel], bary.reshape(-1, 3)[texel]

    def interpolate(values: np.ndarray) -> np.ndarray:
        return np.einsum("nk,nkc->nc", b, values[body.faces[f]]).astype(np.float32)

    normal = interpolate(vertex_normals(body.v_template, body.faces))
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    points = describe(body, interpolate(body.v_template), normal, interpolate(dense_weights(body)))
    _, where = scipy.ndimage.distance_transform_edt(face < 0, return_indices=True)
    row_of = np.full(size * size, -1, np.int64)
    row_of[texel] = np.arange(len(texel))
    return Atlas(points, texel, row_of[(where[0] * size + where[1]).ravel()], size)


def rasterise_uv(uv: np.ndarray, uv_faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Face and barycentrics at every texel centre: (size,size) int32 with -1 outside all charts, (size,size,3)."""
    face = np.full((size, size), -1, np.int32)
    bary = np.zeros((size, size, 3), np.float32)
    corners = uv[uv_faces].astype(np.float64) * size - 0.5  # texel centres at integers
    low = np.maximum(np.ceil(corners.min(1)).astype(int), 0)
    high = np.minimum(np.floor(corners.max(1)).astype(int), size - 1)
    for k in np.flatnonzero((high >= low).all(1)):
        (x0, y0), (x1, y1), (x2, y2) = corners[k]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        xs, ys = np.arange(low[k, 0], high[k, 0] + 1), np.arange(low[k, 1], high[k, 1] + 1)
        px, py = xs[None, :], ys[:, None]
        b1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
        b2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
        b0 = 1 - b1 - b2
        inside = (b0 >= -1e-6) & (b1 >= -1e-6) & (b2 >= -1e-6)
        iy, ix = np.nonzero(inside)
        face[ys[iy], xs[ix]] = k
        bary[ys[iy], xs[ix]] = np.stack([b0[iy, ix], b1[iy, ix], b2[iy, ix]], -1)
    return face, bary


def describe(body: BodyModel, position: np.ndarray, normal: np.ndarray, weights: np.ndarray) -> SurfacePoints:
    """Anatomical coordinates of rest-surface points: (N,3), (N,3), (N,24)."""
    joint = np.asarray(body.joint_template, np.float64)

    def share(*names: str) -> np.ndarray:
        return weights[:, [J[n] for n in names]].sum(1)

    both = lambda *parts: [f"{s}_{p}" for s in ("left", "right") for p in parts]  # noqa: E731
    reach = np.abs(position[:, 0])
    knots = [abs(joint[J[f"left_{p}"], 0]) for p in ("shoulder", "elbow", "wrist")]
    fall = -position[:, 1]
    drops = [-joint[J[f"left_{p}"], 1] for p in ("hip", "knee", "ankle")]
    hips, neck = joint[J["left_hip"], 1], joint[J["neck"], 1]
    crown = body.v_template[:, 1].max()
    skull = np.array([0, 0.5 * (joint[J["head"], 1] + crown), joint[J["head"], 2]])
    is_skull = body.v_template[:, 1] > skull[1] - 0.02
    skull[2] = 0.5 * (body.v_template[is_skull, 2].min() + body.v_template[is_skull, 2].max())
    direction = position - skull
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    f = np.float32
    return SurfacePoints(
        position.astype(f),
        normal.astype(f),
        share(*both("shoulder", "elbow", "wrist", "hand")).astype(f),
        _knots(reach, knots).astype(f),
        share(*both("hip", "knee", "ankle", "foot")).astype(f),
        _knots(fall, drops).astype(f),
        (share("head") + 0.5 * share("neck")).astype(f),
        ((position[:, 1] - hips) / (neck - hips)).astype(f),
        direction.astype(f),
        np.where(position[:, 0] >= 0, 1, -1).astype(f),
    )


def _knots(value: np.ndarray, knots: list[float]) -> np.ndarray:
    """Piecewise linear coordinate 0, 1, 2 at the knots, extended at both ends with the slope of the last piece."""
    a, b, c = knots
    return np.where(value < b, (value - a) / (b - a), 1 + (value - b) / (c - b))


def smooth_step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below low, 1 above high, smooth between (high > low)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def wave_noise(rng: np.random.Generator, position: np.ndarray, period_m: float, waves: int = 6) -> np.ndarray:
    """Smooth random field over space with about unit variance: a sum of plane waves.  (N,3) -> (N,)."""
    direction = rng.normal(size=(waves, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    k = direction * (2 * np.pi / (period_m * rng.uniform(0.6, 1.7, (waves, 1))))
    phase = position @ k.T.astype(np.float32) + rng.uniform(0, 2 * np.pi, waves).astype(np.float32)
    return np.cos(phase).sum(1) * np.float32(np.sqrt(2.0 / waves))


def fill_texture(grid: Atlas, colours: np.ndarray) -> np.ndarray:
    """Colours (N,3) of the atlas points -> (size,size,3) float32 texture without gaps."""
    return np.ascontiguousarray(colours[grid.nearest].reshape(grid.size, grid.size, 3), np.float32)
