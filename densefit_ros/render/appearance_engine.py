"""Buffers and recorded launches behind update_appearance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import warp as wp

from .. import warp_setup
from ..body.joints import SMPL_FLIP
from ..types import NUM_JOINTS, Camera
from .recorded import Recorded
from .samples import Samples
from .warp_engine import vertex_rings

if TYPE_CHECKING:
    from ..body.model import BodyModel
    from .appearance import AppearanceOptions


class AppearanceEngine:
    """Folds images into the colours of one set of samples.  Runs on the CPU: crop, depth and colours live there."""

    def __init__(self, body: BodyModel, samples: Samples) -> None:
        warp_setup.init()
        from . import appearance_kernels as ak
        from . import warp_kernels as wk

        self.samples = samples
        self._count = len(samples.corner)
        self._faces, self._vertices = len(body.faces), len(body.v_template)
        self._fusion_type = ak.Fusion
        start, ring = vertex_rings(body.faces, self._vertices)
        faces = _array(body.faces, wp.vec3i)
        rings = _array(start, wp.int32), _array(ring, wp.int32)
        self._points = wp.zeros(self._vertices, dtype=wp.vec3, device="cpu")
        face_normal = wp.zeros(self._faces, dtype=wp.vec3, device="cpu")
        normal = wp.zeros(self._vertices, dtype=wp.vec3, device="cpu")
        f, v = self._faces, self._vertices
        self._face_normals = Recorded(wk.face_normals, [self._points, faces, f, v, face_normal], "cpu")
        self._vertex_normals = Recorded(wk.vertex_normals, [face_normal, *rings, f, v, normal], "cpu")
        self._rgb = wp.zeros(self._count, dtype=wp.vec3, device="cpu")
        self._spread = wp.zeros(self._count, dtype=wp.vec3, device="cpu")
        self._weight = wp.zeros(self._count, dtype=wp.float32, device="cpu")
        self._geometry = [self._points, normal, _array(samples.corner, wp.vec3i), _array(samples.bary, wp.vec3)]
        neighbors = [_array(samples.neighbor_start, wp.int32), _array(samples.neighbor, wp.int32)]
        self._guess = Recorded(ak.spread_guess, [self._weight, *neighbors, self._rgb, self._spread], "cpu")
        self._size = 0

    def fold(
        self,
        vertices: np.ndarray,
        crop_rgb: np.ndarray,
        depth: np.ndarray,
        crop: Camera,
        bounds: np.ndarray,
        colors: np.ndarray,
        weight: np.ndarray,
        options: AppearanceOptions,
    ) -> tuple[np.ndarray, np.ndarray]:
        """New colours and weights, in the order of ``colors`` (N,3) and ``weight`` (N,)."""
        self._fit_crop(crop.width)
        texel = self.samples.texel
        rgb, confidence = np.asarray(self._rgb), np.asarray(self._weight)
        # np.take: a third of the time of indexing.
        rgb[:] = colors if texel is None else np.take(colors, texel, 0)
        confidence[:] = weight if texel is None else np.take(weight, texel)
        fresh = not confidence.any()
        np.asarray(self._points)[:] = vertices
        np.asarray(self._image)[:] = crop_rgb.reshape(-1, 3)
        # Depths around each pixel; the nearest is 0 where background is among them.
        depth, window = np.asarray(depth, np.float32), np.ones((2 * options.margin_px + 1,) * 2, np.uint8)
        np.asarray(self._nearest)[:] = cv2.erode(depth, window).reshape(-1)
        np.asarray(self._farthest)[:] = cv2.dilate(depth, window).reshape(-1)
        self._face_normals.launch(self._faces)
        self._vertex_normals.launch(self._vertices)
        self._fuse.launch(self._count, f=self._fusion(crop, bounds, options))
        if fresh and confidence.any():
            # The first guess for the far side; spreading alone would take a hundred images to cross the body.
            unseen = confidence == 0
            rgb[unseen] = part_colors(rgb, confidence, self.samples.part)[self.samples.part[unseen]]
        self._guess.launch(self._count)
        out = np.asarray(self._spread)
        if texel is None:
            return out.copy(), confidence.copy()
        full = np.zeros(weight.shape, np.float32)
        full[texel] = confidence
        return np.take(out, self.samples.fill_from, 0), full

    def _fit_crop(self, size: int) -> None:
        if size == self._size:
            return
        from . import appearance_kernels as ak

        self._size = size
        self._image = wp.zeros(size * size, dtype=wp.vec3ub, device="cpu")
        self._nearest = wp.zeros(size * size, dtype=wp.float32, device="cpu")
        self._farthest = wp.zeros(size * size, dtype=wp.float32, device="cpu")
        inputs = [ak.Fusion(), *self._geometry, self._image, self._nearest, self._farthest, self._rgb, self._weight]
        self._fuse = Recorded(ak.fuse_image, inputs, "cpu")

    def _fusion(self, crop: Camera, bounds: np.ndarray, options: AppearanceOptions) -> wp.StructInstance:
        f = self._fusion_type()
        f.intrinsics = wp.vec4(crop.fx, crop.fy, crop.cx, crop.cy)
        f.low, f.high = wp.vec2(*bounds[0]), wp.vec2(*bounds[1])
        f.size = crop.width
        for name in ("min_facing", "margin_px", "depth_tolerance_m", "color_sigma", "prior_weight", "max_weight", "forget"):
            setattr(f, name, getattr(options, name))
        return f


def part_colors(rgb: np.ndarray, weight: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(24,3) mean colour of each body part; of its mirror image where it was not seen, else of the whole body."""
    total = np.bincount(part, weight, NUM_JOINTS)
    mean = np.stack([np.bincount(part, weight * rgb[:, c], NUM_JOINTS) for c in range(3)], -1)
    whole = mean.sum(0) / max(total.sum(), 1e-9)
    flip = np.asarray(SMPL_FLIP)
    own = mean / np.maximum(total, 1e-9)[:, None]
    out = np.where((total > 0)[:, None], own, np.where((total[flip] > 0)[:, None], own[flip], whole))
    return out.astype(np.float32)


def _array(values: np.ndarray, dtype: type) -> wp.array:
    kind = np.int32 if dtype in (wp.vec3i, wp.int32) else np.float32
    return wp.array(np.array(values, kind, order="C"), dtype=dtype, device="cpu")
