"""Bodies as TF frames.

``body_<id>`` stands at the midpoint of the hips, x forward, z up (REP-155), under the camera's optical frame.  The links
of REP-155 form the tree below it; a straight person with hanging arms has all of them parallel to the body.  The SMPL
joints, when asked for, are children of the optical frame with the axes of SMPL (x left, y up, z forward in T-pose).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from std_msgs.msg import Header

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
class _Link:
    name: str
    parent: str
    joint: str  # SMPL joint whose rotation it takes
    at: tuple[str, ...]  # SMPL joints whose mean is its origin
    axes: np.ndarray


def _side(s: str, name: str, arm: np.ndarray) -> list[_Link]:
    return [
        _Link(f"{s}_shoulder", "torso", f"{name}_shoulder", (f"{name}_shoulder",), arm),
        _Link(f"{s}_elbow", f"{s}_shoulder", f"{name}_elbow", (f"{name}_elbow",), arm),
        _Link(f"{s}_wrist", f"{s}_elbow", f"{name}_wrist", (f"{name}_wrist",), arm),
        _Link(f"{s}_hip", "body", f"{name}_hip", (f"{name}_hip",), _TRUNK),
        _Link(f"{s}_knee", f"{s}_hip", f"{name}_knee", (f"{name}_knee",), _TRUNK),
        _Link(f"{s}_ankle", f"{s}_knee", f"{name}_ankle", (f"{name}_ankle",), _TRUNK),
    ]


_HIPS = ("left_hip", "right_hip")
LINKS = (
    _Link("body", "", "pelvis", _HIPS, _TRUNK),
    _Link("waist", "body", "spine1", _HIPS, _TRUNK),
    _Link("torso", "waist", "spine3", ("left_shoulder", "right_shoulder"), _TRUNK),
    _Link("head", "torso", "head", ("head",), _TRUNK),
    *_side("l", "left", _LEFT_ARM),
    *_side("r", "right", _RIGHT_ARM),
)


def transforms(result: FrameResult, body: Any, header: Header, links: bool, smpl_joints: bool) -> list[TransformStamped]:
    """All frames of one image, for one TFMessage.  ``header`` is the image's."""
    if not result.people:
        return []
    params = BodyParams.stack([p.params for p in result.people])
    rotmat, position, _ = joint_transforms(body, params)
    rotmat, position = rotmat.astype(np.float64), position.astype(np.float64)
    out: list[TransformStamped] = []
    for i, person in enumerate(result.people):
        out += _person(rotmat[i], position[i], person.track_id, header, LINKS if links else LINKS[:1])
        if smpl_joints:
            quats = so3.to_quat_xyzw(rotmat[i])
            for name, quat, xyz in zip(SMPL_JOINTS, quats, position[i]):
                out.append(_message(header.stamp, header.frame_id, f"smpl_{name}_{person.track_id}", xyz, quat))
    return out


def _person(
    rotmat: np.ndarray, position: np.ndarray, track_id: str, header: Header, links: tuple[_Link, ...]
) -> list[TransformStamped]:
    world_r = np.stack([rotmat[JOINT_INDEX[k.joint]] @ k.axes for k in links])
    world_t = np.stack([position[[JOINT_INDEX[j] for j in k.at]].mean(0) for k in links])
    order = {k.name: n for n, k in enumerate(links)}
    local_r, local_t = world_r.copy(), world_t.copy()
    for n, k in enumerate(links[1:], 1):
        up = order[k.parent]
        local_r[n] = world_r[up].T @ world_r[n]
        local_t[n] = world_r[up].T @ (world_t[n] - world_t[up])
    quats = so3.to_quat_xyzw(local_r)
    parents = [header.frame_id, *(f"{k.parent}_{track_id}" for k in links[1:])]
    return [
        _message(header.stamp, parent, f"{k.name}_{track_id}", t, q) for k, parent, t, q in zip(links, parents, local_t, quats)
    ]


def _message(stamp: Time, parent: str, child: str, xyz: np.ndarray, quat_xyzw: np.ndarray) -> TransformStamped:
    x, y, z = xyz.tolist()
    qx, qy, qz, qw = quat_xyzw.tolist()
    return TransformStamped(
        header=Header(stamp=stamp, frame_id=parent),
        child_frame_id=child,
        transform=Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)),
    )
