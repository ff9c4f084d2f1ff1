"""Keypoints as OpenPose writes them (``*_keypoints.json``), and whose they are.

OpenPose counts pixel centres at integers; half a pixel is added on reading.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..errors import AssetError
from ..geometry.camera import ROS_PIXEL_SHIFT_PX, project
from ..types import Camera, Keypoints

# Numbers of points that name the set: BODY_25, and COCO's 17 as other detectors write them in the same file format.
SETS = {25: "openpose25", 17: "coco17", 33: "mediapipe33"}
MIN_POINTS = 4  # fewer seen points are no person
MARGIN = 0.12  # of the longer side of the points' box: the top of the head, hands and toes lie beyond the outermost points


def read_openpose(path: str | Path) -> Keypoints:
    """All people of one image, in the file's order.  Raises AssetError, naming the file and what is wrong.

    A point with confidence 0 is missing: its position is (0, 0) in the file and means nothing.  ``pose_keypoints_3d``,
    where there is one, becomes ``direction_xyz``: it must be in camera axes (x right, y down, z forward).  A person with
    3D points alone has NaN for ``uv``: see :func:`projected`.
    """
    path = Path(path)
    tree = read_json(path)
    people = tree.get("people") if isinstance(tree, dict) else None
    if not isinstance(people, list):
        raise AssetError(f"{path}: expected an OpenPose file with a list 'people'")
    rows = []
    for i, person in enumerate(people):
        person = person if isinstance(person, dict) else {}
        flat, deep = (person.get(f"pose_keypoints_{d}d") or None for d in (2, 3))
        name = "pose_keypoints_2d" if flat or not deep else "pose_keypoints_3d"
        rows.append(person_points(flat, deep, f"'{name}' of person {i}", path))
    return stacked(rows, path)


def read_json(path: Path) -> Any:
    """The file's contents.  Raises AssetError."""
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise AssetError(f"cannot read keypoints from {path}: {str(e).splitlines()[0]}") from e


def person_points(flat: Any, deep: Any, what: str, path: Path) -> np.ndarray:
    """(K,6) u, v, confidence, x, y, z of one person; NaN where a file says nothing.  Raises AssetError.

    flat: x, y, confidence, ... in px with centres at integers, or None; deep: x, y, z, confidence, ... or None.
    """
    parts = []
    for values, width, names in ((flat, 3, "x, y, confidence, ..."), (deep, 4, "x, y, z, confidence, ...")):
        if values is None:
            continue
        try:
            points = np.asarray(values, np.float64).reshape(-1, width)
        except (TypeError, ValueError) as e:
            raise AssetError(f"{path}: expected {what} as {names}") from e
        if len(points) not in SETS or any(len(p) != len(points) for p in parts):
            raise AssetError(f"{path}: expected {' or '.join(map(str, SETS))} keypoints in {what}, got {len(points)}")
        if not np.isfinite(points).all():
            raise AssetError(f"{path}: keypoints in {what} are not finite")
        parts.append(points)
    if not parts:
        raise AssetError(f"{path}: expected {what} as x, y, confidence, ...")
    out = np.full((len(parts[0]), 6), np.nan)
    if flat is not None:
        out[:, :2], out[:, 2] = parts[0][:, :2] + ROS_PIXEL_SHIFT_PX, parts[0][:, 2]
    if deep is not None:
        out[:, 3:] = np.where(parts[-1][:, 3:] > 0, parts[-1][:, :3], np.nan)
        if flat is None:
            out[:, 2] = parts[-1][:, 3]
    return out


def stacked(people: list[np.ndarray], path: Path) -> Keypoints:
    """People of one image as one batch.  Raises AssetError when their numbers of points differ."""
    counts = {len(p) for p in people}
    if len(counts) > 1:
        raise AssetError(f"{path}: expected one set of keypoints for all people of an image, got {sorted(counts)} points")
    points = np.stack(people) if people else np.zeros((0, 25, 6))
    xyz = points[..., 3:].astype(np.float32)
    return Keypoints(
        SETS[points.shape[1]],
        points[..., :2].astype(np.float32),
        np.clip(points[..., 2], 0, 1).astype(np.float32),
        xyz if np.isfinite(xyz).any() else None,
    )


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
    owner = np.full(len(boxes), -1)
    # Of two people inside one box the one with more seen points is its owner.  Who has too few in a box takes it from nobody.
    for person, box in zip(*linear_sum_assignment(-np.where(share >= min_share, share + 1e-3 * hits, 0.0))):
        if share[person, box] >= min_share:
            owner[box] = person
    return rows_of(keypoints, owner)


def rows_of(keypoints: Keypoints, rows: np.ndarray | Sequence[int]) -> Keypoints:
    """The people ``rows`` (N,) in that order; -1 stands for nobody: zeros."""
    rows = np.asarray(rows, np.int64)

    def picked(values: np.ndarray) -> np.ndarray:
        out = np.zeros((len(rows), *values.shape[1:]), np.float32)
        out[rows >= 0] = values[rows[rows >= 0]]
        return out

    xyz = keypoints.direction_xyz
    return Keypoints(keypoints.set_name, picked(keypoints.uv), picked(keypoints.confidence), None if xyz is None else picked(xyz))


def boxes_of_keypoints(keypoints: Keypoints) -> np.ndarray:
    """(N,4) px x, y, w, h: one box per person with MIN_POINTS or more seen points, with room for what no point marks."""
    seen = (keypoints.confidence > 0) & np.isfinite(keypoints.uv).all(-1)
    boxes = []
    for uv, good in zip(keypoints.uv, seen):
        if good.sum() >= MIN_POINTS:
            low, high = uv[good].min(0), uv[good].max(0)
            room = MARGIN * float((high - low).max())
            boxes.append([*(low - room), *(high - low + 2 * room)])
    return np.reshape(boxes, (-1, 4)).astype(np.float32)


def projected(keypoints: Keypoints, camera: Camera) -> Keypoints:
    """3D points alone, in metres and camera axes, seen through the camera: fills the ``uv`` that are not finite."""
    if keypoints.direction_xyz is None:
        return keypoints
    lacking = ~np.isfinite(keypoints.uv).all(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        uv = np.where(lacking[..., None], project(camera, keypoints.direction_xyz), keypoints.uv)
    confidence = np.where(np.isfinite(uv).all(-1), keypoints.confidence, 0.0)
    return dataclasses.replace(keypoints, uv=uv.astype(np.float32), confidence=confidence.astype(np.float32))
