"""What happens to one image on the worker thread: check, convert, answer, hand over for publishing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CameraError, DensefitError
from ..types import Frame, FrameResult
from . import convert
from .camera_info import Calibration, assumed, calibration
from .diagnostics import Faults, Stats
from .engine import Engine
from .params import RosConfig

CLOCK_RESET_NS = 1_000_000_000  # stamps further back than this mean a restarted bag or clock, not a late image


@dataclass(frozen=True, eq=False)
class Job:
    """An image as it arrived."""

    image: Any  # sensor_msgs/Image or CompressedImage
    info: Any | None  # the newest CameraInfo


class DepthBuffer:
    """The last few depth images, to be matched by stamp."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: deque[Any] = deque(maxlen=8)

    def add(self, message: Any) -> None:
        """A depth image has arrived."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def match(self, stamp_ns: int, slop_s: float, wait_s: float) -> Any | None:
        """The depth image nearest to a stamp, within ``slop_s``; waits up to ``wait_s`` for one to arrive."""

        def nearest() -> Any | None:
            close = [(abs(convert.stamp_ns(m) - stamp_ns), n) for n, m in enumerate(self._messages)]
            gap, n = min(close, default=(1 << 62, 0))
            return self._messages[n] if gap <= slop_s * 1e9 else None

        with self._changed:
            self._changed.wait_for(lambda: nearest() is not None, wait_s)
            return nearest()


class Handler:
    """Answers jobs with an engine.  Everything runs on the worker thread except the constructor and request_reset."""

    def __init__(
        self,
        engine: Engine,
        ros: Callable[[], RosConfig],
        publish: Callable[[FrameResult, Any, np.ndarray, float], None],
        faults: Faults,
        stats: Stats,
        rectified: bool,
        depth: DepthBuffer | None = None,
    ) -> None:
        self._engine, self._ros, self._publish = engine, ros, publish
        self._faults, self._stats, self._rectified, self._depth = faults, stats, rectified, depth
        self._reset = threading.Event()
        self._last_ns = -1
        self._known: tuple[Any, Calibration] | None = None

    def request_reset(self) -> None:
        """Forget all tracks before the next image; from any thread."""
        self._reset.set()

    def __call__(self, job: Job) -> None:
        """Answer one image, or report why not.  Raises only what is a bug."""
        begin = time.perf_counter()
        try:
            frame = self._frame(job)
        except DensefitError as e:
            self._faults.report("camera_info" if isinstance(e, CameraError) else "image", str(e))
            return
        if frame is None or not self._advance(frame.stamp_ns):
            return
        if self._reset.is_set():
            self._reset.clear()
            self._engine.reset()
        try:
            result = self._engine.process(frame)
        except DensefitError as e:
            self._faults.report("pipeline", str(e))
            return
        self._publish(result, job.image.header, frame.rgb, (time.perf_counter() - begin) * 1e3)

    def _frame(self, job: Job) -> Frame | None:
        message = job.image
        rgb = convert.image_rgb(message) if hasattr(message, "encoding") else convert.compressed_rgb(message)
        calib = self._calibration(job.info, rgb.shape[1], rgb.shape[0])
        if calib is None:
            return None
        stamp_ns = convert.stamp_ns(message)
        return Frame(calib.undistort(rgb), stamp_ns, calib.camera, self._depth_of(stamp_ns, rgb.shape[:2], calib))

    def _calibration(self, info: Any | None, width: int, height: int) -> Calibration | None:
        fov = self._ros().fov_deg
        known = self._known
        key = (_content(info), width, height, fov)
        if known is not None and known[0] == key:
            return known[1]
        self._stats.calibration = "missing or invalid"
        if info is None and fov <= 0:
            self._faults.report("camera_info", "images arrive but no camera_info: check the topic's name, or set ros.fov_deg")
            return None
        try:
            calib = assumed(width, height, fov) if info is None else calibration(info, width, height, self._rectified)
        except CameraError as e:
            if fov <= 0:
                raise
            self._faults.report("camera_info", f"{e}; going on with ros.fov_deg = {fov:g}")
            calib = assumed(width, height, fov)
        self._known = (key, calib)
        self._stats.calibration = calib.state
        return calib

    def _depth_of(self, stamp_ns: int, shape: tuple[int, ...], calib: Calibration) -> np.ndarray | None:
        if self._depth is None:
            return None
        ros = self._ros()
        message = self._depth.match(stamp_ns, ros.depth_slop_s, ros.depth_wait_s)
        if message is None:
            self._faults.report("depth", f"no depth image within {ros.depth_slop_s:g} s of the image: going on without")
            return None
        try:
            depth = convert.depth_m(message)
        except DensefitError as e:
            self._faults.report("depth", f"{e}; going on without")
            return None
        if depth.shape != shape[:2]:
            self._faults.report(
                "depth",
                f"depth is {depth.shape[1]}x{depth.shape[0]}, the image {shape[1]}x{shape[0]}: "
                "use the depth aligned to colour; going on without",
            )
            return None
        return calib.undistort(depth)

    def _advance(self, stamp_ns: int) -> bool:
        """Whether this stamp may be answered: TF and every listener want stamps that only grow."""
        last = self._last_ns
        if stamp_ns > last:
            self._last_ns = stamp_ns
            return True
        if last - stamp_ns > CLOCK_RESET_NS:
            self._faults.report("stamp", f"stamps went back by {(last - stamp_ns) * 1e-9:.1f} s: all tracks are forgotten")
            self._last_ns = stamp_ns
            self._engine.reset()
            return True
        why = (
            "has the same stamp as the one before"
            if stamp_ns == last
            else f"is {(last - stamp_ns) * 1e-6:.1f} ms older than the last"
        )
        self._faults.report("stamp", f"an image {why}: skipped (does the driver stamp its images?)")
        return False


def _content(info: Any | None) -> Any:
    """What a CameraInfo says, without its stamp: it comes anew with every image and seldom changes."""
    if info is None:
        return None
    roi = info.roi
    return (
        (info.width, info.height, info.binning_x, info.binning_y, roi.x_offset, roi.y_offset, roi.width, roi.height),
        info.distortion_model,
        *(np.asarray(a, np.float64).tobytes() for a in (info.k, info.d, info.p)),
    )
