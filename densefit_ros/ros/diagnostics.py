"""What an operator wants to know: rates, latencies, drops, engines, and every fault by name.  No ROS types here but one
function that turns the numbers into a DiagnosticArray."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

WINDOW = 300  # frames that the percentiles look back on
RECENT_S = 10.0  # a fault colours the status for this long
SILENCING = {"no_image", "stuck", "internal"}  # faults for which no image is answered
NO_CALIBRATION = "missing or invalid"


@dataclass
class _Fault:
    count: int = 0
    message: str = ""
    last_s: float = -1e9
    logged_s: float = -1e9


class Faults:
    """Counts faults by kind and logs each kind at most once per period."""

    def __init__(self, log: Callable[[str], None], period_s: Callable[[], float], clock: Callable[[], float] = time.monotonic):
        self._log, self._period_s, self._clock = log, period_s, clock
        self._lock = threading.Lock()
        self._kinds: dict[str, _Fault] = {}

    def report(self, kind: str, message: str) -> None:
        """One occurrence.  ``kind`` is a word ("image", "camera_info", "stamp", ...)."""
        now = self._clock()
        with self._lock:
            fault = self._kinds.setdefault(kind, _Fault())
            fault.count += 1
            fault.message, fault.last_s = message, now
            speak = now - fault.logged_s >= self._period_s()
            if speak:
                fault.logged_s = now
        if speak:
            again = "" if fault.count == 1 else f" ({fault.count} times so far)"
            self._log(f"{kind}: {message}{again}")

    def snapshot(self) -> dict[str, tuple[int, str, bool]]:
        """Kind -> (count, last message, happened recently)."""
        now = self._clock()
        with self._lock:
            return {k: (f.count, f.message, now - f.last_s < RECENT_S) for k, f in self._kinds.items()}


class Stats:
    """Rolling figures of the answered frames."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything, as after activation."""
        with self._lock:
            self._done_s: deque[float] = deque(maxlen=WINDOW)
            self._age_ms: deque[float] = deque(maxlen=WINDOW)
            self._total_ms: deque[float] = deque(maxlen=WINDOW)
            self._stages: dict[str, deque[float]] = {}
            self.answered = 0
            self.people = 0
            self.calibration = "none yet"

    def add(self, age_ms: float, total_ms: float, stage_ms: dict[str, float], people: int) -> None:
        """One answered frame."""
        with self._lock:
            self._done_s.append(self._clock())
            self._age_ms.append(age_ms)
            self._total_ms.append(total_ms)
            for name, ms in stage_ms.items():
                self._stages.setdefault(name, deque(maxlen=WINDOW)).append(ms)
            self.answered += 1
            self.people = people

    def values(self) -> dict[str, str]:
        """Figures as text, in display order."""
        with self._lock:
            done = [t for t in self._done_s if self._clock() - t < 5.0]
            fps = (len(done) - 1) / (done[-1] - done[0]) if len(done) > 1 and done[-1] > done[0] else 0.0
            out = {"fps": f"{fps:.1f}", "people": str(self.people), "answered": str(self.answered)}
            for name, series in (("stamp_to_publish_ms", self._age_ms), ("process_ms", self._total_ms)):
                out[f"{name}_p50"], out[f"{name}_p95"] = (f"{v:.1f}" for v in (_percentiles(series)))
            for name, series in self._stages.items():
                out[f"stage_{name}_ms_p50"] = f"{_percentiles(series)[0]:.2f}"
            return out


def diagnostic_array(
    stamp: Any, name: str, hardware_id: str, values: dict[str, str], faults: dict[str, tuple[int, str, bool]]
) -> Any:
    """diagnostic_msgs/DiagnosticArray with one status, its message in plain words.

    WARN while a fault is recent, ERROR while one is for which no image is answered.
    """
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from std_msgs.msg import Header

    recent = [f"{kind}: {message}" for kind, (_, message, now) in faults.items() if now]
    keys = dict(values)
    for kind, (count, message, _) in faults.items():
        keys[f"fault_{kind}_count"] = str(count)
        keys[f"fault_{kind}_last"] = message
    now = {kind for kind, (*_, is_recent) in faults.items() if is_recent}
    silent = now & SILENCING or ("camera_info" in now and values.get("camera_info") == NO_CALIBRATION)
    status = DiagnosticStatus(
        level=DiagnosticStatus.ERROR if silent else DiagnosticStatus.WARN if recent else DiagnosticStatus.OK,
        name=name,
        message="; ".join(recent) or "ok",
        hardware_id=hardware_id,
        values=[KeyValue(key=k, value=v) for k, v in keys.items()],
    )
    return DiagnosticArray(header=Header(stamp=stamp), status=[status])


def _percentiles(series: deque[float]) -> tuple[float, float]:
    if not series:
        return float("nan"), float("nan")
    p50, p95 = np.percentile(np.asarray(series), (50, 95))
    return float(p50), float(p95)
