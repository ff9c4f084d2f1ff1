"""Sparse evidence on named landmarks: 2D keypoints, and directions of limbs in space.

A landmark is ``joint_weights @ posed joints + vertex_weight @ posed vertices``.  Its position and 3 x 85 Jacobian are
computed once; the two blocks chain it with the pinhole or with the unit direction.

keypoints: r = confidence / sigma_px (project(x) - uv), 2 rows, robust.
directions: r = confidence / sigma (unit(x_b - x_a) - observed unit direction), 3 rows, not robust: bounded already.
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import COL_BETA, COL_COST_NEXT, COL_COST_NOW, COL_RESIDUAL, COL_ROT, ROW
from . import common, residual


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernels ``positions``, ``keypoint_rows`` and ``direction_rows`` for scalar ``F``."""
    T = common.make(F)
    R = residual.make(F)
    V3, V4, V10, M33, M244, M310, M316 = T.V3, T.V4, T.V10, T.M33, T.M244, T.M310, T.M316
    pinhole, geman_mcclure, blend_offset, widen = R.pinhole, R.geman_mcclure, R.blend_offset, R.widen
    width = wp.constant(ROW)
    col_rot = wp.constant(COL_ROT)
    col_beta = wp.constant(COL_BETA)
    col_res = wp.constant(COL_RESIDUAL)
    col_now = wp.constant(COL_COST_NOW)
    col_next = wp.constant(COL_COST_NEXT)

    @wp.kernel(enable_backward=False, module="unique")
    def positions(
        persons: int,
        landmarks: int,
        vertices: int,
        has_posedirs: int,
        joint_weight: wp.array(dtype=F),
        vertex_index: wp.array(dtype=int),
        vertex_weight: wp.array(dtype=F),
        v_template: wp.array(dtype=V3),
        shapedirs: wp.array(dtype=M310),
        posedirs: wp.array(dtype=V3),
        joint_shapedirs: wp.array(dtype=M310),
        skin_joint: wp.array(dtype=wp.vec4i),
        skin_weight: wp.array(dtype=V4),
        parents: wp.array(dtype=int),
        cur: wp.array(dtype=int),
        rotation: wp.array(dtype=M33),
        joint: wp.array(dtype=V3),
        carry: wp.array(dtype=V3),
        carry_by_shape: wp.array(dtype=M316),
        beta: wp.array(dtype=V10),
        feature: wp.array(dtype=F),
        out_x: wp.array(dtype=V3),
        out_jacobian: wp.array(dtype=V3),
    ):
        i = wp.tid()
        p = i / landmarks
        n = i - p * landmarks
        s = (1 - cur[p]) * persons + p
        base = s * 24
        b = beta[s]
        acc = M244()
        x = V3()
        shape = M316()
        for k in range(24):
            w = joint_weight[n * 24 + k]
            if w != F(0.0):
                y = w * joint[base + k]
                x += y
                acc[k] = acc[k] + V4(y[0], y[1], y[2], w)
                shape += w * (widen(rotation[base + k] * joint_shapedirs[k]) + carry_by_shape[base + k])
        for c in range(vertices):
            vw = vertex_weight[n * vertices + c]
            if vw != F(0.0):
                v = vertex_index[n * vertices + c]
                rest = v_template[v] + shapedirs[v] * b
                if has_posedirs != 0:
                    rest += blend_offset(v, p, posedirs, feature)
                sj = skin_joint[v]
                sw = skin_weight[v]
                turn = M33()
                for m in range(4):
                    w = vw * sw[m]
                    if w != F(0.0):
                        k = sj[m]
                        y = w * (rotation[base + k] * rest + carry[base + k])
                        turn += w * rotation[base + k]
                        shape += w * carry_by_shape[base + k]
                        x += y
                        acc[k] = acc[k] + V4(y[0], y[1], y[2], w)
                shape += widen(turn * shapedirs[v])
        # Jacobian by columns: out_jacobian[85 * i + unknown] is dx/dunknown.
        o = i * 85
        for kk in range(24):
            k = 23 - kk
            y4 = acc[k]
            if k > 0:
                acc[parents[k]] = acc[parents[k]] + y4
            arm = V3(y4[0], y4[1], y4[2]) - y4[3] * joint[base + k]
            z = F(0.0)
            out_jacobian[o + col_rot + 3 * k] = V3(z, -arm[2], arm[1])
            out_jacobian[o + col_rot + 3 * k + 1] = V3(arm[2], z, -arm[0])
            out_jacobian[o + col_rot + 3 * k + 2] = V3(-arm[1], arm[0], z)
        total = acc[0][3]
        for c in range(3):
            e = V3()
            e[c] = total
            out_jacobian[o + c] = e
        for c in range(10):
            out_jacobian[o + col_beta + c] = V3(shape[0, c], shape[1, c], shape[2, c])
        out_x[i] = x

    @wp.kernel(enable_backward=False, module="unique")
    def keypoint_rows(
        landmarks: int,
        uv: wp.array(dtype=F),
        sqrt_weight: wp.array(dtype=F),
        rows_per_person: int,
        in_row: wp.array(dtype=int),
        camera: wp.array(dtype=V4),
        z_min: F,
        scale: wp.array(dtype=F),
        scale_factor: F,
        scale_final: F,
        scale_ratio: F,
        slots: int,
        cur: wp.array(dtype=int),
        x_m: wp.array(dtype=V3),
        jacobian: wp.array(dtype=V3),
        out: wp.array(dtype=F),
        out_r2: wp.array(dtype=F),
    ):
        i = wp.tid()
        p = i / landmarks
        sqw = sqrt_weight[i]
        r0, r1, a0, a1, seen = pinhole(x_m[i], camera[p], uv[2 * i], uv[2 * i + 1], sqw, z_min)
        c_now = scale[p] * scale_ratio
        c_next = wp.max(scale[p] * scale_factor, scale_final) * scale_ratio
        cost_now, cost_next, q, e = geman_mcclure(r0 * r0 + r1 * r1, seen, c_now, c_next)
        if sqw == F(0.0):
            cost_now = F(0.0)
            cost_next = F(0.0)
        out_r2[(1 - cur[p]) * slots + i] = e
        a0 = a0 * q
        a1 = a1 * q
        o0 = (p * rows_per_person + 2 * (i - p * landmarks)) * width
        o1 = o0 + width
        for c in range(85):
            d = jacobian[85 * i + c]
            out[o0 + in_row[c]] = wp.dot(a0, d)
            out[o1 + in_row[c]] = wp.dot(a1, d)
        out[o0 + in_row[col_res]] = q * r0
        out[o1 + in_row[col_res]] = q * r1
        out[o0 + in_row[col_now]] = wp.sqrt(cost_now)
        out[o1 + in_row[col_now]] = F(0.0)
        out[o0 + in_row[col_next]] = wp.sqrt(cost_next)
        out[o1 + in_row[col_next]] = F(0.0)

    @wp.kernel(enable_backward=False, module="unique")
    def direction_rows(
        limbs: int,
        landmarks: int,
        first: wp.array(dtype=int),
        second: wp.array(dtype=int),
        direction: wp.array(dtype=V3),
        sqrt_weight: wp.array(dtype=F),
        rows_per_person: int,
        in_row: wp.array(dtype=int),
        x_m: wp.array(dtype=V3),
        jacobian: wp.array(dtype=V3),
        out: wp.array(dtype=F),
    ):
        i = wp.tid()
        p = i / limbs
        n = i - p * limbs
        a = p * landmarks + first[n]
        b = p * landmarks + second[n]
        sqw = sqrt_weight[i]
        d = x_m[b] - x_m[a]
        length = wp.length(d)
        o = (p * rows_per_person + 2 * landmarks + 3 * n) * width
        u = V3()
        inv = F(0.0)
        if length > F(1e-6):
            inv = sqw / length
            u = d / length
        r = sqw * (u - direction[i])
        if inv == F(0.0):
            r = V3()
        for c in range(85):
            g = jacobian[85 * b + c] - jacobian[85 * a + c]
            g = inv * (g - wp.dot(u, g) * u)
            out[o + in_row[c]] = g[0]
            out[o + width + in_row[c]] = g[1]
            out[o + 2 * width + in_row[c]] = g[2]
        for c in range(3):
            h = o + c * width
            out[h + in_row[col_res]] = r[c]
            out[h + in_row[col_now]] = wp.abs(r[c])
            out[h + in_row[col_next]] = wp.abs(r[c])

    return SimpleNamespace(positions=positions, keypoint_rows=keypoint_rows, direction_rows=direction_rows)
