"""Is the stated confidence true?  Reliability of the displacements' and the regressor's own standard deviations and confidences.

Errors: cells (or joints) are sorted by the standard deviation that the network states and cut into bins of one size, whose
root mean squares are compared; above the diagonal the network boasts.  Confidences: bins of one width, stated against true
share; below the diagonal it boasts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BINS = 12
Curve = dict[str, list[float]]  # "stated", "measured", "count": one entry per bin


@dataclass
class Pool:
    """Pairs of stated and measured values, collected batch by batch."""

    stated: list[np.ndarray] = field(default_factory=list)
    measured: list[np.ndarray] = field(default_factory=list)

    def add(self, stated: np.ndarray, measured: np.ndarray) -> None:
        """Two arrays of one shape."""
        self.stated.append(np.ravel(stated))
        self.measured.append(np.ravel(measured))

    def errors(self, bins: int = BINS) -> Curve:
        """Bins of one size by the stated standard deviation; root mean squares."""
        stated, measured = np.concatenate(self.stated), np.concatenate(self.measured)
        parts = np.array_split(np.argsort(stated, kind="stable"), min(bins, len(stated)))
        return _curve(stated, measured, parts, lambda v: np.sqrt(np.mean(v**2)))

    def shares(self, bins: int = BINS) -> Curve:
        """Bins of one width by the stated confidence in [0,1]; means.  Empty bins are left out."""
        stated, measured = np.concatenate(self.stated), np.concatenate(self.measured)
        number = np.clip((stated * bins).astype(int), 0, bins - 1)
        return _curve(stated, measured, [np.flatnonzero(number == i) for i in range(bins)], np.mean)


def _curve(stated: np.ndarray, measured: np.ndarray, parts: Sequence[np.ndarray], middle: Callable[[np.ndarray], float]) -> Curve:
    parts = [p for p in parts if len(p)]
    return {
        "stated": [float(middle(stated[p])) for p in parts],
        "measured": [float(middle(measured[p].astype(float))) for p in parts],
        "count": [float(len(p)) for p in parts],
    }


def calibration_error(curve: Curve, relative: bool) -> float:
    """Mean over the bins of how far the measured value is from the stated one, weighted by count.

    relative: as the absolute logarithm of their ratio (0.69 is a factor of two); otherwise as a difference.
    """
    stated, measured, count = (np.asarray(curve[k]) for k in ("stated", "measured", "count"))
    off = np.abs(np.log(np.maximum(measured, 1e-9) / np.maximum(stated, 1e-9))) if relative else np.abs(measured - stated)
    return float((off * count).sum() / count.sum())


def plot(curves: dict[str, dict[str, Curve]], out: Path) -> Path:
    """One panel per network quantity: ``displacement`` by kind of start, ``rotation``, ``confidence``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    panels = {
        "displacement": ("displacement, error per axis", "px of the crop", True),
        "rotation": ("regressor, rotation error per axis", "degrees", True),
        "confidence": ("regressor, a person (and crops in a bin)", "share", False),
    }
    shown: Sequence[str] = [name for name in panels if name in curves]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.9), squeeze=False)
    for axis, name in zip(axes[0], shown):
        title, unit, logarithmic = panels[name]
        for label, curve in curves[name].items():
            # Nearly all confidences are near 0 or 1: between lie bins of a crop or two, which a line would make a curve of.
            axis.plot(curve["stated"], curve["measured"], "o-" if logarithmic else "o", markersize=3, label=label)
            for x, y, count in () if logarithmic else zip(curve["stated"], curve["measured"], curve["count"]):
                axis.annotate(
                    f"{count:.0f}", (x, y), (0, 6 if y < 0.5 else -12), textcoords="offset points", ha="center", fontsize=7
                )
        values = np.concatenate([[v for v in c["stated"] + c["measured"] if v > 0] for c in curves[name].values()])
        span = [values.min() * 0.8, values.max() * 1.25] if logarithmic else [0.0, 1.0]
        axis.plot(span, span, color="0.5", linewidth=1, linestyle="--", label="calibrated")
        if logarithmic:
            axis.set(xscale="log", yscale="log")
            ticks = [t for t in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if span[0] <= t <= span[1]]
            for way in (axis.xaxis, axis.yaxis):
                way.set_major_locator(ticker.FixedLocator(ticks))
                way.set_major_formatter("{x:g}")
                way.set_minor_locator(ticker.NullLocator())
        axis.set(xlabel=f"stated, {unit}", ylabel=f"measured, {unit}", title=title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)
    pyplot.close(figure)
    return out
