"""The GPU's record: its schema and writer, with rows that the CPU makes, and the refusal without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from densefit_ros.bench import gpu_check, gpu_rows
from densefit_ros.body.assets import load_body
from densefit_ros.errors import AssetError

pytest.importorskip("torch")
pytest.importorskip("smplx")
FEW = gpu_rows.Amounts(repeats=2, warm_up=1, fit_persons=(1, 2), frame_persons=(1,), points=60, adam=(2, 3))
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def record():
    return gpu_check.measure("cpu", FEW, lambda message: None, frames=2)


def test_a_record_has_what_was_promised(record, tmp_path):
    out = tmp_path / "cuda-x.json"
    gpu_check.write(record, out)
    again = json.loads(out.read_text())
    gpu_check.check(again)
    assert {"hardware", "commit", "parity", "rows"} <= set(again) and [p.name for p in tmp_path.iterdir()] == [out.name]
    rows = {(r["method"], r["persons"]): r for r in again["rows"]}
    for persons in (1, 2):
        lm, adam = rows["lm", persons], rows["smplify_adam", persons]
        assert lm["iterations"] == 5 and lm["points"] == 60 and adam["iterations"] == 5
        assert adam["slower_than_lm"] > 1 and lm["objective"] < adam["objective"]
        assert rows["lm_steps", persons]["ms_median"] > 0  # two calls on a busy CPU say nothing more
    frame = rows["frame", 1]
    assert frame["people"] == 1 and frame["ms_median"] <= frame["ms_p99"] and frame["at_once"] > 0.5
    assert ("frame_learning", 1) in rows and ("render_warp", 1) in rows
    assert again["parity"]["render_warp_pixels"] == 0 and again["parity"]["fit_mm"] < 0.1  # the CPU against itself
    assert again["parity"]["frame_mm"] < 25 and again["steady_state"]["frames"] == 2  # auto, here perhaps bfloat16, and float32


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda r: r.pop("commit"), "commit"),
        (lambda r: r["rows"][0].pop("pve_mm"), "pve_mm"),
        (lambda r: r["rows"].__setitem__(slice(None), [x for x in r["rows"] if x["method"] != "frame"]), "frame"),
        (lambda r: [x.pop("ms_p99") for x in r["rows"] if x["method"] == "frame"], "ms_p99"),
    ],
)
def test_a_damaged_record_is_named(record, damage, word, tmp_path):
    broken = json.loads(json.dumps(record))
    damage(broken)
    with pytest.raises(AssetError, match=word):
        gpu_check.write(broken, tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


def test_committed_records_are_whole():
    for path in gpu_check.BASELINES.glob("cuda-*.json"):
        result = json.loads(path.read_text())
        gpu_check.check(result)
        assert all(r["n"] >= 200 for r in result["rows"] if r["method"] != "smplify_adam"), path.name


def test_without_a_gpu_there_is_one_line_and_a_failure():
    from densefit_ros.render.factory import warp_sees_cuda

    if warp_sees_cuda():
        pytest.skip("this machine has a GPU")
    for module in (["-m", "densefit_ros.bench.gpu_check", "--require"], ["densefit_ros/runtime/cuda_probe.py"]):
        done = subprocess.run([sys.executable, *module], capture_output=True, text=True, timeout=120, cwd=ROOT)
        lines = [line for line in done.stderr.splitlines() if "Warp CUDA warning" not in line]
        assert done.returncode == 1 and len(lines) == 1 and "CUDA" in lines[0], done.stderr


def test_names_and_verdicts():
    assert gpu_check.file_name("NVIDIA H200 (SXM)") == "cuda-nvidia-h200-sxm.json"
    rows = [{"method": "lm", "persons": 1, "ms_median": 0.5}, {"method": "frame", "persons": 8, "ms_median": 9.0}]
    lines = gpu_check.verdict({"rows": rows})
    assert len(lines) == 2 and lines[0].endswith(": held") and lines[1].endswith("NOT held")


def test_a_crowd_stands_side_by_side():
    images, camera, boxes = gpu_rows.crowd(load_body(), 8, 1)
    assert images[0].shape == (480, 1280, 3) == (camera.height, camera.width, 3) and len(boxes) == 8
    assert (images[0][:240, :320] == images[0][240:, 960:]).all()
    assert (boxes[:, 0] >= -30).all() and (boxes[:, 0] + boxes[:, 2] <= 1310).all()
