"""``densefit bench tracked``: what refinement takes off the first estimate's errors of held-out people who are tracked.

Videos of one person each; the first image's box is given, from there on the tracker knows.  Cases differ in what the tracker is
told and may do, on the same videos.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..body.model import pose
from ..config import Config
from ..errors import ConfigError, DensefitError
from ..eval.metrics import mean_interval
from ..eval.sample import SMPL24, Sample, score
from ..eval.synthetic import VIDEO_FRAMES, SyntheticVideo
from ..models import Models, load_models
from ..pipeline import initial_state, process
from ..settings import parse_overrides, with_overrides
from ..types import Frame
from . import track_covariance

METRICS = ("pve_mm", "mpjpe_mm", "pa_mpjpe_mm", "reproj_px", "absolute_mpjpe_mm")


def _tilted(ground: np.ndarray, pitch_deg: float) -> np.ndarray:
    """The floor that a camera believes in that looks ``pitch_deg`` farther down than it knows."""
    c, s = np.cos(np.radians(pitch_deg)), np.sin(np.radians(pitch_deg))
    return np.array([*(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ ground[:3]), ground[3]])


@dataclass(frozen=True)
class Case:
    """What the tracker may do, and what it is told of the floor."""

    overrides: dict[str, object] = field(default_factory=dict)
    floor: Callable[[np.ndarray], np.ndarray | None] = lambda ground: None


CASES = {
    "tracker": Case(),
    "without displacements": Case({"displace.enabled": False}),
    "floor known": Case(floor=lambda ground: ground),
    "floor known, camera tilted by 1 degree": Case(floor=lambda ground: _tilted(ground, 1.0)),
    "floor known, camera 5 cm lower": Case(floor=lambda ground: ground + [0, 0, 0, 0.05]),
}


def measure(models: Models, case: Case, samples: Sequence[Sample]) -> dict[str, float] | None:
    """Means over one video of each metric, first and refined; None when nobody was answered."""
    state, rows, joints = initial_state(), [], []
    for i, sample in enumerate(samples):
        frame = Frame(sample.image(), round(1e9 * i / sample.fps), sample.camera, ground=case.floor(sample.ground))
        state, result = process(models, state, frame, None if i else sample.box_xywh[None])
        for person in result.people[:1]:
            first = pose(models.body, person.first_estimate)
            scores = {
                "first": score(SMPL24, sample, first.vertices[0], first.joints[0]),
                "refined": score(SMPL24, sample, person.vertices, person.joints),
            }
            rows.append({f"{name}_{metric}": getattr(s, metric) for name, s in scores.items() for metric in METRICS})
            joints.append((person.joints - sample.truth.points_m, person.joint_covariance))
    if not rows:
        return None
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    inside = track_covariance.score(*(np.stack(a).astype(np.float64) for a in zip(*joints)))["inside"]
    return {**means, "inside_95": inside["0.95"], "answered": len(rows) / len(samples)}


def summarise(videos: Sequence[dict[str, float]]) -> dict[str, object]:
    """Means over videos with their 95 % intervals, and by how much refinement changes each metric."""
    out: dict[str, object] = {name: mean_interval(np.array([v[name] for v in videos])) for name in videos[0]}
    out["change"] = {m: out[f"refined_{m}"][0] / out[f"first_{m}"][0] - 1 for m in METRICS}
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints and writes the means as JSON."""
    parser = argparse.ArgumentParser(prog="densefit bench tracked", description=__doc__.splitlines()[0].replace("``", ""))
    parser.add_argument("--sequences", type=int, default=12, help=f"for each seed, of {VIDEO_FRAMES} frames, a person each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[71, 72, 73, 74, 75, 76], help="of the people")
    parser.add_argument(
        "--backgrounds",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders with more photographs, of which the held-out ones are used",
    )
    parser.add_argument("--near", action="store_true", help="people before whom the camera sees no legs")
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="CASE", help=f"of {', '.join(map(repr, CASES))}")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, of all cases")
    parser.add_argument("--out", type=Path, help="also write tracked.json to this folder")
    args = parser.parse_args(argv)
    unknown = [name for name in args.cases if name not in CASES]
    if args.sequences < 1 or unknown:
        raise ConfigError(f"expected --sequences of 1 or more and cases of {', '.join(CASES)}; got {args.sequences}, {unknown}")
    common = parse_overrides(args.set)
    models = {n: load_models(with_overrides(Config(), {**CASES[n].overrides, **common})) for n in args.cases}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.cases}
    for seed in args.seeds:
        videos = SyntheticVideo(
            next(iter(models.values())).body, args.sequences * VIDEO_FRAMES, seed, args.backgrounds, args.near
        )
        for start in range(0, len(videos), VIDEO_FRAMES):
            samples = [_drawn(videos[start + i]) for i in range(VIDEO_FRAMES)]
            means = {name: measure(models[name], CASES[name], samples) for name in args.cases}
            if None not in means.values():  # the same videos in every case
                for name, row in means.items():
                    found[name].append(row)
    if not found[args.cases[0]]:
        raise DensefitError("nobody was answered in any video: is a first estimate's confidence ever enough?")
    result = {
        "first_estimate": models[args.cases[0]].backends["regress"],
        "seeds": args.seeds,
        "videos": len(found[args.cases[0]]),
        "of": len(args.seeds) * args.sequences,
        "rows": {name: summarise(rows) for name, rows in found.items()},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "tracked.json").write_text(text + "\n")
    return 0


def _drawn(sample: Sample) -> Sample:
    """With its picture drawn once for all cases."""
    rgb = sample.image()
    return dataclasses.replace(sample, image=lambda: rgb)


if __name__ == "__main__":
    raise SystemExit(main())
