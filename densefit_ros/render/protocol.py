"""What a renderer takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..types import Camera, Surface


@dataclass(frozen=True, eq=False)
class Appearance:
    """Colours of one person.  A texture wins over vertex colours; neither means mid-grey.

    Texel (row, column) of a (T,T) texture covers uv = ((column + .5) / T, (row + .5) / T): v counts rows from the top.
    Arrays are frozen once they are in here: renderers recognise an appearance they have already uploaded by identity,
    so a changed one must be a new one.
    """

    vertex_rgb: np.ndarray | None = None  # (V,3) float32 in [0,1]
    texture: np.ndarray | None = None  # (T,T,3) float32 in [0,1]
    weight: np.ndarray | None = None  # (V,) or (T,T) float32 >= 0: accumulated evidence, 0 where the colour is a guess


@dataclass(frozen=True)
class SceneSurface:
    """Renderings of S scenes, each with any number of persons in one depth buffer.  Fields as in Surface."""

    person_id: np.ndarray  # (S,h,w) int32, index of the person in front, -1 is background
    face_id: np.ndarray  # (S,h,w) int32, -1 is background
    bary: np.ndarray  # (S,h,w,3)
    depth_m: np.ndarray  # (S,h,w), 0 on background
    normals: np.ndarray  # (S,h,w,3) unit, camera frame, 0 on background
    rgb: np.ndarray  # (S,h,w,3) in [0,1], 0 on background
    vertex_colors: np.ndarray  # (S,h,w,3) in [0,1], 0 on background


class Renderer(Protocol):
    """Renders each person into an own square crop.  Arrays in the answers may be read-only: copy to change them."""

    name: str

    def render(
        self,
        vertices_m: np.ndarray,  # (P,V,3) camera frame
        appearances: Sequence[Appearance],  # P
        camera: Camera | Sequence[Camera],  # of the full image; one for all, or one per person
        image_from_crop: np.ndarray,  # (P,2,3)
        size: int,  # px
    ) -> Surface: ...

    def render_depth(
        self, vertices_m: np.ndarray, camera: Camera | Sequence[Camera], image_from_crop: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Only (face_id, depth_m), each (P,size,size), of :meth:`render`: for tests of visibility."""
        ...
