"""Tables worked out once per body: what carries each face, and where blocks of a Gram matrix go."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ..body.model import joint_shares
from ..types import NUM_JOINTS
from .layout import GROUP, GROUP_JOINTS, GROUPS, PAIRS, ROW, SHARED, WIDTH, column_in_row


def place_of_block() -> np.ndarray:
    """(21,16,16) where each entry of the Gram matrix's blocks lies in the normal matrix; -1: padding, or above the diagonal."""
    column = np.full(ROW, -1)
    column[column_in_row()] = np.arange(WIDTH)
    out = np.full((PAIRS, GROUP, GROUP), -1, np.int32)
    for n, (i, j) in enumerate(zip(*np.tril_indices(GROUPS))):
        a, b = column[GROUP * i : GROUP * (i + 1), None], column[None, GROUP * j : GROUP * (j + 1)]
        kept = (a >= 0) & (b >= 0) & ((i > j) | np.tri(GROUP, dtype=bool))
        out[n] = np.where(kept, np.maximum(a, b) * WIDTH + np.minimum(a, b), -1)
    return out


def face_tables(body) -> SimpleNamespace:
    """Which joints carry each face, with the three corners' weights.

    Compressed rows: face f owns entries start[f] to start[f + 1].  Faces carried by the same joints are of one class:
    class_start and class_joint list those joints, path_start and path_joint the joints above them (tips first),
    class_groups is the set of groups that a row of such a face fills, as bits.  Classes are in the order of their groups.
    """
    f = len(body.faces)
    dense = np.zeros((f, NUM_JOINTS, 3), np.float32)
    for corner in range(3):
        dense[:, :, corner] = joint_shares(body, body.faces[:, corner])
    face, joint = np.nonzero((dense != 0).any(2))
    carries, face_class = np.unique((dense != 0).any(2), axis=0, return_inverse=True)
    above = carries.copy()
    for k in range(NUM_JOINTS - 1, 0, -1):
        above[:, body.parents[k]] |= above[:, k]
    groups = (1 << SHARED) + sum(above[:, joints].any(1).astype(np.int32) << g for g, joints in enumerate(GROUP_JOINTS))
    order = np.argsort(groups, kind="stable")
    rank = np.argsort(order)
    of_class, class_joint = np.nonzero(carries[order])
    of_path, backwards = np.nonzero(above[order, ::-1])

    def starts(owner, count):
        return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]).astype(np.int32)

    return SimpleNamespace(
        start=starts(face, f), weight=dense[face, joint], face_class=rank[face_class.reshape(-1)].astype(np.int16),
        class_start=starts(of_class, len(order)), class_joint=class_joint.astype(np.int32),
        class_size=carries[order].sum(1).astype(np.int32), class_groups=groups[order].astype(np.int32),
        path_start=starts(of_path, len(order)), path_joint=(NUM_JOINTS - 1 - backwards).astype(np.int32),
    )  # fmt: skip
