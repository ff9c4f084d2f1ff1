"""The coordinate frames of a body: names, parents, poses.  No ROS here.

``body_<id>`` stands at the midpoint of the hips, x forward, z up (REP-155), under the camera's optical frame.  The links
of REP-155 form the tree below it; a straight person with hanging arms has all of them parallel to the body.  The SMPL
joints, when asked for, are children of the optical frame with the axes of SMPL (x left, y up, z forward in T-pose).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..body.joints import JOINT_INDEX, SMPL_JOINTS
from ..body.model import joint_transforms
from ..geometry import so3
from ..types import BodyParams, FrameResult

# Columns: link axes (x forward, y left, z up) in SMPL's axes of the T-pose (x left, y up, z forward).
_TRUNK = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float64)
# SMPL rests with arms out to the sides; the z axis of an arm link runs up along the arm, from hand to shoulder.
_LEFT_ARM = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]], np.float64)
_RIGHT_ARM = np.array([[0, 0, 1], [0, -1, 0], [1, 0, 0]], np.float64)


@dataclass(frozen=True)
class Link:
    """One frame of the body."""

    name: str
    parent: str
    joint: str  # SMPL joint whose rotation it takes
    at: tuple[str, ...]  # SMPL joints whose mean is its origin
    axes: np.ndarray


def _side(s: str, name: str, arm: np.ndarray) -> list[Link]:
    return [
        Link(f"{s}_shoulder", "torso", f"{name}_shoulder", (f"{name}_shoulder",), arm),
        Link(f"{s}_elbow", f"{s}_shoulder", f"{name}_elbow", (f"{name}_elbow",), arm),
        Link(f"{s}_wrist", f"{s}_elbow", f"{name}_wrist", (f"{name}_wrist",), arm),
        Link(f"{s}_hip", "body", f"{name}_hip", (f"{name}_hip",), _TRUNK),
        Link(f"{s}_knee", f"{s}_hip", f"{name}_knee", (f"{name}_knee",), _TRUNK),
        Link(f"{s}_ankle", f"{s}_knee", f"{name}_ankle", (f"{name}_ankle",), _TRUNK),
    ]


_HIPS = ("left_hip", "right_hip")
LINKS = (
    Link("body", "", "pelvis", _HIPS, _TRUNK),
    Link("waist", "body", "spine1", _HIPS, _TRUNK),
    Link("torso", "waist", "spine3", ("left_shoulder", "right_shoulder"), _TRUNK),
    Link("head", "torso", "head", ("head",), _TRUNK),
    *_side("l", "left", _LEFT_ARM),
    *_side("r", "right", _RIGHT_ARM),
)
_PERSONS = re.compile(f"({'|'.join([*(k.name for k in LINKS), *(f'smpl_{n}' for n in SMPL_JOINTS)])})_[a-z]{{5}}")
LINK_INDEX = {k.name: n for n, k in enumerate(LINKS)}


@dataclass(frozen=True, eq=False)
class Pose:
    """One frame in its parent."""

    parent: str
    child: str
    xyz_m: np.ndarray  # (3,)
    quat_xyzw: np.ndarray  # (4,)


def is_persons(frame: str, track_ids: Collection[str]) -> bool:
    """Whether a frame is one of those of the people called ``track_ids``.

    Without the names ``head_pitch`` and ``body_frame`` would be people.
    """
    return frame.rpartition("_")[2] in track_ids and _PERSONS.fullmatch(frame) is not None


def person_below(frame: str, parent: str) -> str:
    """The name of somebody whom a densefit node tracks, of the frame that hangs below a camera's; empty for other frames.

    Cameras are known by their names, which have "optical" in them (REP 103): nothing of a robot hangs below those.
    """
    kind, _, name = frame.rpartition("_")
    return name if kind == "body" and "optical" in parent and _PERSONS.fullmatch(frame) else ""


def frames(result: FrameResult, body: Any, frame_id: str, links: bool, smpl_joints: bool) -> list[Pose]:
    """All frames of everybody in one image, parents before children; ``frame_id`` is the image's."""
    if not result.people:
        return []
    rotmat, position, _ = joint_transforms(body, BodyParams.stack([p.params for p in result.people]))
    out: list[Pose] = []
    for r, t, person in zip(rotmat.astype(np.float64), position.astype(np.float64), result.people):
        out += _person(r, t, person.track_id, frame_id, LINKS if links else LINKS[:1])
        if smpl_joints:
            quats = so3.to_quat_xyzw(r)
            out += [Pose(frame_id, f"smpl_{n}_{person.track_id}", *at) for n, *at in zip(SMPL_JOINTS, t, quats)]
    return out


def link_rotmats(rotmat: np.ndarray, links: tuple[Link, ...] = LINKS) -> np.ndarray:
    """Rotation of each link in the camera frame, (L,3,3), from those of the 24 SMPL joints."""
    return np.stack([rotmat[JOINT_INDEX[k.joint]] @ k.axes for k in links])


def _person(rotmat: np.ndarray, position: np.ndarray, track_id: str, frame_id: str, links: tuple[Link, ...]) -> list[Pose]:
    world_r = link_rotmats(rotmat, links)
    world_t = np.stack([position[[JOINT_INDEX[j] for j in k.at]].mean(0) for k in links])
    local_r, local_t = world_r.copy(), world_t.copy()
    for n, k in enumerate(links[1:], 1):
        up = LINK_INDEX[k.parent]
        local_r[n] = world_r[up].T @ world_r[n]
        local_t[n] = world_r[up].T @ (world_t[n] - world_t[up])
    parents = [frame_id, *(f"{k.parent}_{track_id}" for k in links[1:])]
    return [Pose(p, f"{k.name}_{track_id}", t, q) for k, p, t, q in zip(links, parents, local_t, so3.to_quat_xyzw(local_r))]
