"""Rows on disk, and what is said about them: summary with confidence intervals, Markdown table, plots."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AssetError, ConfigError
from . import metrics
from .harness import Row
from .sample import PointsProtocol, Score

METRICS = tuple(f.name for f in dataclasses.fields(Score))
COLUMNS = (
    ("key", "sequence", "frame", "evidence", "prior", "confidence", "status", "ms", "epe_px", "zero_px")
    + tuple(f"first_{m}" for m in METRICS)
    + tuple(f"refined_{m}" for m in METRICS)
)
TITLES = {
    "mpjpe_mm": "MPJPE", "pa_mpjpe_mm": "PA-MPJPE", "pve_mm": "PVE", "absolute_mpjpe_mm": "absolute MPJPE",
    "reproj_px": "reprojection px", "pck_05": "PCK@0.05", "pck_10": "PCK@0.1",
}  # fmt: skip
TEMPORAL = {
    "acceleration_m_s2": "acceleration error m/s^2",
    "jitter_10m_s3": "jitter 10 m/s^3",
    "bone_mm": "bone length variation mm",
}


class RowStore:
    """samples.csv, appended row by row, so that a run that was stopped goes on where it was.

    Points of sequences go to points.jsonl beside it.  Raises ConfigError when the folder holds a run with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise AssetError(f"cannot write to {folder}: {e.strerror}") from e
        self.path, self.points_path = folder / "samples.csv", folder / "points.jsonl"
        self._check_settings(json.loads(json.dumps(dict(settings))))
        self.rows = self._read()
        new = not self.path.is_file()
        self._file = open(self.path, "a", newline="")
        self._points = open(self.points_path, "a")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        if new:
            self._writer.writeheader()

    def done(self) -> set[tuple[str, str, str]]:
        """(key, evidence, prior) of the rows that are there."""
        return {(r["key"], r["evidence"], r["prior"]) for r in self.rows}

    def append(self, row: Row) -> None:
        """Write one row; it is on disk when this returns."""
        flat = {n: getattr(row, n) for n in ("key", "sequence", "frame", "evidence", "prior", "status")}
        flat |= {"confidence": f"{row.confidence:.4f}", "ms": f"{row.ms:.3f}"}
        flat |= {n: f"{getattr(row, n):.4f}" for n in ("epe_px", "zero_px")}
        for prefix, values in (("first", row.first), ("refined", row.refined)):
            flat |= {f"{prefix}_{m}": f"{getattr(values, m):.4f}" for m in METRICS}
        if row.fps > 0:
            record = {n: getattr(row, n) for n in ("sequence", "frame", "fps", "evidence", "prior")}
            record |= {n: np.round(p, 2).tolist() for n, p in zip(("first", "refined", "truth"), row.points_mm)}
            self._points.write(json.dumps(record) + "\n")
            self._points.flush()
        self._writer.writerow(flat)
        self._file.flush()
        self.rows.append({k: str(v) for k, v in flat.items()})

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._points.close()

    def points(self) -> list[dict[str, Any]]:
        """Records of points.jsonl; a last line cut off by a crash is dropped."""
        out = []
        for line in self.points_path.read_text().splitlines():
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return out

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self.folder / "settings.json"
        if not path.is_file():
            path.write_text(json.dumps(settings, indent=2) + "\n")
            return
        try:
            before = json.loads(path.read_text())
        except json.JSONDecodeError as e:
            raise AssetError(f"{path}: damaged; remove {self.folder} or choose another --out") from e
        changed = sorted(k for k in settings if before.get(k) != settings[k])
        if changed:
            raise ConfigError(f"{self.folder} holds a run with other settings ({', '.join(changed)}): choose another --out")

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        text = self.path.read_text()
        if text and not text.endswith("\n"):  # a row cut off by a crash
            text = text[: text.rfind("\n") + 1]
            self.path.write_text(text)
        rows = list(csv.DictReader(text.splitlines()))
        if rows and set(rows[0]) != set(COLUMNS):
            raise AssetError(f"{self.path}: columns of another version; choose another --out")
        return rows


@dataclass(frozen=True)
class Summary:
    """Means with 95 % bootstrap intervals: per evidence (and "first estimate"), per metric."""

    count: int
    table: dict[str, dict[str, tuple[float, float, float]]]
    status: dict[str, dict[str, float]]
    refine_ms: dict[str, float]  # medians
    epe_ratio: dict[str, float]  # error of the predicted displacements over that of none; only where there are some


def label(row: Mapping[str, Any]) -> str:
    """How a table calls a row's combination of evidence and prior."""
    return row["evidence"] if row["prior"] == "none" or row["evidence"] == "none" else f"{row['evidence']} + {row['prior']}"


def summarise(rows: Sequence[Mapping[str, str]], points: Sequence[Mapping[str, Any]], parents: Sequence[int] | None) -> Summary:
    """Everything that the table shows.  ``parents``: tree of the protocol's points, where they are a skeleton."""
    by_label: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        by_label.setdefault(label(row), []).append(row)
    once = list({r["key"]: r for r in rows}.values())
    table = {"first estimate": _means(once, "first")}
    status, ms, epe = {}, {}, {}
    for name, own in by_label.items():
        table[name] = _means(own, "refined")
        kinds = [r["status"] for r in own]
        status[name] = {k: kinds.count(k) / len(kinds) for k in sorted(set(kinds))}
        ms[name] = float(np.median([float(r["ms"]) for r in own]))
        errors = np.array([[float(r["epe_px"]), float(r["zero_px"])] for r in own])
        errors = errors[np.isfinite(errors).all(1)].sum(0)
        if errors[1] > 0:
            epe[name] = float(errors[0] / errors[1])
    for name in by_label:
        own_points = [p for p in points if label(p) == name]
        table[name] |= temporal(own_points, "refined", parents)
        table["first estimate"] |= temporal(own_points, "first", parents)
    return Summary(len(once), table, status, ms, epe)


def _means(rows: Sequence[Mapping[str, str]], which: str) -> dict[str, tuple[float, float, float]]:
    groups = [r["sequence"] for r in rows]
    return {m: metrics.mean_interval([float(r[f"{which}_{m}"]) for r in rows], groups) for m in METRICS}


def temporal(
    points: Sequence[Mapping[str, Any]], which: str, parents: Sequence[int] | None
) -> dict[str, tuple[float, float, float]]:
    """Acceleration error, jitter and bone variation over runs of consecutive frames; nothing where there are none."""
    runs: list[list[Mapping[str, Any]]] = []
    for p in sorted(points, key=lambda p: (p["sequence"], p["frame"])):
        last = runs[-1][-1] if runs else None
        follows = last is not None and last["sequence"] == p["sequence"] and last["frame"] + 1 == p["frame"]
        runs[-1].append(p) if follows else runs.append([p])
    acceleration, jitter, bones = [], [], []
    for run in runs:
        if len(run) < 4:
            continue
        found, truth = (np.array([p[n] for p in run]) / 1000 for n in (which, "truth"))
        fps = float(run[0]["fps"])
        acceleration.append(metrics.acceleration_error_m_s2(found, truth, fps))
        jitter.append(metrics.jitter_10m_s3(found, fps))
        if parents is not None and len(parents) == found.shape[1]:
            bones.append(metrics.bone_length_variation_mm(found, np.asarray(parents)))
    pairs = zip(TEMPORAL, (acceleration, jitter, bones))
    return {n: metrics.mean_interval(np.concatenate(v)) for n, v in pairs if v}


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
        lines.append(f"| {row} | " + " | ".join(_cell(m, values.get(m)) for m in names) + " |")
    lines += ["", "| evidence | refinement, median ms | how fits ended | EPE over zero's |", "|---|---|---|---|"]
    for name, ms in summary.refine_ms.items():
        ended = ", ".join(f"{k.lower()} {100 * v:.0f} %" for k, v in summary.status[name].items())
        lines.append(f"| {name} | {ms:.1f} | {ended} | {_ratio(summary.epe_ratio.get(name))} |")
    return "\n".join(lines) + "\n"


def write(
    folder: Path, summary: Summary, text: str, rows: Sequence[Mapping[str, str]], about: Mapping[str, str] | None = None
) -> list[Path]:
    """summary.json, table.md, and plots where matplotlib is installed.  ``about``: what the numbers are of."""
    record = {
        **(about or {}),
        "samples": summary.count,
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
    return [*written, cumulative(folder / "pa_mpjpe.png", rows)]


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
    return f"{value[0]:.{digits}f} [{value[1]:.{digits}f}, {value[2]:.{digits}f}]"


def _number(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None
