"""Priors on the parameters themselves: anchors, shape, joint limits.  They add straight to the normal matrix.

anchor: r = log(R_anchor^T R) / sigma for every joint (local rotations; the root's is global), (betas - betas_a) / sigma,
(t - t_a) / sigma.  Several at once: a track's prediction and a regressor's estimate, each with its own sigmas.
shape: r = betas / sigma.
limits: r = weight * (how far log(R) of a joint lies outside its box).

Every rotation residual depends on one joint's increment only, so the blocks are 3 x 3 on the diagonal.
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import COL_BETA, COL_RESIDUAL, COL_ROT, WIDTH
from . import common


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernel ``add`` for scalar ``F``: one thread per joint, and one per person for shape and translation."""
    T = common.make(F)
    V3, V10, M33 = T.V3, T.V10, T.M33
    log_so3, inverse_left_jacobian = T.log_so3, T.inverse_left_jacobian
    width = wp.constant(WIDTH)
    col_rot = wp.constant(COL_ROT)
    col_beta = wp.constant(COL_BETA)
    col_res = wp.constant(COL_RESIDUAL)

    @wp.kernel(enable_backward=False, module="unique")
    def add(
        persons: int,
        capacity: int,
        anchors: wp.array(dtype=int),
        anchor_rotation: wp.array(dtype=M33),
        anchor_beta: wp.array(dtype=V10),
        anchor_t: wp.array(dtype=V3),
        inv_sigma_rotation: wp.array(dtype=F),
        inv_sigma_beta: wp.array(dtype=V10),
        inv_sigma_t: wp.array(dtype=V3),
        shape_weight: F,
        limit_weight: F,
        limit_low: wp.array(dtype=V3),
        limit_high: wp.array(dtype=V3),
        parents: wp.array(dtype=int),
        cur: wp.array(dtype=int),
        local: wp.array(dtype=M33),
        rotation: wp.array(dtype=M33),
        beta: wp.array(dtype=V10),
        t: wp.array(dtype=V3),
        gram: wp.array(dtype=F),
        out_cost: wp.array(dtype=F),
    ):
        i = wp.tid()
        p = i / 25
        k = i - p * 25
        s = (1 - cur[p]) * persons + p
        h = s * width * width
        g = h + col_res * width
        cost = F(0.0)
        if k < 24:
            r = local[s * 24 + k]
            turn = wp.transpose(rotation[s * 24 + k])
            block = M33()
            grad = V3()
            for a in range(anchors[0]):
                e = (a * capacity + p) * 24 + k
                w = inv_sigma_rotation[e]
                if w != F(0.0):
                    u = log_so3(wp.transpose(anchor_rotation[e]) * r)
                    # log(R_a^T Exp(G_p^T d) R): the right Jacobian at u is the left one at -u.
                    j = w * (inverse_left_jacobian(-u) * turn)
                    block += wp.transpose(j) * j
                    grad += wp.transpose(j) * (w * u)
                    cost += w * w * wp.dot(u, u)
            if k > 0 and limit_weight > F(0.0):
                v = log_so3(r)
                lo = limit_low[k]
                hi = limit_high[k]
                outside = F(0.0)
                out = V3()
                on = V3()
                for c in range(3):
                    if v[c] > hi[c]:
                        out[c] = limit_weight * (v[c] - hi[c])
                        on[c] = limit_weight
                        outside = F(1.0)
                    elif v[c] < lo[c]:
                        out[c] = limit_weight * (v[c] - lo[c])
                        on[c] = limit_weight
                        outside = F(1.0)
                if outside > F(0.0):
                    j = wp.diag(on) * (inverse_left_jacobian(v) * wp.transpose(rotation[s * 24 + parents[k]]))
                    block += wp.transpose(j) * j
                    grad += wp.transpose(j) * out
                    cost += wp.dot(out, out)
            c0 = col_rot + 3 * k
            for a in range(3):
                gram[g + c0 + a] += grad[a]
                for b in range(a + 1):
                    gram[h + (c0 + a) * width + c0 + b] += block[a, b]
        else:
            shape = beta[s]
            for n in range(10):
                curve = shape_weight * shape_weight
                slope = curve * shape[n]
                cost += slope * shape[n]
                for m in range(anchors[0]):
                    ws = inv_sigma_beta[m * capacity + p][n]
                    off = shape[n] - anchor_beta[m * capacity + p][n]
                    curve += ws * ws
                    slope += ws * ws * off
                    cost += ws * ws * off * off
                gram[h + (col_beta + n) * width + col_beta + n] += curve
                gram[g + col_beta + n] += slope
            for n in range(3):
                curve_t = F(0.0)
                slope_t = F(0.0)
                for m in range(anchors[0]):
                    wt = inv_sigma_t[m * capacity + p][n]
                    off_t = t[s][n] - anchor_t[m * capacity + p][n]
                    curve_t += wt * wt
                    slope_t += wt * wt * off_t
                    cost += wt * wt * off_t * off_t
                gram[h + n * width + n] += curve_t
                gram[g + n] += slope_t
        out_cost[i] = cost

    return SimpleNamespace(add=add)
