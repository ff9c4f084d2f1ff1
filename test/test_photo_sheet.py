"""The score and the layout of the photograph sheet."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.config import Config
from densefit_ros.evidence.keypoint_files import KeypointFiles
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.types import BodyParams, Estimate, Keypoints

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
CAMERA = camera_from_fov(640, 480, 60.0)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("photo_sheet", SCRIPTS / "photo_sheet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _person(x_m: float) -> BodyParams:
    upright = np.array([[np.pi, 0, 0]], np.float32)
    return dataclasses.replace(BodyParams.rest(1), root_rotvec=upright, t_camera_root=np.array([[x_m, 0.2, 4]], np.float32))


def test_pck_of_the_right_body_of_a_wrong_one_and_of_nobody(script):
    body = load_body()
    models = SimpleNamespace(body=body)
    uv = project(CAMERA, landmark_positions(body.landmarks["coco17"], pose(body, _person(0.0))))
    confidence = np.ones((1, 17), np.float32)
    confidence[0, 9] = 0
    truth = Keypoints("coco17", uv.astype(np.float32), confidence)
    right, wrong = _person(0.02), _person(-0.9)
    two = [SimpleNamespace(first_estimate=wrong, params=right), SimpleNamespace(first_estimate=wrong, params=wrong)]
    result = SimpleNamespace(people=two, camera=CAMERA)
    assert script.pck(models, result, truth) == [{"points": 11, "first": 0.0, "refined": 1.0}]
    nobody = script.pck(models, SimpleNamespace(people=[], camera=CAMERA), truth)
    assert nobody == [{"points": 11, "first": 0.0, "refined": 0.0}]
    mean = script.mean_pck([{"a": nobody}, {"a": [{"points": 33, "first": 1.0, "refined": 1.0}]}, {}], "a")
    assert {k: mean[k] for k in ("people", "points", "first", "refined")} == {
        "people": 2, "points": 44, "first": 0.75, "refined": 0.75,
    }  # fmt: skip
    assert mean["first_interval"] == [0.0, 1.0] and script.mean_pck([{}], "a") is None
    halves = [{"points": 10, "first": x, "refined": x} for x in (0.2, 0.8, 0.8, 0.2)]
    assert script.mean_pck([{"a": halves}], "a", 2)["first_interval"] == [0.5, 0.5], "people are drawn, not their boxes"


def test_pck_of_a_sources_own_points(script):
    truth = Keypoints("coco17", *_points("coco17"))
    uv, confidence = _points("smpl24")

    class Source:
        size_px = 256
        margin = None

        def estimate(self, crop, camera, warm):
            return Estimate(_person(0.0), np.ones(1, np.float32), Keypoints("smpl24", uv, confidence))

    models = SimpleNamespace(estimator=Source(), keypoint_source=None, config=Config())
    rgb = np.zeros((480, 640, 3), np.uint8)
    (score,) = script.points_pck(models, rgb, CAMERA, truth)
    assert score["points"] == 12 and score["points2d"] > 0.9  # hips of COCO and of SMPL lie apart
    confidence[:] = 0
    assert script.points_pck(models, rgb, CAMERA, truth)[0]["points2d"] == 0


def _points(set_name: str) -> tuple[np.ndarray, np.ndarray]:
    body = load_body()
    marks = body.landmarks[set_name]
    uv = project(CAMERA, landmark_positions(marks, pose(body, _person(0.0)))).astype(np.float32)
    return uv, np.ones(uv.shape[:2], np.float32)


def test_the_labels_that_ship_are_readable():
    labels = KeypointFiles(SCRIPTS / "photo_points.json")
    people = [labels.of(n, 0) for n in ("messi5.jpg", "lunge.jpg", "bus.jpg", "street_0000.png")]
    assert [len(k.uv) for k in people] == [1, 1, 2, 4] and labels.most_people == 4
    assert all((k.confidence[:, :5] == 0).all() and (k.confidence > 0).sum(1).min() >= 9 for k in people)


def test_rows_of_any_width_make_one_sheet(script):
    rows = [np.full((300, w, 3), 200, np.uint8) for w in (50, 80)]
    out = script.sheet(rows)
    assert out.shape == (612, 80, 3) and (out[:300, 50:] == 30).all() and (out[306:606] == 200).all()
