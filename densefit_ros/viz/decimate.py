"""Fewer triangles for pictures that travel: a subset of a body's vertices, and faces between them."""

from __future__ import annotations

import numpy as np

from ..body.model import BodyModel


def decimated(body: BodyModel, max_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (M,) to keep and faces (G,3) among them with G <= max_faces, for every pose of the body; once per body.

    Vertices that fall into one cell of a grid over the T-pose, and hang on the same joint, become the one nearest to their
    mean.  The grid is the finest that gives few enough faces; below a hundred or so none does, and the coarsest is taken.
    Kept vertices are the body's own, so a posed mesh is decimated by indexing.  0, or as many faces as the body has, keeps
    everything.
    """
    if max_faces == 0 or max_faces >= len(body.faces):
        return np.arange(len(body.v_template)), body.faces
    fine, coarse = 0.0, float(np.ptp(body.v_template, axis=0).max())
    best = _clustered(body, coarse)
    for _ in range(20):
        cell = 0.5 * (fine + coarse)
        found = _clustered(body, cell)
        if len(found[1]) <= max_faces:
            best, coarse = found, cell
        else:
            fine = cell
    return best


def _clustered(body: BodyModel, cell_m: float) -> tuple[np.ndarray, np.ndarray]:
    strongest = np.argmax(body.skin_weight, 1)
    joint = body.skin_joint[np.arange(len(strongest)), strongest]
    key = np.c_[np.floor(body.v_template / cell_m).astype(np.int64), joint]
    # The joint keeps parts apart that only lie side by side in the T-pose, such as the thighs.
    _, cluster = np.unique(key, axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    count = np.bincount(cluster)
    mean = np.stack([np.bincount(cluster, body.v_template[:, c]) for c in range(3)], -1) / count[:, None]
    distance = np.linalg.norm(body.v_template - mean[cluster], axis=1)
    order = np.lexsort((distance, cluster))
    kept = order[np.r_[0, np.cumsum(count)[:-1]]]  # the first, that is the nearest, of each cluster
    faces = cluster[body.faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(faces, 1), axis=0, return_index=True)
    used, corner = np.unique(faces[np.sort(first)], return_inverse=True)  # a cell may be left without a face
    return kept[used], corner.reshape(-1, 3).astype(np.int32)
