"""Walking and running as periodic curves of the joint angles, after textbook gait: stance 60 % of a stride when walking."""

from __future__ import annotations

import numpy as np
import scipy.interpolate


def _curve(shares: tuple[float, ...], degrees: tuple[float, ...]) -> scipy.interpolate.CubicSpline:
    return scipy.interpolate.CubicSpline(shares + (1.0,), degrees + (degrees[0],), bc_type="periodic")


# Over one stride from heel strike to heel strike, degrees.  The thigh swings back evenly while the foot is on the ground,
# so that the pelvis travels at an even speed.
_THIGH = _curve((0.0, 0.15, 0.30, 0.45, 0.56, 0.66, 0.78, 0.90), (25, 18, 5, -9, -14, -5, 18, 27))
_KNEE = _curve((0.0, 0.12, 0.28, 0.42, 0.52, 0.62, 0.73, 0.86, 0.95), (4, 17, 9, 5, 14, 40, 61, 25, 4))
_ANKLE = _curve((0.0, 0.07, 0.22, 0.45, 0.55, 0.63, 0.74, 0.86), (-2, 5, -3, -10, 2, 17, 4, -2))
_TOES = _curve((0.0, 0.12, 0.40, 0.54, 0.61, 0.70, 0.85), (6, 0, 0, 17, 26, 8, 6))


def gait(phase: float, stride: float, running: float) -> dict[str, float]:
    """Angles (degrees) of legs and trunk at one phase (rad; the left heel strikes at 0).

    ``stride`` scales the swing; ``running`` in [0,1] goes from walk to run: more knee, more lean.
    """
    d = {
        "pelvis_pitch": 2 + 9 * running,
        "pelvis_roll": 2.5 * np.sin(phase) * stride,
        "side": -2.5 * np.sin(phase) * stride,
        "turn": 6 * np.cos(phase) * stride,
        "bend": 1 + 4 * running,
    }
    for side, offset in (("L", 0.0), ("R", 0.5)):
        c = (phase / (2 * np.pi) + offset) % 1.0
        swing = np.exp(-(((c - 0.72) / 0.14) ** 2))
        d |= {
            f"{side}.leg_flex": float(_THIGH(c)) * stride * (1 + 0.35 * running) + 8 * running + d["pelvis_pitch"],
            f"{side}.knee": float(_KNEE(c)) * (0.4 + 0.6 * stride) + running * (42 * swing + 20 * (1 - swing)),
            f"{side}.ankle": float(_ANKLE(c)) * stride + 8 * running * swing,
            f"{side}.toes": max(float(_TOES(c)) * stride, 0.0),
            f"{side}.leg_abd": 1.0,
            f"{side}.leg_out": 5.0,
        }
    return d
