"""Normal equations and the Levenberg-Marquardt bookkeeping, all on the device.

Only the lower triangle of the Gram matrix is kept: row 85 is the gradient, the diagonal of 86 and 87 the robust cost.
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import BLOCKS, CHUNK_POINTS, COL_COST_NEXT, COL_COST_NOW, COL_RESIDUAL, LOWER_BLOCKS, WIDTH
from . import common

TILE = wp.constant(WIDTH)


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernels ``gram``, ``gram_sum``, ``damp``, ``cholesky``, ``begin`` and ``decide`` for scalar ``F``."""
    T = common.make(F)
    V8, M88 = T.V8, T.M88
    width = wp.constant(WIDTH)
    blocks = wp.constant(BLOCKS)
    lower_blocks = wp.constant(LOWER_BLOCKS)
    col_res = wp.constant(COL_RESIDUAL)
    now = wp.constant(COL_COST_NOW * WIDTH + COL_COST_NOW)
    next = wp.constant(COL_COST_NEXT * WIDTH + COL_COST_NEXT)
    chunk_rows = wp.constant(2 * CHUNK_POINTS)
    tile = WIDTH

    @wp.kernel(enable_backward=False, module="unique")
    def gram(
        person: int,
        chunk: int,
        chunks: int,
        chunks_here: int,
        row_start: wp.array(dtype=int),
        rows: wp.array(dtype=V8),
        out: wp.array(dtype=M88),
    ):
        """One 8 x 8 block of J^T J over one chunk of a person's rows per thread; this launch starts at (person, chunk)."""
        i = wp.tid()
        pc = i / lower_blocks
        block = i - pc * lower_blocks
        p = person + pc / chunks_here
        c = chunk + pc - (pc / chunks_here) * chunks_here
        bi = int(0)  # noqa: UP018 - Warp takes a plain 0 for a constant
        while (bi + 1) * (bi + 2) / 2 <= block:
            bi += 1
        bj = block - bi * (bi + 1) / 2
        first = row_start[p] + c * chunk_rows
        last = wp.min(first + chunk_rows, row_start[p + 1])
        acc = M88()
        for r in range(first, last):
            acc += wp.outer(rows[r * blocks + bi], rows[r * blocks + bj])
        out[(p * chunks + c) * lower_blocks + block] = acc

    @wp.kernel(enable_backward=False, module="unique")
    def gram_sum(persons: int, chunks: int, part: wp.array(dtype=M88), cur: wp.array(dtype=int), out: wp.array(dtype=V8)):
        """Add the shares and lay the blocks out as rows, into the trial slot."""
        i = wp.tid()
        p = i / lower_blocks
        block = i - p * lower_blocks
        bi = int(0)  # noqa: UP018 - Warp takes a plain 0 for a constant
        while (bi + 1) * (bi + 2) / 2 <= block:
            bi += 1
        bj = block - bi * (bi + 1) / 2
        acc = M88()
        for c in range(chunks):
            acc += part[(p * chunks + c) * lower_blocks + block]
        o = ((1 - cur[p]) * persons + p) * width * blocks + bj
        for r in range(8):
            out[o + (8 * bi + r) * blocks] = acc[r]

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
    def clear(out: wp.array(dtype=V8)):
        out[wp.tid()] = V8()

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
