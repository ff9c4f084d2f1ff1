"""The worker that all cameras share, and the buffers that it waits for."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace as Some

import pytest

from densefit_ros.ros.sync import BodyBuffers, StampBuffer
from densefit_ros.ros.worker import Worker

WAIT_S = 10.0


def message(ns: int, tag: str = "", frame_id: str = ""):
    return Some(header=Some(stamp=Some(sec=ns // 10**9, nanosec=ns % 10**9), frame_id=frame_id), tag=tag)


def until(condition) -> bool:
    """Whether it holds in time."""
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)
    return True


class Recorder:
    """Answers, with a gate that holds the thread inside one."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, object]] = []
        self.errors: list[str] = []
        self.inside, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def process(self, slot, item) -> None:
        self.answers.append((slot, item))
        self.inside.set()
        self.gate.wait(WAIT_S)
        if item == "bug":
            raise ZeroDivisionError("planted")

    def on_error(self, slot, error) -> None:
        self.errors.append(f"{slot}: {error}")


def test_cameras_take_turns_and_the_newest_image_of_each_is_answered():
    r = Recorder()
    worker = Worker(r.process, r.on_error)
    r.gate.clear()
    worker.submit("a", 0)
    assert r.inside.wait(WAIT_S)
    for i in range(1, 50):  # "a" is fast; "b" and "c" deliver once
        worker.submit("a", i)
    worker.submit("b", 100)
    worker.submit("c", 200)
    for i in range(50, 60):
        worker.submit("a", i)
    r.gate.set()
    assert worker.idle(WAIT_S) and worker.stop()
    assert sorted(r.answers) == [("a", 0), ("a", 59), ("b", 100), ("c", 200)]
    assert worker.received == {"a": 60, "b": 1, "c": 1} and worker.dropped["a"] == 58 and worker.dropped["b"] == 0


def test_an_image_that_stands_in_line_gives_way_to_a_newer_one():
    """Two cameras, both waiting: while one is answered the other goes on delivering."""
    r = Recorder()
    worker = Worker(r.process, r.on_error)
    r.gate.clear()
    worker.submit("a", 0)
    assert r.inside.wait(WAIT_S)
    worker.submit("a", 1)
    worker.submit("b", 1)
    r.inside.clear()
    r.gate.set()
    r.gate.clear()
    assert r.inside.wait(WAIT_S) and until(lambda: len(r.answers) == 2)
    late = "b" if r.answers[1][0] == "a" else "a"  # whose turn was still to come when the thread chose
    for i in range(2, 9):
        worker.submit(late, i)
    r.gate.set()
    assert worker.idle(WAIT_S) and worker.stop()
    assert r.answers[2] == (late, 8) and len(r.answers) == 3 and worker.dropped[late] == 7


def test_no_camera_is_served_twice_while_another_waits():
    """All three have an image waiting whenever the thread chooses, one of them many times over."""
    served, release = [], threading.Semaphore(0)

    def process(slot, item):
        served.append(slot)
        assert release.acquire(timeout=WAIT_S)

    worker = Worker(process, Recorder().on_error)
    for n in range(30):
        for slot, times in (("a", 5), ("b", 1), ("c", 1)):
            for _ in range(times):
                worker.submit(slot, n)
        if n:
            release.release()
        assert until(lambda n=n: len(served) == n + 1)
    release.release(100)
    assert worker.stop()
    order = served[1:30]  # the first was chosen when it came, before the others
    assert sorted(order.count(s) for s in "abc") in ([9, 10, 10], [10, 10, 9])
    assert all(a != b for a, b in zip(order, order[1:]))


def test_an_image_that_waits_for_its_depth_holds_up_nobody_and_is_not_overwritten():
    r, ready = Recorder(), threading.Event()
    worker = Worker(r.process, r.on_error, lambda slot, item: 5.0 if slot == "slow" and not ready.is_set() else 0.0)
    worker.submit("slow", 1)
    for i in range(5):
        worker.submit("fast", i)
        assert until(lambda i=i: worker.finished["fast"] == i + 1)
        worker.submit("slow", 2 + i)
    assert [s for s, _ in r.answers] == ["fast"] * 5
    ready.set()
    worker.wake()
    assert worker.idle(WAIT_S) and worker.stop()
    assert [i for s, i in r.answers if s == "slow"] == [6], "the newest, now that it need not wait either"


def test_an_image_whose_depth_has_come_is_answered_before_a_newer_one_that_waits():
    r, ready = Recorder(), set()
    worker = Worker(r.process, r.on_error, lambda slot, item: 0.0 if item in ready else 5.0)
    worker.submit("a", 1)
    worker.submit("other", 0)  # looked at after "a": then 1 is held
    ready.add(0)
    worker.wake()
    assert until(lambda: worker.finished["other"])
    for i in (2, 3):
        worker.submit("a", i)
    ready.add(1)
    worker.wake()
    assert until(lambda: worker.finished["a"] == 1)
    ready.add(3)
    worker.wake()
    assert worker.idle(WAIT_S) and worker.stop()
    assert [i for s, i in r.answers if s == "a"] == [1, 3]


def test_patience_ends():
    r, begin = Recorder(), time.monotonic()
    worker = Worker(r.process, r.on_error, lambda slot, item: item + 0.1 - time.monotonic())
    worker.submit("a", begin)
    assert worker.idle(WAIT_S) and worker.stop()
    assert r.answers and 0.1 <= time.monotonic() - begin < 5


def test_a_bug_is_reported_and_stop_is_prompt_even_while_waiting():
    r = Recorder()
    worker = Worker(r.process, r.on_error, lambda slot, item: 100.0 if item == "never" else 0.0)
    worker.submit("a", "bug")
    worker.submit("b", "never")
    assert until(lambda: worker.finished["a"])
    begin = time.monotonic()
    assert worker.stop() and time.monotonic() - begin < 2
    worker.submit("a", "after the end")
    assert worker.stop() and r.errors == ["a: planted"] and r.answers == [("a", "bug")] and worker.received["a"] == 1


@pytest.mark.parametrize("broken", ["patience", "on_error"])
def test_what_is_called_around_an_image_does_not_end_the_thread(broken, caplog):
    r = Recorder()

    def patience(slot, item):
        if broken == "patience" and item == "bad":
            raise KeyError("planted there")
        return 0.0

    def on_error(slot, error):
        r.on_error(slot, error)
        if broken == "on_error":
            raise RuntimeError("no logger any more")

    worker = Worker(r.process, on_error, patience)
    for item in ("bad" if broken == "patience" else "bug", "good"):
        worker.submit("a", item)
        assert worker.idle(WAIT_S)
    assert [i for _, i in r.answers][-1] == "good" and len(r.errors) == 1 and not worker.is_dead() and worker.stop()
    assert ("could not be reported" in caplog.text) == (broken == "on_error")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_how_long_an_item_takes_and_a_thread_that_has_ended_are_known():
    r = Recorder()

    def process(slot, item):
        r.process(slot, item)
        if item == "exit":
            raise SystemExit  # no Exception: a library that ends the thread

    worker = Worker(process, r.on_error)
    assert worker.busy_s() == 0.0
    r.gate.clear()
    worker.submit("a", "slow")
    assert r.inside.wait(WAIT_S) and until(lambda: worker.busy_s() > 0.05)
    r.gate.set()
    assert worker.idle(WAIT_S) and worker.busy_s() == 0.0
    worker.submit("a", "exit")
    assert worker.idle(WAIT_S) and not worker.is_dead(), "nothing waits"
    worker.submit("a", "next")
    assert until(worker.is_dead)
    assert worker.stop() and not worker.is_dead()


def test_a_stop_that_timed_out_is_asked_again():
    release = threading.Event()
    worker = Worker(lambda slot, item: release.wait(WAIT_S), lambda slot, error: None)
    worker.submit("a", "long")
    assert not worker.idle(0.1) and not worker.stop(0.05)
    release.set()
    assert worker.stop() and worker.stop()


def test_messages_are_matched_by_stamp():
    woken = []
    buffer = StampBuffer(lambda: woken.append(1))
    assert buffer.may_come(1_000, 0.0) and buffer.match(1_000, 1.0) is None
    for ns in (1_000_000, 33_000_000, 66_000_000):
        buffer.add(message(ns, str(ns)))
    assert len(woken) == 3
    assert buffer.match(34_000_000, 0.002).tag == "33000000"
    assert buffer.match(34_000_000, 0.0005) is None and buffer.match(33_000_000, 0.0) is None, "what is older goes"
    assert buffer.match(50_000_000, 0.02).tag == "66000000"
    assert buffer.may_come(99_000_000, 0.001)
    assert not buffer.may_come(66_500_000, 0.001), "it is here"
    assert not buffer.may_come(40_000_000, 0.001), "a later one is here, so this one was left out"
    for i in range(100):
        buffer.add(message(10**9 + i))
    assert buffer.match(33_000_000, 0.001) is None, "old messages are forgotten"


def test_the_message_of_the_image_before_is_not_taken_for_its_own():
    """At 60 Hz it lies within the slop of 20 ms, and the image's own comes 5 ms after the image."""
    ms = 1_000_000
    fast, early = StampBuffer(), StampBuffer()
    for n in range(4):
        if n:
            assert fast.may_come(17 * n * ms, 0.02), n
        fast.add(message(17 * n * ms))
        assert not fast.may_come(17 * n * ms, 0.02)
        early.add(message((33 * n - 12) * ms + 33 * ms))
        assert n == 0 or not early.may_come((33 * n + 33) * ms, 0.02), "stamped 12 ms before each image: nothing nearer comes"
    assert fast.may_come(17 * 4 * ms - ms, 0.02) and not fast.may_come(17 * 3 * ms + ms, 0.02)


def test_a_bag_that_begins_again_has_companions_again():
    buffer, s = StampBuffer(), 10**9
    for n in range(5):
        buffer.add(message((100 + n) * s))
    buffer.add(message(20 * s))
    assert buffer.may_come(20 * s + s // 30, 0.001), "those of the last round are no sign that this one was left out"
    assert buffer.match(102 * s, 0.1) is None


@pytest.mark.parametrize("gap_s", [0.1, 2.0])
def test_who_has_gone_silent_is_not_waited_for(gap_s):
    """A detector that died must not cost every image the whole wait; a slow one may take its time."""
    buffer, s = StampBuffer(), 10**9
    assert buffer.may_come(5 * s, 0.001) and buffer.may_come(7 * s, 0.001)
    assert not buffer.may_come(9 * s, 0.001), "nobody has ever spoken"
    for n in range(3):
        buffer.add(message(round((10 + n * gap_s) * s)))
    last = round((10 + 2 * gap_s) * s)
    assert buffer.may_come(last + round(1.5 * gap_s * s), 0.001)
    assert not buffer.may_come(last + round(max(3 * gap_s, 3.0) * s) + 1, 0.001)
    buffer.add(message(last + 60 * s))
    assert buffer.may_come(last + 61 * s, 0.001), "it is back"
    assert not buffer.may_come(last + 60 * s + round(max(3 * gap_s, 3.0) * s) + 1, 0.001), "that it was away is not its pace"


def test_bodies_of_another_camera_are_not_waited_for():
    buffers = BodyBuffers()
    buffers.track(["a", "b"])
    buffers.add("a", message(100, "a", "left"))
    buffers.add("b", message(90, "b", "right"))
    assert not buffers.may_come(100, 0.0, "left") and [m.tag for m in buffers.match(100, 0.0, "left")] == ["a"]
    assert buffers.may_come(100, 0.0, "right") and buffers.match(100, 0.0, "third") == []


def test_bodies_that_are_listed_and_never_speak_are_named():
    buffers, s = BodyBuffers(), 1_000_000_000
    buffers.track(["a", "b"])
    buffers.add("a", message(10 * s, "a"))
    assert buffers.may_come(10 * s, 0.001) and buffers.unheard(10 * s) == []
    assert buffers.unheard(13 * s) == ["b"]
    buffers.add("b", message(14 * s, "b"))
    assert buffers.unheard(20 * s) == []


def test_bodies_come_and_go():
    buffers = BodyBuffers()
    assert buffers.match(5, 1.0) is None and buffers.may_come(5, 0.0)
    assert buffers.track(["a", "b"]) == (["a", "b"], [])
    buffers.add("a", message(100, "a"))
    buffers.add("stranger", message(100, "x"))
    assert buffers.may_come(100, 0.0), "b has not spoken"
    buffers.add("b", message(100, "b"))
    assert not buffers.may_come(100, 0.0) and [m.tag for m in buffers.match(100, 0.0)] == ["a", "b"]
    assert buffers.track(["b", "c"]) == (["c"], ["a"])
    assert [m.tag for m in buffers.match(100, 0.0)] == ["b"]
    buffers.track([])
    assert buffers.match(100, 0.0) == [] and not buffers.may_come(100, 0.0), "nobody is there"
