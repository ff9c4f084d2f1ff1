"""The densefit lifecycle node.

configure: read parameters, load and warm up; activate: subscribe; deactivate: unsubscribe; cleanup: free everything.
Callbacks run on the executor's thread and only hand over; one worker thread owns the models and serves all cameras.
"""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from ..config import Config
from ..errors import BackendUnavailable, ConfigError, DensefitError, DeviceLost
from ..evidence.densepose import OWN_CHART
from . import params
from .camera_motion import CameraMotion
from .engine import Engine, PipelineEngine
from .handler import Job
from .hri import HriTopics
from .inputs import check_installed
from .installed import hint
from .spinning import end, refusing, spin_until_end
from .stream import Stream
from .worker import Worker

_OK, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class DensefitNode(LifecycleNode):
    """See the module.  ``make_engine`` is the pipeline; tests pass another."""

    def __init__(self, make_engine: Callable[[Config], Engine] = PipelineEngine, **kwargs: Any) -> None:
        super().__init__("densefit", **kwargs)
        changes = self._service_change_state
        changes.callback = refusing(changes.callback, lambda text: self.get_logger().error(text))
        params.declare(self)
        self._make_engine = make_engine
        self._config, self._ros = Config(), params.RosConfig()
        self._ros = params.merged(Config(), self._ros, {"ros.autostart": self.get_parameter("ros.autostart").value})[1]
        self._engine: Engine | None = None
        self._streams: dict[str, Stream] = {}  # by camera, from configure to cleanup
        self._hri: HriTopics | None = None
        self._motion: CameraMotion | None = None
        self._worker: Worker[Job] | None = None  # while active, and for as long as its last image takes
        self._enabled = True
        self.failed = False  # could not start, or lost its GPU
        # Timers of the node itself go by the wall: with use_sim_time and no /clock yet, ROS time stands still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_service(Trigger, "~/reset_tracks", self._on_reset)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics_timer: Any | None = None
        self._start_timer = self.create_timer(0.0, self._autostart, clock=self._steady) if self._ros.autostart else None

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load everything; fails with one line that says what is missing."""
        try:
            self._config, self._ros = params.read(self)
            for warning in params.misspelt(self):
                self.get_logger().warning(warning)
            cameras = params.camera_names(self._ros)
            params.check_sources(self._config, self._ros)
            check_installed(self._ros)
            if self._ros.densepose and not self._config.body.densepose_chart:
                self.get_logger().warning(f"topic 'densepose': {OWN_CHART}")
            self.get_logger().info("loading models and warming up ...")
            self._engine = self._make_engine(self._config)
            self._hri = self._make_hri()
            asked = [frame for frame in (self._ros.world_frame, self._ros.ground_frame) if frame]
            self._motion = CameraMotion(self, asked) if asked else None
            for camera in cameras:
                self._streams[camera] = Stream(self, camera, self._engine, lambda: self._ros, self._hri, self._motion)
        except Exception as e:  # rclpy would turn it into a silent "failed": a missing module must be read in the log
            self._say("configure", e)
            self._free()
            return _FAILURE
        period_s = self._ros.diagnostics_period_s
        self._diagnostics_timer = self.create_timer(period_s, self._on_diagnostics, clock=self._steady)
        self.get_logger().info("ready: " + ", ".join(f"{k} {v}" for k, v in self._engine.backends.items()))
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start answering images; fails while the last image before is still in the models, which are for one thread."""
        if self._worker is not None:
            self._stop()
            if self._worker is not None:
                return _FAILURE
        result = super().on_activate(state)
        # The models stay: a collector that walks them in the middle of a frame costs tens of milliseconds.
        gc.collect()
        gc.freeze()
        streams = self._streams
        self._worker = Worker(
            lambda camera, job: streams[camera].handle(job), self._on_bug, lambda camera, job: streams[camera].patience(job)
        )
        try:
            for stream in streams.values():
                topics = stream.activate(self._worker, lambda: self._enabled)
                self.get_logger().info(f"active: {topics}")
        except Exception as e:
            self._say("activate", e)
            self._stop()
            super().on_deactivate(state)  # or the publishers stayed on
            return _FAILURE
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; models stay loaded, tracks are forgotten."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free models, memory and publishers."""
        self.close()
        gc.collect()  # models that refer to themselves would stay, with the device's memory, until some later collection
        return _OK

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state."""
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: back to unconfigured, ready to be configured again."""
        self.get_logger().error("a transition failed; the node is unconfigured now")
        return self.on_cleanup(state)

    def close(self) -> None:
        """Stop the worker and free everything, whatever the state."""
        self._stop()
        self._free()

    # Worker thread

    def _make_hri(self) -> HriTopics | None:
        if not self._ros.hri.enabled:
            return None
        try:
            return HriTopics(self, self._engine.body)
        except BackendUnavailable as e:
            self.get_logger().error(str(e))
            return None

    def _on_bug(self, camera: str, error: Exception) -> None:
        if not self.context.ok():
            return  # a signal ended ROS in the middle of an image, whose answer nobody can get
        if isinstance(error, DeviceLost):
            self.get_logger().fatal(f"{error}; ending, so that a supervisor can start the node anew")
            self.failed = True
            rclpy.try_shutdown()
            return
        stream = self._streams.get(camera)
        if stream is None:
            return  # an image that hung failed after cleanup: its camera is gone
        stream.faults.report(
            "internal", f"{type(error).__name__}: {error}{_where(error)}; tracks are forgotten, please report this"
        )
        self.get_logger().debug("".join(traceback.format_exception(error)))
        stream.request_reset()

    # Executor thread

    def _autostart(self) -> None:
        assert self._start_timer is not None
        self._start_timer.cancel()
        try:
            started = self.trigger_configure() == _OK and self.trigger_activate() == _OK
        except rclpy_implementation.RCLError as e:  # before Kilted, where somebody else has configured it already
            self.get_logger().warning(f"not started by itself: {' '.join(str(e).split())}")
            return
        if not started:
            # Nobody will ask again: end, so that a supervisor or a person notices.  Unless a signal is the reason.
            self.failed = self.context.ok()
            rclpy.try_shutdown()

    def _on_reset(self, request: Any, response: Any) -> Any:
        if self._worker is None:
            response.message = "the node is not active: there are no tracks"
            return response
        for stream in self._streams.values():
            stream.request_reset()
        response.success, response.message = True, "all tracks are forgotten before the next image"
        return response

    def _on_enable(self, request: Any, response: Any) -> Any:
        self._enabled = bool(request.data)
        response.success, response.message = True, "answering images" if self._enabled else "ignoring images"
        return response

    def _on_parameters(self, changes: list[Any]) -> SetParametersResult:
        values = {p.name: p.value for p in changes if "." in p.name or p.name == "device"}
        fixed = [n for n in values if self._is_fixed_now(n)]
        if fixed:
            return SetParametersResult(
                successful=False, reason=f"{', '.join(fixed)}: takes effect in configure; deactivate and clean up first"
            )
        try:
            config, ros = params.merged(self._config, self._ros, {n: v for n, v in values.items() if n in _OURS})
        except ConfigError as e:
            return SetParametersResult(successful=False, reason=str(e))
        self._config, self._ros = config, ros
        if self._engine is not None:
            self._engine.retune(config)
        return SetParametersResult(successful=True)

    def _is_fixed_now(self, name: str) -> bool:
        return self._engine is not None and name in _OURS and not _OURS[name].live

    def _on_diagnostics(self) -> None:
        rivals = self._hri.rivals() if self._hri is not None else ""
        for stream in self._streams.values():
            if rivals:
                stream.faults.report("hri", rivals)
            stream.publish_diagnostics(self._enabled)

    def _say(self, what: str, error: Exception) -> None:
        """One line of why a transition failed; none when a signal ended ROS in the middle of it."""
        if not self.context.ok():
            return
        reason = str(error) if isinstance(error, DensefitError) else f"{type(error).__name__}: {error}{_where(error)}"
        self.get_logger().error(f"cannot {what}: {hint(error) or reason}")

    def _stop(self) -> None:
        for stream in self._streams.values():
            stream.unsubscribe()
        if self._worker is not None:
            if self._worker.stop():
                self._worker = None
            else:
                self.get_logger().error("the worker did not finish its image within 10 s")
        for stream in self._streams.values():
            stream.deactivate()
        if self._hri is not None:
            self._hri.forget()
        if self._engine is not None and self._worker is None:
            self._engine.reset()

    def _free(self) -> None:
        if self._diagnostics_timer is not None:
            self.destroy_timer(self._diagnostics_timer)
            self._diagnostics_timer = None
        while self._streams:  # a loop variable would hold the last one, and its engine, past the collection below
            self._streams.popitem()[1].destroy()
        if self._hri is not None:
            self._hri.destroy()
            self._hri = None
        if self._motion is not None:
            self._motion.destroy()
            self._motion = None
        self._engine = None
        self._enabled = True  # what ~/enable said was about the cameras of this configuration
        gc.unfreeze()


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return f" at {last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno}" if last else ""


_OURS = {s.name: s for s in params.all_settings(Config(), params.RosConfig())}


def main(argv: list[str] | None = None, make_engine: Callable[[Config], Engine] = PipelineEngine) -> int:
    """Run the node until it is told to stop.  Exit status 0 on an orderly end, 1 when it could not start or lost its GPU."""
    node = None
    try:
        node = _start(argv, make_engine)
        spin_until_end(node)
    except KeyboardInterrupt:
        pass  # ctrl-C before the node was there: an orderly end too
    except ConfigError as e:
        print(f"[densefit] error: {e}", file=sys.stderr)
        return 1
    finally:
        end(node, lambda: node.close())
    return 1 if node is not None and node.failed else 0


def _start(argv: list[str] | None, make_engine: Callable[[Config], Engine]) -> DensefitNode:
    """The node.  Raises ConfigError on arguments or parameter files that ROS cannot read or the node does not take."""
    try:
        rclpy.init(args=argv)
        return DensefitNode(make_engine)
    except (ParameterException, rclpy_implementation.RCLError, rclpy_implementation.UnknownROSArgsError) as e:
        raise ConfigError(" ".join(str(e).split())) from e


if __name__ == "__main__":
    sys.exit(main(sys.argv))
