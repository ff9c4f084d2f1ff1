"""The displacement network asked about the mirror image too, as regress/mirrored.py asks the regressor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POINT_SUM = 1.1  # of the vertex colours (body.model.vertex_colors) of a point and of its place on the other side
_NORMAL_X, _POINT_X, _MASK = 4, 7, 10  # channels of a rendering


def mirror_rendering(packed: np.ndarray) -> np.ndarray:
    """The renderings (P,S,W,11) of the mirrored body."""
    out = np.ascontiguousarray(packed[:, :, ::-1])
    out[..., _NORMAL_X] *= -1
    out[..., _POINT_X] = np.where(out[..., _MASK] > 0, POINT_SUM - out[..., _POINT_X], 0)
    return out


def merged(flow: np.ndarray, log_var: np.ndarray, mirrored: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The means of the answers (N,2,h,w), (N,1,h,w) about P crops and, after them, about the mirror images of some of these.

    Variances are averaged, not reduced: the two answers' errors are nearly the same.  A cell is read two pixels from its corner,
    in the mirror one: half a pixel between them on average, of flows that hardly change within it.
    """
    if not len(mirrored):
        return flow, log_var
    count, rows = len(flow) - len(mirrored), list(mirrored)
    flow_there = flow[count:, :, :, ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    flow, there, log_var = flow[:count].copy(), log_var[count:, :, :, ::-1], log_var[:count].copy()
    flow[rows] = 0.5 * (flow[rows] + flow_there)
    log_var[rows] = np.logaddexp(log_var[rows], there) - np.float32(np.log(2))
    return flow, log_var
