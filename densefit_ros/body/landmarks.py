"""Where the named surface points of a body come from.

Three sources, best first: the file's own table (the free body has one); the published vertex numbers of SMPL's 6,890-vertex
mesh, for the face, hands and feet; SMPL's joints, for shoulders, elbows, wrists, hips, knees and ankles.  In the free body
those twelve come from anny's COCO keypoint regressors instead: annotators click the hips higher and wider than SMPL's hip
joints lie, so a joint would pull a fit to 2D keypoints aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import AssetError
from ..types import NUM_JOINTS
from .joints import JOINT_INDEX, Landmarks

SMPL_VERTICES, SMPL_FACES = 6890, 13776
# Vertex numbers of SMPL's own mesh, as published with the model's tools: facts about that mesh.
SMPL_VERTEX_IDS: Mapping[str, int] = {
    "nose": 332, "right_eye": 6260, "left_eye": 2800, "right_ear": 4071, "left_ear": 583, "left_big_toe": 3216,
    "left_small_toe": 3226, "left_heel": 3387, "right_big_toe": 6617, "right_small_toe": 6624, "right_heel": 6787,
    "left_foot_index": 3216, "right_foot_index": 6617,
}  # fmt: skip
# Published are the finger tips, wanted the knuckles: name -> tip, and how far from the wrist joint to the tip they lie.
_KNUCKLES = {
    "left_thumb": (2746, 0.6), "left_index": (2319, 0.5), "left_pinky": (2673, 0.5), "right_thumb": (6191, 0.6),
    "right_index": (5782, 0.5), "right_pinky": (6133, 0.5),
}  # fmt: skip
_LIMBS = tuple(f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right"))


def points_of_file(data: Mapping[str, object], num_vertices: int, num_faces: int, path: Path) -> Landmarks:
    """The table of named points of a body file; raises AssetError when the file has a damaged one."""
    keys = ("landmark_names", "landmark_vertices", "landmark_weights")
    if not any(k in data for k in keys):
        return _of_smpl((num_vertices, num_faces) == (SMPL_VERTICES, SMPL_FACES))
    missing = [k for k in keys if k not in data]
    if missing:
        raise AssetError(f"{path}: missing {', '.join(missing)} beside the other landmark arrays")
    names, index, weight = (np.asarray(data[k]) for k in keys)
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) > 10_000:
        raise AssetError(f"{path}: expected landmark_names (K,) text, got {names.shape} {names.dtype}")
    shape = (len(names),) + index.shape[1:]
    fits = index.ndim == 2 and index.shape == weight.shape == shape and index.dtype.kind in "iu" and weight.dtype.kind == "f"
    if not fits:
        raise AssetError(f"{path}: expected landmark_vertices and landmark_weights (K,M), got {index.shape} and {weight.shape}")
    if index.size and (int(index.min()) < 0 or int(index.max()) >= num_vertices):
        raise AssetError(f"{path}: landmark_vertices points outside the {num_vertices} vertices")
    if not np.isfinite(weight).all() or np.abs(weight.sum(1, dtype=np.float64) - 1.0).max(initial=0.0) > 1e-3:
        raise AssetError(f"{path}: expected rows of landmark_weights to be finite and to sum to 1")
    joints = np.zeros((len(names), NUM_JOINTS), np.float32)
    return Landmarks(tuple(names.tolist()), joints, index.astype(np.int32), weight.astype(np.float32))


def _of_smpl(known_mesh: bool) -> Landmarks:
    surface = SMPL_VERTEX_IDS if known_mesh else {}
    knuckles = _KNUCKLES if known_mesh else {}
    names = (*_LIMBS, *surface, *knuckles)
    joints = np.zeros((len(names), NUM_JOINTS), np.float32)
    index = np.zeros((len(names), 1), np.int32)
    weight = np.zeros((len(names), 1), np.float32)
    for row, name in enumerate(names):
        if name in surface:
            index[row, 0], weight[row, 0] = surface[name], 1.0
        elif name in knuckles:
            index[row, 0], weight[row, 0] = knuckles[name]
            joints[row, JOINT_INDEX[name.split("_")[0] + "_wrist"]] = 1.0 - knuckles[name][1]
        else:
            joints[row, JOINT_INDEX[name]] = 1.0
    return Landmarks(names, joints, index, weight)
