"""NVIDIA nvdiffrast as renderer (CUDA only, optional).

Its conventions are OpenGL's and are met here and nowhere else: positions in clip space, row 0 at y = -1, face ids from 1,
v of a texture from its row 0.  Our image rows count downwards and so does our v, so clip space is given with y down:
row 0 is then our top row and no image is flipped.

nvdiffrast is under the NVIDIA Source Code License: for research and evaluation only, not for commercial use.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendUnavailable, ShapeError
from ..types import Camera, Surface
from .protocol import Appearance
from .warp_renderer import NEAR_M, check_call, crop_cameras

if TYPE_CHECKING:
    from ..body.model import BodyModel

FAR_M = 200.0
HINT = (
    "install PyTorch with CUDA, then nvdiffrast from NVIDIA's source repository NVlabs/nvdiffrast with "
    "pip --no-build-isolation (NVIDIA Source Code License: non-commercial use only), or choose renderer warp"
)


def load_backend() -> tuple[Any, Any]:
    """(torch, nvdiffrast.torch).  Raises BackendUnavailable with the install hint."""
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(f"renderer nvdiffrast needs PyTorch, which is missing ({error}): {HINT}") from error
    try:
        import nvdiffrast.torch as dr
    except ImportError as error:
        raise BackendUnavailable(f"renderer nvdiffrast is not installed ({error}): {HINT}") from error
    if not torch.cuda.is_available():
        raise BackendUnavailable(f"renderer nvdiffrast found no CUDA device: {HINT}")
    return torch, dr


class NvdiffrastRenderer:
    """Same answers as WarpRenderer up to pixels on edges; all crops of a call in one batch.

    Uploads, kernels and the one download are queued without waiting; only the answer's arrival on the host is awaited.
    Where a back face is in front (through a hole that a dropped triangle leaves) this gives background; WarpRenderer gives
    the front face behind it, if there is one.
    """

    name = "nvdiffrast"

    def __init__(self, body: BodyModel, device: str = "cuda") -> None:
        from ..body.model import vertex_colors

        self._torch, self._dr = load_backend()
        self._device = self._torch.device(device)
        self._context = self._dr.RasterizeCudaContext(device=self._device)
        self._num_vertices = len(body.v_template)
        self._faces = self._put(body.faces, np.int32)
        self._colors = self._put(vertex_colors(body))[None]
        has_uv = body.uv is not None and body.uv_faces is not None
        self._uv = self._put(body.uv)[None] if has_uv else None
        self._uv_faces = self._put(body.uv_faces, np.int32) if has_uv else None
        self._ahead = self._put([0.0, 0.0, 1.0])
        # Far in front of the near plane: clipping leaves a millionth of the triangles that use such a corner.
        self._nowhere = self._put([0.0, 0.0, -1e6, 1.0])
        self._uploaded: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def render(
        self,
        vertices_m: np.ndarray,
        appearances: Sequence[Appearance],
        camera: Camera | Sequence[Camera],
        image_from_crop: np.ndarray,
        size: int,
    ) -> Surface:
        """As :meth:`WarpRenderer.render`."""
        torch = self._torch
        vertices, affine = check_call(vertices_m, appearances, image_from_crop, self._num_vertices)
        persons = len(vertices)
        if persons == 0:
            empty = np.zeros((0, size, size, 3), np.float32)
            return Surface(empty[..., 0].astype(np.int32), empty, empty[..., 0], empty, empty, empty, affine)
        points, rast, face_id, normals = self._rasterize(vertices, crop_cameras(camera, affine, size), size)
        attributes = torch.cat([points[..., 2:], normals, self._colors.expand(persons, -1, -1)], -1).contiguous()
        depth, normal, colors = self._dr.interpolate(attributes, rast, self._faces)[0].split([1, 3, 3], -1)
        normal = torch.nn.functional.normalize(normal, dim=-1)
        bary = torch.stack([rast[..., 0], rast[..., 1], 1 - rast[..., 0] - rast[..., 1]], -1)
        parts = self._download(face_id, torch.cat([bary, depth, normal, self._rgb(appearances, rast), colors], -1))
        face, bary, depth, normal, rgb, colors = np.split(parts, [1, 4, 5, 8, 11], -1)
        whole = [np.ascontiguousarray(a) for a in (bary, depth[..., 0], normal, rgb, colors)]
        return Surface(face[..., 0].astype(np.int32), *whole, affine)

    def render_depth(
        self, vertices_m: np.ndarray, camera: Camera | Sequence[Camera], image_from_crop: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`WarpRenderer.render_depth`."""
        vertices, affine = check_call(vertices_m, None, image_from_crop, self._num_vertices)
        if len(vertices) == 0:
            return np.zeros((0, size, size), np.int32), np.zeros((0, size, size), np.float32)
        points, rast, face_id, _ = self._rasterize(vertices, crop_cameras(camera, affine, size), size)
        depth = self._dr.interpolate(points[..., 2:].contiguous(), rast, self._faces)[0]
        parts = self._download(face_id, depth)
        return parts[..., 0].astype(np.int32), np.ascontiguousarray(parts[..., 1])

    def _rasterize(self, vertices: np.ndarray, cameras: Sequence[Camera], size: int) -> tuple[Any, Any, Any, Any]:
        """Points (P,V,3), nvdiffrast's raster (P,size,size,4), our face ids (P,size,size), normals (P,V,3)."""
        torch = self._torch
        points = self._put(vertices)
        usable = (points[..., 2] > NEAR_M) & torch.isfinite(points).all(-1)
        points = torch.where(usable[..., None], points, self._ahead)
        clip = torch.where(usable[..., None], self._clip(points, cameras, size), self._nowhere).contiguous()
        rast, _ = self._dr.rasterize(self._context, clip, self._faces, (size, size), grad_db=False)
        face_id = rast[..., 3].to(torch.int64) - 1  # ids are offset by one; 0 is background
        # A triangle with an unusable corner is dropped whole: here, because the geometry of a batch is shared.
        broken = ~usable[:, self._faces.long()].all(-1)
        person = torch.arange(len(vertices), device=self._device)[:, None, None]
        normals, back = self._normals(points, broken)
        face_id = torch.where((broken | back)[person, face_id.clamp(min=0)], -1, face_id)
        return points, rast, face_id, normals

    def _download(self, face_id: Any, channels: Any) -> np.ndarray:
        """Face ids and channels (0 on background) in one copy; ids are exact in float32 up to 2^24 faces."""
        seen = (face_id >= 0)[..., None]
        return self._torch.cat([face_id[..., None].float(), channels * seen], -1).cpu().numpy()

    def _put(self, array: np.ndarray, dtype: type = np.float32) -> Any:
        host = self._torch.from_numpy(np.array(array, dtype, order="C"))
        # Out of pageable memory the driver copies before it returns.
        return (host.pin_memory() if self._device.type == "cuda" else host).to(self._device, non_blocking=True)

    def _clip(self, points: Any, cameras: Sequence[Camera], size: int) -> Any:
        """(P,V,4) clip-space positions, y down."""
        k = self._put([(c.fx, c.fy, c.cx, c.cy) for c in cameras])[:, None] * (2.0 / size)
        x, y, z = points.unbind(-1)
        depth = ((FAR_M + NEAR_M) * z - 2 * FAR_M * NEAR_M) / (FAR_M - NEAR_M)
        return self._torch.stack([k[..., 0] * x + (k[..., 2] - 1) * z, k[..., 1] * y + (k[..., 3] - 1) * z, depth, z], -1)

    def _normals(self, points: Any, broken: Any) -> tuple[Any, Any]:
        """(P,V,3) unit normals, weighted by area; (P,F) faces seen from behind."""
        corners = points[:, self._faces.long()]  # (P,F,3,3)
        cross = self._torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
        cross = cross * ~broken[..., None]
        out = self._torch.zeros_like(points)
        for k in range(3):
            out.index_add_(1, self._faces[:, k].long(), cross)
        return self._torch.nn.functional.normalize(out, dim=-1), (cross * corners[:, :, 0]).sum(-1) >= 0

    def _rgb(self, appearances: Sequence[Appearance], rast: Any) -> Any:
        """(P,h,w,3) colours; persons with textures of one size are sampled together."""
        groups: dict[int, list[int]] = {}
        for i, a in enumerate(appearances):
            groups.setdefault(0 if a.texture is None else len(a.texture), []).append(i)
        parts = {}
        for texture_size, members in groups.items():
            source = self._torch.stack([self._upload(appearances[i]) for i in members])
            own = self._torch.stack([rast[i] for i in members])
            if texture_size == 0:
                rgb = self._dr.interpolate(source, own, self._faces)[0]
            else:
                uv = self._dr.interpolate(self._uv, own, self._uv_faces)[0]
                rgb = self._dr.texture(source, uv, filter_mode="linear", boundary_mode="clamp")
            parts.update(zip(members, rgb))
        return self._torch.stack([parts[i] for i in range(len(appearances))])

    def _upload(self, appearance: Appearance) -> Any:
        found = self._uploaded.get(appearance)
        if found is None:
            if appearance.texture is not None:
                if self._uv is None:
                    raise ShapeError("expected vertex colours, got a texture: this body has no uv coordinates")
                found = self._put(appearance.texture)
            elif appearance.vertex_rgb is not None:
                if appearance.vertex_rgb.shape != (self._num_vertices, 3):
                    raise ShapeError(f"expected vertex colours ({self._num_vertices},3), got {appearance.vertex_rgb.shape}")
                found = self._put(appearance.vertex_rgb)
            else:
                found = self._torch.full((self._num_vertices, 3), 0.5, device=self._device)
            self._uploaded[appearance] = found
        return found
