"""``densefit bench fit``: our solver and two first-order baselines on the same problems, same start, same objective.

Every method minimises the identical function (checked at the start of each problem), in one process, on one thread.
Times are of whole calls: for the solver including validation, staging, the guard and the covariance.  ``ms_to_objective``
is the time until the objective is within one percent of where the solver's four iterations ended; a baseline that never
gets there reports null, and ``ratio_at_least`` compares with all the time that it had.  A baseline runs once per problem,
the solver ``repeats`` times.

The whole grid takes minutes: ``--out FILE --resume`` goes on where an earlier run of the same settings stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from ..body.assets import load_body
from ..body.model import BodyModel
from ..errors import BackendUnavailable, ConfigError
from ..eval.provenance import commit
from ..fit.options import FitOptions
from ..fit.solver import Fitter
from ..models import resolve_device
from ..types import FitStatus
from . import fit_problems
from .hardware import describe

POINTS = ("300", "600", "1000", "all")
PERSONS = (1, 4, 8)
LM_ITERATIONS = 4
SAME = 1.01  # of the solver's objective: "the same"
# Joint limits and a moving robust scale are switched off, so that the objective is one fixed smooth function.
OPTIONS = FitOptions(robust_scale=20.0, robust_start=20.0, limit_sigma_rad=float("inf"))
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


@dataclass(frozen=True)
class Settings:
    """What to run."""

    points: tuple[str, ...] = POINTS
    persons: tuple[int, ...] = PERSONS
    repeats: int = 30
    problems: int = 3  # at least that many persons are fitted per size, in as few problems as they fill
    baselines: bool = True
    adam_iterations: tuple[int, int] = (100, 100)
    device: str = "cpu"
    clock: str = "wall"


def _row(method, points, persons, iterations, seconds, objective, pve, **more) -> dict:
    ms = 1e3 * np.asarray(seconds)
    quartiles = np.percentile(ms, [25, 75])
    return {
        "method": method, "points": points, "persons": persons, "iterations": iterations,
        "ms_median": round(float(np.median(ms)), 4), "ms_iqr": round(float(quartiles[1] - quartiles[0]), 4),
        "ms_min": round(float(ms.min()), 4), "objective": round(float(objective), 3), "pve_mm": round(float(pve), 3), **more,
    }  # fmt: skip


def time_solver(fitter: Fitter, problems: Sequence[fit_problems.Problem], repeats: int, clock) -> tuple[np.ndarray, list]:
    """Seconds (repeats, problems) and the results.

    The problems take turns: a tracker never solves the same one twice, so none may find its own data in the cache.
    """

    def solve(p):
        return fitter.solve(p.start, p.camera, p.matches, anchors=[p.anchor], iterations=LM_ITERATIONS)

    results = [solve(p) for p in problems]  # loads kernels and records the graph
    seconds = np.empty((repeats, len(problems)))
    for row in seconds:
        for i, p in enumerate(problems):
            begin = clock()
            solve(p)
            row[i] = clock() - begin
    return seconds, results


def run_one(body: BodyModel, points: str, persons: int, settings: Settings) -> list[dict]:
    """All methods on a few problems of one size."""
    clock = CLOCKS[settings.clock]
    count = None if points == "all" else int(points)
    made = [fit_problems.problem(body, persons, count, seed) for seed in range(max(2, -(-settings.problems // persons)))]
    per_person = len(made[0].matches) // persons
    fitter = Fitter(body, settings.device, max_persons=persons, max_points=per_person, options=OPTIONS)
    seconds, solved = time_solver(fitter, made, settings.repeats, clock)
    objective = np.mean([r.cost[:, -1].sum() for r in solved])
    pve = np.mean([fit_problems.vertex_error_mm(body, r.params, p.truth) for r, p in zip(solved, made)])
    kept = sum(int((r.status >= FitStatus.REJECTED).sum()) for r in solved)
    at_start = np.mean([r.cost[:, 0].sum() for r in solved])
    pve_start = np.mean([fit_problems.vertex_error_mm(body, p.start, p.truth) for p in made])
    rows = [
        _row("lm", points, persons, LM_ITERATIONS, seconds, objective, pve, objective_start=round(float(at_start), 3),
             pve_start_mm=round(float(pve_start), 3), kept_start=kept)
    ]  # fmt: skip
    if settings.baselines:
        lm_seconds = float(np.median(seconds))
        for method in ("smplify_adam", "smplify_lbfgs"):
            rows.append(_baseline(body, method, points, persons, made, solved, lm_seconds, settings))
    return rows


def _baseline(body, method, points, persons, made, solved, lm_seconds, settings) -> dict:
    import torch

    from ..fit import baselines

    torch.set_num_threads(1)
    clock = CLOCKS[settings.clock]
    seconds, reach, objectives, errors, evaluations = [], [], [], [], []
    for p, result in zip(made, solved):
        problem = baselines.TorchObjective(body, p.start, p.camera, p.matches, [p.anchor], OPTIONS)
        with torch.no_grad():
            np.testing.assert_allclose(float(problem.cost().sum()), result.cost[:, 0].sum(), rtol=1e-3)
        if method == "smplify_adam":
            trace = baselines.smplify_adam(problem, settings.adam_iterations, clock)
        else:
            trace = baselines.smplify_lbfgs(problem, clock=clock)
        seconds.append(trace.seconds[-1])
        reach.append(trace.seconds_to(SAME * float(result.cost[:, -1].sum())))
        objectives.append(trace.objective[-1])
        errors.append(fit_problems.vertex_error_mm(body, trace.params, p.truth))
        evaluations.append(len(trace.seconds) - 1)
    reached = all(np.isfinite(reach))
    to_objective = float(np.median(reach)) if reached else None
    ratio = float(np.median(np.where(np.isfinite(reach), reach, seconds))) / lm_seconds
    return _row(
        method, points, persons, int(np.median(evaluations)), seconds, np.mean(objectives), np.mean(errors),
        ms_to_objective=None if to_objective is None else round(1e3 * to_objective, 2), ratio_at_least=round(ratio, 1),
    )  # fmt: skip


def run(settings: Settings, body: BodyModel | None = None, report: Callable[[dict], None] | None = None,
        before: dict | None = None) -> dict:  # fmt: skip
    """The whole benchmark as one value; ``report`` is called with what there is after each size.

    ``before``: an earlier result, whose sizes are not measured again.  Raises ConfigError if it is of another protocol.
    """
    body = body or load_body()
    protocol = {
        "benchmark": "fit", "hardware": describe(settings.device), "threads": 1, "clock": settings.clock, "body": body.name,
        "repeats": settings.repeats, "problems": settings.problems,
    }  # fmt: skip
    rows = [] if before is None else list(before["rows"])
    if before is not None:
        other = {k: before.get(k) for k, v in protocol.items() if before.get(k) != v}
        if other:
            raise ConfigError(f"expected a result of the same protocol to go on with, got {other}: use another --out")
    result = {**protocol, "commit": commit(), "rows": rows}
    have = {(r["points"], r["persons"]) for r in rows}
    for points in settings.points:
        for persons in settings.persons:
            if (points, persons) in have:
                continue
            rows += [{**row, "commit": commit()} for row in run_one(body, points, persons, settings)]
            rows.sort(key=lambda r: (_number(r["points"]), r["persons"]))  # stable: methods keep their order
            if report:
                report(result)
    return result


def _number(points: str) -> float:
    return float("inf") if points == "all" else int(points)


def table(result: dict) -> str:
    """The rows as Markdown."""
    head = "| method | points | persons | iterations | ms (median) | IQR | objective | PVE mm | slower than lm |"
    lines = [head, "| --- " * 9 + "|"]
    for r in result["rows"]:
        ratio = r.get("ratio_at_least")
        never = "> " if ratio is not None and r.get("ms_to_objective") is None else ""
        lines.append(
            f"| {r['method']} | {r['points']} | {r['persons']} | {r['iterations']} | {r['ms_median']:.2f} | {r['ms_iqr']:.2f} | "
            f"{r['objective']:.0f} | {r['pve_mm']:.1f} | {'' if ratio is None else f'{never}{ratio:.0f} x'} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="densefit bench fit", description=__doc__.splitlines()[0].replace("``", ""))
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    parser.add_argument("--resume", action="store_true", help="keep the sizes that --out already has")
    parser.add_argument("--points", default=",".join(POINTS), help="comma-separated: numbers of surface points a person, or all")
    parser.add_argument("--persons", default=",".join(map(str, PERSONS)), help="comma-separated")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls of the solver per problem")
    parser.add_argument("--problems", type=int, default=3, help="persons fitted per size, at least, in as few problems as fit")
    parser.add_argument("--no-baselines", action="store_true", help="time the solver only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: the thread's own time, for busy machines")
    a = parser.parse_args(argv)
    try:
        persons, points = tuple(int(p) for p in a.persons.split(",")), tuple(a.points.split(","))
        if min(persons) < 1 or any(p != "all" and int(p) < 1 for p in points):
            raise ValueError
    except ValueError:
        parser.error(f"--points and --persons: expected positive numbers, or all points; got {a.points} and {a.persons}")
    if not a.no_baselines and importlib.util.find_spec("torch") is None:
        raise BackendUnavailable(
            "the baselines are written in torch, which is not installed: pip install torch smplx, or --no-baselines"
        )
    resolve_device(a.device)
    if a.out is not None:
        a.out.parent.mkdir(parents=True, exist_ok=True)
    threadpool_limits(1, user_api="blas")  # as the tracker sets it, and so that all methods run on one core
    if a.resume and a.out is None:
        parser.error("--resume needs --out")
    settings = Settings(
        points, persons, a.repeats, a.problems, not a.no_baselines,
        device=a.device, clock=a.clock,
    )  # fmt: skip
    save = None if a.out is None else lambda r: a.out.write_text(json.dumps(r, indent=1) + "\n")  # minutes: keep what is done
    before = json.loads(a.out.read_text()) if a.resume and a.out is not None and a.out.exists() else None
    result = run(settings, report=save, before=before)
    print(json.dumps(result) if a.json else f"{result['hardware']}\n\n{table(result)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
