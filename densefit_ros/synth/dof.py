"""Anatomical degrees of freedom: the space in which poses are sampled, limited, mixed and moved.

A pose is a row of named angles (rad) instead of 23 rotation vectors, because natural limits are simple boxes there and
because interpolating two poses angle by angle gives a pose.  Signs are clinical: flexion, abduction, internal rotation
and so on are positive, the same for both sides.  The body rests in a T-pose; axes: x left, y up, z forward of the person.
"""

from __future__ import annotations

import numpy as np

from ..body.joints import SMPL_JOINTS
from ..errors import ShapeError
from ..geometry import so3

# name: (lowest, highest, standard deviation of the noise), degrees.
_TRUNK = {
    "pelvis_pitch": (-95, 110, 4),  # forward lean of the pelvis in the world
    "pelvis_roll": (-95, 95, 3),  # lean of the pelvis to the person's right
    "bend": (-30, 75, 7),  # spine, summed over its three joints
    "side": (-30, 30, 5),
    "turn": (-50, 50, 7),
    "neck_bend": (-45, 50, 8),
    "neck_side": (-30, 30, 5),
    "neck_turn": (-70, 70, 11),
}
_ARM = {
    "arm_flex": (-50, 175, 9),  # upper arm forward, about the left-right axis, after abduction
    "arm_abd": (-40, 170, 7),  # upper arm sideways: 0 hangs, 90 is the T-pose
    "arm_in": (-70, 85, 12),  # internal rotation of the upper arm
    "elbow": (2, 145, 10),
    "pronation": (-70, 80, 16),
    "wrist_flex": (-55, 65, 11),
    "wrist_dev": (-20, 30, 6),
    "fingers": (-8, 45, 10),
    "shrug": (-8, 22, 3),
}
_LEG = {
    "leg_flex": (-30, 125, 6),  # thigh forward relative to the pelvis
    "leg_abd": (-22, 60, 4),
    "leg_out": (-35, 50, 8),  # external rotation of the thigh
    "knee": (0, 150, 6),
    "ankle": (-25, 45, 6),  # plantar flexion: toes down
    "ankle_in": (-15, 20, 4),
    "toes": (-10, 45, 4),  # toes up
}


def _table() -> dict[str, tuple[float, float, float]]:
    table = dict(_TRUNK)
    for side in "LR":
        for part in (_ARM, _LEG):
            table.update({f"{side}.{name}": row for name, row in part.items()})
    return table


DOF_TABLE = _table()
DOF_NAMES = tuple(DOF_TABLE)
DOF_INDEX = {name: i for i, name in enumerate(DOF_NAMES)}
DOF_LOW, DOF_HIGH, DOF_NOISE = (np.radians(np.array(column, np.float32)) for column in zip(*DOF_TABLE.values()))
NUM_DOFS = len(DOF_NAMES)


def joint_limits() -> dict[str, tuple[float, float]]:
    """Lowest and highest value in rad of every degree of freedom, by name; sides are prefixed ``L.`` and ``R.``."""
    return {n: (float(lo), float(hi)) for n, lo, hi in zip(DOF_NAMES, DOF_LOW, DOF_HIGH)}


def clamp(dofs: np.ndarray) -> np.ndarray:
    """Bring (...,D) angles into their limits."""
    return np.clip(dofs, DOF_LOW, DOF_HIGH)


def mirror(dofs: np.ndarray) -> np.ndarray:
    """The pose seen in a mirror: sides swapped, sideways trunk angles negated.  (...,D) -> (...,D)."""
    out = dofs.copy()
    for name, i in DOF_INDEX.items():
        if name.startswith("L."):
            j = DOF_INDEX["R." + name[2:]]
            out[..., i], out[..., j] = dofs[..., j], dofs[..., i]
    for name in ("pelvis_roll", "side", "turn", "neck_side", "neck_turn"):
        out[..., DOF_INDEX[name]] *= -1
    return out


def to_rotvec(dofs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,D) angles -> joint_rotvec (n,23,3) rad in SMPL order, and R_world_root (n,3,3) of the pelvis, world y up."""
    if dofs.ndim != 2 or dofs.shape[1] != NUM_DOFS:
        raise ShapeError(f"expected (n,{NUM_DOFS}) angles, got {dofs.shape}")
    rotmat = to_rotmat(dofs)
    return so3.log(rotmat[:, 1:]), rotmat[:, 0]


def to_rotmat(dofs: np.ndarray) -> np.ndarray:
    """(n,D) angles -> (n,24,3,3): joint 0 is the pelvis in the world, the others are relative to their parents."""
    n = len(dofs)
    out = np.broadcast_to(np.eye(3, dtype=np.float32), (n, 24, 3, 3)).copy()

    def put(joint: str, rotmat: np.ndarray) -> None:
        out[:, SMPL_JOINTS.index(joint)] = rotmat

    d = {name: dofs[:, i] for name, i in DOF_INDEX.items()}
    put("pelvis", _z(d["pelvis_roll"]) @ _x(d["pelvis_pitch"]))
    for joint, share in (("spine1", 0.40), ("spine2", 0.33), ("spine3", 0.27)):
        put(joint, _y(share * d["turn"]) @ _z(share * d["side"]) @ _x(share * d["bend"]))
    for joint, share in (("neck", 0.45), ("head", 0.55)):
        put(joint, _y(share * d["neck_turn"]) @ _z(share * d["neck_side"]) @ _x(share * d["neck_bend"]))
    for side, name in (("L", "left"), ("R", "right")):
        _put_arm(put, d, side, name)
        _put_leg(put, d, side, name)
    return out


def _put_arm(put, d: dict[str, np.ndarray], side: str, name: str) -> None:
    s = {k: d[f"{side}.{k}"] for k in _ARM}
    sided = _mirrored if side == "R" else _same
    upper = _x(-s["arm_flex"]) @ _z(s["arm_abd"] - np.pi / 2) @ _x(s["arm_in"])
    # Scapular rhythm: the shoulder girdle carries about a third of what lifts the arm above 60 degrees.
    lift = np.arcsin(np.clip(upper[:, 1, 0], -1, 1)) + np.pi / 2
    collar = _z(0.33 * np.maximum(lift - np.radians(60), 0) + s["shrug"])
    put(f"{name}_collar", sided(collar))
    put(f"{name}_shoulder", sided(np.swapaxes(collar, -1, -2) @ upper))
    put(f"{name}_elbow", sided(_y(-s["elbow"]) @ _x(0.5 * s["pronation"])))
    put(f"{name}_wrist", sided(_x(0.5 * s["pronation"]) @ _z(-s["wrist_flex"]) @ _y(s["wrist_dev"])))
    put(f"{name}_hand", sided(_z(-s["fingers"])))


def _put_leg(put, d: dict[str, np.ndarray], side: str, name: str) -> None:
    s = {k: d[f"{side}.{k}"] for k in _LEG}
    sided = _mirrored if side == "R" else _same
    put(f"{name}_hip", sided(_x(-s["leg_flex"]) @ _z(s["leg_abd"]) @ _y(s["leg_out"])))
    put(f"{name}_knee", sided(_x(s["knee"])))
    put(f"{name}_ankle", sided(_x(s["ankle"]) @ _z(-s["ankle_in"])))
    put(f"{name}_foot", sided(_x(-s["toes"])))


def _same(rotmat: np.ndarray) -> np.ndarray:
    return rotmat


def _mirrored(rotmat: np.ndarray) -> np.ndarray:
    """Reflect a rotation in the body's plane of symmetry: M R M with M = diag(-1, 1, 1)."""
    flip = np.array([-1.0, 1.0, 1.0], np.float32)
    return rotmat * flip[:, None] * flip[None, :]


def _x(angle: np.ndarray) -> np.ndarray:
    return _axis(angle, 1, 2)


def _y(angle: np.ndarray) -> np.ndarray:
    return _axis(angle, 2, 0)


def _z(angle: np.ndarray) -> np.ndarray:
    return _axis(angle, 0, 1)


def _axis(angle: np.ndarray, i: int, j: int) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    out = np.zeros(angle.shape + (3, 3), np.float32)
    k = 3 - i - j
    out[..., k, k] = 1
    out[..., i, i], out[..., i, j] = c, -s
    out[..., j, i], out[..., j, j] = s, c
    return out
