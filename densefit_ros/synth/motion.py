"""Smooth human motion: walking with planted feet, gestures, and free movement between poses.

A motion is a track of anatomical angles (see :mod:`densefit_ros.synth.dof`) and of the heading; where the body goes
follows from the feet: the lower one stands still, everything else moves around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.interpolate
import scipy.ndimage

from ..body.joints import JOINT_INDEX
from ..body.model import BodyModel
from ..geometry import so3
from ..types import BodyParams
from . import dof
from .clothing import Wardrobe, skin
from .gait import gait
from .poses import draw_dofs, from_names, self_overlap

CADENCE_HZ = 0.95  # full strides (two steps) per second of an easy walk
_FOOT_JOINTS = [JOINT_INDEX[n] for n in ("left_ankle", "right_ankle", "left_foot", "right_foot")]


@dataclass(frozen=True, eq=False)
class Motion:
    """T frames in a world with y up and the ground at y = 0."""

    joint_rotvec: np.ndarray  # (T,23,3) rad
    R_world_root: np.ndarray  # (T,3,3)
    pelvis_m: np.ndarray  # (T,3) position of the pelvis joint

    def __len__(self) -> int:
        return len(self.pelvis_m)


# Arms of gestures, degrees; what is not named stays as it is.
GESTURES: Mapping[str, Mapping[str, float]] = {
    "wave": {"L.arm_abd": 88, "L.arm_flex": 8, "L.arm_in": -62, "L.elbow": 92, "L.fingers": 0},
    "point": {"R.arm_flex": 82, "R.arm_abd": 12, "R.elbow": 8, "R.fingers": 5, "neck_turn": -12},
    "open": {f"{s}.{k}": v for s in "LR" for k, v in (("arm_flex", 32), ("arm_abd", 28), ("arm_in", -18), ("elbow", 72))},
    "up": {"L.arm_flex": 150, "L.arm_abd": 18, "L.elbow": 18, "R.arm_flex": 150, "R.arm_abd": 18, "R.elbow": 18},
    "lean": {"side": 14, "pelvis_roll": 3, "bend": 12, "turn": 18},
}  # fmt: skip
_REST = {"L.arm_flex": 2, "L.arm_abd": 10, "L.arm_in": 8, "L.elbow": 14, "L.fingers": 10, "L.pronation": 10}
_REST |= {"R" + k[1:]: v for k, v in list(_REST.items())}
_STANCE = {
    "L.leg_abd": 3,
    "R.leg_abd": 3,
    "L.leg_out": 7,
    "R.leg_out": 7,
    "L.knee": 3,
    "R.knee": 3,
    "L.leg_flex": 1.5,
    "R.leg_flex": 1.5,
}


def walk_dofs(phase: np.ndarray, stride: np.ndarray | float = 1.0) -> np.ndarray:
    """(T,D) angles of a walk with swinging arms; ``phase`` (T,) rad advances by 2 pi a full stride."""
    stride = np.broadcast_to(stride, phase.shape)
    rows = []
    for p, s in zip(phase, stride):
        values = dict(_REST) | gait(float(p), float(s), 0.0)
        swing = 0.42 * (values["L.leg_flex"] - values["R.leg_flex"])
        values |= {
            "L.arm_flex": 3 - swing,
            "R.arm_flex": 3 + swing,
            "L.elbow": 18 + max(-swing, 0),
            "R.elbow": 18 + max(swing, 0),
        }
        rows.append(from_names(values))
    return np.array(rows, np.float32)


def stand_dofs(count: int) -> np.ndarray:
    """(T,D) angles of quiet standing."""
    return np.tile(from_names(_REST | _STANCE), (count, 1))


def gesture_dofs(base: np.ndarray, time_s: np.ndarray, name: str, start_s: float, end_s: float) -> np.ndarray:
    """Blend one gesture of :data:`GESTURES` over ``base`` (T,D) between two times, smoothly in and out."""
    ease = np.clip((time_s - start_s) / 0.55, 0, 1) * np.clip((end_s - time_s) / 0.55, 0, 1)
    weight = (ease * ease * (3 - 2 * ease)).astype(np.float32)
    out = base.copy()
    for key, degrees in GESTURES[name].items():
        i = dof.DOF_INDEX[key]
        out[:, i] += weight * (np.radians(degrees) - out[:, i])
    if name == "wave":
        out[:, dof.DOF_INDEX["L.arm_in"]] += weight * np.float32(0.35) * np.sin(2 * np.pi * 1.7 * time_s).astype(np.float32)
        out[:, dof.DOF_INDEX["L.elbow"]] += weight * np.float32(0.15) * np.sin(2 * np.pi * 1.7 * time_s + 0.8).astype(np.float32)
    return out


def free_dofs(rng: np.random.Generator, time_s: np.ndarray, pace_s: float = 0.9) -> np.ndarray:
    """(T,D) angles through random poses about ``pace_s`` apart, without lying down; limits and self-contact respected."""
    count = max(int(np.ceil(float(time_s[-1]) / pace_s)) + 3, 4)
    knots = np.cumsum(rng.uniform(0.6, 1.4, count)) * pace_s
    knots -= knots[1]
    rows: list[np.ndarray] = []
    while len(rows) < count:
        name, row = draw_dofs(rng)
        if name == "lie" or float(self_overlap(dof.to_rotmat(row[None]))[0]) > 0.035:
            continue
        # Near poses follow each other: a part of the last one stays.
        keep = rng.uniform(0.2, 0.6) if rows else 0.0
        rows.append((keep * rows[-1] + (1 - keep) * row).astype(np.float32) if rows else row)
    spline = scipy.interpolate.PchipInterpolator(knots, np.array(rows), axis=0)
    return smooth(dof.clamp(spline(np.clip(time_s, knots[0], knots[-1])).astype(np.float32)), time_s)


def breathe(dofs: np.ndarray, time_s: np.ndarray, seed: int, size_deg: float = 1.2) -> np.ndarray:
    """Add slow small sway to every angle: nobody stands like a statue."""
    rng = np.random.default_rng(seed)
    out = dofs.astype(np.float64)
    for _ in range(3):
        rate, phase, size = (
            rng.uniform(0.15, 0.9, dof.NUM_DOFS),
            rng.uniform(0, 2 * np.pi, dof.NUM_DOFS),
            rng.normal(0, 1, dof.NUM_DOFS),
        )
        out += np.radians(size_deg / 3) * size * np.sin(2 * np.pi * rate * time_s[:, None] + phase)
    return dof.clamp(out.astype(np.float32))


def smooth(track: np.ndarray, time_s: np.ndarray, sigma_s: float = 0.08) -> np.ndarray:
    """Low-pass a (T,...) track along time."""
    step = float(time_s[1] - time_s[0]) if len(time_s) > 1 else 1.0
    return scipy.ndimage.gaussian_filter1d(track, sigma_s / step, axis=0, mode="nearest").astype(np.float32)


def ease_in_out(time_s: np.ndarray, knots_s: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """Monotone smooth curve through (time, value) knots."""
    curve = scipy.interpolate.PchipInterpolator(knots_s, values)
    return curve(np.clip(time_s, knots_s[0], knots_s[-1])).astype(np.float32)


def plant(wardrobe: Wardrobe, betas: np.ndarray, dofs: np.ndarray, yaw_rad: np.ndarray, time_s: np.ndarray) -> Motion:
    """Carry the body so that the lower foot stands nearly still on the ground.

    betas (10,); dofs (T,D); yaw (T,) heading about the vertical -> Motion that starts above the origin.
    """
    count = len(dofs)
    joint_rotvec, root = dof.to_rotvec(dofs)
    turn = np.zeros((count, 3), np.float32)
    turn[:, 1] = yaw_rad
    root = so3.exp(turn) @ root
    params = BodyParams(
        np.tile(betas, (count, 1)).astype(np.float32), so3.log(root), joint_rotvec, np.zeros((count, 3), np.float32)
    )
    vertices, joints = skin(wardrobe, params, [None] * count)
    low = vertices[:, :, 1].min(1)
    feet = joints[:, _FOOT_JOINTS] - joints[:, :1]
    # Which foot bears: soft, so that weight passes from one to the other without a jolt.
    height = feet[:, :, 1] - feet[:, :, 1].min(1, keepdims=True)
    bearing = np.exp(-height / 0.012)
    bearing /= bearing.sum(1, keepdims=True)
    step = np.zeros((count, 3), np.float64)
    step[1:] = -np.einsum("tf,tfc->tc", 0.5 * (bearing[1:] + bearing[:-1]), feet[1:] - feet[:-1])
    place = np.cumsum(step, 0)
    place[:, 1] = scipy.ndimage.gaussian_filter1d((joints[:, 0, 1] - low).astype(np.float64), 1.2, mode="nearest")
    # A pelvis carries on evenly where the planted foot alone would stop and go with every step.
    place[:, [0, 2]] = smooth(place[:, [0, 2]].astype(np.float32), time_s, 0.22)
    return Motion(joint_rotvec.astype(np.float32), root.astype(np.float32), place.astype(np.float32))


def to_params(
    motion: Motion, body: BodyModel, betas: np.ndarray, R_camera_world: np.ndarray, t_camera_world: np.ndarray
) -> BodyParams:
    """The motion seen by a camera: ``x_camera = R_camera_world @ x_world + t_camera_world``; T frames as T persons."""
    count = len(motion)
    pelvis = motion.pelvis_m @ R_camera_world.T + t_camera_world
    rest = body.joint_template[0] + body.joint_shapedirs[0] @ betas
    f = np.float32
    root = so3.log((R_camera_world @ motion.R_world_root).astype(np.float64))
    return BodyParams(np.tile(betas, (count, 1)).astype(f), root.astype(f), motion.joint_rotvec, (pelvis - rest).astype(f))


def demo_motion(wardrobe: Wardrobe, betas: np.ndarray, time_s: np.ndarray) -> Motion:
    """Ten seconds: walk up from the left, stop, wave, point, open the arms, lean, and walk on to the right."""
    walking = ease_in_out(time_s, [0, 2.6, 3.3, 7.3, 7.9, 9.0, 9.6], [1, 1, 0, 0, 1, 1, 0])
    phase = 2 * np.pi * CADENCE_HZ * np.cumsum(walking) * float(time_s[1] - time_s[0])
    walk = walk_dofs(phase, 0.35 + 0.65 * walking)
    dofs = walk + (1 - walking)[:, None] * (stand_dofs(len(time_s)) - walk)
    for name, start, end in (("wave", 3.0, 5.0), ("point", 4.8, 6.2), ("open", 6.0, 7.4), ("lean", 6.6, 7.8), ("up", 8.3, 9.6)):
        dofs = gesture_dofs(dofs, time_s, name, start, end)
    dofs = breathe(dof.clamp(dofs), time_s, 5)
    yaw = ease_in_out(time_s, [0, 1.8, 3.2, 6.9, 8.2, 10], [1.0, 0.9, 0.12, -0.1, 1.35, 1.45])
    return plant(wardrobe, betas, dofs, yaw, time_s)


def random_motion(rng: np.random.Generator, wardrobe: Wardrobe, betas: np.ndarray, time_s: np.ndarray) -> Motion:
    """A walk with gestures (half of the time) or free movement between poses, with a wandering heading."""
    wander = np.cumsum(rng.normal(0, 0.5, int(time_s[-1]) + 4))
    yaw = smooth(np.interp(time_s, np.arange(len(wander)), wander + rng.uniform(-np.pi, np.pi)), time_s, 0.4)
    if rng.random() < 0.5:
        stride = rng.uniform(0.6, 1.15)
        phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.uniform(0.7, 1.1) * time_s
        dofs = walk_dofs(phase, stride)
        t = rng.uniform(0, 1)
        while t < time_s[-1]:
            length = rng.uniform(1.2, 2.5)
            names = ("wave", "point", "open", "up")
            dofs = gesture_dofs(dofs, time_s, names[int(rng.integers(len(names)))], t, t + length)
            t += length + rng.uniform(0, 1.5)
        if rng.random() < 0.5:
            dofs = np.stack([dof.mirror(row) for row in dofs])
    else:
        dofs = free_dofs(rng, time_s, rng.uniform(0.7, 1.3))
    return plant(wardrobe, betas, breathe(dof.clamp(dofs), time_s, int(rng.integers(1 << 30))), yaw, time_s)
