"""``densefit bench tracked``: the same videos in every case, and what the floor and the displacements are worth on one."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from densefit_ros.bench import results_text, tracked
from densefit_ros.body.assets import load_body
from densefit_ros.errors import ConfigError, DensefitError

NETWORK = ("--set", "regress.backend=network")


def test_a_short_run_of_the_tracker(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tracked, "VIDEO_FRAMES", 6)
    cases = ("tracker", "without displacements", "floor known")
    # A small woman, whom the shape prior puts too far away: test_evidence_ground.py.
    arguments = ["--sequences", "2", "--seeds", "72", "--cases", *cases, *NETWORK, "--out", str(tmp_path / "o")]
    monkeypatch.setattr(tracked, "SyntheticVideo", lambda body, count, seed, backgrounds, near: second_video(body))
    assert tracked.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "o" / "tracked.json").read_text())
    assert list(result["rows"]) == list(cases) and result["videos"] == result["of"] == 2
    plain, blind, floor = result["rows"].values()
    assert plain["answered"][0] == 1
    assert plain["refined_reproj_px"][0] < blind["refined_reproj_px"][0] and plain["first_pve_mm"] != blind["first_pve_mm"]
    assert floor["refined_absolute_mpjpe_mm"][0] < 0.6 * plain["refined_absolute_mpjpe_mm"][0]
    text = results_text.tracked_text(result)
    assert text.count("\n") == 6 and "| floor known |" in text and f"{plain['refined_pve_mm'][0]:.1f} [" in text


def second_video(body):
    from densefit_ros.eval.synthetic import VIDEO_FRAMES, SyntheticVideo

    videos = SyntheticVideo(body, 2 * VIDEO_FRAMES, 72)
    return [videos[VIDEO_FRAMES + i] for i in range(12)]


def test_a_wrong_floor_is_tilted_about_the_camera():
    ground = np.array([0.0, -1.0, 0.0, 1.2])
    ahead = np.array([0, 1.2, 5.0])
    tilted = tracked._tilted(ground, 1.0)
    assert tilted[3] == 1.2 and np.linalg.norm(tilted[:3]) == pytest.approx(1)
    assert abs(tilted[:3] @ ahead + tilted[3]) == pytest.approx(5 * np.sin(np.radians(1)), rel=1e-2)


def test_what_cannot_be_measured_is_said(monkeypatch):
    for arguments in (["--sequences", "0"], ["--cases", "weather"]):
        with pytest.raises(ConfigError, match="cases of tracker"):
            tracked.main(arguments)
    monkeypatch.setattr(tracked, "process", lambda models, state, frame, boxes: (state, SimpleNamespace(people=())))
    monkeypatch.setattr(tracked, "VIDEO_FRAMES", 2)
    with pytest.raises(DensefitError, match="nobody was answered"):
        tracked.main(["--sequences", "1", "--seeds", "3", "--cases", "tracker", *NETWORK])


def test_joints_out_of_the_picture_do_not_count_among_those_in_it():
    from densefit_ros.eval.synthetic import SyntheticVideo

    sample = SyntheticVideo(load_body(), 50, 77, near=True)[30]
    truth = sample.truth
    seen = tracked.project(sample.camera, truth.points_m)
    outside = ((seen < 0) | (seen > (sample.camera.width, sample.camera.height))).any(1)
    assert 0 < outside.sum() < 24
    moved = truth.points_m + 0.3 * outside[:, None]
    scores = tracked._scores(sample, truth.vertices_m, moved)
    assert scores["seen_mpjpe_mm"] < 0.01 and scores["seen_px"] < 0.01 and scores["mpjpe_mm"] > 100
    gone = dataclasses.replace(sample, camera=dataclasses.replace(sample.camera, cx=-1e5))
    assert np.isfinite(list(tracked._scores(gone, truth.vertices_m, moved).values())).all()
