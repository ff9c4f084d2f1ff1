"""Both networks asked twice, as regress/mirrored.py and displace/mirrored.py do it."""

# ruff: noqa: UP018 - Warp takes a plain literal for a constant
from __future__ import annotations

import warp as wp

from .image_kernels import vec3ub
from .pose_kernels import rotation_from_rows, vec10

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


@wp.func
def root_from(rot6d: wp.array(dtype=float), p: int, sign: float):
    """The root's rotation of person p; ``sign`` -1 takes it out of the mirror."""
    o = 6 * 24 * p
    x = wp.vec3(rot6d[o], sign * rot6d[o + 1], sign * rot6d[o + 2])
    return rotation_from_rows(x, wp.vec3(sign * rot6d[o + 3], rot6d[o + 4], rot6d[o + 5]))


@wp.kernel
def weigh(
    mirrored_rot6d: wp.array(dtype=float),
    mirrored_rot_log_var: wp.array(dtype=float),
    rot6d: wp.array(dtype=float),
    rot_log_var: wp.array(dtype=float),
    opposite_trace: float,
    share: wp.array(dtype=float),
):
    """How much of each person's answer is that about the mirrored crop: half; all or nothing when they face opposite ways."""
    p = wp.tid()
    share[p] = 0.5
    if wp.trace(wp.transpose(root_from(rot6d, p, 1.0)) * root_from(mirrored_rot6d, p, -1.0)) < opposite_trace:
        share[p] = 0.0
        if mirrored_rot_log_var[24 * p] < rot_log_var[24 * p]:
            share[p] = 1.0


@wp.kernel
def merge(
    flip: wp.array(dtype=int),
    share: wp.array(dtype=float),
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
    """One thread a joint; the answers about the crops themselves become those of both."""
    i = wp.tid()
    p = i / 24
    joint = i - 24 * p
    j = 24 * p + flip[joint]
    s = share[p]
    for c in range(6):
        sign = 1.0
        if c == 1 or c == 2 or c == 3:
            sign = -1.0
        rot6d[6 * i + c] = (1.0 - s) * rot6d[6 * i + c] + s * sign * mirrored_rot6d[6 * j + c]
    there = mirrored_uv[j]
    uv[i] = (1.0 - s) * uv[i] + s * wp.vec2(-there[0], there[1])
    rot_log_var[i] = wp.log(0.5 * (wp.exp(rot_log_var[i]) + wp.exp(mirrored_rot_log_var[j])))
    uv_log_var[i] = wp.log(0.5 * (wp.exp(uv_log_var[i]) + wp.exp(mirrored_uv_log_var[j])))
    if joint == 0:
        betas[p] = (1.0 - s) * betas[p] + s * mirrored_betas[p]
        there3 = mirrored_cam[p]
        cam[p] = (1.0 - s) * cam[p] + s * wp.vec3(-there3[0], there3[1], there3[2])
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
