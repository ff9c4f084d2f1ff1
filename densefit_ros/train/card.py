"""The measured part of docs/MODEL_CARD.md, written from the runs and the evaluation: ``densefit train card``."""

from __future__ import annotations

import argparse
import csv
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import AssetError
from ..eval.provenance import BEGIN, insert
from ..runtime.picture import SIZE_PX
from .reliability import calibration_error

_FLAGS = (
    "seed", "minutes", "batch", "made", "chunk", "reuse", "optimizer", "lr", "lr_floor", "warmup", "ema", "processes", "init",
)  # fmt: skip


def card(runs: Sequence[Path], evaluation: dict[str, Any], before: str = "") -> str:
    """Markdown of how the networks came about, run by run, and of their held-out numbers.

    ``runs`` are the directories in order, each started from the one before, averages of runs and restored networks among them;
    ``evaluation`` is the JSON of ``densefit train evaluate``; ``before``, a card, adds the runs that it holds.
    """
    records = [_record(run) for run in runs]
    rows, commands = _runs_of(before)
    rows += [_run_row(r) for r in records if "config" in r]
    commands += [_command(r) for r in records]
    total = sum(int(row[-1].replace(",", "")) for row in rows)
    parts = ["### How the networks were trained\n", _table(_RUN_HEAD, rows)]
    parts.append(
        f"\n{total:,} pictures in all. Where the table's minutes are fewer than the command's, the run was stopped there.\n"
    )
    parts.append("```bash\n" + "\n".join(commands) + "\n```\n")
    parts.append("### Held-out numbers\n")
    parts.append(f"Evaluation seed {evaluation['seed']}, {evaluation['regressor']['people']:.0f} labelled people.\n")
    parts.append(_table(_REGRESSOR_HEAD, [_regressor_row(evaluation["regressor"])]) + "\n")
    rows = [_displacement_row(k.removeprefix("displacement_"), v) for k, v in evaluation.items() if k.startswith("displacement_")]
    parts.append(_table(_DISPLACEMENT_HEAD, rows))
    for name, section in (("reliability", _reliability), ("ablation", _ablation), ("together", _together)):
        if name in evaluation:
            parts.append("\n" + section(evaluation[name]))
    return "\n".join(parts) + "\n"


def _runs_of(text: str) -> tuple[list[Sequence[str]], list[str]]:
    """Rows of the table of runs, and the commands, in a card that was written before."""
    lines = text.split(BEGIN)[-1].split("### Held-out numbers")[0].splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[-1].replace(",", "").isdigit()], [x for x in lines if x.startswith("densefit train ")]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="densefit train card", description=__doc__.replace("``", ""))
    parser.add_argument("--runs", nargs="+", type=Path, required=True, metavar="RUN", help="the run directories, in order")
    parser.add_argument("--evaluation", type=Path, required=True, help="JSON written by densefit train evaluate")
    parser.add_argument("--more", action="store_true", help="keep the runs that the card holds, and add these to them")
    parser.add_argument("--card", type=Path, default=Path("docs/MODEL_CARD.md"))
    args = parser.parse_args(argv)
    text = args.card.read_text()
    try:
        evaluation = json.loads(args.evaluation.read_text())
    except ValueError as error:
        raise AssetError(f"{args.evaluation}: expected the JSON that densefit train evaluate writes ({error})") from error
    measured = card(args.runs, evaluation, text if args.more else "")
    args.card.write_text(insert(text, measured))
    print(f"wrote the measured part of {args.card}")
    return 0


def _record(run: Path) -> dict[str, Any]:
    try:
        provenance = json.loads((run / "provenance.json").read_text())
        if "config" not in provenance:
            return {"out": str(run), **provenance}
        last = _last_row(run / "log.csv")
        if (run / "validation.csv").is_file():  # of the last steps, which are not logged
            last = max(last, _last_row(run / "validation.csv"), key=lambda row: int(row["step"]))
    except (OSError, ValueError, IndexError) as error:
        raise AssetError(f"{run}: expected a training run with provenance.json and log.csv ({error})") from error
    return {"name": run.name, "out": str(run), **provenance, "steps": int(last["step"]), "minutes": float(last["minutes"])}


def _last_row(path: Path) -> dict[str, str]:
    with path.open(newline="") as f:
        return list(csv.DictReader(f))[-1]


_RUN_HEAD = ("run", "seed", "commit", "crop px", "easy share", "minutes", "steps", "pictures")


def _run_row(r: dict[str, Any]) -> Sequence[str]:
    data, c = r["config"]["data"], r["config"]
    commit = r["commit"][:10] + ("+" if r["commit"].endswith("+") else "")
    easy = f"{float(data.get('easy', 0)):g}"
    return (
        r["name"],
        str(c["seed"]),
        f"`{commit}`",
        str(data.get("size", SIZE_PX)),
        easy,
        f"{r['minutes']:.1f}",
        str(r["steps"]),
        f"{_samples(r):,}",
    )


def _samples(r: dict[str, Any]) -> int:
    return r["steps"] * r["config"]["batch"] * r["config"].get("processes", 1)


def _command(r: dict[str, Any]) -> str:
    if "average" in r:
        shares = [f"{run}={share:g}" for run, share in r["average"].items()]
        return " ".join(["densefit train average", *shares, "--out", r["out"]])
    if "restored" in r:
        return f"densefit train restore --out {r['out']} --batches {r['batches']} --data {shlex.quote(json.dumps(r['data']))}"
    config = r["config"]
    flags = [f"--{n.replace('_', '-')} {_text(config[n])}" for n in _FLAGS if config.get(n) not in (None, "")]
    objects = [f"--{n} {shlex.quote(json.dumps(config[n]))}" for n in ("network", "data") if config.get(n)]
    return " ".join([f"densefit train {config['task']} --out {r['out']}", *flags, *objects])


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


_REGRESSOR_HEAD = (
    "MPJPE mm", "PVE mm", "joint angle deg", "root angle deg", f"2D joints px of {SIZE_PX}", "PCK@0.1",
    "relative depth error", "rotation z^2 (1: calibrated)", "person or none told",
)  # fmt: skip


def _regressor_row(e: dict[str, float]) -> Sequence[str]:
    near = [f"{e[k]:.0f}" for k in ("mpjpe_mm", "pve_mm")] + [f"{e[k]:.1f}" for k in ("angle_deg", "root_deg", "placed_px")]
    return near + [f"{e[k]:.2f}" for k in ("pck10", "depth_relative", "rot_z2", "confidence_right")]


_DISPLACEMENT_HEAD = (
    "starts", "EPE / zero px", "ratio", "small starts", "medium", "large", "surer half", "z^2",
    "PVE mm start -> refined", "reprojection px start -> refined", "with true flow",
)  # fmt: skip


def _displacement_row(name: str, d: dict[str, float]) -> Sequence[str]:
    def pair(kind: str) -> str:
        return f"{d[f'epe{kind}_px']:.2f} / {d[f'zero{kind}_px']:.2f}"

    moved = [f"{d[f'start_{k}']:.1f} -> {d[f'refined_{k}']:.1f}" for k in ("pve_mm", "reproj_px")]
    true = f"{d['true_flow_pve_mm']:.0f} mm, {d['true_flow_reproj_px']:.1f} px"
    start = name.replace("_deg", " deg a joint")
    pairs = [pair("_small"), pair("_medium"), pair("_large"), pair("_sure")]
    return [start, pair(""), f"{d['epe_ratio']:.2f}", *pairs, f"{d['z2']:.2f}", *moved, true]


def _reliability(curves: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, relative in (("displacement", True), ("rotation", True), ("confidence", False)):
        for label, curve in curves.get(name, {}).items():
            off = calibration_error(curve, relative)
            rows.append((name, label, f"factor {math.exp(off):.2f}" if relative else f"{off:.3f}"))
    text = "### Is the stated confidence true?\n\n![reliability](images/reliability.png)\n\n"
    return text + _table(("what", "where", "mean distance of measured from stated"), rows) + "\n"


def _ablation(variants: dict[str, dict[str, float]]) -> str:
    rows = [
        (
            name, f"{v['epe_px']:.2f}", f"{v['epe_ratio']:.3f}", f"{v['epe_sure_px']:.2f}", f"{v['pve_mm']:.1f}",
            *(f"{v[loss]:+.2f} ({v[f'{loss}_low']:+.2f} to {v[f'{loss}_high']:+.2f})" for loss in ("loss_px", "loss_mm")),
        )
        for name, v in variants.items()
    ]  # fmt: skip
    first = next(iter(variants.values()))
    text = (
        "### What each input of the displacement network is worth\n\nOne input at a time replaced by its mean over the person's "
        f"pixels; starts off by 8 degrees a joint, {first['start_pve_mm']:.1f} mm; zero displacement {first['zero_px']:.2f} px. "
        "The network was trained with all inputs: this is what it leans on. Last columns: what leaving the input out costs, "
        "person by person, with the 95 % interval of the mean.\n\n"
    )
    head = ("rendering", "EPE px", "of zero", "surer half px", "PVE mm after a fit", "costs px a person", "costs mm a person")
    return text + _table(head, rows) + "\n"


def _together(scenarios: dict[str, dict[str, float]]) -> str:
    ways = ("start", "keypoints", "displacements", "both")
    rows = [
        (
            name,
            *(f"{v[f'{way}_pve_mm']:.1f}" for way in ways),
            f"{v['excess_mm']:+.1f} ({v['excess_low_mm']:+.1f} to {v['excess_high_mm']:+.1f})",
        )
        for name, v in scenarios.items()
    ]
    text = (
        "### Keypoints and displacements in one fit\n\nPVE in mm after one fit from starts off by 8 degrees a joint, or from the "
        "lifted keypoints themselves; 25 keypoints with a detector's noise. Last column: both minus the better one alone, with "
        "its 95 % interval over people.\n\n"
    )
    return text + _table(("displacements", "start", "keypoints", "displacements alone", "both", "both - better"), rows) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
