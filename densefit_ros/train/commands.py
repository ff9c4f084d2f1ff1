"""Command lines around trained networks: ``densefit export``, ``densefit train average|restore|evaluate``.

torch is imported behind the parsers, so that their help works where it is not installed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import AssetError, ConfigError
from ..eval.provenance import commit
from ..weights import weights_path
from .config import BOTH, TrainConfig

MEASURED = ("regressor", "displacement", "ablation", "sweeps", "together")


def export(argv: list[str]) -> int:
    """``densefit export CHECKPOINT --out FILE.onnx|FOLDER``: a folder gets a file named after each network."""
    parser = argparse.ArgumentParser(prog="densefit export", description="Write a trained network as ONNX, with a parity check.")
    parser.add_argument("checkpoint", type=Path, help="best.pt of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the .onnx file to write, or the folder for NETWORK.onnx")
    parser.add_argument("--part", choices=BOTH, default="", help="one network alone of a run of both")
    args = parser.parse_args(argv)
    from .export import export_checkpoint, networks_of

    held = networks_of(args.checkpoint)
    names = (args.part,) if args.part else held
    one_file = args.out.suffix == ".onnx"
    if not set(names) <= set(held):
        raise ConfigError(f"--part {args.part}: {args.checkpoint} holds the {' and the '.join(held)} network alone")
    if one_file and len(names) > 1:
        raise ConfigError(f"--out: {args.checkpoint} holds {' and '.join(held)}; say which with --part, or name a folder")
    for name in names:
        print(export_checkpoint(args.checkpoint, name, args.out if one_file else args.out / f"{name}.onnx"))
    return 0


def average(argv: list[str]) -> int:
    """``densefit train average RUN=SHARE ... --out RUN``: best.pt of the mean, validated as the last run was."""
    parser = argparse.ArgumentParser(prog="densefit train average", description="The mean of several runs' best weights.")
    parser.add_argument("runs", nargs="+", metavar="RUN=SHARE", help="a run's folder and its share; 1 in all")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for best.pt and provenance.json")
    args = parser.parse_args(argv)
    from .average import average_weights
    from .loop import load_checkpoint, save_checkpoint
    from .tasks import make_task

    runs, shares = zip(*(_run_and_share(text) for text in args.runs))
    records = [load_checkpoint(run / "best.pt", "cpu") for run in runs]
    if any("weights" not in r for r in records):
        raise AssetError(f"{', '.join(map(str, runs))}: expected best.pt files of training runs")
    weights = average_weights([r["weights"] for r in records], shares)

    config = TrainConfig.load(runs[-1] / "config.json")
    task, last = make_task(config), records[-1]
    net = task.network(config.network).eval()
    net.load_state_dict(weights)
    source = task.validation_spec.build()
    metrics = task.validate(net, [source.batch(i) for i in range(config.validation_batches)], "cpu")
    made = {"commit": commit(), "seed": last["seed"], "step": last["step"], "metrics": metrics}
    args.out.mkdir(parents=True, exist_ok=True)
    save_checkpoint({**made, "weights": weights, "network": last["network"], "task": last["task"]}, args.out / "best.pt")
    provenance = {**made, "average": {str(run): share for run, share in zip(runs, shares)}}
    (args.out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    print("  ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
    return 0


def restore(argv: list[str]) -> int:
    """``densefit train restore --out RUN``: best.pt of the networks that ship, validated."""
    parser = argparse.ArgumentParser(prog="densefit train restore", description="The networks that ship, made trainable again.")
    parser.add_argument("--finder", action="store_true", help="the person finder instead of regressor and displacement network")
    parser.add_argument("--files", type=Path, nargs="+", help="their ONNX files in this order; without: those that ship")
    parser.add_argument("--batches", type=int, default=24, help="batches of 32 that statistics are measured on")
    parser.add_argument("--data", type=json.loads, default={}, help="JSON object of arguments of the sample source")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for best.pt and provenance.json")
    args = parser.parse_args(argv)
    from . import restore as restoring
    from .loop import save_checkpoint
    from .tasks import make_task

    task_name, parts, make = (
        ("finder", ("finder",), restoring.restore_finder) if args.finder else ("joint", BOTH, restoring.restore)
    )
    files = args.files or [weights_path(f"{part}.onnx") for part in parts]
    if len(files) != len(parts):
        parser.error(f"expected {len(parts)} --files, {' and '.join(parts)}, got {len(files)}")
    starts = {} if args.finder else {"starts": 1}
    task = make_task(TrainConfig(task_name, str(args.out), data={**starts, **args.data}))
    source = task.spec.build()
    net = make(*files, (source.batch(i) for i in range(args.batches)))
    held_out = task.validation_spec.build()
    metrics = task.validate(net, [held_out.batch(i) for i in range(TrainConfig(task_name, "").validation_batches)], "cpu")
    made = {"commit": commit(), "seed": 0, "step": 0, "metrics": metrics}
    args.out.mkdir(parents=True, exist_ok=True)
    save_checkpoint({**made, "weights": net.state_dict(), "network": net.config, "task": task_name}, args.out / "best.pt")
    provenance = {**made, "restored": [str(file) for file in files]}
    provenance |= {"batches": args.batches, "data": args.data}
    (args.out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    print("  ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
    return 0


def evaluate(argv: list[str]) -> int:
    """``densefit train evaluate``."""
    parser = argparse.ArgumentParser(prog="densefit train evaluate", description="Held-out numbers of exported networks.")
    parser.add_argument("--people", type=int, default=256)
    parser.add_argument("--displacement", type=Path, default=None, help="network file (default: the shipped one)")
    parser.add_argument("--regressor", type=Path, default=None, help="network file (default: the shipped one)")
    parser.add_argument("--backgrounds", nargs="*", default=None, metavar="DIR")
    parser.add_argument("--json", type=Path, default=None, help="also write the numbers here; parts left out stay as they are")
    parser.add_argument("--plots", type=Path, default=None, metavar="DIR", help="also draw reliability.png and sweeps.png there")
    parser.add_argument("--only", nargs="+", choices=MEASURED, default=MEASURED, help="parts (default: all)")
    args = parser.parse_args(argv)
    from ..displace.displacer import Displacer
    from ..runtime.onnxruntime_backend import OnnxRuntime
    from ..runtime.picture import check_pair
    from . import evaluate as measuring
    from .reliability import plot

    displacement = args.displacement or weights_path("displacement.onnx")
    regressor = args.regressor or weights_path("regressor.onnx")
    check_pair(regressor, displacement)
    displacer = Displacer(OnnxRuntime(displacement), OnnxRuntime(regressor))
    shared, curves = {"people": args.people, "backgrounds": args.backgrounds}, {}
    result: dict[str, Any] = {"seed": measuring.SEED}
    if "regressor" in args.only:
        result["regressor"] = measuring.evaluate_regressor(regressor, curves=curves, **shared)
    if "displacement" in args.only:
        curves["displacement"] = {}
        for live in (False, True):
            for name, degrees in (("mixed", None), ("4_deg", 4.0), ("10_deg", 10.0)):
                name += ", live textures" if live else ""
                result[f"displacement_{name}"] = measuring.evaluate_displacement(
                    displacer, degrees=degrees, curves=curves["displacement"], live=live, **shared
                )
    before = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    if curves:
        result["reliability"] = before.get("reliability", {}) | curves
    if "ablation" in args.only:
        from .ablation import evaluate_ablation

        result["ablation"] = evaluate_ablation(displacer, **shared)
    if "sweeps" in args.only:
        from . import sweeps

        result["sweeps"] = sweeps.evaluate_sweeps(displacer, **shared)
        if args.plots:
            print(sweeps.plot(result["sweeps"], args.plots / "sweeps.png"))
    if "together" in args.only:
        from .together import evaluate_together

        result["together"] = evaluate_together(displacer, **shared)
    result = _rounded(result)
    print(json.dumps({k: v for k, v in result.items() if k != "reliability"}, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(before | result, indent=2) + "\n")
    if args.plots and curves:
        print(plot(result["reliability"], args.plots / "reliability.png"))
    return 0


def _run_and_share(text: str) -> tuple[Path, float]:
    run, _, share = text.rpartition("=")
    try:
        return Path(run), float(share)
    except ValueError as error:
        raise ConfigError(f"average expects RUN=SHARE, for example runs/joint7=0.7; got {text!r}") from error


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value
