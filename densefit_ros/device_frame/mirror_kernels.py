"""Both networks asked twice, as regress/mirrored.py and displace/mirrored.py do it."""

# ruff: noqa: UP018 - Warp takes a plain literal for a constant
from __future__ import annotations

import warp as wp

from .image_kernels import vec3ub
from .pose_kernels import vec10

wp.set_module_options({"enable_backward": False})


@wp.kernel
def mirror_crops(crop: wp.array(dtype=vec3ub), size: int, out: wp.array(dtype=vec3ub)):
    i = wp.tid()
    column = i % size
    out[i] = crop[i + size - 1 - 2 * column]


@wp.kernel
def mirror_intrinsics(intrinsics: wp.array(dtype=wp.vec4), out: wp.array(dtype=wp.vec4)):
    p = wp.tid()
    k = intrinsics[p]
    out[p] = wp.vec4(k[0], k[1], 1.0 - k[2], k[3])


@wp.kernel
def merge(
    flip: wp.array(dtype=int),
    mirrored_rot6d: wp.array(dtype=float),
    mirrored_betas: wp.array(dtype=vec10),
    mirrored_cam: wp.array(dtype=wp.vec3),
    mirrored_rot_log_var: wp.array(dtype=float),
    mirrored_confidence: wp.array(dtype=float),
    mirrored_uv: wp.array(dtype=wp.vec2),
    mirrored_uv_log_var: wp.array(dtype=float),
    rot6d: wp.array(dtype=float),
    betas: wp.array(dtype=vec10),
    cam: wp.array(dtype=wp.vec3),
    rot_log_var: wp.array(dtype=float),
    confidence: wp.array(dtype=float),
    uv: wp.array(dtype=wp.vec2),
    uv_log_var: wp.array(dtype=float),
):
    """One thread a joint; the answers about the crops themselves become the means."""
    i = wp.tid()
    p = i / 24
    joint = i - 24 * p
    j = 24 * p + flip[joint]
    for c in range(6):
        sign = 1.0
        if c == 1 or c == 2 or c == 3:
            sign = -1.0
        rot6d[6 * i + c] = 0.5 * (rot6d[6 * i + c] + sign * mirrored_rot6d[6 * j + c])
    there = mirrored_uv[j]
    uv[i] = 0.5 * (uv[i] + wp.vec2(-there[0], there[1]))
    rot_log_var[i] = wp.log(0.5 * (wp.exp(rot_log_var[i]) + wp.exp(mirrored_rot_log_var[j])))
    uv_log_var[i] = wp.log(0.5 * (wp.exp(uv_log_var[i]) + wp.exp(mirrored_uv_log_var[j])))
    if joint == 0:
        betas[p] = 0.5 * (betas[p] + mirrored_betas[p])
        there3 = mirrored_cam[p]
        cam[p] = 0.5 * (cam[p] + wp.vec3(-there3[0], there3[1], there3[2]))
        confidence[p] = 0.5 * (confidence[p] + mirrored_confidence[p])


@wp.kernel
def mirror_rendering(rendering: wp.array(dtype=float), width: int, point_sum: float, out: wp.array(dtype=float)):
    """One thread a pixel."""
    i = wp.tid()
    o = 11 * i
    q = 11 * (i + width - 1 - 2 * (i % width))
    for c in range(11):
        out[o + c] = rendering[q + c]
    out[o + 4] = -rendering[q + 4]
    if rendering[q + 10] > 0.0:
        out[o + 7] = point_sum - rendering[q + 7]


@wp.kernel
def merge_fields(
    mirrored_flow: wp.array(dtype=float),
    mirrored_log_var: wp.array(dtype=float),
    grid: int,
    flow: wp.array(dtype=float),
    log_var: wp.array(dtype=float),
):
    """One thread a cell; the field of the crops themselves becomes the mean."""
    i = wp.tid()
    cells = grid * grid
    p = i / cells
    cell = i - p * cells
    there = cell + grid - 1 - 2 * (cell % grid)
    u = 2 * p * cells
    flow[u + cell] = 0.5 * (flow[u + cell] - mirrored_flow[u + there])
    flow[u + cells + cell] = 0.5 * (flow[u + cells + cell] + mirrored_flow[u + cells + there])
    log_var[i] = wp.log(0.5 * (wp.exp(log_var[i]) + wp.exp(mirrored_log_var[p * cells + there])))
