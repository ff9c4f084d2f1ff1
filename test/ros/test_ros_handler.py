"""One image on the worker's thread, with an engine that notes what it is asked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from densefit_ros.errors import ShapeError
from densefit_ros.ros.camera_info import calibration
from densefit_ros.ros.diagnostics import Faults, Stats
from densefit_ros.ros.handler import Handler, Job
from densefit_ros.ros.params import RosConfig
from densefit_ros.types import FrameResult

RGB = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
INFO = CameraInfo(width=64, height=48, distortion_model="plumb_bob", d=[-0.3, 0.1, 0.0, 0.0, 0.0])
INFO.k = [60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]


class Asked:
    """Everything that happens, in order: "reset", frames, and after them what was published or said."""

    body = SimpleNamespace(landmarks={})

    def __init__(self, ros: RosConfig | None = None) -> None:
        self.log: list = []
        self.error: Exception | None = None
        faults = Faults(self.log.append, lambda: 0.0)
        self.stats = Stats()
        self.handler = Handler(self, lambda: ros or RosConfig(), self.publish, faults, self.stats, False, {}, "left")

    def process(self, frame, boxes, estimates, camera):
        self.log.append(frame)
        if self.error is not None:
            raise self.error
        return FrameResult(frame.stamp_ns, frame.camera, (), {})

    def reset(self, camera=None) -> None:
        self.log.append(f"reset {camera}")

    def publish(self, result, header, rgb, ms, lens) -> None:
        self.log.append(rgb)

    def image(self, stamp_s: float, info: CameraInfo | None = None, whole: bool = True) -> list:
        """What one image brings about."""
        self.log.clear()
        info = INFO if info is None else info
        stamp = Time(sec=int(stamp_s), nanosec=round(stamp_s % 1 * 1e9))
        image = Image(header=Header(stamp=stamp, frame_id="optical"), height=48, width=64, encoding="rgb8", step=192)
        image.data = RGB.tobytes() if whole else b"short"
        self.handler(Job(image, info, 0.0))
        return [type(x).__name__ if not isinstance(x, str) else x for x in self.log]


ANSWERED = ["Frame", "ndarray"]


@pytest.fixture
def asked():
    return Asked()


def test_tracks_are_forgotten_before_the_next_image(asked):
    assert asked.image(1.0) == ANSWERED
    asked.handler.request_reset()
    assert asked.image(1.1) == ["reset left", *ANSWERED]
    assert asked.image(1.2) == ANSWERED


def test_stamps_of_another_time_are_a_new_beginning(asked):
    """A bag that starts again."""
    asked.image(9.0)
    assert asked.image(4.0) == ["stamp: stamps went back by 5.0 s: all tracks are forgotten", "reset left", *ANSWERED]
    assert asked.image(4.1) == ANSWERED


def test_an_image_a_little_older_is_skipped_with_words(asked):
    asked.image(9.0)
    for stamp_s, why in ((8.9, "is 100.0 ms older than the last"), (9.0, "has the same stamp as the one before")):
        (line,) = asked.image(stamp_s)
        assert line.startswith(f"stamp: an image {why}: skipped")
    (line,) = asked.image(9.0, whole=False)
    assert line.startswith("stamp:"), "what is skipped is not looked at: its depth would be missed as well"
    assert asked.image(9.1) == ANSWERED


def test_images_are_undistorted_before_anybody_sees_them(asked):
    asked.image(1.0)
    frame, published = asked.log
    straight = calibration(INFO, 64, 48, False).undistort(RGB)
    assert (straight != RGB).mean() > 0.3
    np.testing.assert_array_equal(frame.rgb, straight)
    np.testing.assert_array_equal(published, straight)


def test_a_calibration_that_was_bad_once_is_good_again(asked):
    """As /diagnostics have it, which a watchdog reads."""
    asked.image(1.0)
    good = asked.stats.calibration
    assert len(asked.image(1.1, CameraInfo(width=64, height=48))) == 1 and asked.stats.calibration != good
    assert asked.image(1.2) == ANSWERED and asked.stats.calibration == good


def test_a_calibration_that_is_refused_is_said_with_every_image():
    """Else /diagnostics would be well while distances are guessed from ros.fov_deg."""
    asked = Asked(RosConfig(fov_deg=70.0))
    wrong = CameraInfo(width=1920, height=1080, k=INFO.k, d=INFO.d, distortion_model=INFO.distortion_model)
    for n in range(1, 4):
        assert asked.image(n, wrong)[-2:] == ANSWERED and asked.handler._faults.snapshot()["camera_info"][0] == n
    # A driver that is not calibrated says zeros, and has been told the field of view for that.
    for n in (4, 5):
        asked.image(n, CameraInfo(width=64, height=48))
        assert asked.handler._faults.snapshot()["camera_info"][0] == 4


def test_what_the_pipeline_refuses_is_a_fault_in_its_words(asked):
    asked.error = ShapeError("too small for anybody")
    assert asked.image(1.0) == ["Frame", "pipeline: too small for anybody"]
    asked.error = None
    assert asked.image(1.1) == ANSWERED
    asked.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        asked.image(1.2)
