"""Rows of an evaluation on disk, and read back as columns: a dataset may have a million of them."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AssetError, ConfigError
from .harness import Row
from .sample import Score

METRICS = tuple(f.name for f in dataclasses.fields(Score))
TEXTS = ("key", "sequence", "frame", "evidence", "prior", "status")
NUMBERS = ("confidence", "ms", "epe_px", "zero_px", *(f"first_{m}" for m in METRICS), *(f"refined_{m}" for m in METRICS))
COLUMNS = TEXTS + NUMBERS


@dataclass(frozen=True, eq=False)
class Scores:
    """All rows of one evidence under one prior."""

    evidence: str
    prior: str
    keys: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    numbers: dict[str, array] = field(default_factory=lambda: {n: array("d") for n in NUMBERS})

    def column(self, name: str) -> np.ndarray:
        """One of NUMBERS, (N,) float64."""
        return np.array(self.numbers[name])


def label(evidence: str, prior: str) -> str:
    """How a table calls a combination of evidence and prior."""
    return evidence if prior == "none" or evidence == "none" else f"{evidence} + {prior}"


class RowStore:
    """samples.csv, appended row by row, so that a run that was stopped goes on where it was.

    Points of sequences go to points_<evidence>_<prior>.jsonl beside it.  Settings named in ``growing`` are mappings that a
    continued run may add to.  Raises ConfigError when the folder holds a run with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], growing: Collection[str] = ()) -> None:
        self.folder, self.path, self._growing = folder, folder / "samples.csv", set(growing)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise AssetError(f"cannot write to {folder}: {e.strerror}") from e
        self._check_settings(json.loads(json.dumps(dict(settings))))
        new = not self.path.is_file()
        if not new:
            self._check_rows()
        self._file = open(self.path, "a", newline="")
        self._points: dict[Path, Any] = {}
        self._writer = csv.DictWriter(self._file, COLUMNS)
        if new:
            self._writer.writeheader()
            self._file.flush()

    def done(self) -> set[tuple[str, str, str]]:
        """(key, evidence, prior) of the rows that are there."""
        return {(sys.intern(r["key"]), sys.intern(r["evidence"]), sys.intern(r["prior"])) for r in self._rows()}

    def append(self, row: Row) -> None:
        """Write one row; it is on disk when this returns."""
        if row.fps > 0:
            record = {n: getattr(row, n) for n in ("sequence", "frame", "fps")}
            record |= {n: np.round(p, 2).tolist() for n, p in zip(("first", "refined", "truth"), row.points_mm)}
            file = self._points_file(row.evidence, row.prior)
            file.write(json.dumps(record) + "\n")
            file.flush()
        flat = {n: getattr(row, n) for n in TEXTS}
        flat |= {"confidence": f"{row.confidence:.4f}", "ms": f"{row.ms:.3f}"}
        flat |= {n: f"{getattr(row, n):.4f}" for n in ("epe_px", "zero_px")}
        for prefix, values in (("first", row.first), ("refined", row.refined)):
            flat |= {f"{prefix}_{m}": f"{getattr(values, m):.4f}" for m in METRICS}
        self._writer.writerow(flat)
        self._file.flush()

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, *self._points.values()):
            file.close()

    def scores(self) -> dict[str, Scores]:
        """All rows by label."""
        out: dict[str, Scores] = {}
        for row in self._rows():
            name = label(row["evidence"], row["prior"])
            own = out.setdefault(name, Scores(row["evidence"], row["prior"]))
            own.keys.append(sys.intern(row["key"]))
            own.sequences.append(sys.intern(row["sequence"]))
            own.status.append(sys.intern(row["status"]))
            for n in NUMBERS:
                own.numbers[n].append(float(row[n]))
        return out

    def points(self, evidence: str, prior: str) -> list[dict[str, Any]]:
        """Points of the frames of sequences; a last line cut off by a crash is dropped."""
        path = self._points_path(evidence, prior)
        if not path.is_file():
            return []
        _drop_torn_line(path)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def _rows(self) -> Iterator[dict[str, str]]:
        with open(self.path, newline="") as file:
            yield from csv.DictReader(file)

    def _points_path(self, evidence: str, prior: str) -> Path:
        return self.folder / f"points_{evidence}_{prior}.jsonl"

    def _points_file(self, evidence: str, prior: str) -> Any:
        path = self._points_path(evidence, prior)
        if path not in self._points:
            if path.is_file():
                _drop_torn_line(path)
            self._points[path] = open(path, "a")
        return self._points[path]

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self.folder / "settings.json"
        if not path.is_file():
            path.write_text(json.dumps(settings, indent=2) + "\n")
            return
        try:
            before = json.loads(path.read_text())
        except json.JSONDecodeError as e:
            raise AssetError(f"{path}: damaged; remove {self.folder} or choose another --out") from e
        changed = [k for k in settings if k not in self._growing and before.get(k) != settings[k]]
        merged = dict(settings)
        for name in self._growing & set(settings):
            had = before.get(name, {})
            changed += [name] * any(had.get(k, v) != v for k, v in settings[name].items())
            merged[name] = {**had, **settings[name]}
        if changed:
            raise ConfigError(
                f"{self.folder} holds a run with other settings ({', '.join(sorted(changed))}): choose another --out"
            )
        path.write_text(json.dumps(merged, indent=2) + "\n")

    def _check_rows(self) -> None:
        """Take off a row cut off by a crash.  Raises AssetError when the columns are others."""
        _drop_torn_line(self.path)
        with open(self.path, newline="") as file:
            header = next(csv.reader(file), [])
        if tuple(header) != COLUMNS:
            raise AssetError(f"{self.path}: columns of another version; choose another --out")


def _drop_torn_line(path: Path) -> None:
    """Take off a last line that a crash cut short: the next one would be written behind it."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])
