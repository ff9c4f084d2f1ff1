"""``python -m densefit_ros.bench.fit_calibration``: is the reported covariance of the joints right?

Starts are drawn from the anchor's own Gaussian around the truth, matches carry pixel noise.  If the covariance is right,
the squared error of a joint over its variance averages one per axis.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..body.assets import load_body
from ..body.model import pose
from ..eval.provenance import commit
from ..fit.options import FitOptions
from ..fit.solver import Fitter
from . import fit_problems

BATCH = 10
OPTIONS = FitOptions(shape_sigma=float("inf"), limit_sigma_rad=float("inf"), guard=False, iterations=5)


def measure(fits: int = 500, points: int = 600, noise_px: float = 2.0, claimed_px: float = 2.0, seed: int = 1000) -> dict:
    """Normalised squared errors.

    Returns ``per_axis`` (3,), ``mean`` of the Mahalanobis distance over 3, and ``samples`` (fits*24,) of it.
    """
    body = load_body()
    fitter = Fitter(body, max_persons=BATCH, max_points=points, options=OPTIONS)
    axis, full = [], []
    for batch in range(-(-fits // BATCH)):
        p = fit_problems.problem(body, BATCH, points, seed + batch, noise_px)
        matches = replace(p.matches, sqrt_weight=np.full(len(p.matches), 1.0 / claimed_px, np.float32))
        result = fitter.solve(p.start, p.camera, matches, anchors=[p.anchor])
        error = (pose(body, result.params).joints - pose(body, p.truth).joints).astype(np.float64)
        covariance = result.joint_covariance.astype(np.float64)
        axis.append(error**2 / np.einsum("pjaa->pja", covariance))
        full.append(np.einsum("pja,pjab,pjb->pj", error, np.linalg.inv(covariance), error) / 3)
    axis, full = np.concatenate(axis)[:fits], np.concatenate(full)[:fits]
    return {"per_axis": axis.mean((0, 1)).tolist(), "mean": float(full.mean()), "samples": full.reshape(-1)}


def plot(cases: dict[str, np.ndarray], path: Path) -> None:
    """Histogram of 3 x the normalised squared error against the chi-squared law with three degrees of freedom."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy.stats import chi2

    x = np.linspace(0.01, 14, 300)
    figure, axes = plt.subplots(figsize=(6.4, 3.4), dpi=110)
    for (name, samples), colour in zip(cases.items(), ("#2a6fb0", "#d9822b", "#4b9b57")):
        axes.hist(3 * samples, bins=np.linspace(0, 14, 57), density=True, histtype="step", lw=1.6, color=colour, label=name)
    axes.plot(x, chi2.pdf(x, 3), color="black", lw=1.2, ls="--", label="chi-squared, 3 degrees of freedom")
    axes.set_xlabel("squared joint error / reported covariance")
    axes.set_ylabel("density")
    axes.set_xlim(0, 14)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Measure three cases, print JSON, write the picture if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=500)
    parser.add_argument("--plot", type=Path, help="PNG to write")
    parser.add_argument("--out", type=Path, help="JSON to write")
    a = parser.parse_args(arguments)
    cases = {"weights right": (2.0, 2.0), "noise twice the claim": (2.0, 1.0), "noise half the claim": (2.0, 4.0)}
    measured = {name: measure(a.fits, noise_px=noise, claimed_px=claimed) for name, (noise, claimed) in cases.items()}
    rows = [{"case": n, "fits": a.fits, "mean": m["mean"], "per_axis": m["per_axis"]} for n, m in measured.items()]
    text = json.dumps({"benchmark": "fit covariance", "commit": commit(), "rows": rows}, indent=1)
    print(text)
    if a.out:
        a.out.write_text(text + "\n")
    if a.plot:
        plot({n: m["samples"] for n, m in measured.items()}, a.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
