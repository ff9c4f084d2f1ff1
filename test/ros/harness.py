"""Real processes and bounded waits for the ROS tests."""

from __future__ import annotations

import array
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

WAIT_S = float(os.environ.get("DENSEFIT_TEST_WAIT_S", "15"))  # longer on a machine that is busy otherwise
NODE = Path(__file__).parent / "fake_engine.py"


class NodeProcess:
    """The densefit node in a process of its own, with the fake engine."""

    command = (sys.executable, str(NODE))

    def __init__(self, *ros_args: str, env: dict[str, str] | None = None) -> None:
        """``env``: variables on top of this process's own."""
        self.process = subprocess.Popen(
            [*self.command, "--ros-args", *ros_args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.log = ""

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """SIGINT, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            out, _ = self.process.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, _ = self.process.communicate()
        self.log += out or ""
        return self.process.returncode


class Client:
    """A camera and a listener in the test's own process."""

    def __init__(
        self, namespace: str = "", node: str = "/densefit", reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
    ) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("client", namespace=namespace or None, context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.target = node
        self.got: dict[str, list[Any]] = {}
        self._clients: dict[str, Any] = {}
        self.faults: dict[str, str] = {}
        self.listen(DiagnosticArray, "/diagnostics")
        qos = QoSProfile(depth=5, reliability=reliability)
        self._image = self.node.create_publisher(Image, "image", qos)
        self._info = self.node.create_publisher(CameraInfo, "camera_info", qos)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def listen(self, kind: Any, topic: str, qos: Any = 50) -> None:
        """Collect messages in ``got[topic]``."""
        self.got[topic] = []
        self.node.create_subscription(kind, topic, self.got[topic].append, qos)

    def until(self, condition: Callable[[], Any], timeout_s: float = WAIT_S, each: Callable[[], None] | None = None) -> bool:
        """Spin until the condition holds, doing ``each`` 30 times a second."""
        end, due = time.monotonic() + timeout_s, 0.0
        while not condition():
            now = time.monotonic()
            if now > end:
                return False
            if each is not None and now >= due:
                due = now + 1 / 30
                each()
            self.executor.spin_once(timeout_sec=0.005)
        return True

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """A service call with a bounded wait."""
        new = service not in self._clients
        if new:
            self._clients[service] = self.node.create_client(kind, service)
        client = self._clients[service]
        if new or not client.service_is_ready():
            assert self.until(client.service_is_ready), f"service {service} did not appear"
            # The server may not know this client's reader yet, and an answer that is sent before it does is lost: on a busy
            # machine 0.2 s were not enough once in some thousand calls.
            self.until(lambda: False, 0.5)
        future = client.call_async(request)
        assert self.until(future.done), f"service {service} did not answer"
        return future.result()

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, f"{self.target}/change_state", request).success

    def state(self) -> str:
        return self.call(GetState, f"{self.target}/get_state", GetState.Request()).current_state.label

    def start(self) -> None:
        """Configure and activate."""
        assert self.change_state(Transition.TRANSITION_CONFIGURE)
        assert self.change_state(Transition.TRANSITION_ACTIVATE)

    def image(self, value: int = 120, stamp: Time | None = None, **changes: Any) -> Image:
        """A grey 64x48 image stamped now."""
        data = array.array("B", bytes([value]) * (64 * 48 * 3))
        message = Image(height=48, width=64, encoding="rgb8", step=192, data=data)
        message.header.frame_id = "optical"
        message.header.stamp = stamp or self.node.get_clock().now().to_msg()
        for name, v in changes.items():
            setattr(message, name, v)
        return message

    def info(self, k: float = 60.0, stamp: Time | None = None) -> CameraInfo:
        message = CameraInfo(width=64, height=48)
        if k:
            message.k = [k, 0.0, 31.5, 0.0, k, 23.5, 0.0, 0.0, 1.0]
        message.header.frame_id = "optical"
        return message

    def send(self, image: Image | None = None, info: CameraInfo | None = None) -> None:
        """One image with its calibration."""
        self._info.publish(info or self.info())
        self._image.publish(image or self.image())

    def count(self, topic: str) -> int:
        return len(self.got[topic])

    def more(self, topic: str, n: int = 3, each: Callable[[], None] | None = None, timeout_s: float = WAIT_S) -> bool:
        """Whether ``n`` further messages arrive."""
        goal = self.count(topic) + n
        return self.until(lambda: self.count(topic) >= goal, timeout_s, each or self.send)

    def falls_silent(self, topic: str, window_s: float = 0.6, sending: bool = True) -> bool:
        """Whether, while images are sent (or not), two windows pass without a message; late ones may come before.

        One alone may lie between two messages of a busy machine.
        """
        silent = 0
        for _ in range(int(WAIT_S / window_s)):
            before = self.count(topic)
            self.until(lambda: False, window_s, self.send if sending else None)
            silent = silent + 1 if self.count(topic) == before else 0
            if silent == 2:
                return True
        return False

    def fault(self, kind: str, status: str = "") -> str:
        """The last message of a fault in the newest diagnostics, or nothing; ``status`` is part of the status's name."""
        return self.diagnostic(f"fault_{kind}_last", status)

    def diagnostic(self, key: str, status: str = "") -> str:
        """The newest value of a key in diagnostics, or nothing."""
        for array_ in reversed(self.got["/diagnostics"]):
            values = {v.key: v.value for s in array_.status if status in s.name for v in s.values}
            if key in values:
                return values[key]
        return ""


def stamps(messages: list[Any]) -> np.ndarray:
    """Header stamps in ns."""
    return np.array([m.header.stamp.sec * 1_000_000_000 + m.header.stamp.nanosec for m in messages])
