"""The model card's measured part: written from records, between its markers, and nothing else touched."""

from __future__ import annotations

import json

import pytest

from densefit_ros.errors import AssetError
from densefit_ros.eval.provenance import BEGIN, END, insert
from densefit_ros.train.card import card


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "regressor1"
    folder.mkdir()
    config = {
        "task": "regressor",
        "processes": 2,
        "seed": 3,
        "minutes": 14.0,
        "batch": 8,
        "optimizer": "muon",
        "lr": 0.001,
        "init": "",
        "data": {"size": 128, "easy": True},
    }
    (folder / "provenance.json").write_text(json.dumps({"commit": "a" * 40 + "+", "config": config}))
    (folder / "log.csv").write_text("step,minutes\n20,1.0\n400,9.06\n")
    (folder / "validation.csv").write_text("step,minutes\n210,5.0\n405,9.12\n")  # the last steps are not logged
    return folder


def evaluation():
    shared = dict.fromkeys(("small", "medium", "large", "sure"), 1.0)
    displacement = {f"{a}_{k}_px": v for a in ("epe", "zero") for k, v in shared.items()}
    displacement |= {"epe_px": 2.0, "zero_px": 5.0, "epe_ratio": 0.4, "z2": 1.1}
    displacement |= {f"{a}_{k}": 12.34 for a in ("start", "refined", "true_flow") for k in ("pve_mm", "reproj_px")}
    names = "mpjpe_mm pve_mm angle_deg root_deg placed_px pck10 depth_relative rot_z2 confidence_right people".split()
    curve = {"stated": [1.0, 2.0], "measured": [2.0, 4.0], "count": [5.0, 5.0]}
    ablation = dict.fromkeys(("epe_px", "zero_px", "epe_ratio", "epe_sure_px", "pve_mm", "start_pve_mm"), 3.0)
    ablation |= {f"{name}{end}": 0.5 for name in ("loss_px", "loss_mm") for end in ("", "_low", "_high")}
    excess = {"excess_mm": -1.0, "excess_low_mm": -2.0, "excess_high_mm": 0.5}
    return {
        "seed": 5,
        "regressor": dict.fromkeys(names, 1.0),
        "displacement_10_deg": displacement,
        "reliability": {"rotation": {"all joints": curve}},
        "ablation": {"all inputs": ablation, "without depth": ablation},
        "together": {"network": {f"{w}_pve_mm": 40.0 for w in ("start", "keypoints", "displacements", "both")} | excess},
    }


def test_runs_and_numbers_become_tables(run):
    text = card([run], evaluation())
    assert "| regressor1 | 3 | `aaaaaaaaaa+` | 128 | 1 | 9.1 | 405 | 6,480 |" in text
    assert (
        "densefit train regressor --out" in text
        and "--optimizer muon" in text
        and "--processes 2" in text
        and "--init" not in text
        and '"size": 128' in text
    )
    assert "| 10 deg a joint | 2.00 / 5.00 | 0.40 |" in text and "12.3 -> 12.3" in text
    assert (
        "| rotation | all joints | factor 2.00 |" in text
        and "| without depth | 3.00 | 3.000 | 3.00 | 3.0 | +0.50 (+0.50 to +0.50) |" in text
    )
    assert "| network | 40.0 | 40.0 | 40.0 | 40.0 | -1.0 (-2.0 to +0.5) |" in text


def test_more_runs_join_those_of_the_card(run, tmp_path):
    first = f"head\n{BEGIN}\n{card([run], evaluation())}{END}\ntail"
    again = tmp_path / "shipped"
    again.mkdir()
    (again / "provenance.json").write_text(
        json.dumps({"commit": "c" * 40, "restored": ["a.onnx"], "batches": 9, "data": {"easy": 1}})
    )
    second = tmp_path / "second"
    run.rename(second)
    text = card([again, second], evaluation(), first)
    assert "| regressor1 | 3 |" in text and "| second | 3 |" in text and "\n12,960 pictures in all" in text
    commands = [line for line in text.splitlines() if line.startswith("densefit train ")]
    assert len(commands) == 3 and commands[1] == f"densefit train restore --out {again} --batches 9 --data '{{\"easy\": 1}}'"


def test_an_average_is_a_command_and_adds_no_pictures(run, tmp_path):
    mean = tmp_path / "mean"
    mean.mkdir()
    (mean / "provenance.json").write_text(json.dumps({"commit": "b" * 40, "average": {"runs/a": 0.3, "runs/b": 0.7}}))
    text = card([run, mean], evaluation())
    assert f"densefit train average runs/a=0.3 runs/b=0.7 --out {mean}\n" in text
    assert "\n6,480 pictures in all" in text and "| mean |" not in text


def test_only_the_measured_part_is_replaced():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    new = insert(text, "fresh\n")
    assert new == f"before\n{BEGIN}\nfresh\n{END}\nafter\n" and insert(new, "fresh\n") == new
    with pytest.raises(AssetError, match="measured"):
        insert("no markers", "fresh")


def test_a_directory_without_records_is_named(tmp_path):
    with pytest.raises(AssetError, match="nothing"):
        card([tmp_path / "nothing"], evaluation())
