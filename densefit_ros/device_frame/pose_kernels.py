"""From the regressor's answer and the track's prediction to the start of the fit, its anchors and its keypoints.

The same numbers as regress/decode.py, steps/priors.py and fit/stage.py.
"""

# ruff: noqa: UP018 - Warp takes a plain literal for a constant
from __future__ import annotations

import warp as wp

from ..fit.blocks import common
from ..fit.stage import DOUBTFUL

wp.set_module_options({"enable_backward": False})

_T = common.make(wp.float32)
vec3, vec10, mat33, mat310 = _T.V3, _T.V10, _T.M33, _T.M310
exp_so3, log_so3 = _T.exp_so3, _T.log_so3
_CONFIDENCE, _SIGMA_SCALE, _ROT_SIGMA, _T_SIGMA = (wp.constant(i) for i in range(4))
_KEYPOINTS = wp.constant(24)
_DOUBTFUL = wp.constant(DOUBTFUL)


@wp.func
def rotation_from_rows(a: vec3, b: vec3) -> mat33:
    x = a / wp.max(wp.length(a), 1.0e-8)
    y = b - wp.dot(x, b) * x
    y = y / wp.max(wp.length(y), 1.0e-8)
    z = wp.cross(x, y)
    return mat33(x[0], x[1], x[2], y[0], y[1], y[2], z[0], z[1], z[2])


@wp.func
def ray_rotation(k: wp.vec4) -> mat33:
    """Smallest rotation that takes +z to the ray through the window's centre; k over the side."""
    ray = wp.normalize(vec3((0.5 - k[2]) / k[0], (0.5 - k[3]) / k[1], 1.0))
    h = _T.hat(vec3(-ray[1], ray[0], 0.0))
    return wp.identity(n=3, dtype=wp.float32) + h + (h * h) / (1.0 + ray[2])


@wp.kernel
def read_estimate(
    capacity: int,
    rot6d: wp.array(dtype=float),
    net_betas: wp.array(dtype=vec10),
    cam: wp.array(dtype=wp.vec3),
    rot_log_var: wp.array(dtype=float),
    confidence: wp.array(dtype=float),
    intrinsics: wp.array(dtype=wp.vec4),
    settings: wp.array(dtype=float),
    sigmas: wp.array(dtype=wp.vec2),
    pred_rotvec: wp.array(dtype=vec3),
    pred_betas: wp.array(dtype=vec10),
    pred_t: wp.array(dtype=vec3),
    pred_inv_betas_sigma: wp.array(dtype=vec10),
    pelvis_template: vec3,
    pelvis_shapedirs: mat310,
    t_sigma_m: float,
    z_sigma_share: float,
    est_rotvec: wp.array(dtype=vec3),
    est_sigma: wp.array(dtype=float),
    est_t: wp.array(dtype=vec3),
    start_rotvec: wp.array(dtype=vec3),
    start_betas: wp.array(dtype=vec10),
    start_t: wp.array(dtype=vec3),
    anchor_rotvec: wp.array(dtype=vec3),
    anchor_betas: wp.array(dtype=vec10),
    anchor_t: wp.array(dtype=vec3),
    inv_rot: wp.array(dtype=float),
    inv_betas: wp.array(dtype=vec10),
    inv_t: wp.array(dtype=vec3),
    kept_rotvec: wp.array(dtype=vec3),
    kept_t: wp.array(dtype=vec3),
):
    """One thread per joint.  Anchor 0 is the prediction, anchor 1 the estimate; ``capacity`` persons lie between them."""
    i = wp.tid()
    p = i / 24
    k = i - p * 24
    o = 6 * i
    r = rotation_from_rows(vec3(rot6d[o], rot6d[o + 1], rot6d[o + 2]), vec3(rot6d[o + 3], rot6d[o + 4], rot6d[o + 5]))
    if k == 0:
        r = ray_rotation(intrinsics[p]) * r
    est = log_so3(r)
    sigma = wp.exp(0.5 * rot_log_var[i])
    # Of numbers that are none log_so3 makes no rotation at all; the host must see them.  Nothing, or NaN:
    lost = (rot6d[o] + rot6d[o + 1] + rot6d[o + 2]) + (rot6d[o + 3] + rot6d[o + 4] + rot6d[o + 5])
    lost = lost - lost
    est_rotvec[i] = est + vec3(lost, lost, lost)
    est_sigma[i] = sigma
    usable = float(0.0)
    if confidence[p] >= settings[0]:
        usable = 1.0
    sigma = sigma * settings[1]
    before2 = sigmas[p][0] * sigmas[p][0]
    share = usable * before2 / (before2 + sigma * sigma)
    before = exp_so3(pred_rotvec[i])
    # A body's rotations are compared after their way through rotation vectors, as everywhere else.
    start = log_so3(exp_so3(share * log_so3(exp_so3(est) * wp.transpose(before))) * before)
    start_rotvec[i] = start
    kept_rotvec[i] = start
    anchor_rotvec[i] = pred_rotvec[i]
    inv_rot[i] = 1.0 / sigmas[p][0]
    anchor_rotvec[24 * capacity + i] = est
    inv_rot[24 * capacity + i] = usable / sigma
    if k == 0:
        m = intrinsics[p]
        c = cam[p]
        z = m[0] * wp.exp(-c[2])
        pelvis = vec3(z * (c[0] + 0.5 - m[2]) / m[0], z * (c[1] + 0.5 - m[3]) / m[1], z)
        t = pelvis - (pelvis_template + pelvis_shapedirs * net_betas[p])
        est_t[p] = t
        t_before2 = sigmas[p][1] * sigmas[p][1]
        z_sigma_m = wp.max(t_sigma_m, z_sigma_share * t[2])
        t_share = usable * t_before2 / (t_before2 + z_sigma_m * z_sigma_m)
        start_t[p] = pred_t[p] + t_share * (t - pred_t[p])
        kept_t[p] = start_t[p]
        start_betas[p] = pred_betas[p]
        anchor_betas[p] = pred_betas[p]
        anchor_betas[capacity + p] = net_betas[p]
        inv_betas[p] = pred_inv_betas_sigma[p]
        inv_betas[capacity + p] = vec10()
        anchor_t[p] = pred_t[p]
        anchor_t[capacity + p] = t
        inv_t[p] = vec3(1.0, 1.0, 1.0) / sigmas[p][1]
        inv_t[capacity + p] = usable * vec3(1.0 / t_sigma_m, 1.0 / t_sigma_m, 1.0 / z_sigma_m)


@wp.kernel
def read_keypoints(
    joints_uv: wp.array(dtype=wp.vec2),
    joints_log_var: wp.array(dtype=float),
    affine: wp.array(dtype=wp.vec3),
    size: int,
    confident_sigma: float,
    sigma_share: float,
    out_uv: wp.array(dtype=wp.vec2),
    out_confidence: wp.array(dtype=float),
    fit_uv: wp.array(dtype=wp.vec2),
    out_weight: wp.array(dtype=float),
):
    """Joints in the image (px), their confidence, and one over their standard deviation (1/px).  One thread per person."""
    p = wp.tid()
    a = affine[p]
    most = float(0.0)
    for j in range(_KEYPOINTS):
        i = p * _KEYPOINTS + j
        c = wp.min(confident_sigma / wp.exp(0.5 * joints_log_var[i]), 1.0)
        uv = (joints_uv[i] + wp.vec2(0.5, 0.5)) * (float(size) * a[0]) + wp.vec2(a[1], a[2])
        if not (wp.isfinite(uv[0]) and wp.isfinite(uv[1]) and wp.isfinite(c)):
            c = 0.0
            uv = wp.vec2(0.0, 0.0)
        out_uv[i] = uv
        fit_uv[i] = uv
        out_confidence[i] = c
        most = wp.max(most, c)
    limit = float(0.0)
    if most > _DOUBTFUL:
        limit = _DOUBTFUL
    low = wp.vec2(1.0e30, 1.0e30)
    high = wp.vec2(-1.0e30, -1.0e30)
    for j in range(_KEYPOINTS):
        i = p * _KEYPOINTS + j
        if out_confidence[i] > limit:
            uv = out_uv[i]
            low = wp.vec2(wp.min(low[0], uv[0]), wp.min(low[1], uv[1]))
            high = wp.vec2(wp.max(high[0], uv[0]), wp.max(high[1], uv[1]))
    sigma = float(1.0)
    if high[0] >= low[0]:
        sigma = wp.max(sigma_share * wp.length(high - low), 1.0)
    for j in range(_KEYPOINTS):
        i = p * _KEYPOINTS + j
        out_weight[i] = out_confidence[i] / sigma


@wp.kernel
def params_to_skinner(
    rotvec: wp.array(dtype=vec3),
    betas: wp.array(dtype=vec10),
    t: wp.array(dtype=vec3),
    active: wp.array(dtype=int),
    out_betas: wp.array(dtype=vec10),
    out_rotvec: wp.array(dtype=wp.vec3),
    out_t: wp.array(dtype=wp.vec3),
):
    """One thread per joint.  Persons that only fill the batch up stand behind the camera, where nothing is drawn."""
    i = wp.tid()
    p = i / 24
    r = rotvec[i]
    out_rotvec[i] = wp.vec3(r[0], r[1], r[2])
    if i == 24 * p:
        out_betas[p] = betas[p]
        x = t[p]
        out_t[p] = wp.vec3(x[0], x[1], x[2])
        if active[p] == 0:
            out_t[p] = wp.vec3(0.0, 0.0, -10.0)
