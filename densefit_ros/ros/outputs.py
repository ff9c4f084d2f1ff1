"""The node's publishers: cheap topics for every image, expensive ones only while somebody listens, and not too often."""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from densefit_ros.msg import FrameTiming, MeshTopology, SmplBodyArray, SmplMeshArray

from ..render.warp_renderer import WarpRenderer
from ..types import FrameResult
from ..viz.overlay import draw_people
from . import messages
from .diagnostics import Faults
from .events import publisher_events
from .markers import Markers
from .params import RosConfig
from .tf import transforms


class Outputs:
    """Creates the publishers on ``node`` and fills them; used by the worker thread."""

    def __init__(
        self, node: Any, body: Any, ros: Callable[[], RosConfig], now_ns: Callable[[], int], faults: Faults, prefix: str = "~/"
    ) -> None:
        """``prefix``: of this camera's topics, "~/" or "~/<camera>/"."""
        self._node, self._body, self._ros, self._now_ns = node, body, ros, now_ns
        config = ros()
        reliable = ReliabilityPolicy.RELIABLE if config.output_reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=config.output_depth, reliability=reliable)

        def events(topic: str) -> Any:
            return publisher_events(node.resolve_topic_name(topic), lambda text: faults.report("qos", text))

        def make(kind: Any, topic: str, profile: QoSProfile = qos) -> Any:
            publisher = node.create_lifecycle_publisher(kind, topic, profile, event_callbacks=events(topic))
            self._publishers.append(publisher)
            return publisher

        self._shapes = Markers(body, config.marker_faces)
        self._renderer: WarpRenderer | None = None
        self._due_s = {"markers": 0.0, "joint_markers": 0.0, "overlay": 0.0}
        self._publishers: list[Any] = []
        self._diagnostics: Any | None = None
        try:
            self._make(make, prefix)
            # Not a lifecycle publisher: that would be silent, and leave the last "active" standing, while the node is inactive.
            self._diagnostics = node.create_publisher(
                DiagnosticArray, "/diagnostics", QoSProfile(depth=10), event_callbacks=events("/diagnostics")
            )
        except Exception:
            self.destroy()  # of an object that nobody gets, nobody else can
            raise

    def publish_topology(self) -> None:
        """Once, after activation: publishers are silent before."""
        self._topology.publish(messages.topology_message(self._body, self._node.get_clock().now().to_msg()))

    def publish_diagnostics(self, message: Any) -> None:
        """One status of the node."""
        self._diagnostics.publish(message)

    def publish(
        self, result: FrameResult, header: Header, rgb: np.ndarray, total_ms: float, counts: tuple[int, int, int]
    ) -> float:
        """Everything about one image, small and urgent things first.  Returns the image's age in ms at that moment."""
        age_ms = (self._now_ns() - result.stamp_ns) * 1e-6
        config = self._ros()
        self._bodies.publish(messages.bodies_message(result, header, self._body.topology_id))
        if config.tf and header.frame_id and result.people:
            frames = transforms(result, self._body, header, config.tf_links, config.tf_smpl_joints)
            self._tf.publish(TFMessage(transforms=frames))
        if self._first.get_subscription_count():
            self._first.publish(messages.first_estimate_message(result, header, self._body))
        if self._meshes.get_subscription_count():
            self._meshes.publish(messages.meshes_message(result, header, self._body.topology_id))
        if self._timing.get_subscription_count():
            self._timing.publish(messages.timing_message(result, header, total_ms, age_ms, counts))
        if self._due("markers", config.markers_rate_hz, self._markers):
            self._markers.publish(self._shapes.meshes(result, header, config))
        if self._due("joint_markers", config.markers_rate_hz, self._joint_markers):
            self._joint_markers.publish(self._shapes.joints(result, header, config))
        if self._due("overlay", config.overlay_rate_hz, self._overlay):
            self._overlay.publish(self._overlay_image(result, header, rgb))
        return age_ms

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
        if self._diagnostics is not None:
            self._node.destroy_publisher(self._diagnostics)
            self._diagnostics = None

    def _make(self, make: Callable[..., Any], prefix: str) -> None:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._bodies = make(SmplBodyArray, prefix + "bodies")
        self._first = make(SmplBodyArray, prefix + "first_estimate")
        self._meshes = make(SmplMeshArray, prefix + "meshes")
        self._timing = make(FrameTiming, prefix + "timing")
        self._markers = make(MarkerArray, prefix + "markers")
        self._joint_markers = make(MarkerArray, prefix + "joint_markers")
        self._overlay = make(Image, prefix + "overlay")
        self._topology = make(MeshTopology, prefix + "topology", latched)
        self._tf = make(TFMessage, "/tf", QoSProfile(depth=100))

    def _due(self, name: str, rate_hz: float, publisher: Any) -> bool:
        now = time.monotonic()
        if now < self._due_s[name] or not publisher.get_subscription_count():
            return False
        self._due_s[name] = now + 1.0 / rate_hz - 0.002  # a timer that runs a hair early must not halve the rate
        return True

    def _overlay_image(self, result: FrameResult, header: Header, rgb: np.ndarray) -> Image:
        if self._renderer is None:
            self._renderer = WarpRenderer(self._body)
        picture = draw_people(rgb, self._body, result, self._renderer)
        data = array.array("B")
        data.frombytes(np.ascontiguousarray(picture).tobytes())
        height, width = picture.shape[:2]
        return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data)
