"""The recorder process: subscribes to every topic of the node and writes a rosbag2 (mcap) of what arrived, and when.

It ends with status 1 and one line when something could not be written: a report on half a recording would be wrong.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Empty
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from densefit_ros.msg import FrameTiming, MeshTopology, SmplBodyArray, SmplMeshArray

from ..ros.bag.sink import latched
from ..ros.bagtypes import typestore
from ..ros.spinning import end, spin_until_end

TOPICS: dict[str, Any] = {
    "/densefit/bodies": SmplBodyArray,
    "/densefit/first_estimate": SmplBodyArray,
    "/densefit/meshes": SmplMeshArray,
    "/densefit/timing": FrameTiming,
    "/densefit/markers": MarkerArray,
    "/densefit/overlay": Image,
    "/densefit/topology": MeshTopology,
    "/tf": TFMessage,
    "/diagnostics": DiagnosticArray,
    "/camera/camera_info": CameraInfo,
}
# This topic has a publisher from the recorder's first answer on: the camera then knows that all are connected.
READY_TOPIC = "/densefit_demo/recording"
WAITING = 2000  # messages that may wait for the disk: some seconds of everything


class Recorder:
    """Callbacks note the time and enqueue bytes; a thread writes them.

    ``error`` says in words why nothing more is written; nothing once there is one.
    """

    def __init__(self, node: Any, path: Path) -> None:
        self._node = node
        self.error = ""
        self._queue: queue.Queue[tuple[str, int, bytes] | None] = queue.Queue(WAITING)
        self._ready: Any | None = None
        self._writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)  # the newest that Humble reads
        self._writer.open()
        store = typestore()
        self._connections = {
            topic: self._writer.add_connection(
                topic,
                f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}",
                typestore=store,
                offered_qos_profiles=[latched()] if topic.endswith("/topology") else [],
            )
            for topic, kind in TOPICS.items()
        }
        for topic, kind in TOPICS.items():
            late = topic.endswith("/topology")
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL) if late else QoSProfile(depth=200)
            node.create_subscription(kind, topic, lambda data, t=topic: self._on_bytes(t, data), qos, raw=True)
        self._thread = threading.Thread(target=self._write, name="bag_writer")
        self._thread.start()

    def close(self) -> None:
        """Write what is waiting and finish the file, as far as that goes."""
        self._queue.put(None)
        self._thread.join()
        try:
            self._writer.close()
        except (OSError, WriterError) as e:
            self.error = self.error or f"the recording cannot be finished: {e}"

    def _on_bytes(self, topic: str, data: bytes) -> None:
        if self._ready is None and topic == "/densefit/bodies":
            self._ready = self._node.create_publisher(Empty, READY_TOPIC, 1)
        try:
            self._queue.put_nowait((topic, self._node.get_clock().now().nanoseconds, data))
        except queue.Full:
            self.error = self.error or f"the disk is too slow: {WAITING} messages wait to be written"

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            topic, stamp_ns, data = item
            if self.error:
                continue  # the queue has to be emptied all the same, or its end is never reached
            try:
                self._writer.write(self._connections[topic], stamp_ns, data)
            except Exception as e:  # the border of the thread
                self.error = f"a message of {topic} cannot be written: {e} (disk full?)"


def main(argv: list[str] | None = None) -> int:
    """Record until told to stop.  Exit status 1 when something could not be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bag", type=Path, required=True)
    args = parser.parse_args(argv)
    rclpy.init(args=[])
    node = rclpy.create_node("recorder")
    recorder = Recorder(node, args.bag)
    try:
        spin_until_end(node, lambda: bool(recorder.error))
    finally:
        end(node, recorder.close)
    if recorder.error:
        print(f"recorder: error: {recorder.error}", file=sys.stderr)
    return 1 if recorder.error else 0


if __name__ == "__main__":
    sys.exit(main())
