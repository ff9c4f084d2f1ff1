"""Plots of an evaluation; imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from .report import label

matplotlib.use("Agg", force=False)
import matplotlib.pyplot as plt  # noqa: E402


def cumulative(path: Path, rows: Sequence[Mapping[str, str]], metric: str = "pa_mpjpe_mm") -> Path:
    """Share of samples below each error, for the first estimate and every source of evidence."""
    curves = {"first estimate": [float(r[f"first_{metric}"]) for r in {r["key"]: r for r in rows}.values()]}
    for row in rows:
        curves.setdefault(label(row), []).append(float(row[f"refined_{metric}"]))
    figure, axes = plt.subplots(figsize=(8.5, 4), dpi=120)
    colors = {e: f"C{i % 10}" for i, e in enumerate(dict.fromkeys(r["evidence"] for r in rows))}
    strokes = dict(zip(dict.fromkeys(r["prior"] for r in rows), ("-", "--", ":", "-.")))
    styles = {label(r): {"color": colors[r["evidence"]], "linestyle": strokes.get(r["prior"], "-")} for r in rows}
    for name, values in curves.items():
        values = np.sort(np.asarray(values)[np.isfinite(values)])
        if len(values):
            share = np.arange(1, len(values) + 1) / len(values)
            style = styles.get(name, {"color": "black", "linestyle": "-", "linewidth": 2})
            axes.plot(values, share, label=f"{name} ({values.mean():.1f})", **style)
    everything = np.concatenate([v for v in curves.values() if v]) if any(curves.values()) else np.array([1.0])
    axes.set_xlim(0, max(float(np.nanpercentile(everything, 98)), 1.0))
    axes.set_ylim(0, 1)
    axes.set_xlabel("PA-MPJPE, mm" if metric == "pa_mpjpe_mm" else metric)
    axes.set_ylabel("share of samples below")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7, title="mean", title_fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    return path
