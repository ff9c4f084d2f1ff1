"""What is said about the rows of an evaluation: summary with confidence intervals, Markdown table, plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import metrics
from .sample import VIEW, PointsProtocol
from .store import METRICS, Scores

TITLES = {
    "mpjpe_mm": "MPJPE", "pa_mpjpe_mm": "PA-MPJPE", "pve_mm": "PVE", "absolute_mpjpe_mm": "absolute MPJPE",
    "reproj_px": "reprojection px", "pck_05": "PCK@0.05", "pck_10": "PCK@0.1",
}  # fmt: skip
TEMPORAL = {
    "acceleration_m_s2": "acceleration error m/s^2",
    "jitter_10m_s3": "jitter 10 m/s^3",
    "bone_mm": "bone length variation mm",
}


@dataclass(frozen=True)
class Summary:
    """Means with 95 % bootstrap intervals: per evidence (and "first estimate"), per metric."""

    count: int
    table: dict[str, dict[str, tuple[float, float, float]]]
    status: dict[str, dict[str, float]]
    refine_ms: dict[str, float]  # medians
    counts: dict[str, int]  # samples of each evidence: fewer than count where a run was stopped, or asked for less of it
    epe_ratio: dict[str, float]  # error of the predicted displacements over that of none; only where there are some


def summarise(
    scores: Mapping[str, Scores], points: Callable[[str, str], list[dict[str, Any]]], parents: Sequence[int] | None
) -> Summary:
    """Everything that the table shows.

    ``points(evidence, prior)`` gives the points of sequences; ``parents`` is their tree, where they are a skeleton.
    """
    first, count = _first_estimates(scores)
    table = {"first estimate": first}
    status, ms, epe, counts = {}, {}, {}, {}
    everything: list[dict[str, Any]] = []
    for name, own in scores.items():
        table[name] = {m: metrics.mean_interval(own.column(f"refined_{m}"), _recordings(own.sequences)) for m in METRICS}
        status[name] = {k: own.status.count(k) / len(own.status) for k in sorted(set(own.status))}
        counts[name] = len(own.keys)
        ms[name] = float(np.median(own.column("ms")))
        errors = np.stack([own.column("epe_px"), own.column("zero_px")], 1)
        errors = errors[np.isfinite(errors).all(1)].sum(0)
        if errors[1] > 0:
            epe[name] = float(errors[0] / errors[1])
        found = points(own.evidence, own.prior)
        table[name] |= temporal(found, "refined", parents)
        everything += found
    table["first estimate"] |= temporal(everything, "first", parents)
    return Summary(count, table, status, ms, counts, epe)


def _first_estimates(scores: Mapping[str, Scores]) -> tuple[dict[str, tuple[float, float, float]], int]:
    """Means over every sample once, whatever it was refined by; and the number of samples."""
    seen: set[str] = set()
    sequences: list[str] = []
    values: dict[str, list[np.ndarray]] = {m: [] for m in METRICS}
    for own in scores.values():
        fresh = [i for i, key in enumerate(own.keys) if key not in seen]
        seen.update(own.keys)
        sequences += [own.sequences[i] for i in fresh]
        for m in METRICS:
            values[m].append(own.column(f"first_{m}")[fresh])
    return {m: metrics.mean_interval(np.concatenate(v), _recordings(sequences)) for m, v in values.items()}, len(seen)


def _recordings(sequences: Sequence[str]) -> list[str]:
    """What errs alike: several views of one recording, or people in it, are the same moments once more."""
    return [s.partition(VIEW)[0] for s in sequences]


def temporal(
    points: Sequence[Mapping[str, Any]], which: str, parents: Sequence[int] | None
) -> dict[str, tuple[float, float, float]]:
    """Acceleration error, jitter and bone variation over runs of consecutive frames; nothing where there are none."""
    runs: list[list[Mapping[str, Any]]] = []
    # A run that was stopped in the middle of a row leaves its points twice.
    once = {(p["sequence"], p["frame"]): p for p in points}
    for _, p in sorted(once.items()):
        last = runs[-1][-1] if runs else None
        follows = last is not None and last["sequence"] == p["sequence"] and last["frame"] + 1 == p["frame"]
        runs[-1].append(p) if follows else runs.append([p])
    measured: dict[str, list[np.ndarray]] = {n: [] for n in TEMPORAL}
    sequences: dict[str, list[str]] = {n: [] for n in TEMPORAL}
    for run in runs:
        if len(run) < 4:
            continue
        found, truth = (np.array([p[n] for p in run]) / 1000 for n in (which, "truth"))
        fps = float(run[0]["fps"])
        values = [metrics.acceleration_error_m_s2(found, truth, fps), metrics.jitter_10m_s3(found, fps)]
        if parents is not None and len(parents) == found.shape[1]:
            values.append(metrics.bone_length_variation_mm(found, np.asarray(parents)))
        for name, one in zip(TEMPORAL, values):
            measured[name].append(np.ravel(one))
            sequences[name] += [run[0]["sequence"]] * np.size(one)
    return {n: metrics.mean_interval(np.concatenate(v), _recordings(sequences[n])) for n, v in measured.items() if v}


def markdown(summary: Summary, dataset: str, protocol: PointsProtocol, first: str) -> str:
    """The table, with the protocol that its numbers follow."""
    names = [m for m in (*METRICS, *TEMPORAL) if any(np.isfinite(row.get(m, (np.nan,))[0]) for row in summary.table.values())]
    titles = TITLES | TEMPORAL
    lines = [
        f"Dataset: {dataset}, {summary.count} samples. First estimate: {first}. "
        f"Protocol {protocol.name}: {protocol.description}. "
        "Errors in mm; PA is after a similarity transform without reflection; PCK relative to the longer side of the true box. "
        "In brackets the 95 % bootstrap interval of the mean, over sequences.",
        "",
        "| | " + " | ".join(titles[m] for m in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for row, values in summary.table.items():
        few = f" ({summary.counts[row]} of these samples)" if summary.counts.get(row, summary.count) < summary.count else ""
        lines.append(f"| {row}{few} | " + " | ".join(_cell(m, values.get(m)) for m in names) + " |")
    lines += ["", "| evidence | evidence and refinement, median ms | how fits ended | EPE over zero's |", "|---|---|---|---|"]
    for name, ms in summary.refine_ms.items():
        ended = ", ".join(f"{k.lower()} {100 * v:.0f} %" for k, v in summary.status[name].items())
        lines.append(f"| {name} | {ms:.1f} | {ended} | {_ratio(summary.epe_ratio.get(name))} |")
    return "\n".join(lines) + "\n"


def write(
    folder: Path, summary: Summary, text: str, scores: Mapping[str, Scores], about: Mapping[str, str] | None = None
) -> list[Path]:
    """summary.json, table.md, and plots where matplotlib is installed.  ``about``: what the numbers are of."""
    record = {
        **(about or {}),
        "samples": summary.count,
        "samples_of": summary.counts,
        "table": {n: {m: [_number(v) for v in c] for m, c in row.items()} for n, row in summary.table.items()},
        "status": summary.status,
        "refine_ms_median": summary.refine_ms,
        "epe_ratio": summary.epe_ratio,
    }
    (folder / "summary.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "table.md").write_text(text)
    written = [folder / "summary.json", folder / "table.md"]
    try:
        from .plots import cumulative
    except ImportError:
        return written
    return [*written, cumulative(folder / "pa_mpjpe.png", scores)]


def benchmark(summary: Summary) -> dict[str, Any]:
    """The few numbers that runs are compared by: means, by the names that scripts expect."""
    names = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "reproj_px")
    rows = {
        "first_estimate": "first estimate", "refined": "pipeline", "keypoints25": "keypoints",
        "gt_displacement": "gt-displacement", "gt_joints25": "gt-joints",
    }  # fmt: skip
    out: dict[str, Any] = {"samples": summary.count, "epe_ratio": _number(summary.epe_ratio.get("pipeline", float("nan")))}
    return out | {k: {m: _number(summary.table[v][m][0]) for m in names} for k, v in rows.items() if v in summary.table}


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(metric: str, value: tuple[float, float, float] | None) -> str:
    if value is None or not np.isfinite(value[0]):
        return ""
    digits = 3 if metric.startswith("pck") else 2 if metric.endswith(("m_s2", "m_s3")) else 1
    mean = f"{value[0]:.{digits}f}"
    return f"{mean} [{value[1]:.{digits}f}, {value[2]:.{digits}f}]" if np.isfinite(value[1]) else mean


def _number(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None
