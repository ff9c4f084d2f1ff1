"""The displacement network asked about the mirror image too, as regress/mirrored.py asks the regressor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POINT_SUM = 1.1  # of the vertex colours (body.model.vertex_colors) of a point and of its place on the other side
Field = tuple[np.ndarray, np.ndarray]  # flow (P,2,h,w) and log_var (P,1,h,w)
_UV = np.array([-1, 1], np.float32)[:, None, None]
_NORMAL_X, _POINT_X, _MASK = 4, 7, 10  # channels of a rendering


def mirror_rendering(packed: np.ndarray) -> np.ndarray:
    """The renderings (P,S,W,11) of the mirrored body."""
    out = np.ascontiguousarray(packed[:, :, ::-1])
    out[..., _NORMAL_X] *= -1
    out[..., _POINT_X] = np.where(out[..., _MASK] > 0, POINT_SUM - out[..., _POINT_X], 0)
    return out


def merged(here: Field, there: Field, rows: Sequence[int]) -> Field:
    """The field of P crops, those of ``rows`` the mean with the answers ``there`` about their mirror images.

    Variances are averaged, not reduced: the two answers' errors are nearly the same.  The mirror's cells are read a pixel beside
    the others', so the mean is half a pixel beside them, of flows that hardly change within it.
    """
    (flow, log_var), (there_flow, there_log_var), rows = here, there, list(rows)
    flow, log_var = flow.copy(), log_var.copy()
    flow[rows] = 0.5 * (flow[rows] + there_flow[..., ::-1] * _UV)
    log_var[rows] = np.logaddexp(log_var[rows], there_log_var[..., ::-1]) - np.float32(np.log(2))
    return flow, log_var
