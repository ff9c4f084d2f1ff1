"""The node's subscriptions.  Callbacks only hand messages on; topics are resolved and said in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from .diagnostics import Faults
from .handler import DepthBuffer, Job
from .params import RosConfig


def camera_info_topic(node: Any) -> str:
    """``camera_info`` if it was remapped, else the neighbour of the image topic, where every driver puts it."""
    own = node.resolve_topic_name("camera_info", only_expand=True)
    remapped = node.resolve_topic_name("camera_info")
    image = node.resolve_topic_name("image")
    if remapped != own or image == node.resolve_topic_name("image", only_expand=True):
        return remapped
    return image.rsplit("/", 1)[0] + "/camera_info"


def is_rectified(node: Any, ros: RosConfig) -> bool:
    """Whether P of camera_info holds for the images."""
    if ros.rectified == "auto":
        return "rect" in node.resolve_topic_name("image").rsplit("/", 1)[-1]
    return ros.rectified == "yes"


class Inputs:
    """Subscribes on construction; ``destroy`` unsubscribes."""

    def __init__(
        self,
        node: Any,
        ros: RosConfig,
        submit: Callable[[Job], None],
        depth: DepthBuffer | None,
        faults: Faults,
        enabled: Callable[[], bool],
    ) -> None:
        self._node, self._submit, self._enabled, self._faults = node, submit, enabled, faults
        self._info: Any | None = None
        reliability = ReliabilityPolicy.RELIABLE if ros.image_reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=ros.image_depth, reliability=reliability)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        image, kind = node.resolve_topic_name("image"), Image
        if ros.image_transport == "compressed":
            image, kind = image + "/compressed", CompressedImage
        info = camera_info_topic(node)
        self._subscriptions = [self._subscribe(CameraInfo, info, self._on_info, best_effort)]
        if depth is not None:
            topic = node.resolve_topic_name("depth")
            self._subscriptions.append(self._subscribe(Image, topic, depth.add, QoSProfile(depth=5, reliability=reliability)))
        # Images last: the calibration should be there first.
        self._subscriptions.append(self._subscribe(kind, image, self._on_image, qos))
        self.topics = f"image {image} ({ros.image_reliability}), camera_info {info}"

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _on_info(self, message: Any) -> None:
        self._info = message

    def _on_image(self, message: Any) -> None:
        if self._enabled():
            self._submit(Job(message, self._info))

    def _subscribe(self, kind: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile) -> Any:
        callbacks_type = _event_callbacks()

        def incompatible(event: Any) -> None:
            policy = getattr(event.last_policy_kind, "name", event.last_policy_kind)
            self._faults.report(
                "qos", f"a publisher of {topic} offers QoS that does not match ours ({policy}): see ros.image_reliability"
            )

        events = callbacks_type(incompatible_qos=incompatible)
        return self._node.create_subscription(kind, topic, callback, qos, event_callbacks=events)


def _event_callbacks() -> Any:
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:  # Humble
        from rclpy.qos_event import SubscriptionEventCallbacks
    return SubscriptionEventCallbacks
