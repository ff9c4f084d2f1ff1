"""Colours of the persons of a call in one flat device array, uploaded only when they change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import warp as wp

from ..errors import ShapeError
from .protocol import Appearance

GREY = Appearance()


class ColorSlots:
    """Keeps each appearance in a slot; the same object is not uploaded twice while its slot is not needed."""

    def __init__(self, num_vertices: int, has_uv: bool, device: str) -> None:
        self.num_vertices = num_vertices
        self.has_uv = has_uv
        self.device = device
        self.on_host = device == "cpu"
        self.owners: list[Appearance | None] = []
        self.slot_size = num_vertices
        self.colors = wp.zeros(num_vertices, dtype=wp.vec3, device=device)

    def reserve(self, slots: int, size: int) -> None:
        """Room for ``slots`` appearances of ``size`` colours, so that ``colors`` stays while no more are needed."""
        if slots > len(self.owners) or size > self.slot_size:
            self._grow(max(size, self.slot_size), max(slots, len(self.owners)))

    def assign(self, appearances: Sequence[Appearance]) -> tuple[np.ndarray, np.ndarray]:
        """Start of each person's colours in ``colors``, and its texture size (0: vertex colours).  Both (P,) int32.

        ``colors`` may be a new array afterwards.  Raises ShapeError when a colour array does not fit the body.
        """
        sources = [self._source(a) for a in appearances]
        distinct = {id(a): a for a in appearances}
        needed = max([len(flat) for flat, _ in sources], default=0)
        if needed > self.slot_size or len(distinct) > len(self.owners):
            self._grow(max(needed, self.slot_size), max(len(distinct), len(self.owners)))
        slot_of = {id(o): s for s, o in enumerate(self.owners) if o is not None and id(o) in distinct}
        free = [s for s, o in enumerate(self.owners) if o is None or id(o) not in distinct]
        start = np.empty(len(appearances), np.int32)
        size = np.empty(len(appearances), np.int32)
        for p, (appearance, (flat, texture_size)) in enumerate(zip(appearances, sources)):
            slot = slot_of.get(id(appearance))
            if slot is None:
                slot = slot_of[id(appearance)] = free.pop()
                self.owners[slot] = appearance
                self._upload(slot, flat)
            start[p] = slot * self.slot_size
            size[p] = texture_size
        return start, size

    def _source(self, appearance: Appearance) -> tuple[np.ndarray, int]:
        texture, rgb = appearance.texture, appearance.vertex_rgb
        if texture is not None:
            if not self.has_uv:
                raise ShapeError("expected vertex colours, got a texture: this body has no uv coordinates")
            if texture.ndim != 3 or texture.shape[0] != texture.shape[1] or texture.shape[2] != 3:
                raise ShapeError(f"expected a square (T,T,3) texture, got {texture.shape}")
            return texture.reshape(-1, 3), texture.shape[0]
        if rgb is None:
            return np.full((self.num_vertices, 3), 0.5, np.float32), 0
        if rgb.shape != (self.num_vertices, 3):
            raise ShapeError(f"expected vertex colours ({self.num_vertices},3), got {rgb.shape}: of another body?")
        return rgb, 0

    def _grow(self, slot_size: int, slots: int) -> None:
        self.slot_size = slot_size
        self.owners = [None] * slots
        self.colors = wp.zeros(slots * slot_size, dtype=wp.vec3, device=self.device)

    def _upload(self, slot: int, flat: np.ndarray) -> None:
        source = np.ascontiguousarray(flat, np.float32)
        start = slot * self.slot_size
        if self.on_host:
            self.colors.numpy()[start : start + len(source)] = source
        else:
            wp.copy(self.colors, wp.array(source, dtype=wp.vec3, device="cpu"), dest_offset=start, count=len(source))
