"""The damped step on the device and the Levenberg-Marquardt bookkeeping.

Only the lower triangle of the Gram matrix is kept: row 85 is the gradient, the diagonal of 86 and 87 the robust cost.
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import COL_COST_NEXT, COL_COST_NOW, COL_RESIDUAL, WIDTH
from . import common


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernels ``damp``, ``cholesky``, ``unscale``, ``begin``, ``decide`` and small ones for scalar ``F``."""
    T = common.make(F)
    V16 = T.V16
    width = wp.constant(WIDTH)
    col_res = wp.constant(COL_RESIDUAL)
    now = wp.constant(COL_COST_NOW * WIDTH + COL_COST_NOW)
    next = wp.constant(COL_COST_NEXT * WIDTH + COL_COST_NEXT)
    tile = WIDTH

    @wp.func
    def priors_of(p: int, prior_cost: wp.array(dtype=F), pose_cost: wp.array(dtype=F)) -> F:
        """A person's priors: of its joints and shape, and of its whole pose."""
        cost = F(0.0)
        for k in range(25):
            cost += prior_cost[p * 25 + k]
        for k in range(23):
            cost += pose_cost[p * 23 + k]
        return cost

    @wp.kernel(enable_backward=False, module="unique")
    def damp(
        persons: int,
        cur: wp.array(dtype=int),
        gram: wp.array(dtype=F),
        damping: wp.array(dtype=F),
        out_scale: wp.array(dtype=F),
        out_matrix: wp.array2d(dtype=F),
        out_rhs: wp.array(dtype=F),
    ):
        """S (H + damping diag H) S with S = diag(H)^-1/2, padded by the identity, and -S g."""
        i = wp.tid()
        p = i / width
        r = i - p * width
        h = (cur[p] * persons + p) * width * width
        if r < 85:
            tiny = F(1e-12)
            sr = F(1.0) / wp.sqrt(wp.max(gram[h + r * width + r], tiny))
            for c in range(width):
                if c < r:
                    sc = F(1.0) / wp.sqrt(wp.max(gram[h + c * width + c], tiny))
                    out_matrix[i, c] = sr * sc * gram[h + r * width + c]
                elif c > r:
                    out_matrix[i, c] = F(0.0)
            out_matrix[i, r] = sr * sr * gram[h + r * width + r] + damping[p]
            out_scale[i] = sr
            out_rhs[i] = -sr * gram[h + col_res * width + r]
        else:
            for c in range(width):
                out_matrix[i, c] = F(0.0)
            out_matrix[i, r] = F(1.0)
            out_scale[i] = F(0.0)
            out_rhs[i] = F(0.0)

    @wp.kernel(enable_backward=False, module="unique")
    def cholesky(matrix: wp.array2d(dtype=F), rhs: wp.array(dtype=F), out: wp.array(dtype=F)):
        """Solve one person's scaled system per block."""
        p = wp.tid()
        a = wp.tile_load(matrix, shape=(tile, tile), offset=(p * tile, 0))
        b = wp.tile_load(rhs, shape=tile, offset=p * tile)
        factor = wp.tile_cholesky(a)
        x = wp.tile_cholesky_solve(factor, b)
        wp.tile_store(out, x, offset=p * tile)

    @wp.kernel(enable_backward=False, module="unique")
    def unscale(scale: wp.array(dtype=F), solution: wp.array(dtype=F), out_step: wp.array(dtype=F)):
        i = wp.tid()
        out_step[i] = scale[i] * solution[i]

    @wp.kernel(enable_backward=False, module="unique")
    def keep(residual: wp.array(dtype=F), out: wp.array(dtype=F)):
        """Residuals of the start, which lies in slot 0, for the guard."""
        i = wp.tid()
        out[i] = residual[i]

    @wp.kernel(enable_backward=False, module="unique")
    def swap(cur: wp.array(dtype=int)):
        """Exchange the current iterate and the trial."""
        p = wp.tid()
        cur[p] = 1 - cur[p]

    @wp.kernel(enable_backward=False, module="unique")
    def clear(out: wp.array(dtype=V16)):
        out[wp.tid()] = V16()

    @wp.kernel(enable_backward=False, module="unique")
    def begin(
        persons: int,
        history: int,
        initial_damping: F,
        initial_scale: F,
        gram: wp.array(dtype=F),
        prior_cost: wp.array(dtype=F),
        pose_cost: wp.array(dtype=F),
        cur: wp.array(dtype=int),
        scale: wp.array(dtype=F),
        damping: wp.array(dtype=F),
        growth: wp.array(dtype=F),
        cost: wp.array(dtype=F),
        done: wp.array(dtype=int),
        accepted: wp.array(dtype=int),
        iteration: wp.array(dtype=int),
        out_history: wp.array(dtype=F),
    ):
        """Take the evaluation in slot 0 as the current iterate."""
        p = wp.tid()
        slot = 1 - cur[p]
        h = (slot * persons + p) * width * width
        c = gram[h + next] + priors_of(p, prior_cost, pose_cost)
        cur[p] = slot
        scale[p] = initial_scale
        damping[p] = initial_damping
        growth[p] = F(2.0)
        cost[p] = c
        done[p] = 0
        if not wp.isfinite(c):
            done[p] = 2
        accepted[p] = 0
        iteration[p] = 0
        out_history[p * history] = c

    @wp.kernel(enable_backward=False, module="unique")
    def decide(
        persons: int,
        history: int,
        scale_factor: F,
        scale_final: F,
        tolerance: F,
        damping_min: F,
        damping_max: F,
        gram: wp.array(dtype=F),
        step: wp.array(dtype=F),
        prior_cost: wp.array(dtype=F),
        pose_cost: wp.array(dtype=F),
        cur: wp.array(dtype=int),
        scale: wp.array(dtype=F),
        damping: wp.array(dtype=F),
        growth: wp.array(dtype=F),
        cost: wp.array(dtype=F),
        done: wp.array(dtype=int),
        accepted: wp.array(dtype=int),
        iteration: wp.array(dtype=int),
        out_history: wp.array(dtype=F),
    ):
        """Accept the trial if it lowered the cost (Nielsen's damping rule: Madsen, Nielsen, Tingleff 2004, eq. 3.17)."""
        p = wp.tid()
        old = cur[p] * persons * width * width + p * width * width
        new = (1 - cur[p]) * persons * width * width + p * width * width
        prior = priors_of(p, prior_cost, pose_cost)
        trial = gram[new + now] + prior
        # Drop of the quadratic model: with (H + l D) d = -g it is l d^T D d - g^T d.
        model = F(0.0)
        for k in range(85):
            d = step[p * width + k]
            model += d * (damping[p] * gram[old + k * width + k] * d - gram[old + col_res * width + k])
        before = cost[p]
        drop = before - trial
        if done[p] == 0:
            # NaN compares false, so a trial that is not finite is rejected here.
            if drop >= F(0.0) and model > F(0.0):
                s = scale[p]
                at_final = s <= scale_final
                c = F(2.0) * (drop / model) - F(1.0)
                damping[p] = wp.max(damping[p] * wp.max(F(0.2), F(1.0) - c * c * c), damping_min)
                growth[p] = F(2.0)
                cur[p] = 1 - cur[p]
                scale[p] = wp.max(s * scale_factor, scale_final)
                cost[p] = gram[new + next] + prior
                accepted[p] = accepted[p] + 1
                if at_final and drop <= tolerance * before:
                    done[p] = 1
            else:
                damping[p] = wp.max(damping[p], damping_min) * growth[p]
                growth[p] = F(2.0) * growth[p]
                # Below zero it is no promise: the matrix could not be factored, and the step is NaN on a CPU, anything on CUDA.
                if model >= F(0.0) and model <= tolerance * before * F(0.1):
                    done[p] = 1  # the model itself promises nothing more
                elif damping[p] > damping_max:
                    done[p] = 2
        iteration[p] = iteration[p] + 1
        out_history[p * history + wp.min(iteration[p], history - 1)] = cost[p]

    return SimpleNamespace(
        damp=damp, cholesky=cholesky, unscale=unscale, keep=keep, swap=swap, clear=clear, begin=begin, decide=decide,
    )  # fmt: skip
