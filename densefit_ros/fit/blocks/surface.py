"""Dense evidence: surface points against image points (``pixel``) or against planes in space (``plane``).

A surface point is a convex combination of skinned vertices.  What does not move during a solve is gathered once per
point and joint (``gather``): rest position, weight, derivative by shape.  Summed over the joints above and at k, ``S_k``
(skinning weight) and ``y_k`` (weighted position) give the point's derivative by a turn about joint k,
``-[y_k - S_k p_k]_x``: see docs/FIT.md.  Pose blendshapes are in the model, not in the derivative.

pixel: r = sqrt_weight (project(x) - target), 2 rows.  plane: r = sqrt_weight normal . (x - target), 1 row and a zero row.
Both are robust (Geman-McClure, in sigmas), and each point counts with its share (FitOptions.independent_share).
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import (
    CHUNK_POINTS,
    GROUPS,
    KIND_PIXEL,
    ROW,
    SHARED,
    SHARED_COST_NEXT,
    SHARED_COST_NOW,
    SHARED_RESIDUAL,
    SHARED_T,
)  # fmt: skip
from . import common, residual


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernels ``gather`` and ``rows`` for scalar ``F``."""
    T = common.make(F)
    R = residual.make(F)
    V3, V4, V10, V16, M33, M244, M310, M316 = T.V3, T.V4, T.V10, T.V16, T.M33, T.M244, T.M310, T.M316
    pinhole, geman_mcclure, blend_offset, widen = R.pinhole, R.geman_mcclure, R.blend_offset, R.widen
    chunk_points = wp.constant(CHUNK_POINTS)
    width = wp.constant(ROW)
    groups = wp.constant(GROUPS)
    shared = wp.constant(SHARED)
    at_t = wp.constant(SHARED_T)
    at_residual = wp.constant(SHARED_RESIDUAL)
    at_now = wp.constant(SHARED_COST_NOW)
    at_next = wp.constant(SHARED_COST_NEXT)
    kind_pixel = wp.constant(KIND_PIXEL)

    @wp.kernel(enable_backward=False, module="unique")
    def gather(
        persons: int,
        point_start: wp.array(dtype=int),
        face: wp.array(dtype=int),
        bary: wp.array(dtype=V3),
        share_start: wp.array(dtype=int),
        faces: wp.array(dtype=wp.vec3i),
        v_template: wp.array(dtype=V3),
        shapedirs: wp.array(dtype=M310),
        face_start: wp.array(dtype=int),
        face_weight: wp.array(dtype=V3),
        out_rest: wp.array(dtype=V4),
        out_shape: wp.array(dtype=M310),
    ):
        """A point's share in each joint that carries it: weighted rest position and weight, and their derivative by shape."""
        i = wp.tid()
        if i >= point_start[persons]:
            return
        f = face[i]
        v = faces[f]
        first = face_start[f]
        for m in range(first, face_start[f + 1]):
            w = wp.cw_mul(face_weight[m], bary[i])
            x = w[0] * v_template[v[0]] + w[1] * v_template[v[1]] + w[2] * v_template[v[2]]
            o = share_start[i] + m - first
            out_rest[o] = V4(x[0], x[1], x[2], w[0] + w[1] + w[2])
            out_shape[o] = w[0] * shapedirs[v[0]] + w[1] * shapedirs[v[1]] + w[2] * shapedirs[v[2]]

    @wp.kernel(enable_backward=False, module="unique")
    def rows(
        first_person: int,
        first_chunk: int,
        chunks_here: int,
        chunks: int,
        persons: int,
        slots: int,
        point_start: wp.array(dtype=int),
        chunk_groups: wp.array(dtype=int),
        kind: wp.array(dtype=int),
        target: wp.array(dtype=V3),
        normal: wp.array(dtype=V3),
        sqrt_weight: wp.array(dtype=F),
        joints_class: wp.array(dtype=int),
        share_start: wp.array(dtype=int),
        share_rest: wp.array(dtype=V4),
        share_shape: wp.array(dtype=M310),
        class_start: wp.array(dtype=int),
        class_joint: wp.array(dtype=int),
        path_start: wp.array(dtype=int),
        path_joint: wp.array(dtype=int),
        row_of_joint: wp.array(dtype=int),
        parents: wp.array(dtype=int),
        has_posedirs: int,
        face: wp.array(dtype=int),
        bary: wp.array(dtype=V3),
        faces: wp.array(dtype=wp.vec3i),
        face_start: wp.array(dtype=int),
        face_weight: wp.array(dtype=V3),
        posedirs: wp.array(dtype=V3),
        feature: wp.array(dtype=F),
        camera: wp.array(dtype=V4),
        z_min: F,
        scale: wp.array(dtype=F),
        scale_factor: F,
        scale_final: F,
        share: wp.array(dtype=F),
        cur: wp.array(dtype=int),
        rotation: wp.array(dtype=M33),
        joint: wp.array(dtype=V3),
        carry: wp.array(dtype=V3),
        carry_by_shape: wp.array(dtype=M316),
        beta: wp.array(dtype=V10),
        out: wp.array(dtype=F),
        out_groups: wp.array(dtype=V16),
        out_r2: wp.array(dtype=F),
    ):
        """Two rows of the Jacobian per point, of chunks_here chunks of each person from (first_person, first_chunk) on."""
        n = wp.tid()
        q = n / chunk_points
        p = first_person + q / chunks_here
        chunk = first_chunk + q - (q / chunks_here) * chunks_here
        i = point_start[p] + chunk * chunk_points + n - q * chunk_points
        if i >= point_start[p + 1]:
            return
        slot = 1 - cur[p]
        base = (slot * persons + p) * 24
        b = beta[slot * persons + p]
        kin = joints_class[i]

        # Blendshapes move the corners of the face, each joint's share by its weights.
        corner0 = V3()
        corner1 = V3()
        corner2 = V3()
        if has_posedirs != 0:
            v = faces[face[i]]
            corner0 = bary[i][0] * blend_offset(v[0], p, posedirs, feature)
            corner1 = bary[i][1] * blend_offset(v[1], p, posedirs, feature)
            corner2 = bary[i][2] * blend_offset(v[2], p, posedirs, feature)

        # Four numbers per joint: weighted position, weight.  Derivative of the point by shape and translation, by rows.
        acc = M244()
        x = V3()
        d0 = V16()
        d1 = V16()
        d2 = V16()
        d0[at_t] = F(1.0)
        d1[at_t + 1] = F(1.0)
        d2[at_t + 2] = F(1.0)
        first = class_start[kin]
        for m in range(first, class_start[kin + 1]):
            k = class_joint[m]
            o = share_start[i] + m - first
            rest = share_rest[o]
            by_shape = widen(share_shape[o])
            u = V3(rest[0], rest[1], rest[2])
            for c in range(10):
                u += b[c] * V3(by_shape[0, c], by_shape[1, c], by_shape[2, c])
            if has_posedirs != 0:
                w3 = face_weight[face_start[face[i]] + m - first]
                u += w3[0] * corner0 + w3[1] * corner1 + w3[2] * corner2
            g = rotation[base + k]
            y = g * u + rest[3] * carry[base + k]
            x += y
            acc[k] = V4(y[0], y[1], y[2], rest[3])
            carried = carry_by_shape[base + k]
            d0 += g[0, 0] * by_shape[0] + g[0, 1] * by_shape[1] + g[0, 2] * by_shape[2] + rest[3] * carried[0]
            d1 += g[1, 0] * by_shape[0] + g[1, 1] * by_shape[1] + g[1, 2] * by_shape[2] + rest[3] * carried[1]
            d2 += g[2, 0] * by_shape[0] + g[2, 1] * by_shape[1] + g[2, 2] * by_shape[2] + rest[3] * carried[2]

        # Residual, its gradients by the point, and whether it exists.
        sqw = sqrt_weight[i]
        goal = target[i]
        r0 = F(0.0)
        r1 = F(0.0)
        a0 = V3()
        a1 = V3()
        seen = F(1.0)
        if kind[i] == kind_pixel:
            r0, r1, a0, a1, seen = pinhole(x, camera[p], goal[0], goal[1], sqw, z_min)
        else:
            a0 = sqw * normal[i]
            r0 = wp.dot(a0, x - goal)
        c_now = scale[p]
        cost_now, cost_next, weight, e = geman_mcclure(r0 * r0 + r1 * r1, seen, c_now, wp.max(c_now * scale_factor, scale_final))
        out_r2[slot * slots + i] = e
        counts_as = share[i]
        weight = weight * wp.sqrt(counts_as)
        a0 = a0 * weight
        a1 = a1 * weight

        # Only the joints above the point move it: the other columns of the chunk's groups are zero.
        g0 = 2 * n * groups
        mask = chunk_groups[p * chunks + chunk]
        for h in range(shared):
            if ((mask >> h) & 1) != 0:
                out_groups[g0 + h] = V16()
                out_groups[g0 + groups + h] = V16()
        for m in range(path_start[kin], path_start[kin + 1]):  # from the tips to the root
            k = path_joint[m]
            y4 = acc[k]
            if k > 0:
                acc[parents[k]] = acc[parents[k]] + y4
            arm = V3(y4[0], y4[1], y4[2]) - y4[3] * joint[base + k]
            t0 = wp.cross(arm, a0)
            t1 = wp.cross(arm, a1)
            o0 = 2 * n * width + row_of_joint[k]
            for c in range(3):
                out[o0 + c] = t0[c]
                out[o0 + width + c] = t1[c]
        last0 = a0[0] * d0 + a0[1] * d1 + a0[2] * d2
        last1 = a1[0] * d0 + a1[1] * d1 + a1[2] * d2
        last0[at_residual] = weight * r0
        last1[at_residual] = weight * r1
        last0[at_now] = wp.sqrt(cost_now * counts_as)
        last0[at_next] = wp.sqrt(cost_next * counts_as)
        out_groups[g0 + shared] = last0
        out_groups[g0 + groups + shared] = last1

    return SimpleNamespace(gather=gather, rows=rows)
