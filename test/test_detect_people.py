from __future__ import annotations

import builtins

import cv2
import numpy as np
import pytest
from skimage import data

from densefit_ros.detect.factory import make_detector
from densefit_ros.detect.hog import HogDetector
from densefit_ros.detect.in_turn import InTurn
from densefit_ros.detect.protocol import suppress
from densefit_ros.errors import BackendUnavailable, ConfigError, ShapeError
from densefit_ros.regress import mediapipe_graph
from densefit_ros.types import Detection

needs_mediapipe = pytest.mark.skipif(not mediapipe_graph.available(), reason="the mediapipe extra is not installed")


def _found(x, y, w, h, score):
    return Detection(np.array([x, y, w, h], np.float32), score)


def test_suppression_keeps_the_surest_of_each_person():
    kept = suppress([_found(0, 0, 10, 20, 0.6), _found(1, 1, 10, 20, 0.9), _found(2, 2, 4, 6, 0.7), _found(30, 0, 10, 20, 0.5)])
    assert [d.score for d in kept] == [0.9, 0.5]


def test_suppression_keeps_people_side_by_side():
    kept = suppress([_found(0, 0, 10, 20, 0.6), _found(6, 0, 10, 20, 0.9)])
    assert len(kept) == 2


@pytest.mark.parametrize("image", ["coffee", "chelsea"])
def test_hog_sees_nobody_where_nobody_is(image):
    assert HogDetector().detect(getattr(data, image)()) == []


def test_hog_finds_a_walker_in_any_image_size():
    for scale in (1.0, 0.4):
        picture = cv2.resize(_walker(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found = HogDetector().detect(picture)
        assert found, f"nobody found at scale {scale}"
        x, y, w, h = found[0].box_xywh / scale
        assert abs(x + w / 2 - 320) < 25 and abs(y + h / 2 - 235) < 40 and 0.5 < found[0].score <= 1


def _walker() -> np.ndarray:
    """A blurred paper figure with head, trunk, arms and two legs, 250 px tall, its middle at (320, 235)."""
    picture = np.full((480, 640, 3), 190, np.uint8)
    dark = (60, 60, 70)
    cv2.circle(picture, (320, 130), 19, dark, -1)
    cv2.ellipse(picture, (320, 205), (33, 58), 0, 0, 360, dark, -1)
    for side in (-1, 1):
        cv2.line(picture, (320 + side * 30, 165), (320 + side * 42, 250), dark, 14)
        cv2.line(picture, (320 + side * 14, 240), (320 + side * 24, 355), dark, 21)
    return cv2.GaussianBlur(picture, (0, 0), 2.0)


@pytest.mark.parametrize(
    "bad", [np.zeros((480, 640), np.uint8), np.zeros((480, 640, 3), np.float32), np.zeros((4, 4, 3), np.uint8)]
)
def test_an_image_of_another_kind_is_an_error(bad):
    with pytest.raises(ShapeError, match="uint8 image"):
        HogDetector().detect(bad)


def test_backends_by_name():
    assert make_detector("none") is None
    assert make_detector("hog").name == "hog"
    with pytest.raises(ConfigError, match="yolo"):
        make_detector("yolo")


def test_without_mediapipe_a_named_backend_fails_and_auto_falls_back(monkeypatch, caplog):
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.split(".")[0] == "mediapipe":
            raise ImportError("No module named 'mediapipe'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(BackendUnavailable, match="pip install"):
        make_detector("mediapipe")
    with caplog.at_level("INFO", logger="densefit"):
        assert make_detector("auto", device="cpu").name.startswith("network (")
    assert "network" in caplog.text and "mediapipe" in caplog.text


@needs_mediapipe
def test_mediapipe_finds_the_person_and_nobody_else():
    finder = make_detector("mediapipe")
    (found,) = finder.detect(data.astronaut(), enough=9)
    x, y, w, h = found.box_xywh
    assert x < 150 < x + w and y < 120 and 200 < x + w / 2 + 60 < 400  # her face is at (220, 120)
    assert finder.detect(data.coffee()) == []


@needs_mediapipe
def test_mediapipe_finds_small_people_by_going_finer():
    astronaut = cv2.resize(data.astronaut(), (90, 90), interpolation=cv2.INTER_AREA)
    scene = np.full((480, 640, 3), 128, np.uint8)
    scene[330:420, 60:150] = astronaut
    scene[60:150, 500:590] = astronaut
    found = make_detector("mediapipe").detect(scene, enough=2)
    faces = np.array([[60 + 39, 330 + 21], [500 + 39, 60 + 21]])
    for face in faces:
        assert any(np.all(face > d.box_xywh[:2]) and np.all(face < d.box_xywh[:2] + d.box_xywh[2:]) for d in found)


@needs_mediapipe
def test_mediapipe_box_turns_with_the_person():
    standing = make_detector("mediapipe").detect(data.astronaut())[0].box_xywh
    lying = make_detector("mediapipe").detect(np.ascontiguousarray(np.rot90(data.astronaut())))[0].box_xywh
    assert standing[3] > 1.2 * standing[2] and lying[2] > 1.2 * lying[3]


class Told:
    """Finds what it was told to, and counts how often it is asked."""

    def __init__(self, name, *found):
        self.name, self.found, self.asked = name, list(found), 0

    def detect(self, rgb, enough=1):
        self.asked += 1
        return self.found


def test_the_second_finder_is_asked_for_whom_the_first_leaves_out():
    first, second = Told("a", _found(0, 0, 10, 20, 0.6)), Told("b", _found(1, 0, 10, 20, 0.9), _found(30, 0, 10, 20, 0.5))
    finder = InTurn([first, second])
    assert finder.name == "a + b"
    assert finder.detect(np.zeros((20, 50, 3), np.uint8), enough=1) == first.found and second.asked == 0
    found = finder.detect(np.zeros((20, 50, 3), np.uint8), enough=2)
    assert [d.score for d in found] == [0.9, 0.5] and second.asked == 1  # the surer box of the first person


@needs_mediapipe
def test_both_finders_are_the_automatic_choice():
    finder = make_detector("auto", device="cpu")
    assert [f.name.split(" ")[0] for f in finder.finders] == ["mediapipe", "network"]
    (found, *_) = finder.detect(data.astronaut())
    assert found.score > 0.5
    assert len([d for d in finder.detect(data.coffee(), enough=9) if d.score > 0.8]) == 0


def test_quiet_stderr_gives_stderr_back(capfd):
    import os

    with mediapipe_graph.quiet_stderr():
        os.write(2, b"noise")
    os.write(2, b"kept")
    assert capfd.readouterr().err == "kept"
