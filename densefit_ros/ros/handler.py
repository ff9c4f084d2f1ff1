"""What happens to one image on the worker thread: check, convert, answer, hand over for publishing."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CameraError, DensefitError, DeviceLost, ImageError
from ..evidence.densepose import NUM_PARTS
from ..geometry.lens import Lens
from ..types import Estimate, Frame, FrameResult, Keypoints
from . import convert, external
from .camera_info import Calibration, assumed, calibration
from .camera_motion import CameraMotion
from .diagnostics import NO_CALIBRATION, Faults, Stats
from .engine import Engine
from .params import RosConfig, words
from .sync import CLOCK_RESET_NS, BodyBuffers, Companion

POLL_S = 0.005


@dataclass(frozen=True, eq=False)
class Job:
    """An image as it arrived."""

    image: Any  # sensor_msgs/Image or CompressedImage
    info: Any | None  # the newest CameraInfo
    arrived_s: float  # time.monotonic()


class Handler:
    """Answers the images of one camera with an engine.

    Everything runs on the worker thread except the constructor and request_reset; patience runs with its lock held.
    """

    def __init__(
        self,
        engine: Engine,
        ros: Callable[[], RosConfig],
        publish: Callable[[FrameResult, Any, np.ndarray, float, Lens | None], None],
        faults: Faults,
        stats: Stats,
        rectified: bool,
        companions: Mapping[str, Companion],
        camera: str = "",
        motion: CameraMotion | None = None,
        ground: np.ndarray | None = None,
    ) -> None:
        """``publish``: takes the answer, the image's header, the picture answered, ms, and the lens of the image as it came.
        ``companions``: "depth", "detections", "keypoints", "densepose", "initial", those that are listened to.
        ``ground``: the floor as Frame has it, of a camera that stands, where TF does not tell.
        """
        self._engine, self._ros, self._publish = engine, ros, publish
        self._faults, self._stats, self._rectified = faults, stats, rectified
        self._companions, self._camera, self._motion, self._ground = companions, camera, motion, ground
        self._reset = threading.Event()
        self._last_ns = -1
        self._known: tuple[Any, Calibration, str] | None = None  # what it was made from, and what is wrong with that
        self._asks_for_classes = True

    def request_reset(self) -> None:
        """Forget all tracks before the next image; from any thread."""
        self._reset.set()

    def patience(self, job: Job) -> float:
        """How many seconds an image should still wait for its depth, boxes, keypoints, first estimates and the camera's pose."""
        waited_s, stamp_ns = time.monotonic() - job.arrived_s, convert.stamp_ns(job.image)
        left = [
            self._wait_s(name) - waited_s
            for name, source in self._companions.items()
            if source.may_come(stamp_ns, self._slop_s(name), job.image.header.frame_id)
        ]
        if self._motion is not None and self._motion.may_come(job.image.header.frame_id, job.image.header.stamp):
            left.append(min(self._ros().external_wait_s - waited_s, POLL_S))  # nobody wakes the worker for TF
        return max(left, default=0.0)

    def __call__(self, job: Job) -> None:
        """Answer one image, or report why not.  Raises DeviceLost, and what is a bug."""
        begin = time.perf_counter()
        if not self._advance(convert.stamp_ns(job.image)):  # before its depth is missed, which belongs to the image before
            return
        try:
            frame, calib = self._frame(job)
        except DensefitError as e:
            self._faults.report("camera_info" if isinstance(e, CameraError) else "image", str(e))
            return
        if frame is None:
            return
        if self._reset.is_set():
            self._reset.clear()
            self._engine.reset(self._camera)
        boxes, estimates = self._boxes_of(job, calib), self._estimates_of(job)
        iuv = self._companion("densepose", job, lambda m: _iuv(m, frame.rgb.shape[:2], calib))
        frame = dataclasses.replace(frame, keypoints=self._keypoints_of(job, calib), iuv=iuv, **self._pose_of_camera(job))
        if self._ros().tf and not job.image.header.frame_id:
            self._faults.report("frame_id", "images carry no frame_id, so nothing goes to /tf: set it in the driver")
        try:
            result = self._engine.process(frame, boxes, estimates, self._camera)
        except DeviceLost:
            raise
        except DensefitError as e:
            self._faults.report("pipeline", str(e))
            return
        self._publish(result, job.image.header, frame.rgb, (time.perf_counter() - begin) * 1e3, calib.lens)

    def _frame(self, job: Job) -> tuple[Frame, Calibration] | tuple[None, None]:
        message = job.image
        rgb = convert.image_rgb(message) if hasattr(message, "encoding") else convert.compressed_rgb(message)
        calib = self._calibration(job.info, rgb.shape[1], rgb.shape[0])
        if calib is None:
            return None, None
        depth = self._companion("depth", job, lambda m: _depth(m, rgb.shape[:2], calib))
        return Frame(calib.undistort(rgb), convert.stamp_ns(message), calib.camera, depth), calib

    def _companion(self, name: str, job: Job, value_of: Callable[[Any], Any]) -> Any | None:
        """What another topic says of this image; None, and a fault in plain words, when it is missing or damaged."""
        source, slop_s = self._companions.get(name), self._slop_s(name)
        if source is None:
            return None
        message = source.match(convert.stamp_ns(job.image), slop_s, job.image.header.frame_id)
        if message is None:
            self._faults.report(name, f"no message of {name} within {slop_s:g} s of the image: going on without")
            return None
        try:
            return value_of(message)
        except DensefitError as e:
            self._faults.report(name, f"{e}; going on without")
            return None

    def _boxes_of(self, job: Job, calib: Calibration) -> np.ndarray | None:
        ros, frame_id = self._ros(), job.image.header.frame_id
        classes = words(ros.detection_classes)

        def value_of(message: Any) -> np.ndarray:
            self._check_classes(message, classes)
            return external.boxes_of(message, frame_id, calib, classes, ros.detection_min_score)

        return self._companion("detections", job, value_of)

    def _check_classes(self, message: Any, classes: tuple[str, ...]) -> None:
        """Say once, before the first person, that detections are of other classes: many detectors number them."""
        named = external.classes_of(message) if self._asks_for_classes and classes else []
        if named:
            self._asks_for_classes = False
            if not any(set(classes) & set(names) for names in named):
                self._faults.report(
                    "detections",
                    f"detections are of classes {', '.join(repr(names[0]) for names in named[:5])}, ros.detection_classes is "
                    f"'{', '.join(classes)}': whoever numbers people needs '0' or the like there",
                )

    def _estimates_of(self, job: Job) -> Estimate | None:
        frame_id, sigma = job.image.header.frame_id, self._ros().initial_sigma_rad
        return self._companion("initial", job, lambda m: external.estimates_of(m, frame_id, self._engine.body, sigma))

    def _keypoints_of(self, job: Job, calib: Calibration) -> Keypoints | None:
        sets, frame_id, ros = self._engine.body.landmarks, job.image.header.frame_id, self._ros()
        classes = words(ros.detection_classes)

        def value_of(message: Any) -> Keypoints:
            if ros.keypoints == "hri":
                return external.skeletons_of(message, frame_id, calib, sets["openpose25"])
            if ros.keypoints == "yolo":
                self._check_classes(message, classes)
                least = ros.detection_min_score
                return external.yolo_keypoints_of(message, frame_id, calib, classes, least, sets["coco17"])
            return external.keypoints_of(message, frame_id, calib, sets)

        listed = self._companions.get("keypoints")
        if isinstance(listed, BodyBuffers) and (unheard := listed.unheard(convert.stamp_ns(job.image))):
            self._faults.report("keypoints", f"listed in /humans/bodies/tracked and silent: {', '.join(unheard)}; others go on")
        return self._companion("keypoints", job, value_of)

    def _pose_of_camera(self, job: Job) -> dict[str, np.ndarray | None]:
        """The fields of Frame that say where the camera is, as far as that is known."""
        ros, told = self._ros(), {"ground": self._ground}
        T = self._pose_in(ros.world_frame, job, "world_frame", "going on as if the camera stood")
        if T is not None:
            told["T_world_camera"] = T
        T = self._pose_in(ros.ground_frame, job, "ground_frame", "going on without the floor")
        if T is not None and T[2, 3] > 0:
            told["ground"] = T[2].copy()
        elif T is not None:
            self._faults.report("ground_frame", f"the camera is {-T[2, 3]:.2f} m below '{ros.ground_frame}': going on without")
        return told

    def _pose_in(self, frame: str, job: Job, fault: str, without: str) -> np.ndarray | None:
        if not frame or self._motion is None:
            return None
        try:
            return self._motion.T_to(frame, job.image.header.frame_id, job.image.header.stamp)
        except DensefitError as e:
            self._faults.report(fault, f"{e}; {without}")
            return None

    def _slop_s(self, name: str) -> float:
        return self._ros().depth_slop_s if name == "depth" else self._ros().external_slop_s

    def _wait_s(self, name: str) -> float:
        return self._ros().depth_wait_s if name == "depth" else self._ros().external_wait_s

    def _calibration(self, info: Any | None, width: int, height: int) -> Calibration | None:
        fov = self._ros().fov_deg
        known = self._known
        key = (_content(info), width, height, fov)
        if known is not None and known[0] == key:
            self._stats.calibration = known[1].state  # an image between may have had a bad one
            if known[2]:
                self._faults.report("camera_info", known[2])
            return known[1]
        self._stats.calibration = NO_CALIBRATION
        if info is None and fov <= 0:
            self._faults.report("camera_info", "images arrive but no camera_info: check the topic's name, or set ros.fov_deg")
            return None
        problem = ""
        try:
            calib = assumed(width, height, fov) if info is None else calibration(info, width, height, self._rectified)
        except CameraError as e:
            if fov <= 0:
                raise
            calib, problem = assumed(width, height, fov), f"{e}; going on with ros.fov_deg = {fov:g}"
            self._faults.report("camera_info", problem)
            if not np.any(info.k):
                problem = ""  # a driver without a calibration: the field of view is the answer to that, and once is enough
        self._known = (key, calib, problem)
        self._stats.calibration = calib.state
        return calib

    def _advance(self, stamp_ns: int) -> bool:
        """Whether this stamp may be answered: TF and every listener want stamps that only grow."""
        last = self._last_ns
        if stamp_ns > last:
            self._last_ns = stamp_ns
            return True
        if last - stamp_ns > CLOCK_RESET_NS:
            self._faults.report("stamp", f"stamps went back by {(last - stamp_ns) * 1e-9:.1f} s: all tracks are forgotten")
            self._last_ns = stamp_ns
            self._engine.reset(self._camera)
            if self._motion is not None:
                self._motion.forget()
            return True
        why = (
            "has the same stamp as the one before"
            if stamp_ns == last
            else f"is {(last - stamp_ns) * 1e-6:.1f} ms older than the last"
        )
        self._faults.report("stamp", f"an image {why}: skipped (does the driver stamp its images?)")
        return False


def _depth(message: Any, shape: tuple[int, ...], calib: Calibration) -> np.ndarray:
    depth = convert.depth_m(message) if hasattr(message, "encoding") else convert.compressed_depth_m(message)
    if depth.shape != shape:
        raise ImageError(
            f"depth is {depth.shape[1]}x{depth.shape[0]}, the image {shape[1]}x{shape[0]}: use the depth aligned to colour"
        )
    return calib.undistort(depth)


def _iuv(message: Any, shape: tuple[int, ...], calib: Calibration) -> np.ndarray:
    iuv = convert.iuv(message)
    if iuv.shape[:2] != shape:
        raise ImageError(f"the DensePose map is {iuv.shape[1]}x{iuv.shape[0]}, the image {shape[1]}x{shape[0]}")
    if iuv[..., 0].max() > NUM_PARTS:
        raise ImageError(f"a DensePose map has parts 0 to {NUM_PARTS}, got {iuv[..., 0].max()}: channels in another order?")
    return calib.undistort(iuv, labels=True)


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
