"""The rasteriser once more, plain and slow, in float64 NumPy: what the fast ones are tested against.

It shares no arithmetic with the kernels: a pixel's ray d meets a triangle with corners M = [a b c] (columns) where
``M s = d`` with all s >= 0; barycentrics are s / sum(s) and, as d has z = 1, the depth is 1 / sum(s).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..types import Camera, Surface
from .protocol import Appearance
from .warp_renderer import NEAR_M, crop_cameras

if TYPE_CHECKING:
    from ..body.model import BodyModel


class ReferenceRenderer:
    """Same answers as WarpRenderer except within a few hundredths of a pixel of an edge; seconds instead of milliseconds."""

    name = "reference"

    def __init__(self, body: BodyModel) -> None:
        from ..body.model import vertex_colors

        self._body = body
        self._colors = vertex_colors(body)

    def render(
        self,
        vertices_m: np.ndarray,
        appearances: Sequence[Appearance],
        camera: Camera | Sequence[Camera],
        image_from_crop: np.ndarray,
        size: int,
    ) -> Surface:
        """As :meth:`WarpRenderer.render`."""
        affine = np.asarray(image_from_crop, np.float32)
        cameras = crop_cameras(camera, affine, size)
        people = [self._person(v, a, c) for v, a, c in zip(np.asarray(vertices_m, np.float64), appearances, cameras)]
        return Surface(*(np.stack([p[i] for p in people]) for i in range(6)), image_from_crop=affine)

    def _person(self, vertices: np.ndarray, appearance: Appearance, camera: Camera) -> tuple[np.ndarray, ...]:
        faces = self._body.faces
        face_id, bary, depth = zbuffer(vertices, faces, camera)
        seen = face_id >= 0
        f, b = face_id[seen], bary[seen][:, :, None]

        def spread(values: np.ndarray) -> np.ndarray:
            out = np.zeros(face_id.shape + (3,), np.float32)
            out[seen] = values
            return out

        normals = (smooth_normals(vertices, faces)[faces[f]] * b).sum(1)
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
        if appearance.texture is not None:
            rgb = bilinear(appearance.texture, (self._body.uv[self._body.uv_faces[f]] * b).sum(1))
        else:
            grey = np.full((len(vertices), 3), 0.5)
            rgb = ((grey if appearance.vertex_rgb is None else appearance.vertex_rgb)[faces[f]] * b).sum(1)
        colors = (self._colors[faces[f]] * b).sum(1)
        return face_id, bary.astype(np.float32), depth.astype(np.float32), spread(normals), spread(rgb), spread(colors)


def zbuffer(vertices: np.ndarray, faces: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """face_id (h,w) int32, bary (h,w,3), depth (h,w) of one mesh; (V,3) m in the camera frame."""
    h, w = camera.height, camera.width
    face_id = np.full((h, w), -1, np.int32)
    bary = np.zeros((h, w, 3))
    nearest = np.full((h, w), np.inf)
    ray_x = (np.arange(w) + 0.5 - camera.cx) / camera.fx
    ray_y = (np.arange(h) + 0.5 - camera.cy) / camera.fy
    for i, face in enumerate(faces):
        corners = vertices[face]  # rows: M transposed
        if not np.all(corners[:, 2] > NEAR_M) or not np.all(np.isfinite(corners)):
            continue
        if np.linalg.det(corners) >= 0:  # a . (b x c) < 0 where the outward normal points at the camera
            continue
        x, y = corners[:, 0] / corners[:, 2], corners[:, 1] / corners[:, 2]
        c0, c1 = np.searchsorted(ray_x, x.min()), np.searchsorted(ray_x, x.max(), "right")
        r0, r1 = np.searchsorted(ray_y, y.min()), np.searchsorted(ray_y, y.max(), "right")
        if c0 == c1 or r0 == r1:
            continue
        dx, dy = np.meshgrid(ray_x[c0:c1], ray_y[r0:r1])
        s = np.stack([dx, dy, np.ones_like(dx)], -1) @ np.linalg.inv(corners)
        total = s.sum(-1)
        z = 1.0 / np.where(total > 0, total, np.nan)
        win = np.all(s >= 0, -1) & (z < nearest[r0:r1, c0:c1])
        nearest[r0:r1, c0:c1][win] = z[win]
        bary[r0:r1, c0:c1][win] = s[win] / total[win][:, None]
        face_id[r0:r1, c0:c1][win] = i
    return face_id, bary, np.where(face_id >= 0, nearest, 0.0)


def smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,3) unit means, weighted by area, of the normals around each vertex."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.nan_to_num(np.cross(b - a, c - a))
    out = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(out, faces[:, k], cross)
    return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-30)


def bilinear(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Samples (N,C) of an (h,w,C) image at (N,2) positions in [0,1], clamped; texel centres at half-integers."""
    h, w = image.shape[:2]
    x = np.clip(uv[:, 0] * w - 0.5, 0, w - 1)
    y = np.clip(uv[:, 1] * h - 0.5, 0, h - 1)
    x0, y0 = x.astype(int), y.astype(int)
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    upper = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    lower = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return upper * (1 - fy) + lower * fy
