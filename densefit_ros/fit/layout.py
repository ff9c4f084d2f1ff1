"""Numbers shared by kernels and host code: where each unknown lies in the normal matrix and in a row of the Jacobian.

The normal matrix has 88 columns, in the order that users see::

    0..2    translation
    3..74   rotation increments of joints 0..23, camera axes
    75..84  betas
    85      the residual itself: row 85 of the Gram matrix is the gradient
    86, 87  square root of the robust cost at this iteration's and at the next iteration's scale: their squares sum up
            in the diagonal, so the cost needs no reduction of its own

A row of the Jacobian has the same columns in six groups of 16, by limb.  A surface point moves with one limb, the trunk
and what all points share, so three groups of its row are not zero, and the Gram matrix skips the others::

    0  left leg and head    1  right leg    2  left arm    3  right arm    4  trunk and neck
    5  betas, translation, residual, costs
"""

from __future__ import annotations

import numpy as np

from ..types import NUM_BETAS, NUM_JOINTS, NUM_UNKNOWNS

COL_T = 0
COL_ROT = 3
COL_BETA = COL_ROT + 3 * NUM_JOINTS
COL_RESIDUAL = NUM_UNKNOWNS
COL_COST_NOW = NUM_UNKNOWNS + 1
COL_COST_NEXT = NUM_UNKNOWNS + 2
WIDTH = 88

GROUP = 16
GROUPS = 6
ROW = GROUP * GROUPS
GROUP_JOINTS = ((1, 4, 7, 10, 15), (2, 5, 8, 11), (13, 16, 18, 20, 22), (14, 17, 19, 21, 23), (0, 3, 6, 9, 12))  # joints by group
SHARED = GROUPS - 1  # the group that every point fills
# Within the shared group.
SHARED_T = NUM_BETAS
SHARED_RESIDUAL, SHARED_COST_NOW, SHARED_COST_NEXT = NUM_BETAS + 3, NUM_BETAS + 4, NUM_BETAS + 5
PAIRS = GROUPS * (GROUPS + 1) // 2
HALVES = 2 * PAIRS  # the Gram matrix is made of blocks of 8 x 16


def row_of_joint() -> np.ndarray:
    """(24,) the first of the three columns of each joint in a row."""
    out = np.zeros(NUM_JOINTS, np.int32)
    for group, joints in enumerate(GROUP_JOINTS):
        for place, joint in enumerate(joints):
            out[joint] = GROUP * group + 3 * place
    return out


def column_in_row() -> np.ndarray:
    """(88,) where each column of the normal matrix lies in a row."""
    out = np.zeros(WIDTH, np.int32)
    shared = GROUP * SHARED
    out[COL_T : COL_T + 3] = shared + SHARED_T + np.arange(3)
    out[COL_ROT:COL_BETA] = (row_of_joint()[:, None] + np.arange(3)).reshape(-1)
    out[COL_BETA:COL_RESIDUAL] = shared + np.arange(NUM_BETAS)
    out[COL_RESIDUAL:] = shared + np.array([SHARED_RESIDUAL, SHARED_COST_NOW, SHARED_COST_NEXT])
    return out


# Rows are made and multiplied in chunks of this many points of like limbs: 49 kB stay in a core's cache in between.
CHUNK_POINTS = 64
CHUNK_ROWS = 2 * CHUNK_POINTS
TOGETHER = 4  # chunks a launch on a CPU

KIND_PIXEL = 0
KIND_PLANE = 1

MAX_ANCHORS = 4
MAX_LANDMARKS = 64
MAX_LIMBS = 32
EXTRA_CHUNKS = -(-(2 * MAX_LANDMARKS + 3 * MAX_LIMBS) // CHUNK_ROWS)  # chunks of a person's rows that are not of points
BEHIND = 1e12  # squared residual reported for a point that cannot be projected

assert COL_BETA + NUM_BETAS == NUM_UNKNOWNS
