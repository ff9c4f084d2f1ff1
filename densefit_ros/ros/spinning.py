"""The life of a process with one node: served until it is told to stop, then closed without being interrupted again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation


def spin_until_end(node: Any, is_over: Callable[[], bool] = lambda: False) -> None:
    """Serve a node until ctrl-C, SIGTERM or a shutdown, all of them orderly ends, or until ``is_over``, asked twice a second.

    Raises what a callback raises, unless the end of ROS is the reason.
    """
    try:
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        # Not spin(): it waits without limit, and a signal between two waits was seen to leave it waiting (once in 25 ends).
        while rclpy.ok() and not is_over():
            executor.spin_once(timeout_sec=0.5)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # RCLError among them
        if not _ends_soon():
            raise
        # The signal came between two publishes of a callback, or while a message was taken.


def refusing(answer: Callable[[Any, Any], Any], log: Callable[[str], None]) -> Callable[[Any, Any], Any]:
    """The answer to ``~/change_state`` that says no where rclpy raises.

    Before Kilted (rclpy 9.1.2) an error of a transition that is not allowed now leaves the service's callback, and ends the node.
    """

    def answered(request: Any, response: Any) -> Any:
        try:
            return answer(request, response)
        except rclpy_implementation.RCLError as e:
            log(f"the state cannot change so now: {' '.join(str(e).split())}")
            response.success = False
            return response

    return answered


def end(node: Any | None, close: Callable[[], None] = lambda: None) -> None:
    """``close``, then destroy the node, if there is one, and shut ROS down; SIGINT is ignored from here on.

    Without a terminal a launch file, or the demo, hands on the SIGINT that its whole group has got already: one is enough.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if node is not None:
            close()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the line above has put the former one back


def _ends_soon(wait_s: float = 1.0) -> bool:
    """Whether ROS is shut down now or in a moment: the thread that answers a signal can come after what the signal broke."""
    deadline = time.monotonic() + wait_s
    while rclpy.ok() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not rclpy.ok()
