"""The subscriptions of one camera.  Callbacks only hand messages on; topics are resolved and said in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from densefit_ros.msg import KeypointsArray, SmplBodyArray

from ..errors import BackendUnavailable
from . import camera_motion
from .diagnostics import Faults
from .events import subscription_events
from .external import MAX_PEOPLE
from .handler import Job
from .params import RosConfig
from .sync import BodyBuffers, Companion, StampBuffer
from .topics import camera_info_beside, is_rectified_by_name

_BODY_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")  # a topic of more than 250 letters cannot be subscribed to


def topic(camera: str, name: str) -> str:
    """``name`` of a camera: relative, or private where it starts with ``~/``."""
    if not camera:
        return name
    return f"~/{camera}/{name[2:]}" if name.startswith("~/") else f"{camera}/{name}"


def camera_info_topic(node: Any, camera: str = "", rule: str = "auto") -> str:
    """As ``ros.camera_info`` says; auto: ``camera_info`` if it was remapped, else the neighbour of the image topic.

    Every driver puts it there.  That it was remapped to its own name nobody can see.  As it is to be subscribed to: the node's
    own name is still to be remapped, once.
    """
    name, image_name = topic(camera, "camera_info"), topic(camera, "image")
    own = node.resolve_topic_name(name, only_expand=True)
    remapped = node.resolve_topic_name(name)
    image = node.resolve_topic_name(image_name)
    if rule == "topic" or remapped != own or image == node.resolve_topic_name(image_name, only_expand=True):
        return name
    return camera_info_beside(image)


def is_rectified(node: Any, ros: RosConfig, camera: str = "") -> bool:
    """Whether P of camera_info holds for the images."""
    if ros.rectified == "auto":
        return is_rectified_by_name(node.resolve_topic_name(topic(camera, "image")))
    return ros.rectified == "yes"


def check_installed(ros: RosConfig) -> None:
    """Raises BackendUnavailable when a topic is asked for whose message package is not installed."""
    if ros.detections:
        _detection_array(ros.detections_type)
    if ros.keypoints == "hri":
        _hri_types()
    if ros.keypoints == "yolo":
        _detection_array("yolo_msgs")
    if ros.world_frame or ros.ground_frame:
        camera_motion.library()


def make_companions(ros: RosConfig, on_add: Callable[[], None]) -> dict[str, Companion]:
    """The sources of what goes with an image, as far as they are asked for."""
    wanted = {
        "depth": ros.depth,
        "initial": ros.initial,
        "detections": ros.detections,
        "keypoints": ros.keypoints != "none",
        "densepose": ros.densepose,
    }
    return {
        name: BodyBuffers(on_add) if (name, ros.keypoints) == ("keypoints", "hri") else StampBuffer(on_add)
        for name, on in wanted.items()
        if on
    }


class Inputs:
    """Subscribes on construction; ``destroy`` unsubscribes.  ``image`` is the images' topic, ``topics`` says all in words."""

    def __init__(
        self,
        node: Any,
        camera: str,
        ros: RosConfig,
        submit: Callable[[Job], None],
        companions: dict[str, Companion],
        faults: Faults,
        enabled: Callable[[], bool],
    ) -> None:
        self._node, self._submit, self._enabled, self._faults = node, submit, enabled, faults
        self._info: Any | None = None
        self._subscriptions: list[Any] = []
        self._bodies: dict[str, Any] = {}  # REP-155: a subscription per body
        self._qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches every publisher
        try:
            self.image, self.topics = self._listen_to_all(node, camera, ros, companions)
        except Exception:
            self.destroy()  # of an object that nobody gets, nobody else can
            raise

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in (*self._subscriptions, *self._bodies.values()):
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._bodies.clear()

    def _listen_to_all(self, node: Any, camera: str, ros: RosConfig, companions: dict[str, Companion]) -> tuple[str, str]:
        reliability = ReliabilityPolicy.RELIABLE if ros.image_reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
        # Names are remapped where they are subscribed to: what was resolved before would be remapped twice.
        image, kind = topic(camera, "image"), Image
        if ros.image_transport == "compressed":
            image, kind = node.resolve_topic_name(image) + "/compressed", CompressedImage
        info = camera_info_topic(node, camera, ros.camera_info)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        said = [f"camera_info {self._listen(CameraInfo, info, self._on_info, best_effort)}"]
        for name, companion in companions.items():
            if isinstance(companion, BodyBuffers):
                self._skeletons, where = companion, "/humans/bodies/tracked"
                where = self._listen(_hri_types()[0], where, self._on_bodies, self._qos)
            else:
                kind_of_it, own = _kind_and_topic(name, ros)
                where, qos = topic(camera, own), self._qos
                if name == "depth":
                    qos = QoSProfile(depth=5, reliability=reliability)
                    if ros.depth_transport == "compressedDepth":
                        where, kind_of_it = node.resolve_topic_name(where) + "/compressedDepth", CompressedImage
                where = self._listen(kind_of_it, where, companion.add, qos)
            said.append(f"{name} {where}")
        # Images last: calibration and companions should be there first.
        image = self._listen(kind, image, self._on_image, QoSProfile(depth=ros.image_depth, reliability=reliability))
        return image, ", ".join([f"image {image} ({ros.image_reliability})", *said])

    def _on_info(self, message: Any) -> None:
        self._info = message

    def _on_image(self, message: Any) -> None:
        if self._enabled():
            self._submit(Job(message, self._info, time.monotonic()))

    def _on_bodies(self, message: Any) -> None:
        ids = [i for i in message.ids if _BODY_ID.fullmatch(i)][:MAX_PEOPLE]
        if len(ids) < len(message.ids):
            self._faults.report("keypoints", f"ids of bodies that no topic may have, or more than {MAX_PEOPLE}: left out")
        new, gone = self._skeletons.track(ids)
        for body in new:
            self._bodies[body] = self._subscribe(
                _hri_types()[1], f"/humans/bodies/{body}/skeleton2d", lambda m, b=body: self._skeletons.add(b, m), self._qos
            )
        for body in gone:
            self._node.destroy_subscription(self._bodies.pop(body))

    def _listen(self, kind: Any, name: str, callback: Callable[[Any], None], qos: QoSProfile) -> str:
        """Returns the topic's full name."""
        self._subscriptions.append(self._subscribe(kind, name, callback, qos))
        return self._subscriptions[-1].topic_name

    def _subscribe(self, kind: Any, name: str, callback: Callable[[Any], None], qos: QoSProfile) -> Any:
        events = subscription_events(name, lambda text: self._faults.report("qos", text))
        return self._node.create_subscription(kind, name, callback, qos, event_callbacks=events)


def _kind_and_topic(name: str, ros: RosConfig) -> tuple[Any, str]:
    """Message type and topic of a companion."""
    if name == "detections":
        return _detection_array(ros.detections_type), "detections"
    if (name, ros.keypoints) == ("keypoints", "yolo"):
        return _detection_array("yolo_msgs"), "detections"
    return _COMPANIONS[name]


def _detection_array(package: str) -> Any:
    try:
        if package == "yolo_msgs":
            from yolo_msgs.msg import DetectionArray

            return DetectionArray
        from vision_msgs.msg import Detection2DArray
    except ImportError as e:
        source = {"yolo_msgs": "of yolo_ros", "vision_msgs": "apt: ros-<distro>-vision-msgs"}[package]
        raise BackendUnavailable(f"topic 'detections' needs the package {package} ({source}), which is not installed: {e}") from e
    return Detection2DArray


def _hri_types() -> tuple[Any, Any]:
    try:
        from hri_msgs.msg import IdsList, Skeleton2D
    except ImportError as e:
        raise BackendUnavailable(
            f"ros.keypoints 'hri' needs the package hri_msgs (apt: ros-<distro>-hri-msgs), which is not installed: {e}"
        ) from e
    return IdsList, Skeleton2D


# Message type and topic of those that need no other package.
_COMPANIONS: dict[str, tuple[Any, str]] = {
    "depth": (Image, "depth"),
    "initial": (SmplBodyArray, "~/initial"),
    "keypoints": (KeypointsArray, "keypoints"),
    "densepose": (Image, "densepose"),
}
