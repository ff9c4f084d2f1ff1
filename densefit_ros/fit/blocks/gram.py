"""The normal matrix: products of rows, in blocks of 8 x 16, of those groups of columns that a chunk of rows fills."""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import CHUNK_ROWS, GROUPS, HALVES, WIDTH
from . import common


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernels ``gram`` and ``gram_sum`` for scalar ``F``."""
    T = common.make(F)
    V8, V16 = T.V8, T.V16
    width = wp.constant(WIDTH)
    groups = wp.constant(GROUPS)
    halves = wp.constant(HALVES)
    most_rows = wp.constant(CHUNK_ROWS)

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

    return SimpleNamespace(gram=gram, gram_sum=gram_sum)
