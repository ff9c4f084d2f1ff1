"""First estimates, evidence, rows on disk and reports."""

from __future__ import annotations

import dataclasses
import functools
import json
import types

import numpy as np
import pytest

from densefit_ros import cli
from densefit_ros.body.assets import load_body
from densefit_ros.body.skin import Skinner
from densefit_ros.config import Config
from densefit_ros.errors import AssetError, ConfigError
from densefit_ros.eval import main as eval_main
from densefit_ros.eval import report
from densefit_ros.eval.evidence import EvidenceOptions, noisy_iuv
from densefit_ros.eval.harness import Harness, HarnessOptions, Row
from densefit_ros.eval.sample import SMPL24, Score, score
from densefit_ros.eval.synthetic import Synthetic
from densefit_ros.fit.solver import FitOptions, Fitter
from densefit_ros.render.warp_renderer import WarpRenderer


@functools.lru_cache(maxsize=1)
def _models():
    body = load_body()
    options = FitOptions(shape_sigma=float("inf"), robust_start=4.0)
    fitter = Fitter(body, max_persons=1, max_points=1000, options=options)
    return types.SimpleNamespace(
        config=Config(),
        body=body,
        skinner=Skinner(body, max_persons=1),
        renderer=WarpRenderer(body),
        fitter=fitter,
        displacer=None,
    )


@functools.lru_cache(maxsize=2)
def _samples(count=12, seed=0):
    dataset = Synthetic(_models().body, count, seed)
    return dataset, tuple(dataset)


def _rows(names, count=12, first="disturbed:8"):
    dataset, samples = _samples()
    harness = Harness(_models(), dataset, HarnessOptions(tuple(names), first), EvidenceOptions())
    return [row for s in samples[:count] for row in harness.rows(s, names)]


def test_synthetic_people_are_labelled_exactly_and_the_same_each_time():
    dataset, samples = _samples()
    assert len(samples) == len(dataset) == 12 and len({s.key for s in samples}) == 12
    again = next(iter(Synthetic(_models().body, 12, 0)))
    assert again.key == samples[0].key and np.array_equal(again.image(), samples[0].image())
    for s in samples:
        posed = _models().skinner.pose(s.truth.params)
        perfect = score(SMPL24, s, posed.vertices[0], posed.joints[0])
        assert dataclasses.astuple(perfect) == pytest.approx((0, 0, 0, 0, 0, 1, 1), abs=0.02)
        assert s.image().shape == (256, 256, 3)


def test_true_evidence_beats_simulated_evidence_beats_none():
    names = ("gt-displacement", "gt-joints", "densepose", "keypoints", "none")
    rows = _rows(names)
    pve = {n: np.mean([r.refined.pve_mm for r in rows if r.evidence == n]) for n in names}
    first = np.mean([r.first.pve_mm for r in rows if r.evidence == "none"])
    assert pve["none"] == pytest.approx(first)
    assert pve["gt-displacement"] < 0.4 * first and pve["gt-joints"] < 0.7 * first
    assert pve["gt-displacement"] < pve["densepose"] < 0.6 * first
    assert pve["gt-joints"] < pve["keypoints"] < 0.95 * first


def test_a_perfect_start_is_not_spoilt():
    rows = _rows(("gt-displacement", "gt-joints"), count=4, first="disturbed:0")
    assert all(r.first.pve_mm < 0.05 for r in rows)
    assert all(r.refined.pve_mm < 1.0 for r in rows)


def test_noise_is_the_same_in_every_run():
    a, b = (_rows(("keypoints",), count=2) for _ in range(2))
    assert [r.refined for r in a] == [r.refined for r in b]
    iuv = np.zeros((8, 8, 3), np.uint8)
    assert not noisy_iuv(np.random.default_rng(0), iuv).any()


def test_what_cannot_be_is_said():
    dataset, samples = _samples()
    with pytest.raises(ConfigError, match="disturbed:DEG"):
        Harness(_models(), dataset, HarnessOptions(first="noise"), EvidenceOptions())
    harness = Harness(_models(), dataset, HarnessOptions(first="disturbed:5"), EvidenceOptions())
    with pytest.raises(ConfigError, match="displace.enabled"):
        list(harness.rows(samples[0], ["displacement"]))
    with pytest.raises(ConfigError, match="evidence among"):
        list(harness.rows(samples[0], ["magic"]))
    unknown = dataclasses.replace(samples[0], truth=dataclasses.replace(samples[0].truth, params=None))
    with pytest.raises(ConfigError, match="true parameters"):
        list(harness.rows(unknown, ["none"]))


def test_openpose_files_as_evidence(tmp_path):
    dataset, samples = _samples()
    sample = dataclasses.replace(samples[0], key="seq/image_00003")
    sources = EvidenceOptions(keypoints=tmp_path)
    harness = Harness(_models(), dataset, HarnessOptions(first="disturbed:8"), sources)
    with pytest.raises(AssetError, match="image_00003_keypoints.json"):
        list(harness.rows(sample, ["keypoints"]))
    exact = harness._maker._true_keypoints(sample)
    points = np.concatenate([exact.uv[0] - 0.5, exact.confidence[0][:, None]], 1)
    file = {"people": [{"pose_keypoints_2d": points.ravel().tolist()}]}
    (tmp_path / "image_00003_keypoints.json").write_text(json.dumps(file))
    (row,) = harness.rows(sample, ["keypoints"])
    (best,) = harness.rows(sample, ["gt-joints"])
    assert row.refined.pve_mm == pytest.approx(best.refined.pve_mm, rel=0.02)


# -- reports --------------------------------------------------------------------------------------------------------------


def _row(key, frame, evidence="keypoints", pa=40.0, fps=0.0, points=None):
    first = Score(80, 60, 90, 200, 8, 0.5, 0.8)
    points = np.zeros((3, 24, 3)) if points is None else points
    return Row(
        key,
        "walk",
        frame,
        fps,
        evidence,
        0.9,
        "CONVERGED",
        4.0,
        first,
        Score(60, pa, float("nan"), 150, 5, 0.7, 0.9),
        tuple(points),
    )


def test_a_stopped_run_goes_on(tmp_path):
    settings = {"dataset": "synthetic", "seed": 3}
    store = report.RowStore(tmp_path, settings)
    store.append(_row("a", 0))
    store.close()
    with open(tmp_path / "samples.csv", "a") as f:
        f.write("b,walk,1,keyp")  # the crash
    again = report.RowStore(tmp_path, settings)
    assert again.done() == {("a", "keypoints")}
    again.append(_row("b", 1))
    again.close()
    assert report.RowStore(tmp_path, settings).done() == {("a", "keypoints"), ("b", "keypoints")}
    with pytest.raises(ConfigError, match="other settings \\(seed\\)"):
        report.RowStore(tmp_path, {**settings, "seed": 4})
    (tmp_path / "samples.csv").write_text("x,y\n1,2\n")
    with pytest.raises(AssetError, match="another version"):
        report.RowStore(tmp_path, settings)


def test_the_table_says_means_intervals_and_protocol(tmp_path):
    store = report.RowStore(tmp_path, {})
    for i, pa in enumerate((30.0, 40.0, 50.0)):
        store.append(_row(f"s{i}", i, pa=pa))
        store.append(_row(f"s{i}", i, evidence="none", pa=60.0))
    summary = report.summarise(store.rows, [], None)
    mean, low, high = summary.table["keypoints"]["pa_mpjpe_mm"]
    assert mean == pytest.approx(40) and 30 <= low < 40 < high <= 50 and summary.count == 3
    assert summary.table["first estimate"]["mpjpe_mm"][0] == 80
    assert summary.status["keypoints"] == {"CONVERGED": 1.0}
    text = report.markdown(summary, "test", SMPL24, "network")
    assert "24 SMPL joints" in text and "| keypoints |" in text and "40.0 [" in text and "test, 3 samples" in text
    written = report.write(tmp_path, summary, text, store.rows)
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["table"]["keypoints"]["pve_mm"][0] is None  # NaN is no JSON
    assert all(p.stat().st_size > 0 for p in written)


def test_time_metrics_use_consecutive_frames_only(tmp_path):
    store = report.RowStore(tmp_path, {})
    fps = 30.0
    for frame in (0, 1, 2, 3, 4, 9, 10):  # one run of five, one too short
        t = frame / fps
        still = np.zeros((24, 3))
        quick = np.zeros((24, 3))
        quick[:, 0] = 1000 * 0.5 * 2.0 * t**2  # 2 m/s^2
        store.append(_row(f"f{frame}", frame, fps=fps, points=np.stack([quick, still, still])))
    with open(tmp_path / "points.jsonl", "a") as f:
        f.write('{"sequence": "wal')  # the crash
    summary = report.summarise(store.rows, store.points(), [-1] + [0] * 23)
    assert summary.table["first estimate"]["acceleration_m_s2"][0] == pytest.approx(2.0, rel=0.02)
    assert summary.table["keypoints"]["acceleration_m_s2"][0] == pytest.approx(0.0)
    assert summary.table["keypoints"]["bone_mm"][0] == pytest.approx(0.0)
    assert "acceleration error" in report.markdown(summary, "x", SMPL24, "y")


def test_the_command_end_to_end_and_again(tmp_path, capsys, monkeypatch):
    models = _models()
    models.estimator = types.SimpleNamespace(name="none")
    monkeypatch.setattr(eval_main, "load_models", lambda config: models)
    samples = _samples()[1][:3]

    class Small:
        name, protocol = "synthetic", SMPL24

        def __len__(self):
            return len(samples)

        def __iter__(self):
            return iter(samples)

    real = eval_main.make_dataset
    monkeypatch.setattr(
        eval_main, "make_dataset", lambda args, body: Small() if args.dataset == "synthetic" else real(args, body)
    )
    arguments = ["eval", "--dataset", "synthetic", "--count", "3", "--first", "disturbed:6", "--out", str(tmp_path), "--quiet"]
    assert cli.main([*arguments, "--evidence", "gt-joints"]) == 0
    assert "disturbed:6" in capsys.readouterr().out
    before = (tmp_path / "samples.csv").read_text()
    assert cli.main([*arguments, "--evidence", "gt-joints,none"]) == 0  # more evidence continues the same run
    after = (tmp_path / "samples.csv").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 1 + 6
    assert cli.main([*arguments, "--evidence", "none", "--seed", "5"]) == cli.EXIT_ERROR
    assert "other settings" in capsys.readouterr().err
    assert cli.main(["eval", "--dataset", "3dpw", "--out", str(tmp_path / "b")]) == cli.EXIT_ERROR
    assert "--root" in capsys.readouterr().err
    assert cli.main([*arguments, "--evidence", "tarot"]) == cli.EXIT_ERROR
