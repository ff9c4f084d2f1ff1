"""The pipeline behind the node: one set of models, a state per camera, names that no two people share.  Needs no ROS."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from densefit_ros.config import Config
from densefit_ros.errors import DeviceLost
from densefit_ros.geometry.camera import camera_from_fov
from densefit_ros.ros import engine as engine_module
from densefit_ros.ros.engine import PipelineEngine
from densefit_ros.settings import settings, with_overrides
from densefit_ros.track.state import TrackerState
from densefit_ros.types import BodyParams, Estimate, Frame

CAMERA = camera_from_fov(640, 480, 60.0)
GREY = np.full((480, 640, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def engine():
    choices = {"regress.backend": "external", "detect.backend": "none", "displace.enabled": False}
    return PipelineEngine(with_overrides(Config(), choices))


def somebody(x_m: float = 0.0) -> Estimate:
    person = BodyParams.rest(1)
    person.root_rotvec[0, 0], person.t_camera_root[0] = np.pi, (x_m, 0.1, 3.5)
    return Estimate(person, np.ones(1, np.float32), source="external")


def names(engine, camera: str, i: int, estimates=None) -> list[str]:
    frame = Frame(GREY, 1_000_000_000 + 33_000_000 * i, CAMERA)
    return [p.track_id for p in engine.process(frame, None, estimates or somebody(), camera).people]


def test_cameras_have_their_own_people(engine):
    left, right = names(engine, "left", 0), names(engine, "right", 0)
    assert len(left) == len(right) == 1 and left != right
    for i in range(1, 4):
        assert names(engine, "left", i) == left and names(engine, "right", i) == right
    engine.reset("left")
    renamed = names(engine, "left", 4)
    assert renamed not in (left, right) and names(engine, "right", 4) == right
    engine.reset()
    assert names(engine, "left", 0) not in (left, right, renamed) and names(engine, "right", 0) != right


def test_names_go_round_past_those_who_are_still_there(monkeypatch):
    """A listener to /tf keeps every frame for ever: names that were never given again would fill it."""
    monkeypatch.setattr(engine_module, "NAMES", 20)
    choices = {"regress.backend": "external", "detect.backend": "none", "displace.enabled": False}
    engine = PipelineEngine(with_overrides(Config(), choices))
    given = []
    (stays,) = names(engine, "left", 0)
    for i in range(60):
        engine.reset("right")
        given += names(engine, "right", i)
        assert names(engine, "left", i + 1) == [stays]
    assert stays not in given and given[0] in given[1:]
    assert all(len(set(given[i : i + 15])) == 15 for i in range(45)) and len(set(given)) < 40


def test_first_estimates_come_through_and_are_named(engine):
    engine.reset()
    (person,) = engine.process(Frame(GREY, 5_000_000_000, CAMERA), None, somebody(0.4), "").people
    assert person.source == "external"
    np.testing.assert_allclose(person.first_estimate.t_camera_root, [[0.4, 0.1, 3.5]], atol=1e-6)


def test_live_settings_reach_the_pipeline(engine):
    engine.reset()
    config = with_overrides(Config(), {"regress.backend": "external", "regress.new_confidence": 0.95})
    doubtful = dataclasses.replace(somebody(), confidence=np.array([0.9], np.float32))
    assert {s.name: s.live for s in settings(config)}["regress.new_confidence"] and names(engine, "", 0, doubtful)
    engine.reset()
    engine.retune(config)
    assert not names(engine, "", 0, doubtful)


def test_a_gpu_that_answers_nothing_any_more_is_told_from_a_bug(engine, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error 700: an illegal memory access was encountered")

    monkeypatch.setattr(engine, "_pipeline", SimpleNamespace(process=fail, initial_state=TrackerState))
    frame = Frame(GREY, 9_000_000_000, CAMERA)
    with pytest.raises(RuntimeError, match="error 700"):  # on a CPU
        engine.process(frame)
    monkeypatch.setitem(engine.backends, "device", "cuda")
    monkeypatch.setattr("densefit_ros.ros.engine.device_answers", lambda: True)
    with pytest.raises(RuntimeError, match="error 700"):
        engine.process(frame)
    monkeypatch.setattr("densefit_ros.ros.engine.device_answers", lambda: False)
    with pytest.raises(DeviceLost, match="answers nothing any more .*error 700"):
        engine.process(frame)
