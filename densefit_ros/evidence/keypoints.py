"""Keypoints as OpenPose writes them (``*_keypoints.json``), and whose they are.

OpenPose counts pixel centres at integers; half a pixel is added on reading.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..errors import AssetError
from ..geometry.camera import ROS_PIXEL_SHIFT_PX
from ..types import Keypoints

# Numbers of points that name the set: BODY_25, and COCO's 17 as other detectors write them in the same file format.
SETS = {25: "openpose25", 17: "coco17", 33: "mediapipe33"}


def read_openpose(path: str | Path) -> Keypoints:
    """All people of one image, in the file's order.  Raises AssetError, naming the file and what is wrong.

    A point with confidence 0 is missing: its position is (0, 0) in the file and means nothing.
    """
    path = Path(path)
    try:
        tree = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise AssetError(f"cannot read keypoints from {path}: {str(e).splitlines()[0]}") from e
    people = tree.get("people") if isinstance(tree, dict) else None
    if not isinstance(people, list):
        raise AssetError(f"{path}: expected an OpenPose file with a list 'people'")
    rows, count = [], None
    for i, person in enumerate(people):
        flat = person.get("pose_keypoints_2d") if isinstance(person, dict) else None
        try:
            values = np.asarray(flat, np.float64).reshape(-1, 3)
        except (TypeError, ValueError) as e:
            raise AssetError(f"{path}: expected 'pose_keypoints_2d' of person {i} as x, y, confidence, ...") from e
        if len(values) not in SETS or (count is not None and len(values) != count):
            raise AssetError(f"{path}: expected {' or '.join(map(str, SETS))} keypoints of person {i}, got {len(values)}")
        if not np.isfinite(values).all():
            raise AssetError(f"{path}: keypoints of person {i} are not finite")
        count = len(values)
        rows.append(values)
    points = np.stack(rows) if rows else np.zeros((0, 25, 3))
    return Keypoints(
        SETS[points.shape[1]],
        (points[..., :2] + ROS_PIXEL_SHIFT_PX).astype(np.float32),
        np.clip(points[..., 2], 0, 1).astype(np.float32),
    )


def openpose_file(folder: str | Path, image_name: str) -> Path | None:
    """The file that OpenPose writes for an image, or None when there is none."""
    path = Path(folder) / f"{Path(image_name).stem}_keypoints.json"
    return path if path.is_file() else None


def of_boxes(keypoints: Keypoints, boxes_xywh: np.ndarray, min_share: float = 0.5) -> Keypoints:
    """One row per box (N,4): the person most of whose seen points lie in it; each person goes to one box.

    Boxes for which nobody has ``min_share`` of the points inside get confidence 0 throughout.
    """
    boxes = np.asarray(boxes_xywh, np.float64).reshape(-1, 4)
    uv, confidence = keypoints.uv, keypoints.confidence
    seen = confidence > 0
    inside = (uv[:, None] >= boxes[None, :, None, :2]) & (uv[:, None] <= (boxes[:, :2] + boxes[:, 2:])[None, :, None])
    hits = (inside.all(-1) & seen[:, None]).sum(-1)  # (people, boxes)
    share = hits / np.maximum(seen.sum(-1), 1)[:, None]
    out_uv = np.zeros((len(boxes), *uv.shape[1:]), np.float32)
    out_confidence = np.zeros((len(boxes), confidence.shape[1]), np.float32)
    # Of two people inside one box the one with more seen points is its owner.
    for person, box in zip(*linear_sum_assignment(-(share + 1e-3 * hits))):
        if share[person, box] >= min_share:
            out_uv[box], out_confidence[box] = uv[person], confidence[person]
    return Keypoints(keypoints.set_name, out_uv, out_confidence)
