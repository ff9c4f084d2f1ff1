"""Is the stated confidence true?  Reliability of the displacements' and the regressor's own standard deviations and confidences.

Cells (or joints) are sorted by what the network says of them and cut into bins of one size; in each bin the stated error is
set against the measured one.  On the diagonal the network knows itself; above it, it boasts.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    def curve(self, root_mean_square: bool, bins: int = BINS) -> Curve:
        """Bins of one size by the stated value; their means, or root mean squares for errors and standard deviations."""
        stated, measured = np.concatenate(self.stated), np.concatenate(self.measured)
        parts = [p for p in np.array_split(np.argsort(stated, kind="stable"), bins) if len(p)]

        def middle(values: np.ndarray) -> float:
            return float(np.sqrt(np.mean(values**2)) if root_mean_square else np.mean(values))

        return {
            "stated": [middle(stated[p]) for p in parts],
            "measured": [middle(measured[p]) for p in parts],
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
    from matplotlib import pyplot

    panels = {
        "displacement": ("displacement, error per axis", "px of the crop", True),
        "rotation": ("regressor, rotation error per axis", "degrees", True),
        "confidence": ("regressor, a person is centred there", "share", False),
    }
    shown: Sequence[str] = [name for name in panels if name in curves]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.9), squeeze=False)
    for axis, name in zip(axes[0], shown):
        title, unit, logarithmic = panels[name]
        for label, curve in curves[name].items():
            axis.plot(curve["stated"], curve["measured"], marker="o", markersize=3, label=label)
        values = np.concatenate([[v for v in c["stated"] + c["measured"] if v > 0] for c in curves[name].values()])
        span = [values.min() * 0.8, values.max() * 1.25] if logarithmic else [0.0, 1.0]
        axis.plot(span, span, color="0.5", linewidth=1, linestyle="--", label="calibrated")
        if logarithmic:
            axis.set_xscale("log")
            axis.set_yscale("log")
        axis.set(xlabel=f"stated, {unit}", ylabel=f"measured, {unit}", title=title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)
    pyplot.close(figure)
    return out
