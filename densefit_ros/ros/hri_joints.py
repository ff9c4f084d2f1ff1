"""Joint angles of the person model of REP-155 (the URDF of human_description) for a posed body.

That model has three revolute joints in each shoulder and hip and in the neck, one in each elbow and knee and in the
waist.  With these angles its head turns as ours, and its upper arms, forearms, thighs and shins point as ours; what it has
no joint for (a spine that twists or leans aside, wrists, ankles) is left out.  /tf carries the full pose.
"""

from __future__ import annotations

import numpy as np

from .links import LINK_INDEX, link_rotmats

# Below this share of a limb's length off its straight line, bending says nothing about the twist.
MIN_BEND = 0.15


def joint_angles(rotmat: np.ndarray) -> dict[str, float]:
    """Angles in rad by joint name without the body's id; ``rotmat`` (24,3,3) of the SMPL joints, camera frame.

    Shoulders turn about z, x, z (names y_, p_, r_), hips about z, x, y, the head about x, z, y; signs as in the URDF, which
    mirrors left and right so that raising either arm is positive.
    """
    world = dict(zip(LINK_INDEX, link_rotmats(np.asarray(rotmat, np.float64))))

    def between(parent: str, child: str) -> np.ndarray:
        return world[parent].T @ world[child]

    trunk = between("body", "torso")
    waist = float(np.arctan2(trunk[0, 2] - trunk[2, 0], trunk[0, 0] + trunk[2, 2]))
    # Head and arms hang on the torso that the model has, not on ours: it only bends forward.
    world["torso"] = world["body"] @ np.array([[np.cos(waist), 0, np.sin(waist)], [0, 1, 0], [-np.sin(waist), 0, np.cos(waist)]])
    out = {"waist": waist}
    head = between("torso", "head")
    out["r_head"] = float(np.arctan2(head[2, 1], head[1, 1]))
    out["y_head"] = float(-np.arcsin(np.clip(head[0, 1], -1, 1)))
    out["p_head"] = float(-np.arctan2(head[0, 2], head[0, 0]))
    for s, sign in (("l", 1.0), ("r", -1.0)):
        upper, bend = _with_hinge(between("torso", f"{s}_shoulder"), between(f"{s}_shoulder", f"{s}_elbow"), forward=True)
        out[f"{s}_y_shoulder"], out[f"{s}_p_shoulder"], out[f"{s}_r_shoulder"] = _shoulder(upper, sign)
        out[f"{s}_elbow"] = bend
        upper, bend = _with_hinge(between("body", f"{s}_hip"), between(f"{s}_hip", f"{s}_knee"), forward=False)
        out[f"{s}_y_hip"] = float(np.arctan2(upper[0, 1], upper[1, 1]))
        out[f"{s}_p_hip"] = float(sign * np.arcsin(np.clip(upper[2, 1], -1, 1)))
        out[f"{s}_r_hip"] = float(np.arctan2(upper[2, 0], upper[2, 2]))
        out[f"{s}_knee"] = -bend
    return out


def _with_hinge(upper: np.ndarray, lower: np.ndarray, forward: bool) -> tuple[np.ndarray, float]:
    """The upper limb twisted so that its hinge takes the lower limb where it is, and how far that bends, in [0, pi]."""
    x, y, z = -lower[:, 2]  # where the lower limb points, in the upper limb's axes; straight is (0, 0, -1)
    bend = float(np.arccos(np.clip(-z, -1, 1)))
    if np.hypot(x, y) < MIN_BEND:
        return upper, bend
    twist = np.arctan2(y, x) if forward else np.arctan2(-y, -x)
    c, s = np.cos(twist), np.sin(twist)
    return upper @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), bend


def _shoulder(r: np.ndarray, sign: float) -> tuple[float, float, float]:
    """Angles about z, x, z with the arm's side as sign; where the two z axes coincide the first angle is 0."""
    raised = float(np.arccos(np.clip(r[2, 2], -1, 1)))
    if np.hypot(r[0, 2], r[1, 2]) < 1e-6:
        return 0.0, raised, float(sign * np.arctan2(r[1, 0], r[0, 0]))
    # Rz(-sign a) Rx(sign b) Rz(sign c), b >= 0
    return (
        float(-sign * np.arctan2(sign * r[0, 2], -sign * r[1, 2])),
        raised,
        float(sign * np.arctan2(sign * r[2, 0], sign * r[2, 1])),
    )
