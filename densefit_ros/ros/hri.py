"""REP-155: /humans/bodies/tracked, and of each body roi, skeleton2d and joint_states.

Topics come and go with people.  Answers are handed over by the worker thread; publishers are made, used and removed on the
executor's thread, which is the only one that may change the node's entities.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import deque
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from ..body.joints import landmark_positions
from ..body.model import joint_transforms
from ..errors import BackendUnavailable
from ..geometry.camera import project
from ..geometry.lens import Lens
from ..types import Camera, FrameResult, PersonResult, PosedBody
from .external import HRI_POINTS
from .hri_joints import joint_angles

ROOT = "/humans/bodies"
SILENT_S = 2.0  # a camera without an answer for this long sees nobody
PERIOD_S = 0.5  # between two looks at who has fallen silent
WAITING = 8  # answers that may wait for the executor before the oldest is dropped


def hri_messages() -> Any:
    """The module hri_msgs.msg.  Raises BackendUnavailable."""
    try:
        return importlib.import_module("hri_msgs.msg")
    except ImportError as e:
        raise BackendUnavailable(
            f"hri.enabled needs the package hri_msgs (apt: ros-<distro>-hri-msgs), which is not installed ({e}): "
            "nothing is published under /humans"
        ) from e


class HriTopics:
    """All bodies of a node, of however many cameras.  Raises BackendUnavailable on construction."""

    def __init__(self, node: Any, body: Any) -> None:
        self._types, self._node, self._body = hri_messages(), node, body
        self._lock, self._waiting = threading.Lock(), deque[tuple[str, FrameResult, Header, Lens | None]](maxlen=WAITING)
        self._seen: dict[str, tuple[str, ...]] = {}  # by camera
        self._answered_s: dict[str, float] = {}  # by camera, time.monotonic()
        self._publishers: dict[str, dict[str, Any]] = {}  # by body
        self._tracked = node.create_publisher(self._types.IdsList, f"{ROOT}/tracked", QoSProfile(depth=10))
        self._guard = node.create_guard_condition(self._publish_waiting)
        # Of its own, by the wall: the diagnostics' may come once a minute, and ROS time may stand still.
        self._timer = node.create_timer(PERIOD_S, self._forget_silent, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def submit(self, camera: str, result: FrameResult, header: Header, lens: Lens | None) -> None:
        """An answer, and the lens that took its image; from the worker thread."""
        with self._lock:
            self._waiting.append((camera, result, header, lens))
        self._guard.trigger()

    def forget(self) -> None:
        """Nobody is tracked any more, as after deactivation; on the executor's thread.  Silent once the context is down."""
        with self._lock:
            self._waiting.clear()
        if self._seen:
            self._seen = {}
            self._publish_remaining()

    def rivals(self) -> str:
        """What is wrong when others publish the list as well, in words, or nothing: listeners take each for the whole."""
        count = self._node.count_publishers(self._tracked.topic_name)
        if count < 2:
            return ""
        return (
            f"{count} publishers of {self._tracked.topic_name} contradict one another: use one process with ros.cameras, "
            "or hri.enabled in one of them only"
        )

    def destroy(self) -> None:
        """Remove every publisher."""
        self.forget()
        self._node.destroy_timer(self._timer)
        self._node.destroy_guard_condition(self._guard)
        self._node.destroy_publisher(self._tracked)

    def _forget_silent(self) -> None:
        now_s = time.monotonic()
        silent = [c for c, ids in self._seen.items() if ids and now_s - self._answered_s[c] > SILENT_S]
        if silent:
            self._seen = {c: ids for c, ids in self._seen.items() if c not in silent}
            self._publish_remaining()

    def _publish_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                camera, result, header, lens = self._waiting.popleft()
            self._seen[camera] = tuple(p.track_id for p in result.people)
            self._answered_s[camera] = time.monotonic()
            self._tracked.publish(self._types.IdsList(header=header, ids=self._ids()))
            self._remove_gone()
            for person in result.people:
                self._publish_person(person, result, header, lens)

    def _ids(self) -> list[str]:
        return [i for seen in self._seen.values() for i in seen]

    def _publish_remaining(self) -> None:
        self._remove_gone()
        if not self._node.context.ok():
            return
        try:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._tracked.publish(self._types.IdsList(header=header, ids=self._ids()))
        except RuntimeError:  # RCLError among them
            if self._node.context.ok():
                raise
            # A signal ended ROS since the question above: nobody listens any more.

    def _remove_gone(self) -> None:
        present = set(self._ids())
        for body_id in [i for i in self._publishers if i not in present]:
            for publisher in self._publishers.pop(body_id).values():
                self._node.destroy_publisher(publisher)

    def _publish_person(self, person: PersonResult, result: FrameResult, header: Header, lens: Lens | None) -> None:
        if person.track_id not in self._publishers:
            kinds = {
                "roi": self._types.NormalizedRegionOfInterest2D,
                "skeleton2d": self._types.Skeleton2D,
                "joint_states": JointState,
            }
            self._publishers[person.track_id] = {
                name: self._node.create_publisher(kind, f"{ROOT}/{person.track_id}/{name}", QoSProfile(depth=10))
                for name, kind in kinds.items()
            }
        publishers = self._publishers[person.track_id]
        publishers["roi"].publish(roi_message(self._types, person, result, header, lens))
        publishers["skeleton2d"].publish(skeleton_message(self._types, person, result, header, self._body, lens))
        publishers["joint_states"].publish(joint_state_message(person, header, self._body))


def roi_message(types: Any, person: PersonResult, result: FrameResult, header: Header, lens: Lens | None) -> Any:
    """The box around the mesh in the image as it came, as shares of its width and height, cut at its border."""
    x, y, w, h = (float(v) for v in person.box_xywh)
    low, high = np.array([x, y]), np.array([x + w, y + h])
    if lens is not None:
        uv = _as_taken(result.camera, lens, person.vertices)
        seen = uv[np.isfinite(uv).all(-1)]
        low, high = (seen.min(0), seen.max(0)) if len(seen) else (np.zeros(2), np.zeros(2))
    size = (result.camera.width, result.camera.height)
    low, high = np.clip(low / size, 0.0, 1.0), np.clip(high / size, 0.0, 1.0)
    return types.NormalizedRegionOfInterest2D(
        header=header, xmin=low[0], ymin=low[1], xmax=high[0], ymax=high[1], c=float(np.clip(person.confidence, 0, 1))
    )


def skeleton_message(types: Any, person: PersonResult, result: FrameResult, header: Header, body: Any, lens: Lens | None) -> Any:
    """18 points of the refined mesh in the image as it came, as shares of its width and height; c is 0 outside it."""
    landmarks = body.landmarks["openpose25"]
    points = landmark_positions(landmarks, PosedBody(person.vertices[None], person.joints[None]))[0]
    uv = _as_taken(result.camera, lens, points) / [result.camera.width, result.camera.height]
    placed = (np.abs(landmarks.joint_weights).sum(1) + np.abs(landmarks.vertex_weight).sum(1)) > 0
    index = {name: k for k, name in enumerate(landmarks.names)}
    confidence = float(np.clip(person.confidence, 0, 1))
    skeleton = []
    for name in HRI_POINTS:
        k = index[name]
        inside = bool(placed[k] and np.all(np.isfinite(uv[k])) and np.all((uv[k] >= 0) & (uv[k] <= 1)))
        x, y, c = (float(uv[k, 0]), float(uv[k, 1]), confidence) if inside else (0.0, 0.0, 0.0)
        skeleton.append(types.NormalizedPointOfInterest2D(x=x, y=y, c=c))
    return types.Skeleton2D(header=header, skeleton=skeleton)


def _as_taken(camera: Camera, lens: Lens | None, points_m: np.ndarray) -> np.ndarray:
    """Where points (N,3) of the camera's frame are in the image as it came, (N,2) px; NaN for what it does not show."""
    if lens is None:
        return project(camera, points_m)
    z = points_m[:, 2:].astype(np.float64)
    return lens.place(np.where(z > 0, points_m[:, :2] / np.where(z > 0, z, 1.0), np.nan))


def joint_state_message(person: PersonResult, header: Header, body: Any) -> JointState:
    """Angles of the REP-155 person model, named <joint>_<id>."""
    rotmat, _, _ = joint_transforms(body, person.params)
    angles = joint_angles(rotmat[0])
    return JointState(header=header, name=[f"{n}_{person.track_id}" for n in angles], position=list(angles.values()))
