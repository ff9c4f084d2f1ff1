"""Dense evidence: surface points against image points (``pixel``) or against planes in space (``plane``).

A surface point is a convex combination of skinned vertices.  Summed over the joints above and at k,
``S_k`` (skinning weight) and ``y_k`` (weighted position) give its derivative by a turn about joint k,
``-[y_k - S_k p_k]_x``: METHOD, "Analytic Jacobian".  Pose blendshapes are in the model, not in the derivative.

pixel: r = sqrt_weight (project(x) - target), 2 rows.  plane: r = sqrt_weight normal . (x - target), 1 row and a zero row.
Both are robust (Geman-McClure, in sigmas), and the whole block counts with FitOptions.independent_share.
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import BEHIND, COL_BETA, COL_COST_NEXT, COL_COST_NOW, COL_RESIDUAL, COL_ROT, KIND_PIXEL, WIDTH
from . import common


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernel ``rows`` for scalar ``F``."""
    T = common.make(F)
    V3, V4, V10, M33, M244, M310 = T.V3, T.V4, T.V10, T.M33, T.M244, T.M310
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
            for n in range(207):
                x += posedirs[v * 207 + n] * feature[p * 207 + n]
        return x

    @wp.kernel(enable_backward=False, module="unique")
    def rows(
        first_person: int,
        first_point: int,
        points_here: int,
        point_start: wp.array(dtype=int),
        persons: int,
        slots: int,
        has_posedirs: int,
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
        share: F,
        faces: wp.array(dtype=wp.vec3i),
        v_template: wp.array(dtype=V3),
        shapedirs: wp.array(dtype=M310),
        posedirs: wp.array(dtype=V3),
        face_start: wp.array(dtype=int),
        face_joint: wp.array(dtype=int),
        face_weight: wp.array(dtype=V3),
        path_start: wp.array(dtype=int),
        path_joint: wp.array(dtype=int),
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
        # This launch covers points_here points of each person from first_point on.
        n = wp.tid()
        p = first_person + n / points_here
        i = point_start[p] + first_point + n - (n / points_here) * points_here
        if i >= point_start[p + 1]:
            return
        slot = 1 - cur[p]
        s = slot * persons + p
        base = s * 24
        b = beta[s]
        f = face[i]
        corners = faces[f]
        bc = bary[i]

        # Four numbers per joint: weighted position, weight.
        acc = M244()
        v0 = rest_vertex(corners[0], p, b, v_template, shapedirs, posedirs, feature, has_posedirs)
        v1 = rest_vertex(corners[1], p, b, v_template, shapedirs, posedirs, feature, has_posedirs)
        v2 = rest_vertex(corners[2], p, b, v_template, shapedirs, posedirs, feature, has_posedirs)
        x = V3()
        turn0 = M33()
        turn1 = M33()
        turn2 = M33()
        for m in range(face_start[f], face_start[f + 1]):
            k = face_joint[m]
            w3 = wp.cw_mul(face_weight[m], bc)
            w = w3[0] + w3[1] + w3[2]
            g = rotation[base + k]
            y = g * (w3[0] * v0 + w3[1] * v1 + w3[2] * v2) + w * carry[base + k]
            x += y
            acc[k] = V4(y[0], y[1], y[2], w)
            turn0 += w3[0] * g
            turn1 += w3[1] * g
            turn2 += w3[2] * g

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
        e = wp.min(r0 * r0 + r1 * r1, F(behind))
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
        cost_now = cost_now * share
        cost_next = cost_next * share
        weight = q_next * wp.sqrt(share)
        a0 = a0 * weight
        a1 = a1 * weight
        out_r2[slot * slots + i] = e

        o0 = row0[i] * width
        o1 = o0 + width
        # Only the joints above the face move it.  They are listed from the tips to the root; the columns of all others
        # were zeroed when the evidence was laid out.
        shape = turn0 * shapedirs[corners[0]]
        shape += turn1 * shapedirs[corners[1]]
        shape += turn2 * shapedirs[corners[2]]
        for m in range(path_start[f], path_start[f + 1]):
            k = path_joint[m]
            y4 = acc[k]
            if k > 0:
                acc[parents[k]] = acc[parents[k]] + y4
            shape += y4[3] * motion[base + k]
            arm = V3(y4[0], y4[1], y4[2]) - y4[3] * joint[base + k]
            d0 = wp.cross(arm, a0)
            d1 = wp.cross(arm, a1)
            col = col_rot + 3 * k
            for c in range(3):
                out[o0 + col + c] = d0[c]
                out[o1 + col + c] = d1[c]
        g0 = a0 * shape
        g1 = a1 * shape
        for c in range(10):
            out[o0 + col_beta + c] = g0[c]
            out[o1 + col_beta + c] = g1[c]
        for c in range(3):
            out[o0 + c] = a0[c]
            out[o1 + c] = a1[c]
        out[o0 + col_res] = weight * r0
        out[o1 + col_res] = weight * r1
        out[o0 + col_now] = wp.sqrt(cost_now)
        out[o1 + col_now] = F(0.0)
        out[o0 + col_next] = wp.sqrt(cost_next)
        out[o1 + col_next] = F(0.0)

    return SimpleNamespace(rows=rows)
