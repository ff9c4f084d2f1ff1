"""First estimates, evidence, rows on disk and reports."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import types

import cv2
import numpy as np
import pytest

from densefit_ros import cli
from densefit_ros.body.assets import load_body
from densefit_ros.body.skin import Skinner
from densefit_ros.config import Config
from densefit_ros.displace.contract import GRID
from densefit_ros.errors import AssetError, ConfigError
from densefit_ros.eval import main as eval_main
from densefit_ros.eval import report
from densefit_ros.eval.evidence import EvidenceOptions, noisy_iuv
from densefit_ros.eval.harness import Harness, HarnessOptions, Row
from densefit_ros.eval.sample import SMPL24, VIEW, Score, score
from densefit_ros.eval.store import RowStore
from densefit_ros.eval.synthetic import Synthetic, SyntheticVideo
from densefit_ros.fit.solver import FitOptions, Fitter
from densefit_ros.render.appearance import neutral_appearance
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.types import DisplacementField


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
        chart=None,
        backends={"device": "cpu", "regress": "fake", "render": "warp:cpu"},
    )


@functools.lru_cache(maxsize=2)
def _samples(count=12, seed=0):
    dataset = Synthetic(_models().body, count, seed)
    return dataset, tuple(dataset)


def _cells(*names):
    return [(n, "none") for n in names]


def _rows(names, count=12, first="disturbed:8", priors=("none",)):
    dataset, samples = _samples()
    options = HarnessOptions(tuple(names), priors, first)
    harness = Harness(_models(), dataset, options, EvidenceOptions())
    return [row for s in samples[:count] for row in harness.rows(s, options.cells)]


def test_synthetic_people_are_labelled_exactly_and_the_same_each_time():
    dataset, samples = _samples()
    assert len(samples) == len(dataset) == 12 and len({s.key for s in samples}) == 12
    again = Synthetic(_models().body, 10, 0)[9]  # alone, and of a shorter dataset
    assert again.key == samples[9].key == dataset.keys[9] and np.array_equal(again.image(), samples[9].image())
    assert [s.key for s in samples] == list(dataset.keys)
    with pytest.raises(IndexError):
        dataset[12]
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


def test_every_prior_under_every_evidence():
    rows = _rows(("keypoints", "none"), count=6, priors=("none", "gmm", "vposer", "flow"))
    labels = [(r.evidence, r.prior) for r in rows[:5]]
    assert labels == [("keypoints", p) for p in ("none", "gmm", "vposer", "flow")] + [("none", "none")]
    pve = {
        p: [r.refined.pve_mm for r in rows if (r.evidence, r.prior) == ("keypoints", p)]
        for p in ("none", "gmm", "vposer", "flow")
    }
    first = np.mean([r.first.pve_mm for r in rows])
    for name, values in pve.items():
        assert np.mean(values) < 1.05 * first, name
        assert name == "none" or values != pve["none"]


def test_densepose_files_as_evidence(tmp_path):
    dataset, samples = _samples()
    sample = dataclasses.replace(samples[1], picture="walk/image_00007.jpg")
    harness = Harness(_models(), dataset, HarnessOptions(first="disturbed:8"), EvidenceOptions(densepose=tmp_path))
    with pytest.raises(AssetError, match="image_00007_IUV.png"):
        list(harness.rows(sample, _cells("densepose")))
    maker, truth = harness._maker, _models().skinner.pose(sample.truth.params)
    scene = _models().renderer.render_window(truth.vertices, [neutral_appearance(_models().body)], sample.camera)
    iuv = maker._chart.encode(scene.face_id[0], scene.bary[0])
    (tmp_path / "walk").mkdir()
    cv2.imwrite(str(tmp_path / "walk" / "image_00007_IUV.png"), noisy_iuv(np.random.default_rng(3), iuv))
    (row,) = harness.rows(sample, _cells("densepose"))
    assert row.refined.pve_mm < 0.9 * row.first.pve_mm


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
        list(harness.rows(samples[0], _cells("displacement")))
    with pytest.raises(ConfigError, match="evidence among"):
        list(harness.rows(samples[0], _cells("magic")))
    unknown = dataclasses.replace(samples[0], truth=dataclasses.replace(samples[0].truth, params=None))
    with pytest.raises(ConfigError, match="true parameters"):
        list(harness.rows(unknown, _cells("none")))
    with pytest.raises(ConfigError, match="--prior"):
        Harness(_models(), dataset, HarnessOptions(priors=("wild",)), EvidenceOptions())
    with pytest.raises(AssetError, match="nowhere.npz"):
        Harness(_models(), dataset, HarnessOptions(priors=("gmm=nowhere.npz",)), EvidenceOptions())


def test_openpose_files_as_evidence(tmp_path):
    dataset, samples = _samples()
    sample = dataclasses.replace(samples[0], key="seq/image_00003")
    sources = EvidenceOptions(keypoints=tmp_path)
    harness = Harness(_models(), dataset, HarnessOptions(first="disturbed:8"), sources)
    with pytest.raises(AssetError, match="image_00003_keypoints.json"):
        list(harness.rows(sample, _cells("keypoints")))
    exact = harness._maker._true_keypoints(sample)
    points = np.concatenate([exact.uv[0] - 0.5, exact.confidence[0][:, None]], 1)
    file = {"people": [{"pose_keypoints_2d": points.ravel().tolist()}]}
    (tmp_path / "image_00003_keypoints.json").write_text(json.dumps(file))  # of which sequence?
    with pytest.raises(AssetError, match="no seq/image_00003_keypoints.json"):
        list(harness.rows(sample, _cells("keypoints")))
    (tmp_path / "seq").mkdir()
    (tmp_path / "image_00003_keypoints.json").rename(tmp_path / "seq" / "image_00003_keypoints.json")
    (row,) = harness.rows(sample, _cells("keypoints"))
    (best,) = harness.rows(sample, _cells("gt-joints"))
    assert row.refined.pve_mm == pytest.approx(best.refined.pve_mm, rel=0.02)


# -- reports --------------------------------------------------------------------------------------------------------------


def _row(key, frame, evidence="keypoints", pa=40.0, fps=0.0, points=None, prior="none", sequence="walk"):
    first = Score(80, 60, 90, 200, 8, 0.5, 0.8)
    points = np.zeros((3, 24, 3)) if points is None else points
    return Row(
        key,
        sequence,
        frame,
        fps,
        evidence,
        prior,
        0.9,
        "CONVERGED",
        4.0,
        2.0,
        5.0,
        first,
        Score(60, pa, float("nan"), 150, 5, 0.7, 0.9),
        tuple(points),
    )


def test_a_stopped_run_goes_on(tmp_path):
    settings = {"dataset": "synthetic", "seed": 3}
    store = RowStore(tmp_path, settings)
    store.append(_row("a", 0))
    store.close()
    with open(tmp_path / "samples.csv", "a") as f:
        f.write("b,walk,1,keyp")  # the crash
    again = RowStore(tmp_path, settings)
    assert again.done() == {("a", "keypoints", "none")}
    again.append(_row("b", 1))
    again.close()
    assert RowStore(tmp_path, settings).done() == {("a", "keypoints", "none"), ("b", "keypoints", "none")}
    with pytest.raises(ConfigError, match="other settings \\(seed\\)"):
        RowStore(tmp_path, {**settings, "seed": 4})
    (tmp_path / "samples.csv").write_text("x,y\n1,2\n")
    with pytest.raises(AssetError, match="another version"):
        RowStore(tmp_path, settings)


def test_settings_that_may_grow_do_and_keep_what_they_held(tmp_path):
    def opened(**priors):
        RowStore(tmp_path, {"seed": 3, "priors": priors}, growing=("priors",)).close()

    opened(gmm="a.pkl")
    opened(none="")
    opened(gmm="a.pkl", flow="")
    assert json.loads((tmp_path / "settings.json").read_text())["priors"] == {"gmm": "a.pkl", "none": "", "flow": ""}
    with pytest.raises(ConfigError, match="other settings \\(priors\\)"):
        opened(gmm="b.pkl")


def test_points_written_after_a_crash_are_whole_lines(tmp_path):
    store = RowStore(tmp_path, {})
    store.append(_row("a", 0, fps=30.0))
    store.close()
    path = tmp_path / "points_keypoints_none.jsonl"
    with open(path, "a") as f:
        f.write('{"sequence": "wal')  # the crash
    again = RowStore(tmp_path, {})
    again.append(_row("b", 1, fps=30.0))
    assert [p["frame"] for p in again.points("keypoints", "none")] == [0, 1]
    again.close()


def test_a_row_over_fewer_samples_says_so(tmp_path):
    store = RowStore(tmp_path, {})
    store.append(_row("a", 0))
    store.append(_row("b", 1))
    store.append(_row("a", 0, prior="gmm"))
    summary = report.summarise(store.scores(), lambda evidence, prior: [], None)
    text = report.markdown(summary, "test", SMPL24, "network")
    assert "| keypoints |" in text and "| keypoints + gmm (1 of these samples) |" in text
    store.close()


def test_the_table_says_means_intervals_and_protocol(tmp_path):
    store = RowStore(tmp_path, {})
    for i, pa in enumerate((30.0, 40.0, 50.0)):
        store.append(_row(f"s{i}", i, pa=pa, sequence=f"s{i}"))
        store.append(_row(f"s{i}", i, pa=pa + 5, prior="gmm", sequence=f"s{i}"))
        store.append(_row(f"s{i}", i, evidence="none", pa=60.0, sequence=f"s{i}"))
    summary = report.summarise(store.scores(), lambda evidence, prior: [], None)
    mean, low, high = summary.table["keypoints"]["pa_mpjpe_mm"]
    assert mean == pytest.approx(40) and 30 <= low < 40 < high <= 50 and summary.count == 3
    assert summary.table["first estimate"]["mpjpe_mm"][0] == 80
    assert summary.table["keypoints + gmm"]["pa_mpjpe_mm"][0] == pytest.approx(45)
    assert summary.status["keypoints"] == {"CONVERGED": 1.0} and summary.epe_ratio["keypoints"] == pytest.approx(0.4)
    text = report.markdown(summary, "test", SMPL24, "network")
    assert "24 SMPL joints" in text and "| keypoints |" in text and "40.0 [" in text and "test, 3 samples" in text
    written = report.write(tmp_path, summary, text, store.scores(), {"protocol": SMPL24.description})
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["table"]["keypoints"]["pve_mm"][0] is None  # NaN is no JSON
    assert record["protocol"] == SMPL24.description
    assert all(p.stat().st_size > 0 for p in written)


def test_views_of_one_recording_are_no_further_evidence(tmp_path):
    """Six cameras on the same moments: the interval is that of the recordings."""
    store = RowStore(tmp_path, {})
    for i in range(5):
        for camera in range(6):
            name = f"Gym_{i}{VIEW}{camera}/003"
            store.append(_row(f"{name}/00000", i, pa=30.0 + 5 * i, sequence=name))
            store.append(_row(f"{name}/00000", i, pa=30.0 + 5 * i, prior="gmm", sequence=f"Gym_{i}_{camera}/003"))
    table = report.summarise(store.scores(), lambda evidence, prior: [], None).table
    width = {name: np.ptp(table[name]["pa_mpjpe_mm"][1:]) for name in ("keypoints", "keypoints + gmm")}
    assert width["keypoints"] > 1.8 * width["keypoints + gmm"] > 0
    store.close()


def test_time_metrics_use_consecutive_frames_only(tmp_path):
    store = RowStore(tmp_path, {})
    fps = 30.0
    for frame in (0, 1, 2, 2, 3, 4, 9, 10):  # one run of five, with a row that a crash left twice; one too short
        t = frame / fps
        still, quick = np.zeros((2, 24, 3))
        quick[:, 0] = 1000 * 0.5 * 2.0 * t**2  # 2 m/s^2
        store.append(_row(f"f{frame}", frame, fps=fps, points=np.stack([quick, still, still])))
    with open(tmp_path / "points_keypoints_none.jsonl", "a") as f:
        f.write('{"sequence": "wal')  # the crash
    for frame in range(21, 26):  # of another evidence: first estimates are those of all
        store.append(_row(f"f{frame}", frame, fps=fps, points=np.zeros((3, 24, 3)), evidence="none"))
    summary = report.summarise(store.scores(), store.points, [-1] + [0] * 23)
    assert summary.table["first estimate"]["acceleration_m_s2"][0] == pytest.approx(1.0, rel=0.1)
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

        keys = [s.key for s in samples]

        def __len__(self):
            return len(samples)

        def __getitem__(self, index):
            return samples[index]

    real = eval_main.make_dataset
    monkeypatch.setattr(eval_main, "make_dataset", lambda o, body: Small() if o.name == "synthetic" else real(o, body))
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
    for wrong in (["--evidence", "tarot"], ["--prior", "tarot"], ["--stride", "0"], ["--set", "nonsense"]):
        assert cli.main([*arguments, *wrong]) == cli.EXIT_ERROR
    assert cli.main([*arguments, "--evidence", "gt-joints", "--prior", "none,gmm"]) == 0  # and more priors
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 1 + 9
    table = (tmp_path / "table.md").read_text()
    assert "| gt-joints + gmm |" in table and "Protocol smpl24" in table


def test_displacements_are_measured_against_none_at_all():
    dataset, samples = _samples()
    harness, sample = Harness(_models(), dataset, HarnessOptions(first="disturbed:8"), EvidenceOptions()), samples[0]
    crop, estimate = harness.first_estimate(sample)
    start = np.array(_models().skinner.pose(estimate.params).vertices[0])
    surface = harness._maker._render(sample, start[None], crop)
    nothing = DisplacementField(np.zeros((1, 2, GRID, GRID), np.float32), np.zeros((1, 1, GRID, GRID), np.float32), 4)
    epe, zero = harness._maker._flow_errors(sample, start, surface, nothing, crop)
    assert epe == pytest.approx(zero) and zero > 1.0
    away = dataclasses.replace(nothing, flow=np.full((1, 2, GRID, GRID), 100.0, np.float32))
    far, same = harness._maker._flow_errors(sample, start, surface, away, crop)
    assert same == zero and far == pytest.approx(np.hypot(100, 100), rel=0.2)
    posed = _models().skinner.pose(sample.truth.params).vertices[0].copy()
    assert harness._maker._flow_errors(sample, posed, surface, nothing, crop)[1] == pytest.approx(0, abs=1e-3)


def test_the_numbers_that_scripts_compare(capsys):
    arguments = ["eval", "--dataset", "synthetic", "--frames", "2", "--seed", "7", "--json", "--quiet", "--set", "device=cpu"]
    assert cli.main([*arguments, "--regressor", "network"]) == 0
    record = json.loads(capsys.readouterr().out)
    rows = ("first_estimate", "refined", "keypoints25", "gt_displacement", "gt_joints25")
    assert all(set(record[r]) == {"mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "reproj_px"} for r in rows)
    assert 0 < record["epe_ratio"] < 2 and record["samples"] == 2 and "network" in record["regressor"]
    assert cli.main(["eval", "--dataset", "synthetic"]) == cli.EXIT_ERROR  # without --json the results need a place


def test_synthetic_videos_are_labelled_exactly_and_move():
    video = SyntheticVideo(_models().body, 120, 3)
    assert len(video) == 120 and video.keys[50] == "3/001/00000" and len(set(video.keys)) == 120
    last, first, next_ = video[49], video[50], video[51]
    assert last.sequence != first.sequence == next_.sequence and (first.frame, next_.frame, first.fps) == (0, 1, 30.0)
    assert first.image().shape == (480, 640, 3) and not np.array_equal(first.image(), next_.image())
    assert np.array_equal(SyntheticVideo(_models().body, 51, 3)[50].image(), first.image())  # alone, and as often as asked
    step_mm = 1e3 * np.linalg.norm(next_.truth.points_m - first.truth.points_m, axis=1)
    assert 0 < step_mm.max() < 500
    posed = _models().skinner.pose(first.truth.params)
    perfect = score(SMPL24, first, posed.vertices[0], posed.joints[0])
    assert dataclasses.astuple(perfect) == pytest.approx((0, 0, 0, 0, 0, 1, 1), abs=0.02)
    with pytest.raises(IndexError):
        video[120]


@pytest.mark.slow
def test_several_processes_find_the_same_as_one(tmp_path, capsys):
    arguments = ["eval", "--dataset", "synthetic", "--count", "10", "--first", "disturbed:6", "--quiet",
                 "--evidence", "gt-joints,none", "--set", "regress.backend=network", "--set", "device=cpu"]  # fmt: skip
    for workers in ("1", "2"):
        assert cli.main([*arguments, "--out", str(tmp_path / workers), "--workers", workers]) == 0
    one, two = (sorted(_csv(tmp_path / w), key=lambda r: (r["key"], r["evidence"])) for w in ("1", "2"))
    assert len(one) == 20
    for a, b in zip(one, two):
        assert {k: v for k, v in a.items() if k != "ms"} == {k: v for k, v in b.items() if k != "ms"}


def _csv(folder):
    return list(csv.DictReader((folder / "samples.csv").read_text().splitlines()))
