"""densefit watch: a video at its pace, as a page, a stream of pictures and a list of people."""

import json
import threading
import urllib.request

import cv2
import numpy as np
import pytest
from test_cli_run import _Pipeline

from densefit_ros.config import Config
from densefit_ros.errors import AssetError
from densefit_ros.offline import watch as module
from densefit_ros.offline.cameras import CameraChoice
from densefit_ros.viz.video import VideoWriter


def grey(path, seconds):
    writer = VideoWriter(path, 30.0)
    for _ in range(30 * seconds):
        writer.write(np.full((120, 160, 3), 120, np.uint8))
    writer.close()
    return str(path)


@pytest.fixture
def video(tmp_path):
    return grey(tmp_path / "grey.mp4", 2)


def options(source, **changes):
    return module.WatchOptions(source, CameraChoice(fov_deg=60.0), Config(), port=0, **changes)


def test_a_video_is_shown_until_it_is_stopped(tmp_path, monkeypatch):
    video = grey(tmp_path / "grey.mp4", 60)  # stopped when all was seen, however slow the machine
    fake = _Pipeline()
    monkeypatch.setattr(module, "process", fake.process)
    seen, urls, stop = {}, [], threading.Event()

    def look(url):
        urls.append(url)

        def ask():
            with urllib.request.urlopen(url, timeout=20) as page:
                seen["page"] = page.read()
            with urllib.request.urlopen(url + "people.json", timeout=20) as people:
                seen["people"] = json.load(people)
            with urllib.request.urlopen(url + "stream", timeout=20) as stream:
                head = [stream.readline() for _ in range(4)]
                seen["picture"] = stream.read(int(head[2].split(b":")[1]))
            stop.set()

        threading.Thread(target=ask, daemon=True).start()

    answered = module.watch(options(video), fake.load, look, stop)
    assert answered == len(fake.calls) > 0 and urls[0].startswith("http://127.0.0.1:")
    assert b'src="stream"' in seen["page"]
    (person,) = seen["people"]
    assert person["id"] == "abcd0" and len(person["refined"]["joints_m"]) == 24
    assert cv2.imdecode(np.frombuffer(seen["picture"], np.uint8), 1).shape == (120, 160, 3)
    stamps = [frame.stamp_ns for _, frame, _ in fake.calls]
    assert all(b > a for a, b in zip(stamps, stamps[1:]))
    with pytest.raises(OSError):
        urllib.request.urlopen(urls[0], timeout=2)


def test_nobody_looking_nothing_is_drawn(video, monkeypatch):
    fake = _Pipeline()
    monkeypatch.setattr(module, "process", fake.process)
    monkeypatch.setattr(module._Drawing, "jpeg", lambda *_: pytest.fail("drawn for nobody"))
    ground = np.array([0.0, -1.0, 0.0, 1.2])
    assert module.watch(options(video, ground=ground), fake.load) > 2
    assert all(frame.ground is ground for _, frame, _ in fake.calls)


def test_what_cannot_be_watched(tmp_path, monkeypatch):
    fake = _Pipeline()
    monkeypatch.setattr(module, "process", fake.process)
    (tmp_path / "text.mp4").write_text("no video")
    for source in (str(tmp_path / "text.mp4"), str(tmp_path / "missing.mp4"), "/dev/video99"):
        with pytest.raises(AssetError, match="cannot open"):
            module.watch(options(source), fake.load)


def test_the_newest_alone_is_handed_on():
    slot = module.Slot()
    slot.put("a")
    slot.put("b")
    assert slot.after(0, 0.1) == (2, "b") and slot.after(2, 0.01) == (2, None)
    slot.close()
    assert slot.after(2, 5.0) == (2, None)


@pytest.mark.parametrize(
    "wrong", [["--fov", "200"], ["--port", "-1"], ["--set", "fit.iterations=many"], ["--camera-height", "0"]]
)
def test_what_watch_refuses(video, wrong, capsys):
    from densefit_ros import cli

    assert cli.main(["watch", video, *wrong]) == 2
    assert capsys.readouterr().err.startswith("densefit watch: error: ")
