"""What an operator reads: rates and latencies of the last frames, and faults for as long as they are news."""

from __future__ import annotations

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from densefit_ros.ros.diagnostics import NO_CALIBRATION, RECENT_S, Faults, Stats, diagnostic_array


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def test_rates_and_percentiles_are_those_of_the_frames(clock):
    stats = Stats(clock)
    assert stats.values()["fps"] == "0.0" and stats.values()["process_ms_p50"] == "nan"
    for i in range(101):
        stats.add(age_ms=2.0 * i, total_ms=float(i), stage_ms={"fit": 0.5 * i}, people=i % 3)
        clock.now_s += 0.1
    values = stats.values()
    assert (values["fps"], values["answered"], values["people"]) == ("10.0", "101", "1")
    assert (values["stamp_to_publish_ms_p50"], values["stamp_to_publish_ms_p95"]) == ("100.0", "190.0")
    assert (values["process_ms_p50"], values["process_ms_p95"], values["stage_fit_ms_p50"]) == ("50.0", "95.0", "25.00")
    clock.now_s += 10.0
    assert stats.values()["fps"] == "0.0", "of the last seconds"
    stats.clear()
    assert stats.values()["answered"] == "0"


def test_a_fault_is_shown_until_it_is_no_news(clock):
    faults = Faults(lambda line: None, lambda: 0.0, clock)

    def status():
        return diagnostic_array(Time(), "densefit", "camera", {}, faults.snapshot()).status[0]

    assert (status().level, status().message) == (DiagnosticStatus.OK, "ok")
    faults.report("image", "no picture")
    clock.now_s += 0.9 * RECENT_S
    assert (status().level, status().message) == (DiagnosticStatus.WARN, "image: no picture")
    clock.now_s += 0.2 * RECENT_S
    assert (status().level, status().message) == (DiagnosticStatus.OK, "ok")
    assert {v.key: v.value for v in status().values} == {"fault_image_count": "1", "fault_image_last": "no picture"}


@pytest.mark.parametrize(
    ("kind", "calibration", "level"),
    [
        ("stuck", "pinhole", DiagnosticStatus.ERROR),
        ("no_image", "pinhole", DiagnosticStatus.ERROR),
        ("camera_info", NO_CALIBRATION, DiagnosticStatus.ERROR),
        ("camera_info", "assumed", DiagnosticStatus.WARN),
        ("depth", NO_CALIBRATION, DiagnosticStatus.WARN),
    ],
)
def test_what_leaves_images_without_an_answer_is_an_error(clock, kind, calibration, level):
    faults = Faults(lambda line: None, lambda: 0.0, clock)
    faults.report(kind, "so it is")
    assert diagnostic_array(Time(), "densefit", "x", {"camera_info": calibration}, faults.snapshot()).status[0].level == level
    clock.now_s += 1.1 * RECENT_S
    status = diagnostic_array(Time(), "densefit", "x", {"camera_info": calibration}, faults.snapshot()).status[0]
    assert status.level == DiagnosticStatus.OK


def test_the_same_fault_is_logged_once_a_period(clock):
    said = []
    faults = Faults(said.append, lambda: 10.0, clock)
    for _ in range(25):
        faults.report("image", "no picture")
        clock.now_s += 1.0
    assert said == [f"image: no picture{again}" for again in ("", " (11 times so far)", " (21 times so far)")]
