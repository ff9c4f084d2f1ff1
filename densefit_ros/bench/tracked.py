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
from ..geometry.camera import project
from ..models import Models, load_models
from ..pipeline import initial_state, process
from ..settings import parse_overrides, with_overrides
from ..types import Frame
from . import track_covariance

SCORES = ("pve_mm", "mpjpe_mm", "pa_mpjpe_mm", "reproj_px", "absolute_mpjpe_mm")
METRICS = (*SCORES, "seen_mpjpe_mm", "seen_px")  # the last two of the joints in the picture alone, about their middle


def _tilted(ground: np.ndarray, pitch_deg: float) -> np.ndarray:
    """The floor that a camera believes in that looks ``pitch_deg`` farther down than it knows."""
    c, s = np.cos(np.radians(pitch_deg)), np.sin(np.radians(pitch_deg))
    return np.array([*(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ ground[:3]), ground[3]])


@dataclass(frozen=True)
class Case:
    """What the tracker may do, what it is told of the floor, and whether it has a depth camera."""

    overrides: dict[str, object] = field(default_factory=dict)
    floor: Callable[[np.ndarray], np.ndarray | None] = lambda ground: None
    depth: bool = False


CASES = {
    "tracker": Case(),
    "without displacements": Case({"displace.enabled": False}),
    "floor known": Case(floor=lambda ground: ground),
    "floor known, camera tilted by 1 degree": Case(floor=lambda ground: _tilted(ground, 1.0)),
    "floor known, camera 5 cm lower": Case(floor=lambda ground: ground + [0, 0, 0, 0.05]),
    "depth camera": Case(depth=True),
}


def measure(models: Models, case: Case, samples: Sequence[Sample]) -> dict[str, float]:
    """Means over one video of each metric, first and refined, of the images that are answered; without one the share alone."""
    state, rows, joints = initial_state(), [], []
    for i, sample in enumerate(samples):
        depth_m = sample.depth_m() if case.depth else None
        stamp_ns = round(1e9 * i / sample.fps)
        frame = Frame(sample.image(), stamp_ns, sample.camera, depth_m=depth_m, ground=case.floor(sample.ground))
        state, result = process(models, state, frame, None if i else sample.box_xywh[None])
        for person in result.people[:1]:
            first = pose(models.body, person.first_estimate)
            bodies = {"first": (first.vertices[0], first.joints[0]), "refined": (person.vertices, person.joints)}
            rows.append({f"{name}_{metric}": v for name, b in bodies.items() for metric, v in _scores(sample, *b).items()})
            joints.append((person.joints - sample.truth.points_m, person.joint_covariance))
    if not rows:
        return {"answered": 0.0}
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    inside = track_covariance.score(*(np.stack(a).astype(np.float64) for a in zip(*joints)))["inside"]
    return {**means, "inside_95": inside["0.95"], "answered": len(rows) / len(samples)}


def _scores(sample: Sample, vertices_m: np.ndarray, joints_m: np.ndarray) -> dict[str, float]:
    """Every metric of one body."""
    whole = score(SMPL24, sample, vertices_m, joints_m)
    true_m = sample.truth.points_m
    true_px = project(sample.camera, true_m)
    inside = ((true_px > 0) & (true_px < (sample.camera.width, sample.camera.height))).all(1)
    inside |= not inside.any()  # of somebody who has left the picture all count
    apart = joints_m[inside] - joints_m[inside].mean(0) - true_m[inside] + true_m[inside].mean(0)
    off_px = np.linalg.norm(project(sample.camera, joints_m[inside]) - true_px[inside], axis=1)
    off_px = np.where(np.isfinite(off_px), off_px, 10.0 * sample.camera.width)  # behind the camera
    seen = {"seen_mpjpe_mm": 1e3 * float(np.linalg.norm(apart, axis=1).mean()), "seen_px": float(off_px.mean())}
    return {**{metric: getattr(whole, metric) for metric in SCORES}, **seen}


def summarise(videos: Sequence[dict[str, float]]) -> dict[str, object]:
    """Means over videos with their 95 % intervals, and by how much refinement changes each metric.

    ``difference``: of refined and first, video by video; ``refined_pve_mm_of_videos`` is for pairing with another run.
    """
    values = {name: np.array([v[name] for v in videos]) for name in videos[0]}
    out: dict[str, object] = {name: mean_interval(v) for name, v in values.items()}
    out["change"] = {m: out[f"refined_{m}"][0] / out[f"first_{m}"][0] - 1 for m in METRICS}
    out["difference"] = {m: mean_interval(values[f"refined_{m}"] - values[f"first_{m}"]) for m in METRICS}
    out["refined_pve_mm_of_videos"] = [round(v, 2) for v in values["refined_pve_mm"].tolist()]
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
    answered: dict[str, list[float]] = {name: [] for name in args.cases}
    for seed in args.seeds:
        videos = SyntheticVideo(
            next(iter(models.values())).body, args.sequences * VIDEO_FRAMES, seed, args.backgrounds, args.near
        )
        for start in range(0, len(videos), VIDEO_FRAMES):
            samples = [_drawn(videos[start + i]) for i in range(VIDEO_FRAMES)]
            means = {name: measure(models[name], CASES[name], samples) for name in args.cases}
            for name, row in means.items():
                answered[name].append(row.pop("answered"))
            if all(means.values()):  # the same videos in every case
                for name, row in means.items():
                    found[name].append(row)
    if not found[args.cases[0]]:
        raise DensefitError("nobody was answered in any video: is a first estimate's confidence ever enough?")
    result = {
        "first_estimate": models[args.cases[0]].backends["regress"],
        "seeds": args.seeds,
        "videos": len(found[args.cases[0]]),
        "of": len(args.seeds) * args.sequences,
        "rows": {n: {**summarise(rows), "answered": mean_interval(np.array(answered[n]))} for n, rows in found.items()},
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
