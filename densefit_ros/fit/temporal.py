"""Prediction from one frame to the next, as an anchor: constant velocity in the tangent space, uncertainty in seconds.

Velocities are of local rotations in the joint's own (right) tangent space, rad/s, and of the translation, m/s.  The spread
of a prediction grows with the time since the last frame, so a dropped frame or another frame rate needs no other tuning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ShapeError
from ..geometry import so3
from ..types import NUM_JOINTS, BodyParams
from .options import Anchor


@dataclass(frozen=True)
class Velocity:
    """Motion of P persons."""

    rotation: np.ndarray  # (P,24,3) rad/s, right tangent space of each local rotation
    translation: np.ndarray  # (P,3) m/s

    @staticmethod
    def zero(persons: int) -> Velocity:
        """At rest."""
        return Velocity(np.zeros((persons, NUM_JOINTS, 3)), np.zeros((persons, 3)))


@dataclass(frozen=True)
class MotionModel:
    """How far a prediction may be off: white acceleration noise on top of the last estimate's own uncertainty."""

    rot_sigma_rad: float = 0.03  # of the last estimate
    t_sigma_m: float = 0.01
    betas_sigma: float = 0.1
    rot_acceleration: float = 30.0  # rad/s^2, standard deviation of each joint's unmodelled acceleration
    t_acceleration: float = 4.0  # m/s^2
    betas_drift: float = 0.05  # per square root of a second
    decay_s: float = 0.25  # a velocity is trusted for about this long


def between(before: BodyParams, after: BodyParams, dt_s: float) -> Velocity:
    """Velocity that takes ``before`` to ``after`` in ``dt_s``."""
    if not dt_s > 0:
        raise ShapeError(f"expected a positive time step in seconds, got {dt_s}: stamps out of order?")
    a, b = _rotmats(before), _rotmats(after)
    turn = so3.log(np.swapaxes(a, -1, -2) @ b)
    return Velocity(turn / dt_s, (np.asarray(after.t_camera_root, np.float64) - before.t_camera_root) / dt_s)


def predict(params: BodyParams, velocity: Velocity, dt_s: float, model: MotionModel | None = None) -> BodyParams:
    """Parameters after ``dt_s``: velocities decay, so a lost person comes to rest instead of flying off."""
    reach = _reach(dt_s, model or MotionModel())
    rotvec = so3.log(_rotmats(params) @ so3.exp(velocity.rotation * reach)).astype(np.float32)
    t = (params.t_camera_root + velocity.translation * reach).astype(np.float32)
    return BodyParams(np.asarray(params.betas, np.float32), rotvec[:, 0], rotvec[:, 1:], t)


def anchor(params: BodyParams, velocity: Velocity, dt_s: float, model: MotionModel | None = None) -> Anchor:
    """The prediction with its standard deviations, ready for ``Fitter.solve(anchors=[...])``."""
    m = model or MotionModel()
    if dt_s < 0:
        raise ShapeError(f"expected a time step of zero or more seconds, got {dt_s}: stamps out of order?")
    return Anchor(
        predict(params, velocity, dt_s, m),
        rot_sigma_rad=float(np.hypot(m.rot_sigma_rad, 0.5 * m.rot_acceleration * dt_s**2)),
        betas_sigma=float(np.hypot(m.betas_sigma, m.betas_drift * np.sqrt(dt_s))),
        t_sigma_m=float(np.hypot(m.t_sigma_m, 0.5 * m.t_acceleration * dt_s**2)),
    )


def _reach(dt_s: float, m: MotionModel) -> float:
    return m.decay_s * (1.0 - float(np.exp(-dt_s / m.decay_s)))


def _rotmats(params: BodyParams) -> np.ndarray:
    rotvec = np.concatenate([params.root_rotvec[:, None], params.joint_rotvec], 1)
    return so3.exp(np.asarray(rotvec, np.float64))
