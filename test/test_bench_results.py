"""``make results``: runs, records and the text between the markers."""

from __future__ import annotations

import json
import sys

import pytest

from densefit_ros.bench import results, results_text
from densefit_ros.errors import AssetError
from densefit_ros.eval import provenance

EVAL = {
    "first_estimate": "network", "protocol": "24 joints", "samples": 40,
    "table": {"first estimate": {"mpjpe_mm": [80.0, 70.0, 90.0]}, "keypoints + gmm": {"mpjpe_mm": [60.0, 55.0, 65.04]}},
    "status": {"keypoints + gmm": {"CONVERGED": 1.0}}, "refine_ms_median": {"keypoints + gmm": 2.5},
}  # fmt: skip


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "results").mkdir(parents=True)
    (folder / "RESULTS.md").write_text(f"before\n{provenance.BEGIN}\nold\n{provenance.END}\nafter\n")
    (folder / "results" / "runs.yaml").write_text(
        "- name: people\n  kind: eval\n  title: People\n  about: Held out.\n  result: summary.json\n  plot: p.png\n"
        '  command: [eval, --count, 40, --out, "{out}"]\n'
        "- {name: other, kind: values, title: Other, about: x, command: [other], result: r.json}\n"
    )
    return folder


@pytest.fixture
def ran(monkeypatch):
    """In place of the command line: notes what was asked, and leaves a result."""
    calls = []

    def fake(command, cwd):
        assert command[:3] == [sys.executable, "-m", "densefit_ros.cli"]
        calls.append(command[3:])
        if "--out" in command:
            folder = results.Path(command[command.index("--out") + 1])
            (folder / "summary.json").write_text(json.dumps(EVAL))
            (folder / "p.png").write_bytes(b"png")
        return results.subprocess.CompletedProcess(command, 0 if "--out" in command else 3)

    monkeypatch.setattr(results.subprocess, "run", fake)
    monkeypatch.setattr(results, "commit", lambda: "abc")
    monkeypatch.setattr(results.hardware, "describe", lambda: "two cores")
    return calls


def _main(docs, *arguments):
    return results.main(["--docs", str(docs), "--work", str(docs / "work"), "--only", "people", *arguments])


def test_a_run_leaves_a_record_and_the_text_is_written_from_it(docs, ran):
    assert _main(docs) == 0
    record = json.loads((docs / "results" / "people.json").read_text())
    assert record["command"] == ["eval", "--count", "40", "--out", "{out}"] and record["result"] == EVAL
    text = (docs / "RESULTS.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| keypoints + gmm | 60.0 [55.0, 65.0] |" in text and "40 samples; first estimate: network; 24 joints" in text
    assert "![People](images/results_people.png)" in text and "commit abc" in text and "two cores" in text
    assert "Not measured yet" in text  # the other one
    assert (docs / "images" / "results_people.png").read_bytes() == b"png"


def test_good_records_are_kept_and_others_are_not(docs, ran, monkeypatch):
    _main(docs)
    _main(docs)
    assert len(ran) == 1  # nothing has changed
    _main(docs, "--again", "people")
    assert len(ran) == 2
    monkeypatch.setattr(results, "weights_id", lambda: "other")
    _main(docs)
    assert len(ran) == 3
    _main(docs, "--no-run")
    assert len(ran) == 3


def test_a_trial_leaves_records_and_text_alone(docs, ran):
    _main(docs)
    before = {p: p.read_bytes() for p in docs.rglob("*") if p.is_file()}
    _main(docs, "--limit", "5")
    assert len(ran) == 2 and ran[-1][-2:] == ["--limit", "5"]
    assert len({c[c.index("--out") + 1] for c in ran}) == 2  # a trial's samples do not mix with the whole run's
    assert all(p.read_bytes() == data for p, data in before.items())
    record = json.loads((docs / "work" / "trial" / "results" / "people.json").read_text())
    assert record["command"][-2:] == ["--limit", "5"]
    _main(docs)
    assert len(ran) == 2


def test_a_run_before_photographs_that_are_not_here_is_left_out(docs, ran, tmp_path, caplog):
    for folder, runs in (("nowhere", 0), (str(tmp_path), 1)):
        (docs / "results" / "runs.yaml").write_text(
            "- {name: people, kind: eval, title: People, about: a, result: summary.json, "
            f'command: [eval, --backgrounds, {folder}, --out, "{{out}}"]}}'
        )
        _main(docs)
        assert len(ran) == runs
    assert "people: left out, there is no folder nowhere" in caplog.text


def test_what_goes_wrong_is_said(docs, ran):
    with pytest.raises(AssetError, match="other: densefit other ended with 3"):
        results.main(["--docs", str(docs), "--work", str(docs / "work"), "--only", "other"])
    with pytest.raises(AssetError, match="'nobody'"):
        results.main(["--docs", str(docs), "--only", "nobody"])
    (docs / "results" / "people.json").write_text("{}")
    with pytest.raises(AssetError, match="people.json"):
        _main(docs)
    for text, word in (("- 3", "list of runs"), ("- {name: a, kind: art, title: a, about: a, command: [a], result: a}", "'art'")):
        (docs / "results" / "runs.yaml").write_text(text)
        with pytest.raises(AssetError, match=word):
            _main(docs)
    with pytest.raises(AssetError, match="markers|lines to write between"):
        provenance.insert("nothing", "x")


def test_the_committed_text_is_that_of_the_committed_records():
    docs = results.ROOT / "docs"
    runs = results.read_runs(docs / "results" / "runs.yaml")
    text = (docs / "RESULTS.md").read_text()
    assert text == provenance.insert(text, results.text_of(runs, docs)), "run: make results RESULTS_ARGS=--no-run"
    assert {r.kind for r in runs} <= set(results_text.KINDS)


def test_any_record_of_numbers_can_be_shown():
    text = results_text.values_text({"a": {"b": 0.12345, "c": "x"}, "n": 3, "list": [1]})
    assert "| a, b | 0.1235 |" in text and "| a, c | x |" in text and "| n | 3 |" in text


def test_conditions_and_covariances_are_shown_row_by_row():
    row = {"people": 8.0, "epe_px": 1.234, "epe_ratio": 0.5, "pve_mm": 40.0, "start_pve_mm": 60.0}
    row |= {"loss_mm": 2.0, "loss_mm_low": -1.0, "loss_mm_high": 5.0, "loss_px": 0.1, "loss_px_low": 0.05, "loss_px_high": 0.2}
    sweeps = {"reference": {"as it is": row}, "side_light": {"0.25": row}}
    text = results_text.inputs_text({"ablation": {"without depth": row}, "sweeps": sweeps})
    assert text.startswith("8 labelled people.")
    for name in ("without depth", "as it is", "side light 0.25"):
        assert f"| {name} | 1.23 | 0.50 | +0.100 [+0.050, +0.200] | 40.0 from 60.0 | +2.0 [-1.0, +5.0] |" in text
    case = {"people_frames": 9, "inside": {"0.5": 0.49, "0.95": 0.9}, "median_over_expected": 1.04}
    case |= {"stated_mm": [10.0, 20.0, 30.0], "measured_mm": [11.0, 22.0, 33.0]}
    text = results_text.covariance_text({"sequences": 3, "first_estimate": "network", "rows": {"tracked": case}})
    assert "inside 50 % | inside 95 %" in text and "| tracked | 9 | 49 % | 90 % | 1.04 | 10, 20, 30 | 11, 22, 33 |" in text
