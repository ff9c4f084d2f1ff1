"""Constant-velocity motion on the pose manifold, with a velocity that forgets.

Rotations move in their tangent space: ``R(t + dt) = exp(omega * dt) @ R(t)``, for the root in the camera frame and for
the other joints in the frame of their parent.  All weights are in seconds, so that the frame rate may change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import so3
from ..types import NUM_JOINTS, BodyParams

COAST_TAU_S = 0.3  # while nothing is measured, a limb stops rather than spinning on


@dataclass(frozen=True)
class Velocity:
    """Rates of change of one body."""

    rot_rad_s: np.ndarray  # (24,3) tangent of each local rotation, root first
    t_m_s: np.ndarray  # (3,)

    @staticmethod
    def zero() -> Velocity:
        """At rest."""
        return Velocity(np.zeros((NUM_JOINTS, 3), np.float32), np.zeros(3, np.float32))


def local_rotmats(params: BodyParams) -> np.ndarray:
    """All rotations of P bodies, root first, each relative to its parent.  -> (P,24,3,3)."""
    return so3.exp(params.rotvec)


def with_rotmats(params: BodyParams, rotmats: np.ndarray) -> BodyParams:
    """The same bodies with other rotations, (P,24,3,3)."""
    rotvec = so3.log(rotmats).astype(np.float32)
    return BodyParams(params.betas, rotvec[:, 0], rotvec[:, 1:], params.t_camera_root)


def predict(params: BodyParams, velocity: Velocity, dt_s: float) -> BodyParams:
    """One body ``dt_s`` later; the velocity fades with COAST_TAU_S, so long gaps do not fling limbs about."""
    if dt_s <= 0:
        return params
    path_s = COAST_TAU_S * (1.0 - np.exp(-dt_s / COAST_TAU_S))  # integral of the fading velocity
    moved = so3.exp(velocity.rot_rad_s * np.float32(path_s))[None] @ local_rotmats(params)
    out = with_rotmats(params, moved)
    return BodyParams(out.betas, out.root_rotvec, out.joint_rotvec, params.t_camera_root + velocity.t_m_s * np.float32(path_s))


def faded(velocity: Velocity, dt_s: float) -> Velocity:
    """The velocity after ``dt_s`` without a measurement."""
    keep = np.float32(np.exp(-max(dt_s, 0.0) / COAST_TAU_S))
    return Velocity(velocity.rot_rad_s * keep, velocity.t_m_s * keep)


def update_velocity(
    velocity: Velocity, before: BodyParams, after: BodyParams, dt_s: float, tau_s: float, since_s: float | None = None
) -> Velocity:
    """First-order low-pass of the finite difference, time constant ``tau_s``; 0 keeps the velocity at zero.

    ``since_s``: since the last measurement, where ``before`` coasted to ``dt_s`` ago.  What the coasting missed in all that time
    then shows in one step: taken for this frame's speed, a second behind a pillar made 2.8 m/s of a walker's 0.5.
    """
    if tau_s <= 0 or dt_s <= 0:
        return Velocity.zero()
    gain = np.float32(dt_s / (tau_s + max(dt_s, since_s or 0.0)))
    rot = so3.log(local_rotmats(after)[0] @ np.swapaxes(local_rotmats(before)[0], -1, -2)) / np.float32(dt_s)
    t = (after.t_camera_root[0] - before.t_camera_root[0]) / np.float32(dt_s)
    return Velocity(
        (velocity.rot_rad_s + gain * (rot - velocity.rot_rad_s)).astype(np.float32),
        (velocity.t_m_s + gain * (t - velocity.t_m_s)).astype(np.float32),
    )
