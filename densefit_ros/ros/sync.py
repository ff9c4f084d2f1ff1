"""Messages that belong to an image, found by stamp: depth, boxes, keypoints, first estimates."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from statistics import median_low
from typing import Any, Protocol

from .convert import stamp_ns

KEPT = 16
CLOCK_RESET_NS = 1_000_000_000  # stamps that go back by more are a clock that was set, not messages out of order
SILENT_NS = 3_000_000_000  # who has said nothing for so long, or for three of its usual gaps, is not waited for


class Companion(Protocol):
    """A source of messages that go with images; ``frame_id`` is the image's."""

    def match(self, image_ns: int, slop_s: float, frame_id: str = "") -> Any | None:
        """What belongs to the image of this stamp, if it is here."""
        ...

    def may_come(self, image_ns: int, slop_s: float, frame_id: str = "") -> bool:
        """Whether it is worth waiting for."""
        ...


class StampBuffer:
    """The last few messages of one topic; any thread."""

    def __init__(self, on_add: Callable[[], None] = lambda: None) -> None:
        self._lock, self._on_add = threading.Lock(), on_add
        self._messages: deque[tuple[int, Any]] = deque(maxlen=KEPT)
        self._stamps: deque[int] = deque(maxlen=KEPT)  # also of messages that are gone: they tell the topic's pace
        self._frame_id = ""
        self._asked_ns: int | None = None  # the first image that anything was wanted for while nothing was here

    def add(self, message: Any) -> None:
        """A message has arrived."""
        now_ns = stamp_ns(message)
        with self._lock:
            if self._stamps and self._stamps[-1] - now_ns > CLOCK_RESET_NS:  # a bag that begins again
                self._messages.clear()
                self._stamps.clear()
            self._messages.append((now_ns, message))
            self._stamps.append(now_ns)
            self._frame_id = message.header.frame_id
        self._on_add()

    def frame_id(self) -> str:
        """Of the newest message; empty without one."""
        with self._lock:
            return self._frame_id

    def never_spoke(self, image_ns: int) -> bool:
        """Whether nothing has come although it has been waited for."""
        with self._lock:
            return not self._stamps and self._asked_ns is not None and image_ns - self._asked_ns >= SILENT_NS

    def match(self, image_ns: int, slop_s: float, frame_id: str = "") -> Any | None:
        """The message nearest to a stamp, if within ``slop_s``.

        Older ones go: images come in order, and depth images are large.
        """
        with self._lock:
            while self._messages and self._messages[0][0] < image_ns - slop_s * 1e9:
                self._messages.popleft()
            near = [(abs(ns - image_ns), n) for n, (ns, _) in enumerate(self._messages)]
            gap, n = min(near, default=(1 << 62, 0))
            return self._messages[n][1] if gap <= slop_s * 1e9 else None

    def may_come(self, image_ns: int, slop_s: float, frame_id: str = "") -> bool:
        """False once the nearest message is here, or a later one: a topic keeps its order, so this image was left out.
        And False while nobody speaks: a detector that died would cost every image the whole wait.

        One within ``slop_s`` is not the nearest where the topic's pace promises another nearer the image: at 60 Hz the depth
        of the image before lies within 20 ms.
        """
        with self._lock:
            stamps = list(self._stamps)
            if not stamps:
                self._asked_ns = min(image_ns, self._asked_ns or image_ns)
                return image_ns - self._asked_ns < SILENT_NS
        late_ns = image_ns - stamps[-1]
        gaps_ns = [b - a for a, b in zip(stamps, stamps[1:]) if b > a]
        if late_ns > slop_s * 1e9:
            return late_ns < max(SILENT_NS, 3 * median_low(gaps_ns or [0]))
        pace_ns = min(gaps_ns, default=late_ns)
        return late_ns > 0 and abs(late_ns - pace_ns) < late_ns


class BodyBuffers:
    """REP-155 has a topic per body: one buffer for each body of the newest list; any thread.

    The list is of all cameras: bodies in another frame than the image's are of another camera, and none of its business.
    """

    def __init__(self, on_add: Callable[[], None] = lambda: None) -> None:
        self._lock, self._on_add = threading.Lock(), on_add
        self._bodies: dict[str, StampBuffer] | None = None  # None until the first list

    def track(self, ids: list[str]) -> tuple[list[str], list[str]]:
        """The newest list of bodies.  Returns who is new and who has gone."""
        with self._lock:
            before = self._bodies or {}
            self._bodies = {i: before.get(i) or StampBuffer(self._on_add) for i in ids}
            return [i for i in self._bodies if i not in before], [i for i in before if i not in self._bodies]

    def add(self, body_id: str, message: Any) -> None:
        """A body's message has arrived."""
        with self._lock:
            buffer = (self._bodies or {}).get(body_id)
        if buffer is not None:
            buffer.add(message)

    def match(self, image_ns: int, slop_s: float, frame_id: str = "") -> list[Any] | None:
        """The messages of all bodies for a stamp, empty when nobody is there; None when bodies are there and silent."""
        buffers = self._buffers(frame_id)
        found = [m for m in (b.match(image_ns, slop_s) for b in buffers or ()) if m is not None]
        return found if found or buffers == [] else None

    def may_come(self, image_ns: int, slop_s: float, frame_id: str = "") -> bool:
        """Whether a body's message is still missing."""
        buffers = self._buffers(frame_id)
        return buffers is None or any(b.may_come(image_ns, slop_s) for b in buffers)

    def unheard(self, image_ns: int) -> list[str]:
        """Bodies that are listed and have never said anything."""
        with self._lock:
            bodies = dict(self._bodies or {})
        return [i for i, buffer in bodies.items() if buffer.never_spoke(image_ns)]

    def _buffers(self, frame_id: str) -> list[StampBuffer] | None:
        with self._lock:
            if self._bodies is None:
                return None
            return [b for b in self._bodies.values() if not frame_id or b.frame_id() in ("", frame_id)]
