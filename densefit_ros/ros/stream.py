"""One camera of the node: publishers from configure to cleanup; subscriptions and handler while the node is active."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..geometry.lens import Lens
from .camera_motion import CameraMotion
from .diagnostics import Faults, Stats, diagnostic_array
from .engine import Engine
from .handler import Handler, Job
from .hri import HriTopics
from .inputs import Inputs, is_rectified, make_companions
from .outputs import Outputs
from .params import RosConfig
from .worker import Worker

SILENT_S = 5.0  # without an image or an answer for this long an operator is told: an unplugged camera, a GPU that hangs


class Stream:
    """See the module.  ``camera`` is its name, empty for the only one."""

    def __init__(
        self,
        node: Any,
        camera: str,
        engine: Engine,
        ros: Callable[[], RosConfig],
        hri: HriTopics | None,
        motion: CameraMotion | None = None,
    ) -> None:
        self.camera, self._node, self._engine, self._ros = camera, node, engine, ros
        said = f"{camera}: " if camera else ""
        self.faults = Faults(lambda m: node.get_logger().warning(said + m), lambda: ros().log_period_s)
        self._stats = Stats()
        prefix = f"~/{camera}/" if camera else "~/"
        self._outputs = Outputs(node, engine.body, ros, lambda: node.get_clock().now().nanoseconds, self.faults, prefix)
        self._hri, self._motion = hri, motion
        self._inputs: Inputs | None = None
        self._handler: Handler | None = None
        self._worker: Worker[Job] | None = None
        self._heard, self._heard_s = 0, 0.0  # images received when they last moved on, and when that was

    def activate(self, worker: Worker[Job], enabled: Callable[[], bool]) -> str:
        """Subscribe; returns the topics in words."""
        ros = self._ros()
        self._stats.clear()
        companions = make_companions(ros, worker.wake)
        rectified = is_rectified(self._node, ros, self.camera)
        self._worker = worker
        self._heard, self._heard_s = 0, time.monotonic()
        self._handler = Handler(
            self._engine, self._ros, self._publish, self.faults, self._stats, rectified, companions, self.camera, self._motion
        )
        self._outputs.publish_topology()
        self._inputs = Inputs(
            self._node, self.camera, ros, lambda job: worker.submit(self.camera, job), companions, self.faults, enabled
        )
        return self._inputs.topics

    def unsubscribe(self) -> None:
        """No further images; the one in hand may still be published."""
        if self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None

    def deactivate(self) -> None:
        """After the worker has stopped."""
        self.unsubscribe()
        self._handler = self._worker = None

    def destroy(self) -> None:
        """Remove the publishers."""
        self._outputs.destroy()

    def request_reset(self) -> None:
        """Forget this camera's tracks before its next image."""
        if self._handler is not None:
            self._handler.request_reset()

    def patience(self, job: Job) -> float:
        """Seconds that an image should still wait."""
        return self._handler.patience(job) if self._handler is not None else 0.0

    def handle(self, job: Job) -> None:
        """Answer one image; on the worker thread."""
        if self._handler is not None:
            self._handler(job)

    def publish_diagnostics(self, enabled: bool) -> None:
        """One status of this camera."""
        active = self._worker
        if active is not None:
            self._notice_silence(active.received[self.camera], enabled)
            self._notice_stuck(active)
        values = {"state": "active" if active else "inactive", "enabled": str(enabled).lower(), **self._stats.values()}
        if active is not None:
            values["received"], values["dropped"] = str(active.received[self.camera]), str(active.dropped[self.camera])
        values["camera_info"] = self._stats.calibration
        values["hri"] = "on" if self._hri else "hri_msgs is missing" if self._ros().hri.enabled else "off"
        values.update({f"backend_{k}": v for k, v in self._engine.backends.items()})
        now = self._node.get_clock().now().to_msg()
        name = f"{self._node.get_fully_qualified_name().lstrip('/')}: {f'{self.camera} ' if self.camera else ''}tracker"
        device = self._engine.backends.get("device", "")
        self._outputs.publish_diagnostics(diagnostic_array(now, name, device, values, self.faults.snapshot()))

    def _notice_silence(self, received: int, enabled: bool) -> None:
        now_s = time.monotonic()
        if received != self._heard or not enabled:
            self._heard, self._heard_s = received, now_s
        elif now_s - self._heard_s > SILENT_S and self._inputs is not None:
            self.faults.report(
                "no_image",
                f"nothing on {self._inputs.image} for {now_s - self._heard_s:.0f} s: "
                "check the topic's name, the driver and ros.image_transport",
            )

    def _notice_stuck(self, worker: Worker[Job]) -> None:
        """Of every camera: one image that hangs keeps all of them from being answered."""
        busy_s = worker.busy_s()
        if busy_s > SILENT_S:
            self.faults.report(
                "stuck",
                f"an image has been in the models for {busy_s:.0f} s and nobody is answered meanwhile: "
                "a device that hangs, or a machine far too slow",
            )
        elif worker.is_dead():
            self.faults.report("stuck", "images wait and the thread that answers them has ended: deactivate and activate again")

    def _publish(self, result: Any, header: Any, rgb: Any, total_ms: float, lens: Lens | None) -> None:
        worker = self._worker
        if worker is None:
            return
        if self._motion is not None:
            self._motion.leave_out(p.track_id for p in result.people)
        counts = (worker.received[self.camera], self._stats.answered + 1, worker.dropped[self.camera])
        age_ms = self._outputs.publish(result, header, rgb, total_ms, counts)
        if self._hri is not None:
            self._hri.submit(self.camera, result, header, lens)
        self._stats.add(age_ms, total_ms, result.stage_ms, len(result.people))
