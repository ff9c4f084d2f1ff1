"""Names and orders of joints and keypoints, and the points of a body that belong to them.

Convention: left and right are the person's own.  Joints follow SMPL's tree and order.  A keypoint set is a tuple of
names; a body model places as many of them as it can, the rest get all-zero rows and are told by
:attr:`Landmarks.placed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ShapeError
from ..types import NUM_JOINTS, PosedBody

SMPL_JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
JOINT_INDEX: Mapping[str, int] = {name: i for i, name in enumerate(SMPL_JOINTS)}

OPENPOSE25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
    "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
)  # fmt: skip
COCO17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
MEDIAPIPE33 = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb",
    "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel",
    "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
KEYPOINT_SETS: Mapping[str, tuple[str, ...]] = {
    "smpl24": SMPL_JOINTS,
    "openpose25": OPENPOSE25,
    "coco17": COCO17,
    "mediapipe33": MEDIAPIPE33,
}
# Points that a set defines through others: the midpoint of the two.
_MIDPOINTS = {"neck": ("left_shoulder", "right_shoulder"), "mid_hip": ("left_hip", "right_hip")}


def flip_map(names: tuple[str, ...]) -> tuple[int, ...]:
    """For each name the index of its mirror image (left and right exchanged); names without a side map to themselves."""
    index = {n: i for i, n in enumerate(names)}
    return tuple(index[mirror_name(n)] for n in names)


def mirror_name(name: str) -> str:
    """The name of the same point on the other side: ``left_knee`` <-> ``right_knee``, ``mouth_left`` <-> ``mouth_right``."""
    parts = [{"left": "right", "right": "left"}.get(p, p) for p in name.split("_")]
    return "_".join(parts)


SMPL_FLIP = flip_map(SMPL_JOINTS)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """K named points of a body: ``p = joint_weights @ joints + sum_m vertex_weight[m] * vertices[vertex_index[m]]``.

    The weights of a placed point sum to 1, so points move rigidly with the body.
    """

    names: tuple[str, ...]
    joint_weights: np.ndarray  # (K,24) float32
    vertex_index: np.ndarray  # (K,M) int32
    vertex_weight: np.ndarray  # (K,M) float32, 0 on unused slots

    @property
    def placed(self) -> np.ndarray:
        """(K,) bool: False where the body has no such point."""
        return (np.abs(self.joint_weights).sum(1) + np.abs(self.vertex_weight).sum(1)) > 0

    def __len__(self) -> int:
        return len(self.names)


def landmark_positions(landmarks: Landmarks, posed: PosedBody) -> np.ndarray:
    """Positions (P,K,3) m of the points on a posed body, camera frame; unplaced points lie at the origin."""
    if posed.joints.shape[-2:] != (NUM_JOINTS, 3):
        raise ShapeError(f"expected posed joints (P,24,3), got {posed.joints.shape}")
    dtype = posed.vertices.dtype
    from_joints = np.einsum("kj,pjc->pkc", landmarks.joint_weights.astype(dtype), posed.joints)
    gathered = posed.vertices[:, landmarks.vertex_index]  # (P,K,M,3)
    return from_joints + np.einsum("km,pkmc->pkc", landmarks.vertex_weight.astype(dtype), gathered)


def joint_landmarks() -> Landmarks:
    """The 24 SMPL joints themselves."""
    zero = np.zeros((NUM_JOINTS, 1))
    return Landmarks(SMPL_JOINTS, np.eye(NUM_JOINTS, dtype=np.float32), zero.astype(np.int32), zero.astype(np.float32))


def select(points: Landmarks, names: tuple[str, ...]) -> Landmarks:
    """The set ``names`` from a table of points; midpoints are composed, unknown names get all-zero rows."""
    index = {n: i for i, n in enumerate(points.names)}
    width = 2 * points.vertex_index.shape[1]
    joints = np.zeros((len(names), NUM_JOINTS), np.float32)
    ids = np.zeros((len(names), width), np.int32)
    weights = np.zeros((len(names), width), np.float32)
    for row, name in enumerate(names):
        parts = _MIDPOINTS.get(name, (name,))
        if not all(p in index for p in parts):
            continue
        picked = [index[p] for p in parts]
        m = points.vertex_index.shape[1] * len(picked)
        joints[row] = points.joint_weights[picked].mean(0)
        ids[row, :m] = points.vertex_index[picked].reshape(-1)
        weights[row, :m] = points.vertex_weight[picked].reshape(-1) / len(picked)
    used = max(int(np.count_nonzero(weights, axis=1).max(initial=0)), 1)
    order = np.argsort(weights == 0, axis=1, kind="stable")[:, :used]  # used slots first
    return Landmarks(names, joints, np.take_along_axis(ids, order, 1), np.take_along_axis(weights, order, 1))


def keypoint_sets(points: Landmarks) -> dict[str, Landmarks]:
    """All sets of :data:`KEYPOINT_SETS` from a table of named surface points."""
    return {"smpl24": joint_landmarks(), **{n: select(points, names) for n, names in KEYPOINT_SETS.items() if n != "smpl24"}}
