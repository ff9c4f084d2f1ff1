"""Normal equations and the Levenberg-Marquardt bookkeeping, all on the device.

Only the lower triangle of the Gram matrix is kept: row 85 is the gradient, the diagonal of 86 and 87 the robust cost.
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import CHUNK_ROWS, COL_COST_NEXT, COL_COST_NOW, COL_RESIDUAL, GROUPS, HALVES, WIDTH
from . import common

TILE = wp.constant(WIDTH)


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernels ``gram``, ``gram_sum``, ``damp``, ``cholesky``, ``begin`` and ``decide`` for scalar ``F``."""
    T = common.make(F)
    V8, V16 = T.V8, T.V16
    width = wp.constant(WIDTH)
    groups = wp.constant(GROUPS)
    halves = wp.constant(HALVES)
    col_res = wp.constant(COL_RESIDUAL)
    now = wp.constant(COL_COST_NOW * WIDTH + COL_COST_NOW)
    next = wp.constant(COL_COST_NEXT * WIDTH + COL_COST_NEXT)
    most_rows = wp.constant(CHUNK_ROWS)
    tile = WIDTH

    @wp.func
    def lower_pair(n: int):
        """Row and column of the n-th entry of a lower triangle, counted by rows."""
        i = int(0)  # noqa: UP018 - Warp takes a plain 0 for a constant
        while (i + 1) * (i + 2) / 2 <= n:
            i += 1
        return i, n - i * (i + 1) / 2

    @wp.kernel(enable_backward=False, module="unique")
    def gram(
        first_person: int,
        first_chunk: int,
        spans: int,
        span: int,
        chunks: int,
        first_row: int,
        first_part: int,
        parts: int,
        chunk_rows: wp.array(dtype=int),
        chunk_groups: wp.array(dtype=int),
        halves_of_rows: wp.array(dtype=V8),
        groups_of_rows: wp.array(dtype=V16),
        out: wp.array(dtype=V16),
    ):
        """One 8 x 16 block of J^T J per thread, over ``span`` chunks of a person's rows, those that fill both its groups.

        The launch covers ``spans`` of them, for each person from (first_person, first_chunk) on.
        """
        i = wp.tid()
        q = i / halves
        half = i - q * halves
        p = q / spans
        part = q - p * spans
        gi, gj = lower_pair(half / 2)
        hi = 2 * gi + half - (half / 2) * 2
        # Named vectors stay in registers; a matrix of them would not.
        s0 = V16()
        s1 = V16()
        s2 = V16()
        s3 = V16()
        s4 = V16()
        s5 = V16()
        s6 = V16()
        s7 = V16()
        for c in range(span):
            at = (first_person + p) * chunks + first_chunk + part * span + c
            mask = chunk_groups[at]
            if ((mask >> gi) & (mask >> gj) & 1) != 0:
                first = first_row + (q * span + c) * most_rows
                for r in range(first, first + chunk_rows[at]):
                    x = halves_of_rows[r * 2 * groups + hi]
                    y = groups_of_rows[r * groups + gj]
                    s0 += x[0] * y
                    s1 += x[1] * y
                    s2 += x[2] * y
                    s3 += x[3] * y
                    s4 += x[4] * y
                    s5 += x[5] * y
                    s6 += x[6] * y
                    s7 += x[7] * y
        o = ((p * parts + first_part + part) * halves + half) * 8
        out[o] = s0
        out[o + 1] = s1
        out[o + 2] = s2
        out[o + 3] = s3
        out[o + 4] = s4
        out[o + 5] = s5
        out[o + 6] = s6
        out[o + 7] = s7

    @wp.kernel(enable_backward=False, module="unique")
    def gram_sum(
        first_person: int,
        persons: int,
        parts: int,
        part: wp.array(dtype=V16),
        place: wp.array(dtype=int),
        cur: wp.array(dtype=int),
        out: wp.array(dtype=F),
    ):
        """Add the parts, one line of 16 per thread, and put them where the normal matrix has them: trial slot."""
        i = wp.tid()
        lines = halves * 8
        q = i / lines
        line = i - q * lines
        total = V16()
        for n in range(parts):
            total += part[(q * parts + n) * lines + line]
        p = first_person + q
        h = ((1 - cur[p]) * persons + p) * width * width
        for c in range(16):
            to = place[line * 16 + c]
            if to >= 0:
                out[h + to] = total[c]

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
        c = gram[h + next]
        for k in range(25):
            c += prior_cost[p * 25 + k]
        for k in range(23):
            c += pose_cost[p * 23 + k]
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
        prior = F(0.0)
        for k in range(25):
            prior += prior_cost[p * 25 + k]
        for k in range(23):
            prior += pose_cost[p * 23 + k]
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
                if model <= tolerance * before * F(0.1):
                    done[p] = 1  # the model itself promises nothing more
                elif damping[p] > damping_max:
                    done[p] = 2
        iteration[p] = iteration[p] + 1
        out_history[p * history + wp.min(iteration[p], history - 1)] = cost[p]

    return SimpleNamespace(
        gram=gram, gram_sum=gram_sum, damp=damp, cholesky=cholesky, unscale=unscale, keep=keep, swap=swap, clear=clear,
        begin=begin, decide=decide,
    )  # fmt: skip
