"""Numbers shared by kernels and host code: where each unknown lives in a row of the Jacobian.

A row has 88 columns, a multiple of 8 so that the Gram matrix is made of 8 x 8 blocks::

    0..2    translation
    3..74   rotation increments of joints 0..23, camera axes
    75..84  betas
    85      the residual itself: row 85 of the Gram matrix is the gradient
    86, 87  square root of the robust cost at this iteration's and at the next iteration's scale: their squares sum up
            in the diagonal, so the cost needs no reduction of its own
"""

from __future__ import annotations

from ..types import NUM_BETAS, NUM_JOINTS, NUM_UNKNOWNS

COL_T = 0
COL_ROT = 3
COL_BETA = COL_ROT + 3 * NUM_JOINTS
COL_RESIDUAL = NUM_UNKNOWNS
COL_COST_NOW = NUM_UNKNOWNS + 1
COL_COST_NEXT = NUM_UNKNOWNS + 2
WIDTH = 88
BLOCK = 8
BLOCKS = WIDTH // BLOCK
LOWER_BLOCKS = BLOCKS * (BLOCKS + 1) // 2

# Rows are made and multiplied in chunks of this many points: 45 kB of rows stay in a core's cache in between.
CHUNK_POINTS = 64

KIND_PIXEL = 0
KIND_PLANE = 1

MAX_ANCHORS = 4
MAX_LANDMARKS = 64
MAX_LIMBS = 32
BEHIND = 1e12  # squared residual reported for a point that cannot be projected

assert COL_BETA + NUM_BETAS == NUM_UNKNOWNS
