"""Procedural human poses: combinations of archetypes, mixed, perturbed, limited, and kept out of the person's own trunk."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import dof
from .archetypes import LOWER
from .arms import ARMS
from .dof import joint_limits

__all__ = ["PoseSample", "joint_limits", "sample", "sample_poses"]

_SYMMETRIC_ARMS = 0.42  # share of poses in which both arms do the same thing
_INTERPOLATED = 0.35  # share of poses on the way from one archetype to another
_TRIES = 4  # draws per pose before the least self-penetrating one is taken as it is
_MAX_OVERLAP_M = 0.035  # soft tissue gives way that far


@dataclass(frozen=True, eq=False)
class PoseSample:
    """Poses of n people standing, sitting or lying in a world whose y axis points up; they face world +z before any yaw."""

    joint_rotvec: np.ndarray  # (n,23,3) rad
    R_world_root: np.ndarray  # (n,3,3)
    archetype: tuple[str, ...]  # lower-body archetype of each pose


def sample_poses(rng: np.random.Generator, n: int) -> np.ndarray:
    """n poses as SMPL joint rotations: (n,23,3) float32 rad."""
    return sample(rng, n).joint_rotvec


def sample(rng: np.random.Generator, n: int) -> PoseSample:
    """n poses with the pelvis orientation that belongs to them (bent, sitting and lying poses lean)."""
    drawn = [draw_dofs(rng) for _ in range(n)]
    names = [name for name, _ in drawn]
    dofs = np.array([row for _, row in drawn], np.float32).reshape(n, dof.NUM_DOFS)
    rotmat = dof.to_rotmat(dofs)
    overlap = self_overlap(rotmat)
    for _ in range(_TRIES - 1):
        bad = np.flatnonzero(overlap > _MAX_OVERLAP_M)
        if not len(bad):
            break
        again = [draw_dofs(rng) for _ in bad]
        new_dofs = np.array([row for _, row in again], np.float32)
        new_rotmat = dof.to_rotmat(new_dofs)
        new_overlap = self_overlap(new_rotmat)
        better = new_overlap < overlap[bad]
        take = bad[better]
        dofs[take], rotmat[take], overlap[take] = new_dofs[better], new_rotmat[better], new_overlap[better]
        for i, (name, _), ok in zip(bad, again, better):
            names[i] = name if ok else names[i]
    joint_rotvec, root = dof.to_rotvec(dofs)
    return PoseSample(joint_rotvec.astype(np.float32), root, tuple(names))


def draw_dofs(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """One pose in the space of :mod:`densefit_ros.synth.dof`: archetype name and (D,) angles in rad."""
    name, row = _compose(rng)
    if rng.random() < _INTERPOLATED:
        other_name, other = _compose(rng, None if rng.random() < 0.5 else name)
        t = rng.beta(0.8, 2.0) if other_name != name else rng.random()
        # Lying and standing roots are far apart: halfway between is somebody falling, which is rare enough to leave out.
        if "lie" not in (name, other_name) or name == other_name:
            row = (1 - t) * row + t * other
    shared = rng.normal(0, 0.6, dof.NUM_DOFS)  # noise that both sides have in common
    i_left, i_right = _SIDES
    shared[i_right] = shared[i_left]
    row = row + dof.DOF_NOISE * rng.gamma(2.0, 0.5) * (shared + rng.normal(0, 0.8, dof.NUM_DOFS)).astype(np.float32)
    row = dof.clamp(row)
    return name, dof.mirror(row) if rng.random() < 0.5 else row


_SIDES = (
    np.array([i for n, i in dof.DOF_INDEX.items() if n.startswith("L.")]),
    np.array([dof.DOF_INDEX["R." + n[2:]] for n in dof.DOF_NAMES if n.startswith("L.")]),
)


def from_names(values: Mapping[str, float]) -> np.ndarray:
    """Named angles in degrees to a (D,) row in rad; what is not named is zero."""
    row = np.zeros(dof.NUM_DOFS, np.float32)
    for name, value in values.items():
        row[dof.DOF_INDEX[name]] = np.radians(value)
    return row


def _compose(rng: np.random.Generator, lower: str | None = None) -> tuple[str, np.ndarray]:
    name = lower or _pick(rng, _LOWER_ODDS)
    values = dict(LOWER[name][1](rng))
    left = _pick(rng, _ARM_ODDS[name])
    right = left if rng.random() < _SYMMETRIC_ARMS else _pick(rng, _ARM_ODDS[name])
    left_arm = ARMS[left](rng)
    right_arm = ARMS[right](rng)
    if left == right:  # same action: nearly the same angles
        t = rng.uniform(0.5, 1.0)
        right_arm = {k: t * left_arm[k] + (1 - t) * v if k in left_arm else v for k, v in right_arm.items()}
    if name == "walk" and "swing" in (left, right):  # arms swing against the legs
        swing = 0.45 * (values["L.leg_flex"] - values["R.leg_flex"])
        for side, arm, sign in (("L", left_arm, -1), ("R", right_arm, 1)):
            if (left if side == "L" else right) == "swing":
                arm["arm_flex"] = sign * swing + rng.normal(2, 4)
    values |= {f"L.{k}": v for k, v in left_arm.items()} | {f"R.{k}": v for k, v in right_arm.items()}
    return name, from_names(values)


def _odds(weights: Mapping[str, float]) -> tuple[tuple[str, ...], list[float]]:
    return tuple(weights), list(itertools.accumulate(weights.values()))


def _pick(rng: np.random.Generator, odds: tuple[tuple[str, ...], list[float]]) -> str:
    names, running = odds
    return names[min(bisect.bisect(running, rng.random() * running[-1]), len(names) - 1)]


_LOWER_ODDS = _odds({name: weight for name, (weight, _, _) in LOWER.items()})
_ARM_ODDS = {name: _odds(arms) for name, (_, _, arms) in LOWER.items()}


# A plain adult skeleton (m, T-pose, offsets from the parent, left side only where mirrored): enough to keep limbs apart.
_PARENT = np.array([-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21])
_OFFSET = {
    1: (0.07, -0.09, 0), 3: (0, 0.11, -0.02), 4: (0.03, -0.38, 0), 6: (0, 0.13, 0), 7: (0, -0.41, -0.03), 9: (0, 0.06, 0.02),
    10: (0.02, -0.06, 0.12), 12: (0, 0.21, -0.03), 13: (0.08, 0.12, -0.02), 15: (0, 0.09, 0.04), 16: (0.10, 0.03, -0.01),
    18: (0.26, 0, -0.02), 20: (0.25, 0, 0), 22: (0.09, 0, 0),
}  # fmt: skip


def _offsets() -> np.ndarray:
    out = np.zeros((24, 3), np.float32)
    for i, v in _OFFSET.items():
        out[i] = v
    for left, right in ((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21), (22, 23)):
        out[right] = out[left] * (-1, 1, 1)
    return out


_OFFSETS = _offsets()


def joints_of(rotmat: np.ndarray) -> np.ndarray:
    """Joint positions of the plain skeleton, pelvis at the origin: (n,24,3,3) -> (n,24,3) m."""
    n = len(rotmat)
    world = np.empty((n, 24, 3, 3), np.float32)
    joints = np.zeros((n, 24, 3), np.float32)
    world[:, 0] = rotmat[:, 0]
    for k in range(1, 24):
        p = _PARENT[k]
        joints[:, k] = joints[:, p] + world[:, p] @ _OFFSETS[k]
        world[:, k] = world[:, p] @ rotmat[:, k]
    return joints


def self_overlap(rotmat: np.ndarray) -> np.ndarray:
    """How deep (m) forearms, hands and shanks are inside trunk, head, thighs or each other: (n,24,3,3) -> (n,), 0 if apart."""
    j = joints_of(rotmat)
    hand_l, hand_r = j[:, 22] + 0.6 * (j[:, 22] - j[:, 20]), j[:, 23] + 0.6 * (j[:, 23] - j[:, 21])
    crown = j[:, 15] + 1.4 * (j[:, 15] - j[:, 12])
    worst = np.zeros(len(j), np.float32)
    limbs = {
        "arm_l": (j[:, 18], j[:, 20], 0.04), "arm_r": (j[:, 19], j[:, 21], 0.04),
        "hand_l": (j[:, 20], hand_l, 0.03), "hand_r": (j[:, 21], hand_r, 0.03),
        "shank_l": (j[:, 4], j[:, 7], 0.05), "shank_r": (j[:, 5], j[:, 8], 0.05),
        "thigh_l": (j[:, 1] * 0.6 + j[:, 4] * 0.4, j[:, 4], 0.065),
        "thigh_r": (j[:, 2] * 0.6 + j[:, 5] * 0.4, j[:, 5], 0.065),
        "belly": (j[:, 0], j[:, 9], 0.125), "chest": (j[:, 6], 0.35 * j[:, 9] + 0.65 * j[:, 12], 0.125),
        "head": (j[:, 15], crown, 0.09),
    }  # fmt: skip
    pairs = [(a, b) for a in ("arm_l", "arm_r", "hand_l", "hand_r") for b in ("belly", "chest", "head", "thigh_l", "thigh_r")]
    pairs += [("arm_l", "arm_r"), ("hand_l", "arm_r"), ("arm_l", "hand_r"), ("shank_l", "shank_r"), ("thigh_l", "thigh_r")]
    pairs += [
        ("shank_l", "thigh_r"),
        ("shank_r", "thigh_l"),
        ("shank_l", "belly"),
        ("shank_r", "belly"),
        ("thigh_l", "chest"),
        ("thigh_r", "chest"),
    ]
    for a, b in pairs:
        (a0, a1, ra), (b0, b1, rb) = limbs[a], limbs[b]
        worst = np.maximum(worst, ra + rb - _segment_distance(a0, a1, b0, b1))
    return worst


def _segment_distance(a0: np.ndarray, a1: np.ndarray, b0: np.ndarray, b1: np.ndarray) -> np.ndarray:
    """Distance between segments, row by row (Ericson, Real-Time Collision Detection, 5.1.9)."""
    da, db, r = a1 - a0, b1 - b0, a0 - b0
    a, e, b = (da * da).sum(-1), (db * db).sum(-1), (da * db).sum(-1)
    c, f = (da * r).sum(-1), (db * r).sum(-1)
    denominator = np.maximum(a * e - b * b, 1e-9)
    s = np.clip((b * f - c * e) / denominator, 0, 1)
    t = np.clip((b * s + f) / np.maximum(e, 1e-9), 0, 1)
    s = np.clip((b * t - c) / np.maximum(a, 1e-9), 0, 1)
    gap = r + s[:, None] * da - t[:, None] * db
    return np.sqrt((gap * gap).sum(-1))
