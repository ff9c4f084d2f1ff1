"""Device buffers and recorded launches behind WarpRenderer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import warp as wp

from .. import warp_setup
from ..types import Camera
from .color_slots import ColorSlots
from .frame_pool import BufferSet, FramePool
from .protocol import Appearance
from .recorded import Recorded

if TYPE_CHECKING:
    from ..body.model import BodyModel

EMPTY_KEY = 0x7FFFFFFFFFFFFFFF  # as in the kernels
# Pixels per thread.  A CPU "thread" is a function call that unpacks 23 arguments: 0.47 ms at 1, 0.38 ms at 256.
CPU_RUN, CUDA_RUN = 256, 1


class WarpEngine:
    """Owns all device memory of one renderer; buffers grow to the largest call and stay."""

    def __init__(self, body: BodyModel, device: str, near_m: float) -> None:
        warp_setup.init()
        from ..body.model import vertex_colors

        self.device = device
        self.on_host = device == "cpu"  # NumPy sees the buffers themselves
        self.near_m = near_m
        self.run = CPU_RUN if self.on_host else CUDA_RUN
        self.num_vertices, self.num_faces = len(body.v_template), len(body.faces)
        has_uv = body.uv is not None and body.uv_faces is not None
        start, ring = vertex_rings(body.faces, self.num_vertices)
        self.faces = self._const(body.faces, wp.vec3i)
        self.ring_start, self.ring_face = self._const(start, wp.int32), self._const(ring, wp.int32)
        self.vertex_color = self._const(vertex_colors(body), wp.vec3)
        self.uv = self._const(body.uv if has_uv else np.zeros((1, 2)), wp.vec2)
        self.uv_faces = self._const(body.uv_faces if has_uv else np.zeros((1, 3)), wp.vec3i)
        self.slots = ColorSlots(self.num_vertices, has_uv, device)
        self._person_capacity = self._pixel_capacity = 0
        self._ensure(1, 1)

    def shade(
        self,
        vertices: np.ndarray,
        appearances: Sequence[Appearance],
        cameras: Sequence[Camera],
        scene: np.ndarray,
        shape: tuple[int, int, int],
    ) -> tuple[np.ndarray, ...]:
        """person_id, face_id, bary, depth, normals, rgb, vertex colours of (scenes, height, width) pixels."""
        persons = len(vertices)
        self._ensure(persons, _count(shape))
        colors = self.slots.colors
        start, size = self.slots.assign(appearances)
        if self.slots.colors is not colors:
            self._record()
        self._to_device(self.color_start, start)
        self._to_device(self.texture_size, size)
        self._scatter(vertices, cameras, scene, shape)
        self._face_normals.launch(persons * self.num_faces)
        self._vertex_normals.launch(persons * self.num_vertices)
        return self._resolve(self._shaded, shape)

    def depth(
        self, vertices: np.ndarray, cameras: Sequence[Camera], scene: np.ndarray, shape: tuple[int, int, int]
    ) -> tuple[np.ndarray, ...]:
        """person_id, face_id, depth of (scenes, height, width) pixels."""
        self._ensure(len(vertices), _count(shape))
        self._scatter(vertices, cameras, scene, shape)
        return self._resolve(self._bare, shape)

    def adopt(self, persons: int, pixels: int, **arrays: wp.array) -> BufferSet:
        """Draw from these arrays of the device from now on (points, intrinsics, scene, color_start, texture_size; those not
        named stay the engine's own), ``persons`` into ``pixels`` altogether; the buffers that :meth:`draw` fills."""
        self._ensure(persons, pixels)
        for name, array in arrays.items():
            setattr(self, name, array)
        self._record()
        return self._shaded.take()

    def draw(self, frame: BufferSet, persons: int, shape: tuple[int, int, int]) -> None:
        """Draw what the adopted arrays hold, all channels, without waiting."""
        self._project.launch(persons * self.num_vertices)
        self._triangles.launch(persons * self.num_faces, height=shape[1], width=shape[2])
        self._face_normals.launch(persons * self.num_faces)
        self._vertex_normals.launch(persons * self.num_vertices)
        count = _count(shape)
        frame.fill.launch(-(-count // self.run), height=shape[1], width=shape[2], run=self.run, count=count)

    def _scatter(self, vertices: np.ndarray, cameras: Sequence[Camera], scene: np.ndarray, shape: tuple[int, int, int]) -> None:
        persons = len(vertices)
        self._to_device(self.points, vertices.reshape(-1, 3))
        self._to_device(self.intrinsics, np.array([(c.fx, c.fy, c.cx, c.cy) for c in cameras], np.float32).reshape(-1, 4))
        self._to_device(self.scene, scene)
        self._project.launch(persons * self.num_vertices)
        self._triangles.launch(persons * self.num_faces, height=shape[1], width=shape[2])

    def _resolve(self, pool: FramePool, shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
        frame = pool.take()
        count = _count(shape)
        frame.fill.launch(-(-count // self.run), height=shape[1], width=shape[2], run=self.run, count=count)
        if self.on_host:
            return pool.lend(frame, shape)
        out = tuple(a[:count].numpy() for a in frame.arrays)
        pool.give_back(frame)
        return tuple(a.reshape(shape + a.shape[1:]) for a in out)

    def _ensure(self, persons: int, pixels: int) -> None:
        if persons <= self._person_capacity and pixels <= self._pixel_capacity:
            return
        if persons > self._person_capacity:
            self._person_capacity = persons
            corners, triangles = persons * self.num_vertices, persons * self.num_faces
            self.points, self.screen = self._zeros(corners, wp.vec3), self._zeros(corners, wp.vec3)
            self.snapped, self.vertex_normal = self._zeros(corners, wp.vec2i), self._zeros(corners, wp.vec3)
            self.face_normal = self._zeros(triangles, wp.vec3)
            self.intrinsics, self.scene = self._zeros(persons, wp.vec4), self._zeros(persons, wp.int32)
            self.color_start, self.texture_size = self._zeros(persons, wp.int32), self._zeros(persons, wp.int32)
        if pixels > self._pixel_capacity:
            self._pixel_capacity = pixels
            self.keys = wp.full(pixels, EMPTY_KEY, dtype=wp.int64, device=self.device)
        self._record()

    def _record(self) -> None:
        """Record the launches over the current buffers; their dimensions are set per call."""
        from . import warp_kernels as k

        f, v = self.num_faces, self.num_vertices
        self._project = self._command(
            k.project_vertices, [self.points, self.intrinsics, v, self.near_m, self.screen, self.snapped]
        )
        self._triangles = self._command(
            k.scatter_triangles, [self.screen, self.snapped, self.faces, self.scene, f, v, 1, 1, self.keys]
        )
        self._face_normals = self._command(k.face_normals, [self.points, self.faces, f, v, self.face_normal])
        self._vertex_normals = self._command(
            k.vertex_normals, [self.face_normal, self.ring_start, self.ring_face, f, v, self.vertex_normal]
        )
        # The pools must not hold the engine: its memory would stay until the garbage collector comes round to the cycle.
        pixels, device, geometry = self._pixel_capacity, self.device, [self.keys, self.screen, self.faces]
        look = [self.vertex_normal, self.vertex_color, self.uv, self.uv_faces]
        paint = [self.slots.colors, self.color_start, self.texture_size]

        def shaded() -> BufferSet:
            vectors = [wp.zeros(pixels, dtype=wp.vec3, device=device) for _ in range(4)]
            depth = wp.zeros(pixels, dtype=wp.float32, device=device)
            out = (*_ids(pixels, device), vectors[0], depth, *vectors[1:])
            return BufferSet(out, Recorded(k.resolve_pixels, [*geometry, *look, *paint, f, v, 1, 1, 1, 1, *out], device))

        def bare() -> BufferSet:
            out = (*_ids(pixels, device), wp.zeros(pixels, dtype=wp.float32, device=device))
            return BufferSet(out, Recorded(k.resolve_depth, [*geometry, f, v, 1, 1, 1, 1, *out], device))

        self._shaded, self._bare = FramePool(shaded), FramePool(bare)

    def _command(self, kernel: wp.Kernel, inputs: list) -> Recorded:
        return Recorded(kernel, inputs, self.device)

    def _const(self, values: np.ndarray, dtype: type) -> wp.array:
        kind = np.int32 if dtype in (wp.vec3i, wp.int32) else np.float32
        return wp.array(np.array(values, kind, order="C"), dtype=dtype, device=self.device)

    def _zeros(self, count: int, dtype: type) -> wp.array:
        return wp.zeros(count, dtype=dtype, device=self.device)

    def _to_device(self, target: wp.array, values: np.ndarray) -> None:
        if self.on_host:
            np.asarray(target)[: len(values)] = values
        elif len(values):
            source = wp.array(np.ascontiguousarray(values), dtype=target.dtype, device="cpu", copy=False)
            wp.copy(target, source, count=len(values))


def vertex_rings(faces: np.ndarray, num_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces around each vertex: (V+1,) starts into the (3F,) list of faces, both int32."""
    corner = np.asarray(faces).reshape(-1)
    order = np.argsort(corner, kind="stable")
    start = np.zeros(num_vertices + 1, np.int32)
    np.cumsum(np.bincount(corner, minlength=num_vertices), out=start[1:])
    return start, (order // 3).astype(np.int32)


def _ids(count: int, device: str) -> tuple[wp.array, wp.array]:
    return tuple(wp.full(count, -1, dtype=wp.int32, device=device) for _ in range(2))


def _count(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]
