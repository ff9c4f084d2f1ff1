"""A Gaussian over all 69 numbers of the body pose, in the chart of local rotation vectors.

Every pose prior (mixture, VPoser, flow) is handed over as the Gaussian that it looks like around the start:
r^T r = (w - mean)^T precision (w - mean) + constant, w = log of the 23 local rotations.  One kernel serves all three.
Where starts are made on the device, the mixture's own Gaussian is chosen there too.
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import COL_RESIDUAL, COL_ROT, WIDTH
from . import common


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernels ``chart`` and ``add`` for scalar ``F``."""
    T = common.make(F)
    V3, M33 = T.V3, T.M33
    log_so3, inverse_left_jacobian = T.log_so3, T.inverse_left_jacobian
    width = wp.constant(WIDTH)
    col_rot = wp.constant(COL_ROT)
    col_res = wp.constant(COL_RESIDUAL)

    @wp.kernel(enable_backward=False, module="unique")
    def chart(
        persons: int,
        parents: wp.array(dtype=int),
        mean: wp.array(dtype=V3),
        cur: wp.array(dtype=int),
        local: wp.array(dtype=M33),
        rotation: wp.array(dtype=M33),
        out_error: wp.array(dtype=V3),
        out_jacobian: wp.array(dtype=M33),
    ):
        """w - mean and dw/d(increment) per joint."""
        i = wp.tid()
        p = i / 23
        k = i - p * 23 + 1
        s = ((1 - cur[p]) * persons + p) * 24
        v = log_so3(local[s + k])
        # log has two branches at pi; the one nearer to the mean is meant.
        n = wp.length(v)
        if n > F(1e-6):
            other = v - v * (F(6.283185307179586) / n)
            if wp.length(other - mean[i]) < wp.length(v - mean[i]):
                v = other
        out_error[i] = v - mean[i]
        out_jacobian[i] = inverse_left_jacobian(v) * wp.transpose(rotation[s + parents[k]])

    @wp.kernel(enable_backward=False, module="unique")
    def add(
        persons: int,
        weight: F,
        precision: wp.array(dtype=F),
        error: wp.array(dtype=V3),
        jacobian: wp.array(dtype=M33),
        cur: wp.array(dtype=int),
        gram: wp.array(dtype=F),
        out_cost: wp.array(dtype=F),
    ):
        """Row block k of the normal matrix: ``J_k^T Lambda_kl J_l`` for l <= k, gradient, and this row's share of cost."""
        i = wp.tid()
        p = i / 23
        k = i - p * 23
        h = ((1 - cur[p]) * persons + p) * width * width
        row = p * 4761 + 3 * k * 69
        jt = weight * wp.transpose(jacobian[i])
        c0 = col_rot + 3 * (k + 1)
        total = V3()
        for m in range(23):
            o = row + 3 * m
            lam = M33(
                precision[o],
                precision[o + 1],
                precision[o + 2],
                precision[o + 69],
                precision[o + 70],
                precision[o + 71],
                precision[o + 138],
                precision[o + 139],
                precision[o + 140],
            )
            total += lam * error[p * 23 + m]
            if m <= k:
                block = jt * (lam * jacobian[p * 23 + m])
                d0 = col_rot + 3 * (m + 1)
                for a in range(3):
                    for b in range(3):
                        if d0 + b <= c0 + a:
                            gram[h + (c0 + a) * width + d0 + b] += block[a, b]
        g = jt * total
        for a in range(3):
            gram[h + col_res * width + c0 + a] += g[a]
        out_cost[i] = weight * wp.dot(error[i], total)

    @wp.kernel(enable_backward=False, module="unique")
    def weigh(
        components: int,
        rotvec: wp.array(dtype=V3),
        mean: wp.array(dtype=V3),
        precision: wp.array(dtype=F),
        offset: wp.array(dtype=F),
        out_energy: wp.array(dtype=F),
    ):
        """Energy of a person's start in one Gaussian of the mixture, as priors/gmm.py; one thread for each pair."""
        i = wp.tid()
        p = i / components
        g = i - p * components
        energy = offset[g]
        for k in range(23):
            total = V3()
            for m in range(23):
                d = rotvec[24 * p + m + 1] - mean[23 * g + m]
                for a in range(3):
                    o = 4761 * g + 69 * (3 * k + a) + 3 * m
                    total[a] += precision[o] * d[0] + precision[o + 1] * d[1] + precision[o + 2] * d[2]
            energy += F(0.5) * wp.dot(rotvec[24 * p + k + 1] - mean[23 * g + k], total)
        out_energy[i] = energy

    @wp.kernel(enable_backward=False, module="unique")
    def choose(
        components: int,
        energy: wp.array(dtype=F),
        mean: wp.array(dtype=V3),
        precision: wp.array(dtype=F),
        out_mean: wp.array(dtype=V3),
        out_precision: wp.array(dtype=F),
    ):
        """The Gaussian of least energy to every person; one thread for each person and row of 69."""
        i = wp.tid()
        p = i / 69
        row = i - p * 69
        g = int(0)  # noqa: UP018 - Warp takes a plain 0 for a constant
        for c in range(1, components):
            if energy[p * components + c] < energy[p * components + g]:
                g = c
        if row < 23:
            out_mean[23 * p + row] = mean[23 * g + row]
        for c in range(69):
            out_precision[69 * i + c] = precision[4761 * g + 69 * row + c]

    return SimpleNamespace(chart=chart, add=add, weigh=weigh, choose=choose)
