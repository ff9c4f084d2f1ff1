"""Dense evidence: surface points against image points (``pixel``) or against planes in space (``plane``).

A surface point is a convex combination of skinned vertices.  Summed over the joints above and at k,
``S_k`` (skinning weight) and ``y_k`` (weighted position) give its derivative by a turn about joint k,
``-[y_k - S_k p_k]_x``: METHOD, "Analytic Jacobian".  Pose blendshapes are in the model, not in the derivative.

pixel: r = sqrt_weight (project(x) - target), 2 rows.  plane: r = sqrt_weight normal . (x - target), 1 row and a zero row.
Both are robust (Geman-McClure, in sigmas).
"""

import functools
from types import SimpleNamespace

import warp as wp

from . import common
from ..layout import BEHIND, COL_BETA, COL_COST_NEXT, COL_COST_NOW, COL_RESIDUAL, COL_ROT, KIND_PIXEL, WIDTH


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernel ``rows`` for scalar ``F``."""
    T = common.make(F)
    V3, V4, V10, V96, M33, M310 = T.V3, T.V4, T.V10, T.V96, T.M33, T.M310
    width = wp.constant(WIDTH)
    col_rot = wp.constant(COL_ROT)
    col_beta = wp.constant(COL_BETA)
    col_res = wp.constant(COL_RESIDUAL)
    col_now = wp.constant(COL_COST_NOW)
    col_next = wp.constant(COL_COST_NEXT)
    kind_pixel = wp.constant(KIND_PIXEL)
    behind = wp.constant(BEHIND)

    @wp.func
    def rest_vertex(
        v: int,
        p: int,
        b: V10,
        v_template: wp.array(dtype=V3),
        shapedirs: wp.array(dtype=M310),
        posedirs: wp.array(dtype=V3),
        feature: wp.array(dtype=F),
        has_posedirs: int,
    ) -> V3:
        x = v_template[v] + shapedirs[v] * b
        if has_posedirs != 0:
            for f in range(207):
                x += posedirs[v * 207 + f] * feature[p * 207 + f]
        return x

    @wp.kernel(enable_backward=False, module="unique")
    def rows(
        count: wp.array(dtype=int),
        persons: int,
        slots: int,
        has_posedirs: int,
        person: wp.array(dtype=int),
        face: wp.array(dtype=int),
        kind: wp.array(dtype=int),
        bary: wp.array(dtype=V3),
        target: wp.array(dtype=V3),
        normal: wp.array(dtype=V3),
        sqrt_weight: wp.array(dtype=F),
        row0: wp.array(dtype=int),
        camera: wp.array(dtype=V4),
        z_min: F,
        scale: wp.array(dtype=F),
        scale_factor: F,
        scale_final: F,
        faces: wp.array(dtype=wp.vec3i),
        v_template: wp.array(dtype=V3),
        shapedirs: wp.array(dtype=M310),
        posedirs: wp.array(dtype=V3),
        skin_joint: wp.array(dtype=wp.vec4i),
        skin_weight: wp.array(dtype=V4),
        parents: wp.array(dtype=int),
        cur: wp.array(dtype=int),
        rotation: wp.array(dtype=M33),
        joint: wp.array(dtype=V3),
        carry: wp.array(dtype=V3),
        motion: wp.array(dtype=M310),
        beta: wp.array(dtype=V10),
        feature: wp.array(dtype=F),
        out: wp.array(dtype=F),
        out_r2: wp.array(dtype=F),
    ):
        i = wp.tid()
        if i >= count[0]:
            return
        p = person[i]
        slot = 1 - cur[p]
        s = slot * persons + p
        base = s * 24
        b = beta[s]
        corners = faces[face[i]]
        bc = bary[i]

        acc = V96()  # four numbers per joint: weighted position, weight
        x = V3()
        turn0 = M33()
        turn1 = M33()
        turn2 = M33()
        for c in range(3):
            v = corners[c]
            rest = rest_vertex(v, p, b, v_template, shapedirs, posedirs, feature, has_posedirs)
            sj = skin_joint[v]
            sw = skin_weight[v]
            turn = M33()
            for m in range(4):
                w = bc[c] * sw[m]
                if w != F(0.0):
                    k = sj[m]
                    g = rotation[base + k]
                    y = w * (g * rest + carry[base + k])
                    turn += w * g
                    x += y
                    acc[4 * k] += y[0]
                    acc[4 * k + 1] += y[1]
                    acc[4 * k + 2] += y[2]
                    acc[4 * k + 3] += w
            if c == 0:
                turn0 = turn
            elif c == 1:
                turn1 = turn
            else:
                turn2 = turn

        # Residual, its gradient by the point (a0, a1), and whether it exists.
        sqw = sqrt_weight[i]
        a0 = V3()
        a1 = V3()
        r0 = F(0.0)
        r1 = F(0.0)
        ok = F(1.0)
        if kind[i] == kind_pixel:
            if x[2] > z_min:
                cam = camera[p]
                iz = F(1.0) / x[2]
                u = x[0] * iz
                w = x[1] * iz
                r0 = sqw * (cam[0] * u + cam[2] - target[i][0])
                r1 = sqw * (cam[1] * w + cam[3] - target[i][1])
                a0 = V3(sqw * cam[0] * iz, F(0.0), -sqw * cam[0] * u * iz)
                a1 = V3(F(0.0), sqw * cam[1] * iz, -sqw * cam[1] * w * iz)
            else:
                ok = F(0.0)
        else:
            a0 = sqw * normal[i]
            r0 = wp.dot(a0, x - target[i])

        # Geman-McClure: rho = c^2 e / (c^2 + e), e = |r|^2.  A point that cannot be projected costs the most it can,
        # so no step gains by pushing points behind the camera.
        e = r0 * r0 + r1 * r1
        c_now = scale[p]
        c_next = wp.max(c_now * scale_factor, scale_final)
        now2 = c_now * c_now
        next2 = c_next * c_next
        q_now = now2 / (now2 + e)
        q_next = next2 / (next2 + e)
        cost_now = q_now * e
        cost_next = q_next * e
        if ok == F(0.0):
            e = F(behind)
            cost_now = now2
            cost_next = next2
            q_next = F(0.0)
        if sqw == F(0.0):
            cost_now = F(0.0)
            cost_next = F(0.0)
        a0 = a0 * q_next
        a1 = a1 * q_next
        out_r2[slot * slots + i] = e

        o0 = row0[i] * width
        o1 = o0 + width
        shape = M310()
        for kk in range(24):
            k = 23 - kk
            w = acc[4 * k + 3]
            col = col_rot + 3 * k
            if w != F(0.0):
                y = V3(acc[4 * k], acc[4 * k + 1], acc[4 * k + 2])
                if k > 0:
                    h = 4 * parents[k]
                    acc[h] += y[0]
                    acc[h + 1] += y[1]
                    acc[h + 2] += y[2]
                    acc[h + 3] += w
                shape += w * motion[base + k]
                arm = y - w * joint[base + k]
                d0 = wp.cross(arm, a0)
                d1 = wp.cross(arm, a1)
                out[o0 + col] = d0[0]
                out[o0 + col + 1] = d0[1]
                out[o0 + col + 2] = d0[2]
                out[o1 + col] = d1[0]
                out[o1 + col + 1] = d1[1]
                out[o1 + col + 2] = d1[2]
            else:
                out[o0 + col] = F(0.0)
                out[o0 + col + 1] = F(0.0)
                out[o0 + col + 2] = F(0.0)
                out[o1 + col] = F(0.0)
                out[o1 + col + 1] = F(0.0)
                out[o1 + col + 2] = F(0.0)
        shape += turn0 * shapedirs[corners[0]]
        shape += turn1 * shapedirs[corners[1]]
        shape += turn2 * shapedirs[corners[2]]
        g0 = a0 * shape
        g1 = a1 * shape
        for c in range(10):
            out[o0 + col_beta + c] = g0[c]
            out[o1 + col_beta + c] = g1[c]
        for c in range(3):
            out[o0 + c] = a0[c]
            out[o1 + c] = a1[c]
        out[o0 + col_res] = q_next * r0
        out[o1 + col_res] = q_next * r1
        out[o0 + col_now] = wp.sqrt(cost_now)
        out[o1 + col_now] = F(0.0)
        out[o0 + col_next] = wp.sqrt(cost_next)
        out[o1 + col_next] = F(0.0)

    return SimpleNamespace(rows=rows)
