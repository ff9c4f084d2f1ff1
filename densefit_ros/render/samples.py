"""Points of the surface that carry a colour: the vertices, or the texels of a UV texture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage
import scipy.sparse

from ..errors import ShapeError

if TYPE_CHECKING:
    from ..body.model import BodyModel


@dataclass(frozen=True, eq=False)
class Samples:
    """N points p = sum of bary * vertices[corner], and which of them touch."""

    corner: np.ndarray  # (N,3) int32 vertices
    bary: np.ndarray  # (N,3) float32
    part: np.ndarray  # (N,) int32 joint that moves it most
    neighbor_start: np.ndarray  # (N+1,) int32 into neighbor
    neighbor: np.ndarray  # (M,) int32
    texel: np.ndarray | None = None  # (N,) int32 flat position in the texture
    fill_from: np.ndarray | None = None  # (T*T,) int32: the sample nearest to each texel


def vertex_samples(body: BodyModel) -> Samples:
    """One sample per vertex; neighbours share an edge."""
    count = len(body.v_template)
    f = np.asarray(body.faces)
    edge = np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])
    start, neighbor = _adjacency(edge, count)
    corner = np.repeat(np.arange(count, dtype=np.int32)[:, None], 3, 1)
    bary = np.tile(np.float32([1, 0, 0]), (count, 1))
    return Samples(corner, bary, _parts(body), start, neighbor)


def texel_samples(body: BodyModel, size: int) -> Samples:
    """One sample per texel centre that lies in a triangle of the UV map; neighbours lie side by side in the texture.

    Texels between the islands take the colour of the nearest sample, so that bilinear sampling at a seam meets no hole.
    Raises ShapeError when the body has no UV map.
    """
    if body.uv is None or body.uv_faces is None:
        raise ShapeError("expected a body with uv coordinates for a texture, got none: use vertex colours")
    face_of, bary_of = rasterize_uv(np.asarray(body.uv, np.float64), body.uv_faces, size)
    texel = np.flatnonzero(face_of >= 0).astype(np.int32)
    number = np.full(size * size, -1, np.int32)
    number[texel] = np.arange(len(texel))
    grid = number.reshape(size, size)
    pairs = [np.stack([grid[:, :-1].ravel(), grid[:, 1:].ravel()], -1), np.stack([grid[:-1].ravel(), grid[1:].ravel()], -1)]
    edge = np.concatenate(pairs)
    start, neighbor = _adjacency(edge[(edge >= 0).all(1)], len(texel))
    row, column = scipy.ndimage.distance_transform_edt(grid < 0, return_distances=False, return_indices=True)
    fill_from = grid[row, column].reshape(-1)
    corner = np.asarray(body.faces, np.int32)[face_of[texel]]
    part = _parts(body)[corner[:, 0]]
    return Samples(corner, bary_of[texel].astype(np.float32), part, start, neighbor, texel, fill_from)


def rasterize_uv(uv: np.ndarray, uv_faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangle (T*T,), -1 for none, and barycentrics (T*T,3) at each texel centre; either winding."""
    corner = uv[uv_faces] * size  # (F,3,2) in texels
    low = np.clip(np.floor(corner.min(1)).astype(int), 0, size - 1)
    high = np.clip(np.floor(corner.max(1)).astype(int), 0, size - 1)
    face_of = np.full(size * size, -1, np.int32)
    bary_of = np.zeros((size * size, 3))
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    area = _cross(b - a, c - a)
    extent = high - low
    # Triangles are a few texels wide: step through the offsets in their boxes, all triangles at once.
    for dy in range(int(extent[:, 1].max(initial=-1)) + 1):
        for dx in range(int(extent[:, 0].max(initial=-1)) + 1):
            f = np.flatnonzero((extent[:, 0] >= dx) & (extent[:, 1] >= dy) & (area != 0))
            cell = low[f] + [dx, dy]
            p = cell + 0.5
            share = np.stack([_cross(b[f] - p, c[f] - p), _cross(c[f] - p, a[f] - p), _cross(a[f] - p, b[f] - p)], -1)
            share /= area[f, None]
            inside = (share >= 0).all(-1)
            flat = cell[inside, 1] * size + cell[inside, 0]
            face_of[flat] = f[inside]
            bary_of[flat] = share[inside]
    return face_of, bary_of


def _parts(body: BodyModel) -> np.ndarray:
    strongest = np.argmax(body.skin_weight, 1)
    return body.skin_joint[np.arange(len(strongest)), strongest].astype(np.int32)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _adjacency(edge: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    both = np.concatenate([edge, edge[:, ::-1]])
    graph = scipy.sparse.coo_matrix((np.ones(len(both), np.int8), (both[:, 0], both[:, 1])), shape=(count, count)).tocsr()
    return graph.indptr.astype(np.int32), graph.indices.astype(np.int32)
