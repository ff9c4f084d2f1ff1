"""Meshes and comparisons shared by the tests of the renderers."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import scipy.ndimage

from densefit_ros.types import Camera, Surface

CAMERA = Camera(300.0, 310.0, 161.3, 118.7, 320, 240)
WHOLE = np.float32([[[1, 0, 0], [0, 1, 0]]])


def mesh(vertices, faces, uv=None, uv_faces=None):
    """The part of a BodyModel that a renderer reads."""
    return SimpleNamespace(
        v_template=np.asarray(vertices, np.float32), faces=np.asarray(faces, np.int32), uv=uv, uv_faces=uv_faces
    )


def sphere(rows: int = 40, columns: int = 60, radius: float = 1.0):
    """Latitude-longitude sphere, counter-clockwise from outside: vertices (V,3), faces (F,3)."""
    theta = np.linspace(0, np.pi, rows + 1)[1:-1]
    phi = np.arange(columns) * 2 * np.pi / columns
    t, p = np.meshgrid(theta, phi, indexing="ij")
    ring = np.stack([np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)], -1).reshape(-1, 3)
    vertices = np.concatenate([ring, [[0, 0, 1]], [[0, 0, -1]]]) * radius
    top, bottom = len(ring), len(ring) + 1
    faces = []
    for j in range(columns):
        k = (j + 1) % columns
        faces.append((top, j, k))
        faces.append((bottom, (rows - 2) * columns + k, (rows - 2) * columns + j))
        for i in range(rows - 2):
            a, b = i * columns + j, i * columns + k
            c, d = a + columns, b + columns
            faces += [(a, c, d), (a, d, b)]
    return vertices, np.array(faces)


def plate(texture_uv: bool = True):
    """A unit square that faces the camera at z = 0, top left first, with uv (0,0) at its top left.

    A fifth vertex, in no face, gives the bounding box a depth.
    """
    vertices = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1.0]]
    uv = np.float32([[0, 0], [1, 0], [1, 1], [0, 1]])
    faces = np.int32([[0, 2, 1], [0, 3, 2]])
    return mesh(vertices, faces, uv if texture_uv else None, faces if texture_uv else None)


@dataclass(frozen=True)
class Parity:
    """How two renderings of the same thing compare."""

    inside: int  # pixels that both cover, away from edges
    inside_error: dict[str, float]  # 99.8th percentile of the differences there: a fold shallower than a jump has edges too
    inside_depth_max: float  # m
    mask_flips_inside: int  # pixels away from edges that only one covers
    band: int
    flip_share: float  # of band pixels: other coverage, or another surface
    flip_bias: float  # (covered only by a - only by b) / band


def boundary_band(face_id: np.ndarray, depth_m: np.ndarray, jump_m: float = 0.02, radius: int = 1) -> np.ndarray:
    """(h,w) bool: within ``radius`` px of the silhouette or of a depth jump, where one flipped pixel changes everything."""
    mask = face_id >= 0
    edge = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        a, b = [slice(None)] * 2, [slice(None)] * 2
        a[axis], b[axis] = slice(1, None), slice(None, -1)
        a, b = tuple(a), tuple(b)
        jump = (mask[a] != mask[b]) | (mask[a] & mask[b] & (np.abs(depth_m[a] - depth_m[b]) > jump_m))
        edge[a] |= jump
        edge[b] |= jump
    return scipy.ndimage.binary_dilation(edge, iterations=radius) if radius > 0 else edge


def compare(a: Surface, b: Surface, person: int = 0, names=("depth_m", "normals", "rgb", "vertex_colors")) -> Parity:
    """Tight differences away from edges, counted flips near them."""
    fa, fb, da, db = a.face_id[person], b.face_id[person], a.depth_m[person], b.depth_m[person]
    band = boundary_band(fa, da) | boundary_band(fb, db)
    both = (fa >= 0) & (fb >= 0)
    inside = both & ~band
    error = {}
    for name in names:
        difference = np.abs(getattr(a, name)[person][inside] - getattr(b, name)[person][inside])
        error[name] = float(np.quantile(difference.reshape(len(difference), -1).max(-1), 0.998)) if len(difference) else 0.0
    only_a, only_b = (fa >= 0) & (fb < 0), (fa < 0) & (fb >= 0)
    other = both & (np.abs(da - db) > 0.02)
    flips = band & (only_a | only_b | other)
    count = max(int(band.sum()), 1)
    return Parity(
        int(inside.sum()),
        error,
        float(np.abs(da - db)[inside].max(initial=0)),
        int(((only_a | only_b) & ~band).sum()),
        count,
        float(flips.sum() / count),
        float(((only_a & band).sum() - (only_b & band).sum()) / count),
    )
