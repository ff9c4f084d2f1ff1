"""The fit's benchmark: equal objectives, the JSON it prints, and the baselines' own sanity."""

from __future__ import annotations

import json

import numpy as np
import pytest

from densefit_ros.bench import fit_bench, fit_problems
from densefit_ros.bench.main import main as bench_main
from densefit_ros.body.assets import load_body
from densefit_ros.errors import ConfigError
from densefit_ros.fit.baselines import TorchObjective, smplify_adam, smplify_lbfgs
from densefit_ros.fit.solver import Fitter

torch = pytest.importorskip("torch")
pytest.importorskip("smplx")


def test_baselines_minimise_the_solvers_own_objective():
    body = load_body()
    p = fit_problems.problem(body, 2, 60, seed=3)
    fitter = Fitter(body, max_persons=2, max_points=60, options=fit_bench.OPTIONS)
    result = fitter.solve(p.start, p.camera, p.matches, anchors=[p.anchor])
    for params, cost in ((p.start, result.cost[:, 0]), (result.params, result.cost[:, -1])):
        objective = TorchObjective(body, params, p.camera, p.matches, [p.anchor], fit_bench.OPTIONS)
        with torch.no_grad():
            np.testing.assert_allclose(objective.cost().numpy(), cost, rtol=1e-3)


def test_baselines_descend_and_never_beat_what_they_report():
    body = load_body()
    p = fit_problems.problem(body, 1, 60, seed=4)
    for run in (lambda o: smplify_adam(o, (5, 15)), lambda o: smplify_lbfgs(o, outer=1)):
        objective = TorchObjective(body, p.start, p.camera, p.matches, [p.anchor], fit_bench.OPTIONS)
        trace = run(objective)
        assert trace.objective[-1] < 0.7 * trace.objective[0]
        assert (np.diff(trace.seconds) > 0).all()
        again = TorchObjective(body, trace.params, p.camera, p.matches, [p.anchor], fit_bench.OPTIONS)
        assert float(again.cost().sum().detach()) == pytest.approx(trace.objective[-1], rel=1e-4)
        assert trace.seconds_to(trace.objective[-1]) <= trace.seconds[-1]
        assert trace.seconds_to(-1.0) == float("inf")


def test_command_prints_the_promised_json(capsys, tmp_path):
    out = tmp_path / "r.json"
    arguments = ["fit", "--json", "--points", "60", "--persons", "1,2", "--repeats", "2", "--problems", "1", "--no-baselines"]
    assert bench_main([*arguments, "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(out.read_text())
    assert {"hardware", "commit", "rows"} <= set(result) and len(result["rows"]) == 2
    for row in result["rows"]:
        assert {"method", "points", "persons", "iterations", "ms_median", "ms_iqr", "objective", "pve_mm"} <= set(row)
        assert row["method"] == "lm" and row["objective"] < row["objective_start"] and row["pve_mm"] < row["pve_start_mm"]
    assert "| lm | 60 | 2 |" in fit_bench.table(result)


def test_an_unknown_measurement_is_told_with_those_that_exist():
    with pytest.raises(ConfigError, match="'weather'.*fit, tracked, covariance"):
        bench_main(["weather"])


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    measured = []

    def run_one(body, points, persons, settings):
        measured.append((points, persons))
        return [{"method": "lm", "points": points, "persons": persons, "ms_median": 1.0, "ms_iqr": 0.0, "iterations": 4,
                 "objective": 1.0, "pve_mm": 1.0}]  # fmt: skip

    monkeypatch.setattr(fit_bench, "run_one", run_one)
    arguments = ["--out", str(out), "--repeats", "2"]
    fit_bench.main([*arguments, "--points", "300", "--persons", "4"])
    fit_bench.main([*arguments, "--points", "all,300", "--persons", "1,4", "--resume"])
    assert measured == [("300", 4), ("all", 1), ("all", 4), ("300", 1)]
    rows = json.loads(out.read_text())["rows"]
    assert [(r["points"], r["persons"]) for r in rows] == [("300", 1), ("300", 4), ("all", 1), ("all", 4)]
    with pytest.raises(ConfigError, match="repeats"):
        fit_bench.main(["--out", str(out), "--repeats", "3", "--resume"])


def test_committed_results_hold_the_promises():
    """What docs/FIT.md quotes: the whole grid, 2 ms a call, batches that pay, 300 times faster than SMPLify-Adam."""
    from pathlib import Path

    folder = Path(fit_bench.__file__).parent / "baselines"
    results = [json.loads(f.read_text()) for f in sorted(folder.glob("fit_cpu_*.json"))]
    assert results
    for result in results:
        rows = {(r["method"], r["points"], r["persons"]): r for r in result["rows"]}
        methods = ("lm", "smplify_adam", "smplify_lbfgs")
        assert set(rows) == {(m, n, p) for m in methods for n in fit_bench.POINTS for p in fit_bench.PERSONS}
        assert rows["lm", "600", 1]["ms_median"] <= 2.0
        for points in fit_bench.POINTS:
            for persons in fit_bench.PERSONS:
                lm, adam = rows["lm", points, persons], rows["smplify_adam", points, persons]
                assert lm["objective"] <= adam["objective"] and lm["pve_mm"] <= adam["pve_mm"] and lm["kept_start"] == 0
                if points != "all":
                    assert adam["ratio_at_least"] >= 300
                    assert persons == 1 or lm["ms_median"] < persons * rows["lm", points, 1]["ms_median"]
