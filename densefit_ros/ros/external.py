"""Messages of other programs to what the pipeline takes: boxes, keypoints, first estimates.

Duck-typed like :mod:`densefit_ros.ros.convert`, and as distrustful: whatever arrives, the outcome is a value or a
MessageError of one line.  Image positions are those of the image as it was published, with lens distortion; they are
undistorted here as the image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..body.joints import Landmarks
from ..body.model import BodyModel, rest_joints
from ..errors import MessageError
from ..types import NUM_BETAS, NUM_JOINTS, BodyParams, Estimate, Keypoints
from .camera_info import Calibration

MAX_PEOPLE = 64  # more in one image is a damaged message
MAX_VALUE = 1e3  # metres, radians or shape coefficients beyond this describe nobody
MAX_PX = 1e6
MIN_DEPTH_M = 0.05
# hri_msgs/Skeleton2D numbers its points so; the names are those of the set "openpose25".
HRI_POINTS = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
    "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "left_eye", "right_eye", "left_ear", "right_ear",
)  # fmt: skip


def estimates_of(message: Any, frame_id: str, body: BodyModel, sigma_rad: float) -> Estimate:
    """densefit_ros/SmplBodyArray -> first estimates.  Raises MessageError.

    ``frame_id`` is the image's; ``sigma_rad`` how far a joint may be off.  Parameters of a body other than ours (another
    ``topology_id``) are taken without their betas, which mean something else there; the pelvis stays where ``joints``
    say.  People with confidence 0 are left out.
    """
    _check_frame(message, frame_id, "estimates", required=True)
    bodies = _people(message.bodies, "bodies")
    ours = message.topology_id in ("", body.topology_id)
    names = [f"body {i + 1} of {len(bodies)}" for i in range(len(bodies))]
    confidence = [_numbers([b.confidence], 1, f"confidence of {n}", MAX_VALUE)[0] for b, n in zip(bodies, names)]
    # Who is left out may be a placeholder: zeros lie behind the camera.
    people = [_person(b, n, body, ours) for b, n, c in zip(bodies, names, confidence) if c > 0]
    if bodies and not people:
        raise MessageError("the confidence of every estimate is 0: it must say how sure the regressor is, up to 1")
    return Estimate(
        BodyParams.stack(people),
        np.clip([c for c in confidence if c > 0], 0.0, 1.0).astype(np.float32),
        source="external",
        rot_sigma_rad=np.full((len(people), NUM_JOINTS), sigma_rad, np.float32),
    )


def boxes_of(message: Any, frame_id: str, calib: Calibration, classes: Sequence[str], min_score: float) -> np.ndarray:
    """vision_msgs/Detection2DArray or yolo_msgs/DetectionArray -> boxes (N,4) x, y, w, h px of the classes wanted (all when
    empty), surest first.

    Raises MessageError.
    """
    _check_frame(message, frame_id, "detections")
    boxes, scores = [], []
    for i, detection in enumerate(_people(message.detections, "detections")):
        score = _wanted_score(detection, classes, min_score)
        if score is None:
            continue
        x, y, w, h = _numbers(_box(detection.bbox), 4, f"box {i + 1}", MAX_PX)
        if w <= 0 or h <= 0:
            raise MessageError(f"box {i + 1} is {w:g} x {h:g} px: expected a positive size")
        boxes.append((x - w / 2, y - h / 2, w, h))
        scores.append(score)
    surest_first = np.argsort(-np.array(scores), kind="stable")
    return calib.undistort_boxes(np.reshape(boxes, (-1, 4)).astype(np.float32)[surest_first])


def classes_of(message: Any) -> list[tuple[str, ...]]:
    """The classes of the detections of a message as of ``boxes_of``, each once, by all of its names."""
    return list(dict.fromkeys(names for d in message.detections for names, _ in _hypotheses(d)))


def keypoints_of(message: Any, frame_id: str, calib: Calibration, sets: dict[str, Landmarks]) -> Keypoints:
    """densefit_ros/KeypointsArray -> keypoints.  Raises MessageError."""
    _check_frame(message, frame_id, "keypoints")
    name = str(message.set_name)
    if name not in sets:
        raise MessageError(f"keypoint set {name[:32]!r} is unknown; expected {', '.join(sorted(sets))}")
    count, rows = len(sets[name].names), []
    for i, person in enumerate(_people(message.people, "people")):
        uv = np.asarray(person.uv, np.float64).reshape(-1)
        confidence = np.asarray(person.confidence, np.float64).reshape(-1)
        if len(uv) != 2 * count or len(confidence) != count:
            raise MessageError(
                f"person {i + 1} has {len(uv)} numbers in uv and {len(confidence)} in confidence; "
                f"set '{name}' needs {2 * count} and {count}"
            )
        rows.append(np.column_stack([uv.reshape(-1, 2), confidence]))
    return _keypoints(name, rows, count, calib)


def yolo_keypoints_of(
    message: Any, frame_id: str, calib: Calibration, classes: Sequence[str], min_score: float, landmarks: Landmarks
) -> Keypoints:
    """yolo_msgs/DetectionArray of a pose model -> keypoints of the set "coco17" of the classes wanted.  Raises MessageError.

    Points are numbered from 1 and come without those below yolo_ros's threshold (mgonzs13/yolo_ros 2553d0a, yolo_node.py).
    ``landmarks``: of "coco17".
    """
    _check_frame(message, frame_id, "detections")
    people = [d for d in _people(message.detections, "detections") if _wanted_score(d, classes, min_score) is not None]
    count, rows = len(landmarks.names), np.zeros((len(people), len(landmarks.names), 3))
    for row, person in zip(rows, people):
        points = list(person.keypoints.data)
        if len(points) > count or not all(1 <= p.id <= count for p in points):
            raise MessageError(
                f"a person has {len(points)} keypoints, up to number {max(p.id for p in points)}: expected COCO's {count}"
            )
        for p in points:
            row[p.id - 1] = p.point.x, p.point.y, p.score
    placed = rows[..., 2].any(1)
    if len(people) and not placed.any():
        raise MessageError("nobody has keypoints: yolo_ros publishes them with a pose model (yolo...-pose)")
    return _keypoints("coco17", list(rows[placed]), count, calib)


def skeletons_of(messages: Sequence[Any], frame_id: str, calib: Calibration, landmarks: Landmarks) -> Keypoints:
    """hri_msgs/Skeleton2D of each body -> keypoints of the set "openpose25".  Raises MessageError.

    The bodies of all cameras share one list: those of another frame than the image's are left out.
    """
    names, rows = landmarks.names, []
    size = np.array([calib.camera.width, calib.camera.height], np.float64)
    for message in messages:
        if message.header.frame_id not in ("", frame_id):
            continue
        points = list(message.skeleton)
        if len(points) != len(HRI_POINTS):
            raise MessageError(f"a skeleton has {len(points)} points, expected {len(HRI_POINTS)}")
        row = np.zeros((len(names), 3))
        for name, p in zip(HRI_POINTS, points):
            row[names.index(name)] = p.x * size[0], p.y * size[1], p.c
        rows.append(row)
    return _keypoints("openpose25", rows, len(names), calib)


def _person(message: Any, name: str, body: BodyModel, ours: bool) -> BodyParams:
    def field(field_name: str, count: int) -> np.ndarray:
        return _numbers(getattr(message, field_name), count, f"{field_name} of {name}", MAX_VALUE).astype(np.float32)

    betas, transl = field("betas", NUM_BETAS), field("transl", 3)
    if not ours:
        joints = field("joints", 3 * NUM_JOINTS)
        betas = np.zeros_like(betas)
        if joints.any():
            transl = joints[:3] - rest_joints(body, betas[None])[0, 0]
    params = BodyParams(
        betas[None],
        field("global_orient", 3)[None],
        field("body_pose", 3 * (NUM_JOINTS - 1)).reshape(1, NUM_JOINTS - 1, 3),
        transl[None].astype(np.float32),
    )
    if rest_joints(body, betas[None])[0, 0, 2] + transl[2] < MIN_DEPTH_M:
        raise MessageError(f"{name} lies behind the camera: transl must be in the optical frame, z forward, in metres")
    return params


def _keypoints(name: str, rows: list[np.ndarray], count: int, calib: Calibration) -> Keypoints:
    points = np.stack(rows) if rows else np.zeros((0, count, 3))
    confidence = points[..., 2]
    seen = confidence > 0
    if np.isnan(confidence).any() or not (np.abs(points[..., :2][seen]) <= MAX_PX).all():  # written so that NaN fails
        raise MessageError("keypoints are not finite, or far outside the image; a missing point has confidence 0")
    uv = np.where(seen[..., None], points[..., :2], 0.0)
    uv = np.where(seen[..., None], calib.undistort_points(uv), 0.0)
    uv, seen = np.nan_to_num(uv), seen & np.isfinite(uv).all(-1)
    return Keypoints(name, uv.astype(np.float32), np.where(seen, np.clip(confidence, 0, 1), 0).astype(np.float32))


def _wanted_score(detection: Any, classes: Sequence[str], min_score: float) -> float | None:
    """Best score of the hypotheses that are a class that we want; None when none is, 0 for a box that comes without any."""
    hypotheses = _hypotheses(detection)
    if not hypotheses:
        return 0.0
    wanted = [score for names, score in hypotheses if not classes or not set(names).isdisjoint(classes)]
    return max((s for s in wanted if s >= min_score), default=None)


def _hypotheses(detection: Any) -> list[tuple[tuple[str, ...], float]]:
    """Names and score of whatever a detection may be: vision_msgs has a list, yolo_msgs one class, by name and by number."""
    if not hasattr(detection, "results"):
        return [((str(detection.class_name), str(detection.class_id)), float(detection.score))]
    each = [getattr(r, "hypothesis", r) for r in detection.results]
    return [((str(getattr(h, "class_id", getattr(h, "id", ""))),), float(h.score)) for h in each]  # "id" before Humble


def _box(bbox: Any) -> tuple[float, float, float, float]:
    """Centre and size."""
    centre = getattr(bbox.center, "position", bbox.center)  # a plain Pose2D before Humble
    width, height = (bbox.size.x, bbox.size.y) if hasattr(bbox, "size") else (bbox.size_x, bbox.size_y)  # yolo_msgs, vision_msgs
    return centre.x, centre.y, width, height


def _people(items: Sequence[Any], what: str) -> list[Any]:
    if len(items) > MAX_PEOPLE:
        raise MessageError(f"the message holds {len(items)} {what}, more than {MAX_PEOPLE}")
    return list(items)


def _check_frame(message: Any, frame_id: str, what: str, required: bool = False) -> None:
    theirs = str(message.header.frame_id)
    if theirs != frame_id and (required or theirs):
        raise MessageError(
            f"{what} are in frame {theirs[:64]!r}, the image is in {frame_id[:64]!r}: publish them in the camera's optical frame"
        )


def _numbers(values: Any, count: int, what: str, limit: float) -> np.ndarray:
    """``count`` finite numbers no larger than ``limit``."""
    out = np.asarray(values, np.float64).reshape(-1)
    if out.size != count:
        raise MessageError(f"{what}: expected {count} numbers, got {out.size}")
    if not (np.abs(out) <= limit).all():  # written so that NaN fails
        raise MessageError(f"{what}: expected finite numbers up to {limit:g}")
    return out
