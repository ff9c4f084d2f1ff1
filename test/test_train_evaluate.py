"""The command that measures: which parts run, and what is kept of an earlier run."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from densefit_ros.displace.displacer import Displacer
from densefit_ros.runtime.onnxruntime_backend import OnnxRuntime
from densefit_ros.train import ablation, commands, evaluate, sweeps, together
from densefit_ros.types import BodyParams
from densefit_ros.weights import weights_path

CURVE = {"stated": [1.0, 2.0], "measured": [1.1, 2.3], "count": [5.0, 5.0]}


@pytest.fixture
def fakes(monkeypatch):
    calls = []

    def regressor(path, people, backgrounds=None, curves=None):
        calls.append("regressor")
        curves |= {"rotation": {"all joints": CURVE}, "confidence": {"all crops": {**CURVE, "stated": [0.1, 0.9]}}}
        return {"pve_mm": 100.0 + people}

    def displacement(path, people, degrees, backgrounds=None, curves=None, live=False):
        calls.append(("live", degrees) if live else degrees)
        curves[f"{degrees}{' live' if live else ''}"] = CURVE
        return {"epe_px": 1.23456789}

    monkeypatch.setattr(evaluate, "evaluate_regressor", regressor)
    monkeypatch.setattr(evaluate, "evaluate_displacement", displacement)
    monkeypatch.setattr(
        ablation, "evaluate_ablation", lambda *a, **k: calls.append("ablation") or {"all inputs": {"epe_px": 1.0}}
    )
    row = {"pve_mm": 50.0, "start_pve_mm": 60.0, "loss_mm_low": -1.0, "loss_mm_high": 1.0}
    reference = {sweeps.BASE: row, sweeps.GREY: row}
    swept = {"reference": reference, **{name: {f"{v:g}": row for v in s.levels} for name, s in sweeps.SWEEPS.items()}}
    monkeypatch.setattr(sweeps, "evaluate_sweeps", lambda *a, **k: calls.append("sweeps") or swept)
    monkeypatch.setattr(together, "evaluate_together", lambda *a, **k: calls.append("together") or {"network": {"x": 2.0}})
    return calls


def test_all_parts_run_and_are_drawn(tmp_path, fakes, capsys):
    out = tmp_path / "new" / "evaluation.json"
    assert commands.evaluate(["--people", "7", "--json", str(out), "--plots", str(tmp_path / "plots")]) == 0
    live = [("live", degrees) for degrees in (None, 4.0, 10.0)]
    assert fakes == ["regressor", None, 4.0, 10.0, *live, "ablation", "sweeps", "together"]
    result = json.loads(out.read_text())
    assert result["seed"] == evaluate.SEED and result["regressor"]["pve_mm"] == 107.0
    assert result["displacement_4_deg"] == result["displacement_10_deg, live textures"] == {"epe_px": 1.2346}
    assert set(result["reliability"]["displacement"]) == {f"{d}{live}" for d in ("None", "4.0", "10.0") for live in ("", " live")}
    assert (tmp_path / "plots" / "reliability.png").stat().st_size > 5000
    assert (tmp_path / "plots" / "sweeps.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    assert "reliability.png" in printed and "sweeps.png" in printed


def test_a_single_part_leaves_the_others_as_they_were(tmp_path, fakes):
    out = tmp_path / "evaluation.json"
    assert commands.evaluate(["--json", str(out)]) == 0
    before = json.loads(out.read_text())
    del fakes[:]
    assert commands.evaluate(["--json", str(out), "--only", "regressor", "--people", "1"]) == 0
    after = json.loads(out.read_text())
    assert fakes == ["regressor"] and after["regressor"]["pve_mm"] == 101.0
    assert after["reliability"]["displacement"] == before["reliability"]["displacement"]
    assert {k: v for k, v in after.items() if k != "regressor"} == {k: v for k, v in before.items() if k != "regressor"}


def test_the_shipped_networks_are_measured_on_real_pictures_of_people(monkeypatch):
    """One batch of each through the functions that the command calls: orders of magnitude, whatever weights ship."""
    regressor, displacement = weights_path("regressor.onnx"), weights_path("displacement.onnx")
    curves, blind, errors = {}, [], evaluate.parameter_errors

    def beside_a_blind_one(body, crops, params, *more):
        """Which says of every crop that somebody stands there, arms hanging, and faces the camera."""
        guess = dataclasses.replace(BodyParams.rest(len(crops)), t_camera_root=params.t_camera_root)
        guess.root_rotvec[:, 0] = np.pi
        guess.joint_rotvec[:, 15, 2], guess.joint_rotvec[:, 16, 2] = -1.1, 1.1
        blind.append(errors(body, crops, guess, *more)["pve_mm"][crops.labelled])
        return errors(body, crops, params, *more)

    monkeypatch.setattr(evaluate, "parameter_errors", beside_a_blind_one)
    first = evaluate.evaluate_regressor(regressor, 1, curves=curves)
    assert first["people"] >= 8 and 20 < first["pve_mm"] < 400 and set(curves) == {"rotation", "confidence"}
    assert first["pve_mm"] < 0.6 * np.concatenate(blind).mean()
    displacer = Displacer(OnnxRuntime(displacement), OnnxRuntime(regressor))
    moved = evaluate.evaluate_displacement(displacer, 1, 8.0, curves={})
    assert 0.1 < moved["epe_ratio"] < 0.6
    worn = evaluate.evaluate_displacement(displacer, 1, 8.0, curves={}, live=True)
    assert worn["zero_px"] == moved["zero_px"] and worn["epe_px"] != moved["epe_px"]
