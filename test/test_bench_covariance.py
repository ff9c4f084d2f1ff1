"""``densefit bench covariance``: the scores of errors with known covariances, and one short run of the tracker."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from densefit_ros.bench import track_covariance
from densefit_ros.errors import ConfigError, DensefitError


def _drawn(scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 24, 3, 3)) * 0.03
    covariance = a @ a.swapaxes(-1, -2) + 1e-4 * np.eye(3)
    error = np.einsum("nkab,nkb->nka", np.linalg.cholesky(covariance), rng.normal(size=(400, 24, 3)))
    return scale * error, covariance


def test_right_covariances_score_as_right_and_boasting_ones_do_not():
    right, boasting = (track_covariance.score(*_drawn(scale)) for scale in (1.0, 3.0))
    for p in track_covariance.PROBABILITIES:
        assert right["inside"][f"{p:g}"] == pytest.approx(p, abs=0.02) and boasting["inside"][f"{p:g}"] < p - 0.2
    assert right["median_over_expected"] == pytest.approx(1.0, abs=0.05)
    assert boasting["median_over_expected"] == pytest.approx(9.0, rel=0.05)
    np.testing.assert_allclose(right["stated_mm"], right["measured_mm"], rtol=0.05)
    np.testing.assert_allclose(boasting["measured_mm"], 3 * np.array(right["measured_mm"]), rtol=1e-9)


def test_a_run_measures_people_in_sight_and_unseen(tmp_path, capsys):
    arguments = ["--sequences", "1", "--seed", "3", "--set", "regress.backend=network", "--out", str(tmp_path / "o")]
    assert track_covariance.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "o" / "covariance.json").read_text())
    rows = result["rows"]
    assert set(rows) == {"tracked", "unseen for 100 ms", "unseen for 200 ms", "unseen for 400 ms"}
    stated = [np.mean(rows[name]["stated_mm"]) for name in rows]
    assert stated == sorted(stated) and stated[0] > 5  # who is not seen becomes less certain
    assert (tmp_path / "o" / "covariance.png").stat().st_size > 5000


def test_without_matplotlib_there_are_numbers_and_no_picture(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert track_covariance.plot({"a": (np.ones((4, 24, 3)), np.tile(np.eye(3), (4, 24, 1, 1)))}, tmp_path / "p.png") is None
    assert "matplotlib is not installed" in caplog.text and not list(tmp_path.iterdir())


def test_what_cannot_be_measured_is_told(monkeypatch):
    for arguments, word in ((["--set", "regress.backend"], "NAME=VALUE"), (["--sequences", "0"], "1 or more, got 0")):
        with pytest.raises(ConfigError, match=word):
            track_covariance.main(arguments)
    nothing = SimpleNamespace(image=lambda: np.zeros((4, 4, 3), np.uint8), camera=None, box_xywh=np.zeros(4))
    monkeypatch.setattr(track_covariance, "SyntheticVideo", lambda body, count, seed: [nothing] * count)
    monkeypatch.setattr(track_covariance, "process", lambda models, state, frame, boxes: (state, SimpleNamespace(people=())))
    with pytest.raises(DensefitError, match="nobody was tracked in 2 sequences"):
        track_covariance.measure(SimpleNamespace(body=None), 2, 0)
