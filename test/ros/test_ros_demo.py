"""The demo's three processes, with the fake engine: what it writes, and what it says when a process dies."""

import itertools
import json
import subprocess
import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from harness import WAIT_S
from rosbags.rosbag2 import Reader

from densefit_ros.demo import camera as camera_process
from densefit_ros.demo.main import main

pytestmark = pytest.mark.ros
FAKE = f"{sys.executable} {Path(__file__).parent / 'fake_engine.py'}"


def demo(out: Path, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "densefit_ros.demo.main", "--out", str(out), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=8 * WAIT_S)


def test_pictures(tmp_path):
    pictures = tmp_path / "in"
    pictures.mkdir()
    for n, size in enumerate([(120, 160), (200, 100), (1500, 1400)]):
        cv2.imwrite(str(pictures / f"{n}.png"), np.full((*size, 3), 90, np.uint8))
    (pictures / "0a.png").write_bytes((pictures / "0.png").read_bytes()[:20])
    done = demo(tmp_path / "out", "--input", str(pictures), "--node-command", FAKE)
    assert done.returncode == 0, done.stderr
    assert "0a.png: not a picture, or damaged; left out" in done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_out"], summary["dropped"], summary["people"]) == (3, 3, 0, 1)
    assert {"fps", "latency_ms_p50", "latency_ms_p95", "stage_ms"} <= set(summary) and "refined" not in summary
    with Reader(tmp_path / "out" / "bag") as bag:
        counts = {c.topic: c.msgcount for c in bag.connections}
    topics = ("bodies", "first_estimate", "meshes", "timing", "markers", "overlay", "topology")
    assert all(counts[f"/densefit/{t}"] for t in topics) and counts["/tf"] and counts["/diagnostics"]
    assert (tmp_path / "out" / "preview.jpg").stat().st_size > 1000 and (tmp_path / "out" / "overlay.mp4").stat().st_size > 1000
    assert "answered" in done.stdout


def test_a_process_that_dies(tmp_path):
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.full((48, 64, 3), 90, np.uint8))
    done = demo(
        tmp_path / "out", "--input", str(picture), "--node-command", f"{sys.executable} -c 'raise SystemExit(\"no luck\")'"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("demo: error: the node ended early with status 1: no luck")


def test_the_node_ends_with_a_demo_that_is_terminated(tmp_path):
    pid = tmp_path / "pid"
    script = tmp_path / "node.py"
    script.write_text(f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(60)\n")
    node = f"{sys.executable} {script}"
    command = [sys.executable, "-m", "densefit_ros.demo.main", "--out", str(tmp_path / "out"), "--node-command", node]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: pid.exists() and pid.read_text().strip(), WAIT_S)
        process = Path("/proc") / pid.read_text().strip()
        assert process.exists()
        running.terminate()
        assert _until(lambda: not process.exists(), 10.0)
    finally:
        running.wait(2 * WAIT_S)


def _until(true, wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(true())


def test_an_output_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = demo(tmp_path / "file" / "out")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("demo: error: ") and "Traceback" not in done.stderr


def test_a_device_ends_by_the_clock(monkeypatch):
    """It says 30 images a second and gives 15."""
    clock = types.SimpleNamespace(now_s=50.0)

    def wait(seconds):
        clock.now_s += seconds

    def shots():
        for n in itertools.count():
            wait(1 / 15)
            yield types.SimpleNamespace(rgb=None, at_s=n / 30.0)  # as it says; it gives half of that

    source = types.SimpleNamespace(kind="device", fps=30.0, count=None, shots=shots)
    camera = types.SimpleNamespace(node=None, send=lambda shot, index: None)
    monkeypatch.setattr(camera_process, "time", types.SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(camera_process.rclpy, "spin_once", lambda node, timeout_sec: wait(timeout_sec))
    count = camera_process.play(camera, source, None, 1.0, None)
    assert clock.now_s < 51.2 and 13 <= count <= 16


@pytest.mark.parametrize("recorded_after, people, images", [(0, 1, 5), (40, 1, 40), (0, 0, 15), (10**9, 1, None)])
def test_warm_up_waits_for_the_recorder(monkeypatch, recorded_after, people, images):
    """A node that answers in no time has shown 15 images before the recorder has found it, on a busy machine."""
    sent = []
    camera = types.SimpleNamespace(
        sent=sent,
        send=lambda shot, index, warm_up: sent.append(warm_up) or len(sent),
        until=lambda condition, timeout_s: True,
        answered=lambda stamp: True,
        people=lambda stamp: people,
        node=types.SimpleNamespace(count_publishers=lambda topic: int(len(sent) >= recorded_after)),
    )
    monkeypatch.setattr(camera_process, "RECORDER_WAIT_S", 0.05 if images is None else 60.0)
    camera_process.warm_up(camera, None)
    assert len(sent) == images if images else len(sent) >= 15


@pytest.mark.parametrize(
    "name, words", [("missing.mp4", "no such file"), ("text.mp4", "cannot be opened as a video"), ("empty", "expected pictures")]
)
def test_bad_input(tmp_path, name, words):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty").mkdir()
    done = demo(tmp_path / "out", "--input", str(tmp_path / name))
    assert done.returncode == 1 and words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["input.mp4", "preview.jpg", "bag/1.png", "bag", ""])
def test_the_input_is_not_among_the_files_of_the_demo_before(tmp_path, monkeypatch, capsys, name):
    pictures = types.SimpleNamespace(paths=[tmp_path / "bag" / ".." / name, *[tmp_path / "preview.jpg"] * (name == "")])
    monkeypatch.setattr("densefit_ros.demo.main.open_source", lambda *_: pictures)
    (tmp_path / "bag").mkdir()
    held = [tmp_path / n for n in ("input.mp4", "preview.jpg", "recorder.log", "bag/1.png")]
    for path in held:
        path.write_text("mine")
    assert main(["--out", str(tmp_path), "--input", str(tmp_path / "bag" / ".." / name)]) == 1
    assert "--out would write over the input" in capsys.readouterr().err and all(p.read_text() == "mine" for p in held)


@pytest.mark.parametrize("name", ["bag/metadata.yaml", "overlay.mp4"])
def test_files_of_something_else_are_left_alone(tmp_path, capsys, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("theirs")
    assert main(["--out", str(tmp_path)]) == 1
    assert "was not written by a demo" in capsys.readouterr().err and path.read_text() == "theirs"
