"""Z-buffer rasteriser in NVIDIA Warp, on CPU (one thread) or CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ShapeError
from ..geometry.camera import crop_camera
from ..types import Camera, Surface
from .protocol import Appearance, SceneSurface

if TYPE_CHECKING:
    from ..body.model import BodyModel

NEAR_M = 0.05


class WarpRenderer:
    """Renders posed meshes of one body.

    Faces seen from behind are culled: on a closed body they are never in front, and along the silhouette they would
    fight with the front faces for the last pixel.  A triangle with a corner nearer than 5 cm is dropped whole, so is one
    with a NaN corner.  Normals are smooth: area-weighted means over the faces around a vertex.

    Arrays in the answers are read-only and stay as they are for as long as somebody holds them; their memory is used
    again afterwards.  Copy what has to be changed.  One thread at a time may call a renderer.
    """

    name = "warp"

    def __init__(self, body: BodyModel, device: str = "cpu") -> None:
        from .warp_engine import WarpEngine

        self.device = device
        self._engine = WarpEngine(body, device, NEAR_M)
        self._num_vertices = len(body.v_template)

    def render(
        self,
        vertices_m: np.ndarray,
        appearances: Sequence[Appearance],
        camera: Camera | Sequence[Camera],
        image_from_crop: np.ndarray,
        size: int,
    ) -> Surface:
        """Each person alone in an own crop.

        vertices_m (P,V,3) m in the camera frame; ``camera`` of the full image, one or one per person;
        image_from_crop (P,2,3) -> Surface (P,size,size).  Raises ShapeError.
        """
        vertices, affine = check_call(vertices_m, appearances, image_from_crop, self._num_vertices)
        cameras = crop_cameras(camera, affine, size)
        out = self._engine.shade(
            vertices, appearances, cameras, np.arange(len(vertices), dtype=np.int32), (len(vertices), size, size)
        )
        return Surface(*out[1:], image_from_crop=affine)

    def render_depth(
        self, vertices_m: np.ndarray, camera: Camera | Sequence[Camera], image_from_crop: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Only (face_id (P,size,size) int32, depth_m (P,size,size)) of :meth:`render`, in about six tenths of the time."""
        vertices, affine = check_call(vertices_m, None, image_from_crop, self._num_vertices)
        cameras = crop_cameras(camera, affine, size)
        _, face, depth = self._engine.depth(
            vertices, cameras, np.arange(len(vertices), dtype=np.int32), (len(vertices), size, size)
        )
        return face, depth

    def render_window(
        self,
        vertices_m: np.ndarray,
        appearances: Sequence[Appearance],
        cameras: Camera | Sequence[Camera],
        width: int | None = None,
        height: int | None = None,
        scene: np.ndarray | None = None,
    ) -> SceneSurface:
        """Several persons in one depth buffer: whole images with occlusion between people.

        ``cameras`` holds one camera per scene (pixels of the window itself); ``scene`` (P,) names the scene of each
        person, all 0 when left out.  Width and height default to the first camera's.  Raises ShapeError.
        """
        vertices = _check_vertices(vertices_m, appearances, self._num_vertices)
        cameras = [cameras] if isinstance(cameras, Camera) else list(cameras)
        scene = np.zeros(len(vertices), np.int32) if scene is None else np.asarray(scene, np.int32)
        if not cameras or scene.shape != (len(vertices),) or (scene.size and not 0 <= scene.min() <= scene.max() < len(cameras)):
            raise ShapeError(f"expected a scene in [0,{len(cameras)}) for each of {len(vertices)} persons, got {scene.tolist()}")
        width, height = width or cameras[0].width, height or cameras[0].height
        out = self._engine.shade(vertices, appearances, [cameras[s] for s in scene], scene, (len(cameras), height, width))
        return SceneSurface(*out)


def crop_cameras(camera: Camera | Sequence[Camera], image_from_crop: np.ndarray, size: int) -> list[Camera]:
    """Camera of each crop.  image_from_crop (P,2,3) -> P cameras.  Raises ShapeError when the counts differ."""
    cameras = [camera] * len(image_from_crop) if isinstance(camera, Camera) else list(camera)
    if len(cameras) != len(image_from_crop):
        raise ShapeError(f"expected one camera or one per person ({len(image_from_crop)}), got {len(cameras)}")
    return [crop_camera(c, a, size) for c, a in zip(cameras, image_from_crop)]


def check_call(
    vertices_m: np.ndarray, appearances: Sequence[Appearance] | None, image_from_crop: np.ndarray, num_vertices: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (P,V,3) and image_from_crop (P,2,3) as float32.  Raises ShapeError when they do not fit together."""
    vertices = _check_vertices(vertices_m, appearances, num_vertices)
    affine = np.asarray(image_from_crop, np.float32)
    if affine.shape != (len(vertices), 2, 3):
        raise ShapeError(f"expected image_from_crop ({len(vertices)},2,3), got {affine.shape}")
    return vertices, affine


def _check_vertices(vertices_m: np.ndarray, appearances: Sequence[Appearance] | None, num_vertices: int) -> np.ndarray:
    vertices = np.asarray(vertices_m, np.float32)
    if vertices.ndim != 3 or vertices.shape[1:] != (num_vertices, 3):
        raise ShapeError(f"expected vertices (P,{num_vertices},3), got {vertices.shape}: of another body?")
    if appearances is not None and len(appearances) != len(vertices):
        raise ShapeError(f"expected one appearance per person ({len(vertices)}), got {len(appearances)}")
    return vertices
