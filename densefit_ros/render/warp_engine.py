"""Device buffers and recorded launches behind WarpRenderer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import warp as wp

from .. import warp_setup
from ..types import Camera
from .color_slots import ColorSlots
from .protocol import Appearance

if TYPE_CHECKING:
    from ..body.model import BodyModel

EMPTY_KEY = 0x7FFFFFFFFFFFFFFF


class WarpEngine:
    """Owns all device memory of one renderer; buffers grow to the largest call and stay.

    Answers are views into buffers that the next call overwrites.
    """

    def __init__(self, body: BodyModel, device: str, near_m: float) -> None:
        warp_setup.init()
        from ..body.model import vertex_colors

        self.device = device
        self.near_m = near_m
        self.num_vertices, self.num_faces = len(body.v_template), len(body.faces)
        has_uv = body.uv is not None and body.uv_faces is not None
        start, ring = vertex_rings(body.faces, self.num_vertices)
        self.faces = self._const(body.faces, wp.vec3i)
        self.ring_start, self.ring_face = self._const(start, wp.int32), self._const(ring, wp.int32)
        self.vertex_color = self._const(vertex_colors(body), wp.vec3)
        self.uv = self._const(body.uv if has_uv else np.zeros((1, 2)), wp.vec2)
        self.uv_faces = self._const(body.uv_faces if has_uv else np.zeros((1, 3)), wp.vec3i)
        self.slots = ColorSlots(self.num_vertices, has_uv, device)
        self._persons_capacity = self._pixel_capacity = 0
        self._recorded: dict[str, wp.Launch] | None = None
        self._grow(1, 1)

    def shade(
        self,
        vertices: np.ndarray,
        appearances: Sequence[Appearance],
        cameras: Sequence[Camera],
        scene: np.ndarray,
        height: int,
        width: int,
        scenes: int | None = None,
    ) -> tuple[np.ndarray, ...]:
        """person_id, face_id, bary, depth, normals, rgb, vertex colours: (S,height,width[,3]) views."""
        scenes = len(vertices) if scenes is None else scenes
        self._grow(len(vertices), scenes * height * width)
        colors_before = self.slots.colors
        start, size = self.slots.assign(appearances)
        if self.slots.colors is not colors_before:
            self._recorded = None
        self._to_device(self.color_start, start)
        self._to_device(self.texture_size, size)
        self._scatter(vertices, cameras, scene, height, width)
        self._launch("face_normals", len(vertices) * self.num_faces)
        self._launch("vertex_normals", len(vertices) * self.num_vertices)
        self._launch("resolve_pixels", scenes * height * width, width=width, height=height)
        return tuple(self._host(a, (scenes, height, width)) for a in self.shaded)

    def depth(
        self, vertices: np.ndarray, cameras: Sequence[Camera], scene: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, ...]:
        """person_id, face_id, depth: (S,height,width) views."""
        scenes = len(vertices)
        self._grow(scenes, scenes * height * width)
        self._scatter(vertices, cameras, scene, height, width)
        self._launch("resolve_depth", scenes * height * width, width=width, height=height)
        return tuple(self._host(a, (scenes, height, width)) for a in self.bare)

    def _scatter(self, vertices: np.ndarray, cameras: Sequence[Camera], scene: np.ndarray, height: int, width: int) -> None:
        persons = len(vertices)
        self._to_device(self.points, vertices.reshape(-1, 3))
        self._to_device(self.intrinsics, np.array([(c.fx, c.fy, c.cx, c.cy) for c in cameras], np.float32).reshape(-1, 4))
        self._to_device(self.scene, scene)
        self._launch("project_vertices", persons * self.num_vertices)
        self._launch("scatter_triangles", persons * self.num_faces, width=width, height=height)

    def _const(self, values: np.ndarray, dtype: type) -> wp.array:
        kind = np.int32 if dtype in (wp.vec3i, wp.int32) else np.float32
        return wp.array(np.array(values, kind, order="C"), dtype=dtype, device=self.device)

    def _grow(self, persons: int, pixels: int) -> None:
        make = lambda n, dtype: wp.zeros(max(n, 1), dtype=dtype, device=self.device)  # noqa: E731
        full = lambda n, dtype, value: wp.full(max(n, 1), value, dtype=dtype, device=self.device)  # noqa: E731
        if persons > self._persons_capacity:
            self._persons_capacity, self._recorded = persons, None
            corners, triangles = persons * self.num_vertices, persons * self.num_faces
            self.points, self.screen = make(corners, wp.vec3), make(corners, wp.vec3)
            self.snapped, self.vertex_normal = make(corners, wp.vec2i), make(corners, wp.vec3)
            self.face_normal = make(triangles, wp.vec3)
            self.intrinsics, self.scene = make(persons, wp.vec4), make(persons, wp.int32)
            self.color_start, self.texture_size = make(persons, wp.int32), make(persons, wp.int32)
        if pixels > self._pixel_capacity:
            self._pixel_capacity, self._recorded = pixels, None
            self.keys = full(pixels, wp.int64, EMPTY_KEY)
            ids = [full(pixels, wp.int32, -1) for _ in range(4)]
            vectors = [make(pixels, wp.vec3) for _ in range(4)]
            depths = [make(pixels, wp.float32) for _ in range(2)]
            self.shaded = (ids[0], ids[1], vectors[0], depths[0], *vectors[1:])
            # The depth-only pass has its own buffers: a pass leaves background alone because its own last frame did.
            self.bare = (ids[2], ids[3], depths[1])

    def _record(self) -> dict[str, wp.Launch]:
        from . import warp_kernels as k

        f, v = self.num_faces, self.num_vertices
        args = {
            "project_vertices": [self.points, self.intrinsics, v, self.near_m, self.screen, self.snapped],
            "face_normals": [self.points, self.faces, f, v, self.face_normal],
            "vertex_normals": [self.face_normal, self.ring_start, self.ring_face, f, v, self.vertex_normal],
            "scatter_triangles": [self.screen, self.snapped, self.faces, self.scene, f, v, 1, 1, self.keys],
            "resolve_pixels": [
                *(self.keys, self.screen, self.faces, self.vertex_normal, self.vertex_color, self.uv, self.uv_faces),
                *(self.slots.colors, self.color_start, self.texture_size, f, v, 1, 1, *self.shaded),
            ],
            "resolve_depth": [self.keys, self.screen, self.faces, f, v, 1, 1, *self.bare],
        }
        launch = lambda name, inputs: wp.launch(  # noqa: E731
            getattr(k, name), dim=1, inputs=inputs, device=self.device, record_cmd=True
        )
        return {name: launch(name, inputs) for name, inputs in args.items()}

    def _launch(self, name: str, count: int, **params: int) -> None:
        if count == 0:
            return
        if self._recorded is None:
            self._recorded = self._record()
            self._set: dict[str, tuple] = {}
        command = self._recorded[name]
        if self._set.get(name) != (count, params):  # repacking arguments costs more than the launch
            command.set_dim(count)
            for key, value in params.items():
                command.set_param_by_name(key, value)
            self._set[name] = (count, params)
        command.launch()

    def _to_device(self, target: wp.array, values: np.ndarray) -> None:
        if self.device == "cpu":
            target.numpy()[: len(values)] = values
        elif len(values):
            source = wp.array(np.ascontiguousarray(values), dtype=target.dtype, device="cpu", copy=False)
            wp.copy(target, source, count=len(values))

    def _host(self, array: wp.array, shape: tuple[int, int, int]) -> np.ndarray:
        count = shape[0] * shape[1] * shape[2]
        flat = array.numpy()[:count] if self.device == "cpu" else array[:count].numpy()
        return flat.reshape(shape + flat.shape[1:])


def vertex_rings(faces: np.ndarray, num_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces around each vertex: (V+1,) starts into the (3F,) list of faces, both int32."""
    corner = np.asarray(faces).reshape(-1)
    order = np.argsort(corner, kind="stable")
    start = np.zeros(num_vertices + 1, np.int32)
    np.cumsum(np.bincount(corner, minlength=num_vertices), out=start[1:])
    return start, (order // 3).astype(np.int32)
