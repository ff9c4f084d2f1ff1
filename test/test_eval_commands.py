"""``densefit eval`` on folders in the datasets' own formats: every option, from files to tables."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import test_eval_datasets as mini
from smpl_like import smpl_file

from densefit_ros import cli
from densefit_ros.body.assets import DEFAULT_BODY, load_body
from densefit_ros.eval import main as eval_main
from densefit_ros.eval.synthetic import Synthetic, SyntheticVideo
from densefit_ros.models import load_models

EVIDENCE = "none,keypoints,densepose,gt-displacement,gt-joints"


@pytest.fixture(autouse=True)
def _load_once(monkeypatch):
    monkeypatch.setattr(eval_main, "load_models", functools.lru_cache(maxsize=None)(load_models))


def _run(out, root, bodies, dataset, *more):
    arguments = ["eval", "--dataset", dataset, "--root", str(root), "--bodies", str(bodies), "--out", str(out), "--quiet"]
    return cli.main(
        [*arguments, "--regressor", "network", "--set", "device=cpu", "--set", f"body.model_path={smpl_file()}", *more]
    )


def _rows(out):
    return list(csv.DictReader((out / "samples.csv").read_text().splitlines()))


@pytest.mark.parametrize("dataset, make", [("3dpw", mini._threedpw), ("emdb", mini._emdb)])
def test_evidences_and_priors_make_a_table(tmp_path, capsys, dataset, make):
    root, bodies = make(tmp_path / "data")
    out = tmp_path / "out"
    assert _run(out, root, bodies, dataset, "--evidence", EVIDENCE, "--prior", "none,gmm", "--limit", "2") == 0
    rows = _rows(out)
    assert len(rows) == 2 * (1 + 4 * 2) and {r["prior"] for r in rows} == {"none", "gmm"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["samples"] == 2 and summary["dataset"] == dataset and "network" in summary["first_estimate"]
    first, best = (summary["table"][k]["pve_mm"][0] for k in ("first estimate", "gt-displacement"))
    assert best < first  # a regressor has nothing to say of a grey picture; the truth has
    printed = capsys.readouterr().out
    assert summary["protocol"] in printed and "| gt-joints + gmm |" in printed and (out / "pa_mpjpe.png").is_file()
    # The rest of the samples later, without touching what is there.
    before = (out / "samples.csv").read_text()
    assert _run(out, root, bodies, dataset, "--evidence", "none") == 0
    assert (out / "samples.csv").read_text().startswith(before) and len(_rows(out)) == len(rows) + 1


def test_the_free_body_is_not_scored_as_smpl(tmp_path, capsys):
    """It has SMPL's number of vertices, and other ones."""
    root, bodies = mini._threedpw(tmp_path / "data")
    arguments = ["--set", f"body.model_path={DEFAULT_BODY}", "--evidence", "none"]
    assert _run(tmp_path / "out", root, bodies, "3dpw", *arguments) == cli.EXIT_ERROR
    assert "3dpw measures SMPL's vertices and joints: --set body.model_path" in capsys.readouterr().err


def test_a_run_of_other_weights_is_not_continued(tmp_path, capsys, monkeypatch):
    root, bodies = mini._emdb(tmp_path / "data")
    more = ("--evidence", "none", "--split", "emdb1", "--limit", "1")
    assert _run(tmp_path / "out", root, bodies, "emdb", *more) == 0
    unused = ("--set", f"displace.onnx={tmp_path / 'nowhere.onnx'}")
    assert _run(tmp_path / "other", root, bodies, "emdb", *more, *unused) == 0  # no evidence here asks for displacements
    retrained = tmp_path / "retrained.onnx"
    retrained.write_bytes(b"other numbers")
    monkeypatch.setattr(eval_main, "weights_path", lambda name: retrained)
    assert _run(tmp_path / "out", root, bodies, "emdb", *more) == 2
    assert "other settings (networks)" in capsys.readouterr().err


def test_a_run_of_another_estimator_is_not_continued(tmp_path, capsys, monkeypatch):
    root, bodies = mini._emdb(tmp_path / "data")
    more = ("--evidence", "none", "--split", "emdb1", "--limit", "1")
    assert _run(tmp_path / "out", root, bodies, "emdb", *more) == 0
    load = eval_main.load_models

    def installed_since(config):
        models = load(config)
        return dataclasses.replace(models, backends={**models.backends, "regress": "mediapipe+lifting"})

    monkeypatch.setattr(eval_main, "load_models", installed_since)
    assert _run(tmp_path / "out", root, bodies, "emdb", *more) == 2
    assert "other settings (backends)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, said",
    [
        (("--set", "displace.passes=1"), "this command takes --passes"),
        (("--set", "fit.iterations=1"), "this command takes --iterations"),
        (("--config", "passes.yaml"), "this command takes --passes"),
        (("--config", "iterations.yaml"), "this command takes --iterations"),
        (("--set", "regress.backend=mediapipe"), "--regressor network says it already"),
        (("--keypoints", "folder"), "only --evidence keypoints reads it"),
        (("--densepose", "folder", "--evidence", "none,keypoints"), "only --evidence densepose reads it"),
        (("--dataset", "synthetic", "--stride", "5"), "--stride: synthetic has no recorded frames"),
        (("--dataset", "3dpw", "--backgrounds", "."), "--backgrounds: the people of 3dpw stand where they stood"),
        (("--dataset", "synthetic-video", "--stride", "5"), "--stride: synthetic-video has no recorded frames"),
        (("--regressor", "external"), "makes no first estimates"),
        (("--dataset", "synthetic", "--seed", "-1"), "--seed: expected 0 or more"),
    ],
)
def test_what_would_change_nothing_is_refused(tmp_path, capsys, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "passes.yaml").write_text("displace: {passes: 3}\n")
    (tmp_path / "iterations.yaml").write_text("fit: {iterations: 3}\n")
    assert _run(tmp_path / "out", tmp_path, tmp_path, "emdb", *options) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_copy_of_the_default_settings_asks_for_nothing(tmp_path):
    default = str(Path(__file__).parents[1] / "config" / "default.yaml")
    eval_main.read_job(eval_main._parser().parse_args(["--dataset", "synthetic", "--config", default]))


def test_frames_of_a_sequence_have_time_metrics(tmp_path):
    root, bodies = mini._emdb(tmp_path / "data", good_frames_mask=np.ones(mini.FRAMES))
    assert _run(tmp_path / "out", root, bodies, "emdb", "--evidence", "gt-joints", "--split", "emdb1") == 0
    table = json.loads((tmp_path / "out" / "summary.json").read_text())["table"]
    assert {"acceleration_m_s2", "jitter_10m_s3", "bone_mm"} <= set(table["gt-joints"])
    mean, low, high = table["gt-joints"]["jitter_10m_s3"]
    assert mean > 0 and low is high is None, "one sequence: no interval over sequences"


def test_rich_has_joints_but_no_true_surface(tmp_path, capsys):
    root, bodies = mini._rich(tmp_path / "data")
    assert _run(tmp_path / "out", root, bodies, "rich", "--evidence", "none", "--limit", "3") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["table"]["none"]["pve_mm"][0] is None and summary["table"]["none"]["mpjpe_mm"][0] > 0
    assert _run(tmp_path / "out", root, bodies, "rich", "--evidence", "gt-displacement", "--limit", "1") == cli.EXIT_ERROR
    assert "another topology" in capsys.readouterr().err


def test_a_missing_picture_leaves_one_sample_out(tmp_path, caplog):
    root, bodies = mini._threedpw(tmp_path / "data")
    (root / "imageFiles" / "street_00" / "image_00002.jpg").unlink()
    with caplog.at_level("WARNING", logger="densefit"):
        assert _run(tmp_path / "out", root, bodies, "3dpw", "--evidence", "none") == 0
    assert len(_rows(tmp_path / "out")) == 2 and "image_00002.jpg" in caplog.text


def test_openpose_files_lie_beside_their_pictures(tmp_path):
    root, bodies = mini._threedpw(tmp_path / "data")
    dataset = mini.ThreeDPW(root, bodies)
    folder = tmp_path / "openpose" / "street_00"
    folder.mkdir(parents=True)
    for sample in dataset:
        x, y, w, h = sample.box_xywh
        points = np.column_stack([np.linspace(x, x + w, 25), np.linspace(y, y + h, 25), np.full(25, 0.5)])
        name = sample.picture.rpartition("/")[2].replace(".jpg", "_keypoints.json")
        (folder / name).write_text(json.dumps({"people": [{"pose_keypoints_2d": points.ravel().tolist()}]}))
    assert _run(tmp_path / "out", root, bodies, "3dpw", "--evidence", "keypoints", "--keypoints", str(tmp_path / "openpose")) == 0
    assert len(_rows(tmp_path / "out")) == 3


def test_more_photographs_are_another_place_for_the_same_people(tmp_path):
    folder = tmp_path / "heldout"
    folder.mkdir()
    magenta = np.random.default_rng(0).integers(0, 255, (200, 300, 3)) * [1, 0.1, 1]
    cv2.imwrite(str(folder / "magenta.png"), magenta.astype(np.uint8))
    body = load_body()
    for dataset in (Synthetic, SyntheticVideo):
        places = set()
        for seed in range(8):
            usual, elsewhere = dataset(body, 1, seed)[0], dataset(body, 1, seed, [str(tmp_path)])[0]
            np.testing.assert_array_equal(usual.truth.points_m, elsewhere.truth.points_m)
            places.add(bool(np.array_equal(usual.image(), elsewhere.image())))
        assert places == {True, False}, dataset
