"""``densefit bench covariance``: are the covariances that the tracker publishes right, on held-out people who move?

An ellipsoid of probability p should hold a share p of the joints.  Errors are of the camera's frame, distance included.  For
the time after a person was last seen, the tracker gets grey pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..config import Config
from ..errors import ConfigError, DensefitError
from ..eval.sample import Sample
from ..eval.synthetic import VIDEO_FRAMES, SyntheticVideo
from ..models import Models, load_models
from ..pipeline import initial_state, process
from ..settings import parse_overrides, with_overrides
from ..track.state import TrackerState
from ..types import Frame, TrackingState

PROBABILITIES = (0.5, 0.8, 0.95)
EVERY = 5  # frames between two that are measured: neighbours say the same
UNSEEN_FRAMES = (3, 6, 12)
_FPS = 30
log = logging.getLogger("densefit")


def measure(models: Models, sequences: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Errors (N,24,3) m and covariances (N,24,3,3) m^2 of joints, of people in sight ("tracked") and unseen for a while."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    videos = SyntheticVideo(models.body, sequences * VIDEO_FRAMES, seed)
    for first in range(0, len(videos), VIDEO_FRAMES):
        samples = [videos[first + i] for i in range(VIDEO_FRAMES)]
        state = initial_state()
        for i, sample in enumerate(samples):
            box = sample.box_xywh[None] if not state.tracks else np.zeros((0, 4))
            state, result = process(models, state, _frame(sample, sample.image(), i), box)
            if i % EVERY or i == 0 or not result.people:
                continue
            person = result.people[0]
            if person.tracking_state == TrackingState.TRACKED:
                found.setdefault("tracked", []).append((person.joints - sample.truth.points_m, person.joint_covariance))
                for name, pair in _unseen(models, state, samples, i):
                    found.setdefault(name, []).append(pair)
    if not found:
        raise DensefitError(f"nobody was tracked in {sequences} sequences: is a first estimate's confidence ever enough?")
    return {name: tuple(np.stack(a).astype(np.float64) for a in zip(*pairs)) for name, pairs in found.items()}


def _unseen(
    models: Models, state: TrackerState, samples: Sequence[Sample], at: int
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    grey = np.full_like(samples[at].image(), 127)
    for i in range(at + 1, min(at + UNSEEN_FRAMES[-1] + 1, len(samples))):
        state, result = process(models, state, _frame(samples[i], grey, i))
        people = [p for p in result.people if p.tracking_state == TrackingState.PREDICTED]
        if i - at in UNSEEN_FRAMES and people:
            error = people[0].joints - samples[i].truth.points_m
            yield f"unseen for {1000 * (i - at) // _FPS} ms", (error, people[0].joint_covariance)


def _frame(sample: Sample, rgb: np.ndarray, index: int) -> Frame:
    return Frame(rgb, int((index + 1) / _FPS * 1e9), sample.camera)


def normalised(error_m: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis norms of errors (...,3), covariances (...,3,3): chi-squared with three degrees of freedom if right."""
    return np.einsum("...a,...ab,...b->...", error_m, np.linalg.inv(covariance), error_m)


def score(error_m: np.ndarray, covariance: np.ndarray) -> dict[str, object]:
    """Shares of joints within the ellipsoids; per axis the stated and the measured error (root of the mean square), mm."""
    from scipy.stats import chi2

    squared = normalised(error_m, covariance)
    stated = np.einsum("...aa->...a", covariance).reshape(-1, 3)
    return {
        "people_frames": len(error_m),
        "inside": {f"{p:g}": float((squared < chi2.ppf(p, 3)).mean()) for p in PROBABILITIES},
        "median_over_expected": float(np.median(squared) / chi2.median(3)),
        "stated_mm": (1e3 * np.sqrt(stated.mean(0))).tolist(),
        "measured_mm": (1e3 * np.sqrt((error_m**2).reshape(-1, 3).mean(0))).tolist(),
    }


def plot(cases: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> Path | None:
    """Share of joints inside over the probability of the ellipsoid; the diagonal is right.  None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        log.warning("no picture: matplotlib is not installed (pip install matplotlib)")
        return None

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from scipy.stats import chi2

    figure, axes = pyplot.subplots(figsize=(4.4, 4.0))
    for name, (error_m, covariance) in cases.items():
        inside = np.sort(chi2.cdf(normalised(error_m, covariance).reshape(-1), 3))
        axes.plot(inside, np.linspace(0, 1, len(inside)), label=name)
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
    axes.set(xlabel="probability of the ellipsoid", ylabel="share of joints inside", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints and writes the scores as JSON."""
    parser = argparse.ArgumentParser(prog="densefit bench covariance", description=__doc__.splitlines()[0].replace("``", ""))
    parser.add_argument("--sequences", type=int, default=40, help=f"of {VIDEO_FRAMES} frames at {_FPS} Hz, a person each")
    parser.add_argument("--seed", type=int, default=0, help="of the people")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, e.g. fit.covariance_share=0.1"
    )
    parser.add_argument("--out", type=Path, help="also write covariance.json, and with matplotlib covariance.png, to this folder")
    args = parser.parse_args(argv)
    if args.sequences < 1:
        raise ConfigError(f"--sequences: expected 1 or more, got {args.sequences}")
    config = with_overrides(Config(), {"detect.backend": "none", **parse_overrides(args.set)})
    models = load_models(config)
    cases = measure(models, args.sequences, args.seed)
    rows = {name: score(*pair) for name, pair in cases.items()}
    result = {"first_estimate": models.backends["regress"], "sequences": args.sequences, "seed": args.seed, "rows": rows}
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "covariance.json").write_text(text + "\n")
        plot(cases, args.out / "covariance.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
