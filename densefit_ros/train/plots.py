"""Curves of a run from its CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import AssetError

_LEFT_OUT = ("step", "minutes", "lr", "grad", "skipped", "samples_per_s")


def read_csv(path: Path) -> dict[str, list[float]]:
    """Columns of a log by name.  Raises AssetError when it is missing."""
    if not path.is_file():
        raise AssetError(f"{path}: no such log (has the run written its first line yet?)")
    with path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    return {name: [float(r[name]) for r in rows] for name in (rows[0] if rows else [])}


def plot_run(run: Path, out: Path | None = None) -> Path:
    """Draw every logged quantity over the minutes into ``curves.png`` of the run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logs = {name: read_csv(run / f"{name}.csv") for name in ("log", "validation") if (run / f"{name}.csv").is_file()}
    if not logs:
        raise AssetError(f"{run}: expected log.csv or validation.csv of a training run")
    panels = [(kind, name) for kind, log in logs.items() for name in log if name not in _LEFT_OUT]
    columns = 4
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 2.4 * rows), squeeze=False)
    for axis, (kind, name) in zip(axes.flat, panels):
        axis.plot(logs[kind]["minutes"], logs[kind][name], marker="." if kind == "validation" else None, linewidth=1)
        axis.set_title(f"{kind}: {name}", fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.tight_layout()
    target = out or run / "curves.png"
    figure.savefig(target, dpi=80)
    pyplot.close(figure)
    return target
