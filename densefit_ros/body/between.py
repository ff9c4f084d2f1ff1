"""From one body's parameters towards another's."""

from __future__ import annotations

import numpy as np

from ..geometry import so3
from ..types import BodyParams


def between(a: BodyParams, b: BodyParams, rot_share: np.ndarray, other_share: np.ndarray) -> BodyParams:
    """From ``a`` towards ``b`` along the geodesic of each joint: 0 is ``a``, 1 is ``b``.

    rot_share (P,24) for the rotations, other_share (P,) for translation and shape.
    """
    ra, rb = so3.exp(a.rotvec), so3.exp(b.rotvec)
    step = so3.log(rb @ np.swapaxes(ra, -1, -2)) * rot_share[..., None].astype(np.float32)
    rotvec = so3.log(so3.exp(step) @ ra).astype(np.float32)
    s = other_share[:, None].astype(np.float32)
    return BodyParams(
        a.betas + s * (b.betas - a.betas),
        rotvec[:, 0],
        rotvec[:, 1:],
        a.t_camera_root + s * (b.t_camera_root - a.t_camera_root),
    )


def part_way(a: BodyParams, b: BodyParams, share: np.ndarray) -> BodyParams:
    """From ``a`` towards ``b``; share (P,) of the way."""
    share = np.asarray(share, np.float32)
    return between(a, b, np.repeat(share[:, None], a.rotvec.shape[1], 1), share)
