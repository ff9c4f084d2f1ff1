"""The command line and the offline run, end to end."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from densefit_ros import cli
from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.config import Config
from densefit_ros.errors import AssetError, ConfigError
from densefit_ros.geometry.camera import project
from densefit_ros.offline import run as offline
from densefit_ros.regress import mediapipe_graph
from densefit_ros.settings import settings
from densefit_ros.types import BodyParams, FitStatus, FrameResult, PersonResult, TrackingState
from densefit_ros.viz.video import VideoWriter

needs_mediapipe = pytest.mark.skipif(not mediapipe_graph.available(), reason="the mediapipe extra is not installed")


@functools.lru_cache(maxsize=1)
def _body():
    return load_body()


class _Skinner:
    def pose(self, params):
        return pose(_body(), params)

    def outline(self, params):
        return self.pose(params).vertices


@dataclasses.dataclass(frozen=True)
class _Models:
    config: Config
    body: object
    skinner: object
    backends: dict


class _Pipeline:
    """In place of the pipeline: one upright person per given box, or one in the middle; remembers what it was asked."""

    def __init__(self):
        self.calls, self.configs, self.config = [], [], None

    def load(self, config):
        self.config = config
        return _Models(config, _body(), _Skinner(), {"device": "none"})

    def process(self, models, state, frame, boxes=None, estimates=None):
        self.calls.append((state, frame, boxes))
        self.configs.append(models.config)
        people = []
        for i in range(1 if boxes is None else len(boxes)):
            rotvec = np.array([[np.pi, 0, 0]], np.float32)
            first = dataclasses.replace(BodyParams.rest(1), root_rotvec=rotvec, t_camera_root=np.array([[0.0, 0, 4]], np.float32))
            refined = dataclasses.replace(first, t_camera_root=np.array([[0.1 * i, 0, 4]], np.float32))
            posed = pose(_body(), refined)
            people.append(
                PersonResult(
                    f"abcd{i}", TrackingState.DETECTED, FitStatus.CONVERGED, refined, first, "network", posed.vertices[0],
                    posed.joints[0], np.zeros(3), np.zeros((24, 3, 3)), np.array([1, 2, 3, 4.0]), 0.5, 3, 0.9, "prior",
                )
            )  # fmt: skip
        state = dataclasses.replace(state, born=state.born + 1, stamp_ns=frame.stamp_ns)
        return state, FrameResult(frame.stamp_ns, frame.camera, tuple(people), {"fit": 2.0})


@pytest.fixture
def pipeline(monkeypatch):
    fake = _Pipeline()
    monkeypatch.setattr(offline, "process", fake.process)
    return fake


def _run(fake, source, out, **changes):
    return offline.run(offline.RunOptions(source=source, out=out, progress=False, **changes), load=fake.load)


def _lines(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def _pictures(folder, names=("a.jpg", "b.jpg", "c.jpg"), size=(120, 160)):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((*size, 3), 40 * i + 20, np.uint8))
    return folder


def test_one_line_per_picture_and_person_with_the_documented_keys(tmp_path, pipeline):
    summary = _run(pipeline, _pictures(tmp_path / "in"), tmp_path / "out")
    lines = _lines(tmp_path / "out")
    assert [line["file"] for line in lines] == ["a.jpg", "b.jpg", "c.jpg"] and summary.people == 3
    line = lines[1]
    assert {"file", "id", "box_xywh", "status", "first_estimate", "refined"} <= set(line)
    shapes = {
        "joints_px": (24, 2), "joints_m": (24, 3), "betas": (10,),
        "root_rotvec": (3,), "joint_rotvec": (23, 3), "t_camera_root": (3,),
    }  # fmt: skip
    for body in ("first_estimate", "refined"):
        assert {k: np.shape(v) for k, v in line[body].items()} == shapes
    joints = np.array(line["refined"]["joints_m"])
    assert np.array(line["refined"]["joints_px"]) == pytest.approx(project(pipeline.calls[0][1].camera, joints), abs=0.02)
    assert line["status"] == "CONVERGED"
    assert sorted(p.name for p in (tmp_path / "out" / "overlays").iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["settings"] == {s.name: s.value for s in settings(pipeline.config)}
    nothing = dict.fromkeys(("boxes", "keypoints", "densepose", "format", "sigma_deg"))
    assert (
        about["given"] == nothing
        and about["camera_assumed"]
        and "half-integers" in about["coordinates"]
        and about["stage_ms_median"] == {"fit": 2.0}
    )


def test_pictures_follow_one_another_unless_independent(tmp_path, pipeline):
    folder = _pictures(tmp_path / "in")
    _run(pipeline, folder, tmp_path / "a")
    assert [state.born for state, _, _ in pipeline.calls] == [0, 1, 2]
    stamps = [frame.stamp_ns for _, frame, _ in pipeline.calls]
    assert np.diff(stamps) == pytest.approx(1e9 / 30, rel=1e-6)
    pipeline.calls.clear()
    _run(pipeline, folder, tmp_path / "b", independent=True)
    assert [state.stamp_ns for state, _, _ in pipeline.calls] == [None, None, None]
    assert [state.born for state, _, _ in pipeline.calls] == [0, 1, 2], "no name is given twice"
    pipeline.calls.clear()
    _pictures(folder, ("b.jpg",), size=(160, 120))  # another size is another camera
    _run(pipeline, folder, tmp_path / "c")
    assert [state.stamp_ns for state, _, _ in pipeline.calls] == [None, None, None]
    assert [state.born for state, _, _ in pipeline.calls] == [0, 1, 2]


def test_boxes_reach_their_pictures_and_set_the_number_of_people(tmp_path, pipeline, caplog):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a.jpg": [[1, 2, 30, 60], [50, 2, 30, 60], [90, 2, 30, 60]], "c.jpg": [], "z.jpg": []}))
    _run(pipeline, _pictures(tmp_path / "in"), tmp_path / "out", boxes=boxes, independent=True)
    assert [None if b is None else len(b) for _, _, b in pipeline.calls] == [3, None, 0]
    assert [line["file"] for line in _lines(tmp_path / "out")] == ["a.jpg"] * 3 + ["b.jpg"]
    assert pipeline.config.track.max_people == 3
    # Whoever has a box is answered; for whom the finder finds in other pictures nobody vouches.
    assert [c.regress.new_confidence for c in pipeline.configs] == [0, Config().regress.new_confidence, 0]
    assert caplog.text.count("not in the input: z.jpg") == 1
    _run(pipeline, tmp_path / "in", tmp_path / "out2", boxes=boxes, overrides=("track.max_people",))
    assert pipeline.config.track.max_people == Config().track.max_people


def test_the_pipeline_is_told_of_the_floor(tmp_path, pipeline):
    ground = np.array([0.0, -1.0, 0.0, 1.2])
    _run(pipeline, _pictures(tmp_path / "in"), tmp_path / "out", ground=ground)
    assert all(frame.ground is ground for _, frame, _ in pipeline.calls) and len(pipeline.calls) == 3


def test_settings_of_a_file_are_the_users_own_where_they_differ_from_the_defaults(tmp_path, monkeypatch):
    seen = []

    def stop(options):
        seen.append(options.overrides)
        raise AssetError("enough")

    monkeypatch.setattr(offline, "run", stop)
    mine, default = tmp_path / "mine.yaml", Path(__file__).parents[1] / "config" / "default.yaml"
    mine.write_text("fit: {iterations: 7}\ntrack: {max_people: 1}\n")
    for file in (mine, default):
        arguments = ["run", str(tmp_path), "--out", str(tmp_path / "out"), "--config", str(file)]
        assert cli.main([*arguments, "--set", "fit.max_points=60"]) == 2
    assert seen == [("fit.iterations", "fit.max_points"), ("fit.max_points",)]


def test_a_video_makes_a_video(tmp_path, pipeline):
    with VideoWriter(tmp_path / "clip.mp4", 10.0) as video:
        for _ in range(4):
            video.write(np.full((120, 160, 3), 90, np.uint8))
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"clip.mp4": [[10, 10, 50, 90]]}))
    summary = _run(pipeline, tmp_path / "clip.mp4", tmp_path / "out", boxes=boxes)
    assert [line["frame"] for line in _lines(tmp_path / "out")] == [0, 1, 2, 3]
    assert [b is None for _, _, b in pipeline.calls] == [False, True, True, True]
    assert [f.stamp_ns for _, f, _ in pipeline.calls] == [0, 100_000_000, 200_000_000, 300_000_000]
    capture = cv2.VideoCapture(str(summary.overlay))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10) and capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 160 + 4 + 160


@pytest.mark.parametrize("name", ["overlay.mp4", "overlays", "overlays/a.jpg"])
def test_the_input_is_not_written_over(tmp_path, pipeline, name):
    out = tmp_path / "out"
    _pictures(out, ()), _pictures(out / "overlays", ("a.jpg",))
    with VideoWriter(out / "overlay.mp4", 10.0) as video:
        video.write(np.full((120, 160, 3), 90, np.uint8))
    before = {p: p.read_bytes() for p in (out / "overlay.mp4", out / "overlays" / "a.jpg")}
    with pytest.raises(ConfigError, match="--out would write over the input"):
        _run(pipeline, out / name, out)
    assert {p: p.read_bytes() for p in before} == before and not (out / "results.jsonl").exists()


def test_results_may_lie_beside_the_pictures(tmp_path, pipeline):
    folder = _pictures(tmp_path / "in")
    for _ in range(2):
        assert _run(pipeline, folder, folder).frames == 3


def test_damaged_pictures_are_reported_and_skipped(tmp_path, pipeline, caplog):
    folder = _pictures(tmp_path / "in")
    (folder / "b.jpg").write_bytes(b"damaged")
    with caplog.at_level("WARNING", logger="densefit"):
        summary = _run(pipeline, folder, tmp_path / "out")
    assert summary.frames == 2 and len(summary.damaged) == 1 and "b.jpg" in caplog.text
    for name in ("a.jpg", "c.jpg"):
        (folder / name).write_bytes(b"")
    with pytest.raises(AssetError, match="nothing could be read"):
        _run(pipeline, folder, tmp_path / "out")


def test_results_of_before_stay_until_the_first_answer(tmp_path, pipeline, monkeypatch):
    folder, out = _pictures(tmp_path / "in"), tmp_path / "out"
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a.jpg": [[1, 2, 30, 60]]}))
    _run(pipeline, folder, out, boxes=boxes)
    assert json.loads((out / "run.json").read_text())["given"]["boxes"] == str(boxes)
    before = {name: (out / name).read_text() for name in ("results.jsonl", "run.json")}

    def process(*_):
        raise AssetError("no luck")

    monkeypatch.setattr(offline, "process", process)
    with pytest.raises(AssetError, match="no luck"):
        _run(pipeline, folder, out)
    assert {name: (out / name).read_text() for name in before} == before
    answers = iter([pipeline.process])
    monkeypatch.setattr(offline, "process", lambda *a: next(answers, process)(*a))
    with pytest.raises(AssetError, match="no luck"):
        _run(pipeline, folder, out)
    assert len(_lines(out)) == 1 and not (out / "run.json").exists()


def test_errors_are_one_line_and_an_exit_code(tmp_path, capsys):
    assert cli.main(["run", str(tmp_path / "missing.mp4"), "--out", str(tmp_path)]) == cli.EXIT_ERROR
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "missing.mp4" in err and "Traceback" not in err
    picture = str(_pictures(tmp_path / "in", ("a.jpg",)))
    for extra, word in (
        (["--set", "fit.iteration=3"], "fit.iterations"),
        (["--set", "nonsense"], "NAME=VALUE"),
        (["--fov", "400"], "degrees"),
        (["--camera-height", "0"], "0.05 to 100 m"),
        (["--camera-height", "1", "--camera-pitch", "120"], "-90 to 90 degrees"),
        (["--camera-pitch", "10"], "nothing without --camera-height"),
        (["--camera", str(tmp_path / "none.yaml")], "none.yaml"),
        (["--config", str(tmp_path / "none.yaml")], "none.yaml"),
        (["--boxes", str(tmp_path / "none.json")], "none.json"),
        (["--set", f"displace.onnx={tmp_path / 'typo.onnx'}"], "typo.onnx: the network file cannot be read"),
    ):
        assert cli.main(["run", picture, "--out", str(tmp_path / "o"), *extra]) == cli.EXIT_ERROR
        assert word in capsys.readouterr().err


def test_an_output_folder_that_cannot_be(tmp_path, capsys):
    picture = str(_pictures(tmp_path / "in", ("a.jpg",)))
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["run", picture, "--out", str(tmp_path / "file")]) == cli.EXIT_ERROR
    assert "cannot write" in capsys.readouterr().err


def test_help_lists_commands_that_exist(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for name in cli.available_commands():
        assert name in text
    with pytest.raises(SystemExit) as stop:
        cli.main(["nonsense"])
    assert stop.value.code == 2
    assert cli.main([]) == 2


def test_every_listed_command_has_help(capsys):
    for name in cli.available_commands():
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0, name
        assert "usage" in capsys.readouterr().out


_WITHOUT = """
import sys
sys.modules |= dict.fromkeys(("torch", "smplx", "onnx", "matplotlib", "sklearn"))
from densefit_ros import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("export",),
        ("train",),
        *(("train", name) for name in ("joint", "average", "restore", "evaluate", "card")),
        ("bench", "fit"),
    ],
    ids=" ".join,
)
def test_help_needs_no_training_packages(arguments):
    done = subprocess.run([sys.executable, "-c", _WITHOUT, *arguments, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_a_home_that_cannot_be_written_is_one_line(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("WARP_CACHE_PATH", "XDG_CACHE_HOME")} | {"HOME": "/proc/x"}
    arguments = ("run", str(_pictures(tmp_path / "in", ("a.jpg",))), "--out", str(tmp_path / "out"))
    command = [sys.executable, "-m", "densefit_ros.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("densefit run: error: Warp cannot keep its kernels: ")
    assert "WARP_CACHE_PATH" in done.stderr


def test_missing_packages_are_named_with_their_extra(tmp_path):
    command = [sys.executable, "-c", _WITHOUT, "train", "joint", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert 'needs torch, which is not installed: pip install ".[train]"' in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_no_traceback(monkeypatch, capsys, number):
    def stop(_):
        signal.raise_signal(number)

    monkeypatch.setattr(cli, "available_commands", lambda: {"run": stop})
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main(["run"]) == cli.EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "interrupted" in capsys.readouterr().err


def test_doctor_prints_a_table(capsys):
    code = cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok") and "Python" in line for line in lines)
    assert any("body model" in line and "topology" in line for line in lines)
    assert (code == 0) == (not any(line.startswith("MISSING") for line in lines))


@pytest.mark.parametrize("module", ["threadpoolctl", "yaml", "scipy", "tqdm"])
def test_doctor_names_what_the_core_cannot_start_without(module, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == module else find(name, *a))
    assert cli.main(["doctor"]) == 1
    assert sum(line.startswith("MISSING") for line in capsys.readouterr().out.splitlines()) == 1


@needs_mediapipe
def test_a_photograph_end_to_end(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "astronaut.png"), data.astronaut()[..., ::-1])
    cv2.imwrite(str(folder / "coffee.png"), data.coffee()[..., ::-1])
    arguments = ["run", str(folder), "--out", str(tmp_path / "out"), "--independent", "--quiet", "--fov", "50"]
    assert cli.main([*arguments, "--set", "displace.enabled=false", "--set", "regress.backend=mediapipe"]) == 0
    (line,) = _lines(tmp_path / "out")
    assert line["file"] == "astronaut.png" and line["source"] == "mediapipe"
    joints = np.array(line["refined"]["joints_px"])
    assert joints[15] == pytest.approx([220, 130], abs=35)  # the head
    assert joints[16][0] > joints[17][0]  # she faces the camera: her left shoulder is on the right
    picture = cv2.imread(str(tmp_path / "out" / "overlays" / "astronaut.jpg"))
    assert picture.shape[:2] == (512, 512 + 4 + 512)
    assert "1 frames without people" in capsys.readouterr().out


def test_large_pictures_are_drawn_smaller(tmp_path, pipeline):
    _run(pipeline, _pictures(tmp_path / "in", ("a.jpg",), size=(1500, 2400)), tmp_path / "out")
    picture = cv2.imread(str(tmp_path / "out" / "overlays" / "a.jpg"))
    assert picture.shape[:2] == (1000, 1600 + 4 + 1600)
    (line,) = _lines(tmp_path / "out")
    # Results stay in the pixels of the picture, and the drawn mesh lies where they say.
    x, y = (int(v / 1.5) for v in line["refined"]["joints_px"][9])
    ground = picture[5, 1400]
    assert np.abs(picture[y, 1604 + x].astype(int) - ground).max() > 30
