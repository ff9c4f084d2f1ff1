"""Plots of an evaluation; imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np

from .store import Scores

matplotlib.use("Agg", force=False)
import matplotlib.pyplot as plt  # noqa: E402


def cumulative(path: Path, scores: Mapping[str, Scores], metric: str = "pa_mpjpe_mm") -> Path:
    """Share of samples below each error, for the first estimate and every source of evidence."""
    first = {k: v for own in scores.values() for k, v in zip(own.keys, own.column(f"first_{metric}"))}
    curves = {"first estimate": np.array(list(first.values()))}
    curves |= {name: own.column(f"refined_{metric}") for name, own in scores.items()}
    figure, axes = plt.subplots(figsize=(8.5, 4), dpi=120)
    colors = {e: f"C{i % 10}" for i, e in enumerate(dict.fromkeys(own.evidence for own in scores.values()))}
    strokes = dict(zip(dict.fromkeys(own.prior for own in scores.values()), ("-", "--", ":", "-.")))
    styles = {n: {"color": colors[own.evidence], "linestyle": strokes.get(own.prior, "-")} for n, own in scores.items()}
    for name, values in curves.items():
        values = np.sort(values[np.isfinite(values)])
        if len(values):
            share = np.arange(1, len(values) + 1) / len(values)
            style = styles.get(name, {"color": "black", "linestyle": "-", "linewidth": 2})
            axes.plot(values, share, label=f"{name} ({values.mean():.1f})", **style)
    everything = np.concatenate(list(curves.values()))
    axes.set_xlim(0, max(float(np.nanpercentile(everything, 98)), 1.0) if np.isfinite(everything).any() else 1.0)
    axes.set_ylim(0, 1)
    axes.set_xlabel("PA-MPJPE, mm" if metric == "pa_mpjpe_mm" else metric)
    axes.set_ylabel("share of samples below")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7, title="mean", title_fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    return path
