"""One padded batch of persons: its memory, and the frame as a queue of kernels and network passes over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import warp as wp

from ..arena import Arena
from ..body.model import outline_vertices
from ..body.skin import Skinner
from ..displace.contract import DEPTH_LIMIT_M, GRID, RENDER_CHANNELS, STRIDE_PX
from ..displace.decode import DecodeOptions
from ..displace.mirrored import POINT_SUM
from ..fit.options import Claim, FitOptions
from ..fit.resident import ANCHORS, ResidentFit
from ..fit.solver import Fitter
from ..geometry.crop import ASPECT
from ..regress.decode import CONFIDENT_SIGMA
from ..regress.mirrored import FLIP, OPPOSITE_TRACE
from ..render.color_slots import ColorSlots
from ..render.warp_engine import WarpEngine
from ..render.warp_renderer import NEAR_M
from ..runtime.picture import IMAGE_FEATURES, SEEN, SIZE_PX
from ..steps.priors import ESTIMATE_T_SIGMA_M, ESTIMATE_Z_SIGMA_SHARE, PREDICTION_CLAIM
from ..types import NUM_JOINTS, Crop
from . import image_kernels, match_kernels, mirror_kernels, pose_kernels

TEXTURE_SIZE = 128  # texels a side that colours have room for; a larger texture makes the batch anew
_vec10 = pose_kernels.vec10
_PIXELS = SIZE_PX * SIZE_PX
_WIDTH = SEEN.stop - SEEN.start
# What is read of the regressor's answer besides its features, and the shape of it for one person.
_ANSWER = {
    "rot6d_rows": (24, 6), "betas": (10,), "cam": (3,), "rot_log_var": (24,), "confidence": (), "joints_uv": (24, 2),
    "joints_log_var": (24,),
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What all batches share."""

    body: Any
    fitter: Fitter  # the pipeline's: its options are taken over
    regressor: Any  # runtime.DeviceRuntime of the regressor network
    mirrored: bool  # both networks are asked about the mirrored crops too
    displacer: Any  # the same of the displacement network
    device: wp.context.Device
    stream: int  # handle of the stream that passes are queued on, 0 on the CPU
    image: wp.array  # (H*W,) vec3ub
    width: int
    height: int


class Batch:
    """``size`` persons, some of whom may only fill it up."""

    def __init__(self, parts: Parts, size: int, colors: int = TEXTURE_SIZE**2) -> None:
        """``colors``: room for that many of each person."""
        self.parts, self.size, self._held = parts, size, []
        device, body, n = parts.device, parts.body, size
        self.up = Arena(
            device, rotvec=(24 * n, wp.vec3), pose_betas=(n, _vec10), betas=(n, _vec10), t=(n, wp.vec3),
            inv_betas_sigma=(n, _vec10), sigmas=(n, wp.vec2), camera=(n, wp.vec4), active=(n, wp.int32),
            color_start=(n, wp.int32), texture_size=(n, wp.int32), settings=(2, wp.float32), margin=(1, wp.float32),
            limits=(3, wp.float32),
        )  # fmt: skip
        self.down = Arena(
            device, rotvec=(24 * n, wp.vec3), betas=(n, _vec10), t=(n, wp.vec3), rot_sigma=(24 * n, wp.float32),
            confidence=(n, wp.float32), key_uv=(24 * n, wp.vec2), key_confidence=(24 * n, wp.float32), affine=(n, wp.vec3),
            start_rotvec=(24 * n, wp.vec3), start_t=(n, wp.vec3), joints=(24 * n, wp.vec3),
            vertices=(len(body.v_template) * n, wp.vec3), crop=(n * _PIXELS, wp.vec3ub),
        )  # fmt: skip
        self.skinner = Skinner(body, str(device), n)
        options = parts.fitter.options
        slots = parts.fitter.max_points
        self.fitter = Fitter(body, str(device), n, slots, _on_device(options), parts.fitter.pose_prior)
        self.fit = ResidentFit(self.fitter, "smpl24", options.iterations, (PREDICTION_CLAIM, Claim()))
        self.engine = WarpEngine(body, "cpu" if device.is_cpu else str(device), NEAR_M)
        self.colors: ColorSlots = self.engine.slots
        self.colors.reserve(n, colors)
        self._crop_camera = self._zeros(n, wp.vec4)
        up = self.up.device
        self._drawn = self.engine.adopt(
            n, n * _PIXELS, points=self.skinner.vertices, intrinsics=self._crop_camera, color_start=up.color_start,
            texture_size=up.texture_size, scene=wp.array(np.arange(n, dtype=np.int32), dtype=wp.int32, device=device),
        )  # fmt: skip
        self.recorded_colors = self.colors.colors
        # None of these holds the batch itself: a batch that is replaced frees its memory at once.
        self.steps: list[Callable[[], None]] = [
            self.up.upload, *self._find_and_crop(), *self._estimate(), *self._render(), *self._displace(), *self._match(),
            *(launch.launch for launch in self.fit.launches), *self._download(),
        ]  # fmt: skip

    def queue(self) -> None:
        """Everything from upload to download, without waiting (on the CPU: one after the other)."""
        for step in self.steps:
            step()

    # The stages, in the order in which they run.

    def _find_and_crop(self) -> list[Callable[[], None]]:
        n, up, parts = self.size, self.up.device, self.parts
        boxes = self._zeros(n * image_kernels.PARTS, wp.vec4)
        outline = wp.array(outline_vertices(parts.body), dtype=wp.int32, device=parts.device)
        self._intrinsics = self._zeros(n, wp.vec4)
        return [
            *self._pose(up.rotvec, up.pose_betas, up.t),
            self._command(image_kernels.box_parts, n * image_kernels.PARTS,
                          self.skinner.vertices, parts.body.num_vertices, outline, len(outline), up.camera, parts.width,
                          parts.height, boxes),
            self._command(image_kernels.windows, n, boxes, up.camera, up.margin, ASPECT, SIZE_PX, self.down.device.affine,
                          self._crop_camera, self._intrinsics),
            self._command(image_kernels.crop_pixels, n * _PIXELS, parts.image, parts.width, parts.height, SIZE_PX,
                          self.down.device.affine, self.down.device.crop),
        ]  # fmt: skip

    def _estimate(self) -> list[Callable[[], None]]:
        n, up, down, body, fit = self.size, self.up.device, self.down.device, self.parts.body, self.fit.arrays
        f = wp.float32
        rot6d, cam, rot_log_var = self._zeros(144 * n, f), self._zeros(n, wp.vec3), self._zeros(24 * n, f)
        uv, uv_log_var = self._zeros(24 * n, wp.vec2), self._zeros(24 * n, f)
        self._seen = self._features()
        answer = (rot6d, down.betas, cam, rot_log_var, down.confidence, uv, uv_log_var)
        inputs = {"image": self._image(down.crop), "intrinsics": self._view(self._intrinsics, n, 4)}
        pelvis = pose_kernels.vec3(*map(float, body.joint_template[0]))
        by_shape = pose_kernels.mat310(*map(float, body.joint_shapedirs[0].reshape(-1)))
        return [
            self.parts.regressor.bind(inputs, {**self._named(answer), **self._seen}, self.parts.stream),
            *(self._ask_the_mirror(answer) if self.parts.mirrored else ()),
            self._command(pose_kernels.read_estimate, 24 * n, n, rot6d, down.betas, cam, rot_log_var, down.confidence,
                          self._intrinsics, up.settings, up.sigmas, up.rotvec, up.betas, up.t, up.inv_betas_sigma, pelvis,
                          by_shape, ESTIMATE_T_SIGMA_M, ESTIMATE_Z_SIGMA_SHARE,
                          down.rotvec, down.rot_sigma, down.t, fit.rotvec, fit.in_beta, fit.in_t,
                          fit.anchor_rotvec, fit.anchor_beta, fit.anchor_t, fit.inv_sigma_rotation, fit.inv_sigma_beta,
                          fit.inv_sigma_t, down.start_rotvec, down.start_t),
            self._command(pose_kernels.read_keypoints, n, uv, uv_log_var, down.affine, SIZE_PX, CONFIDENT_SIGMA,
                          float(self.fitter.options.keypoint_sigma_share), down.key_uv, down.key_confidence,
                          self._as(fit.key_uv, wp.vec2), fit.key_weight),
        ]  # fmt: skip

    def _ask_the_mirror(self, answer: tuple[wp.array, ...]) -> list[Callable[[], None]]:
        """``answer`` becomes that of both looks: with the one about the mirrored crops."""
        n, crop = self.size, self.down.device.crop
        image, intrinsics = self._zeros(n * _PIXELS, wp.vec3ub), self._zeros(n, wp.vec4)
        there = tuple(self._zeros(a.size, a.dtype) for a in answer)
        self._seen_there = self._features()
        share, (rot6d, _, _, rot_log_var, *_) = self._zeros(n, wp.float32), answer
        there_rot6d, _, _, there_rot_log_var, *_ = there
        flip = wp.array(FLIP, dtype=wp.int32, device=self.parts.device)
        inputs = {"image": self._image(image), "intrinsics": self._view(intrinsics, n, 4)}
        return [
            self._command(mirror_kernels.mirror_crops, n * _PIXELS, crop, SIZE_PX, image),
            self._command(mirror_kernels.mirror_intrinsics, n, self._intrinsics, intrinsics),
            self.parts.regressor.bind(inputs, {**self._named(there), **self._seen_there}, self.parts.stream),
            self._command(mirror_kernels.weigh, n, there_rot6d, there_rot_log_var, rot6d, rot_log_var, OPPOSITE_TRACE, share),
            self._command(mirror_kernels.merge, 24 * n, flip, share, *there, *answer),
        ]

    def _named(self, answer: tuple[wp.array, ...]) -> dict[str, Any]:
        """What the regressor writes of each person, as its runtime takes it."""
        return {name: self._view(array, self.size, *shape) for (name, shape), array in zip(_ANSWER.items(), answer)}

    def _features(self) -> dict[str, Any]:
        """Room for what the trunk sees of each person."""
        shapes = {name: (self.size, *spec.shape[1:]) for name, spec in IMAGE_FEATURES.items()}
        return {name: self._view(self._zeros(int(np.prod(s)), wp.float32), *s) for name, s in shapes.items()}

    def _render(self) -> list[Callable[[], None]]:
        n, fit, drawn = self.size, self.fit.arrays, self._drawn
        self._rendering = self._zeros(n * SIZE_PX * _WIDTH * RENDER_CHANNELS, wp.float32)
        sums, mean = self._zeros(n * image_kernels.PARTS, wp.vec2), self._zeros(n, wp.float32)
        _, face, _, depth, normals, rgb, colors = drawn.arrays
        return [
            *self._pose(fit.rotvec, fit.in_beta, fit.in_t),
            lambda draw=self.engine.draw: draw(drawn, n, (n, SIZE_PX, SIZE_PX)),
            self._command(image_kernels.depth_parts, n * image_kernels.PARTS, face, depth, _PIXELS, sums),
            self._command(image_kernels.mean_depth, n, sums, mean),
            self._command(image_kernels.pack_rendering, n * SIZE_PX * _WIDTH, face, depth, normals, rgb, colors, mean, SIZE_PX,
                          _WIDTH, SEEN.start, DEPTH_LIMIT_M, self._rendering),
        ]  # fmt: skip

    def _displace(self) -> list[Callable[[], None]]:
        field = self._flow, self._log_var = self._field()
        here = self._displacements(self._seen, self._rendering, field)
        if not self.parts.mirrored:
            return [here]
        there, rendering = self._field(), self._zeros(self._rendering.size, wp.float32)
        return [
            here,
            self._command(mirror_kernels.mirror_rendering, rendering.size // RENDER_CHANNELS, self._rendering, _WIDTH, POINT_SUM,
                          rendering),
            self._displacements(self._seen_there, rendering, there),
            self._command(mirror_kernels.merge_fields, self._log_var.size, *there, GRID, *field),
        ]  # fmt: skip

    def _field(self) -> tuple[wp.array, wp.array]:
        """Room for everybody's flow and log_var."""
        cells = self.size * GRID * GRID
        return self._zeros(2 * cells, wp.float32), self._zeros(cells, wp.float32)

    def _displacements(self, seen: dict[str, Any], rendering: wp.array, field: tuple[wp.array, wp.array]) -> Callable[[], None]:
        n, (flow, log_var) = self.size, field
        inputs = {**seen, "rendering": self._view(rendering, n, SIZE_PX, _WIDTH, RENDER_CHANNELS)}
        outputs = {"flow": self._view(flow, n, 2, GRID, GRID), "log_var": self._view(log_var, n, 1, GRID, GRID)}
        return self.parts.displacer.bind(inputs, outputs, self.parts.stream)

    def _match(self) -> list[Callable[[], None]]:
        n, up, fit, parts = self.size, self.up.device, self.fit.arrays, self.parts
        _, face, bary, depth, *_ = self._drawn.arrays
        target, weight = self._zeros(n * GRID * GRID, wp.vec2), self._zeros(n * GRID * GRID, wp.float32)
        in_row, of_part = self._zeros(n * GRID, wp.int32), self._zeros(n * NUM_JOINTS, wp.int32)
        options = self.fitter.options
        return [
            self._command(match_kernels.judge_cells, n * GRID * GRID, self._flow, self._log_var, face, depth,
                          self.down.device.affine, GRID, STRIDE_PX, SIZE_PX, parts.width, parts.height,
                          DecodeOptions().depth_edge_m, up.limits, up.active, target, weight),
            self._command(match_kernels.count_rows, n * GRID, weight, GRID, in_row),
            self._command(match_kernels.thin, n * GRID, in_row, GRID, self.fitter.max_points, up.limits, weight),
            self._command(match_kernels.count_rows, n * GRID, weight, GRID, in_row),
            self._command(match_kernels.count_parts, n * NUM_JOINTS, weight, face, self.fit.face_part, GRID, STRIDE_PX, SIZE_PX,
                          of_part),
            self._command(match_kernels.fill_slots, n * GRID, target, weight, in_row, face, bary, self.fit.face_class,
                          self.fit.face_part, of_part, float(options.independent_share), float(options.part_correlation), GRID,
                          STRIDE_PX, SIZE_PX, self.fitter.max_points, fit.face, fit.joints_class, fit.kind, fit.bary, fit.target,
                          fit.sqrt_weight, fit.share),
            self._copy(up.camera, fit.camera),
        ]  # fmt: skip

    def _download(self) -> list[Callable[[], None]]:
        fit, down = self.fit.arrays, self.down.device
        return [
            *self._pose(fit.out_rotvec, fit.out_beta, fit.out_t),
            self._copy(self.skinner.vertices, down.vertices),
            self._copy(self.skinner.joints, down.joints),
            self.down.download,
            self.fit.queue_download,
        ]

    # Tools.

    def _pose(self, rotvec: wp.array, betas: wp.array, t: wp.array) -> list[Callable[[], None]]:
        out_betas, out_rotvec, out_t = self.skinner.params
        give = self._command(
            pose_kernels.params_to_skinner, 24 * self.size, rotvec, betas, t, self.up.device.active, out_betas, out_rotvec, out_t
        )
        return [give, lambda queue=self.skinner.queue, n=self.size: queue(n)]

    def _command(self, kernel: wp.Kernel, threads: int, *inputs: Any) -> Callable[[], None]:
        self._held.append(inputs)  # recorded launches of Warp up to 1.14 do not keep their arrays
        return wp.launch(kernel, dim=threads, inputs=list(inputs), device=self.parts.device, record_cmd=True).launch

    def _copy(self, source: wp.array, target: wp.array) -> Callable[[], None]:
        count = min(source.size, target.size)
        of_type = self._as(source, target.dtype)
        return lambda: wp.copy(target, of_type, count=count)

    def _zeros(self, count: int, dtype: type) -> wp.array:
        return wp.zeros(count, dtype=dtype, device=self.parts.device)

    def _as(self, array: wp.array, dtype: type) -> wp.array:
        """The same memory under another type; the array is held by whoever made it."""
        count = array.capacity // wp.types.type_size_in_bytes(dtype)
        return wp.array(ptr=array.ptr, dtype=dtype, shape=count, device=self.parts.device)

    def _image(self, crop: wp.array) -> Any:
        return self._view(crop, self.size, SIZE_PX, SIZE_PX, 3)

    def _view(self, array: wp.array, *shape: int) -> Any:
        """What runtimes take: NumPy on the CPU, torch on CUDA; the same memory."""
        if self.parts.device.is_cpu:
            return array.numpy().reshape(shape)
        return wp.to_torch(array).reshape(shape)

    def crop(self, persons: int) -> Crop:
        """The windows of the first persons, once the download has arrived."""
        scale, x0, y0 = self.down.host.affine[:persons].T
        zero = np.zeros_like(scale)
        affine = np.stack([np.stack([scale, zero, x0], -1), np.stack([zero, scale, y0], -1)], 1)
        centres = np.arange(SIZE_PX, dtype=np.float32) + 0.5
        u, v = scale[:, None] * centres + x0[:, None], scale[:, None] * centres + y0[:, None]
        inside = ((v >= 0) & (v < self.parts.height))[:, :, None] & ((u >= 0) & (u < self.parts.width))[:, None, :]
        rgb = self.down.host.crop.reshape(-1, SIZE_PX, SIZE_PX, 3)[:persons].copy()
        return Crop(rgb, inside, affine, SIZE_PX)


def _on_device(options: FitOptions) -> FitOptions:
    return dataclasses.replace(options, linear="tile")


assert ANCHORS == 2  # as pose_kernels.read_estimate writes them
