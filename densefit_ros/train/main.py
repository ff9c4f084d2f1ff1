"""``densefit train joint|displacement|regressor|finder|average|restore|plot ...``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .config import TASKS, TrainConfig

if TYPE_CHECKING:
    from .parallel import Peers

_HELP = {
    "out": "directory of the run; an interrupted run in it is resumed",
    "seed": "data, initial weights and order follow from it",
    "minutes": "wall time over all sittings; the learning rate is annealed over it",
    "steps": "stop after this many steps instead of by time (0: by time)",
    "batch": "samples per step",
    "made": "samples made at a time, a multiple of batch",
    "chunk": "made batches held and mixed",
    "reuse": "passes over each made batch, with fresh augmentation",
    "workers": "processes that make data ahead (0: none)",
    "optimizer": "adamw, or muon for filters and adamw for the rest",
    "lr": "peak learning rate",
    "lr_floor": "share of lr that the run ends with",
    "weight_decay": "AdamW's",
    "warmup": "share of the run in which the learning rate rises",
    "grad_clip": "largest norm of a step's gradient",
    "ema": "share of the average weights that a step keeps",
    "checkpoint_minutes": "time between checkpoints",
    "validate_minutes": "time between validations",
    "validation_batches": "held-out batches of each",
    "log_steps": "steps between lines of log.csv",
    "device": "cpu or cuda",
    "bf16": "bfloat16 convolutions (on CPU: about twice as fast where AVX512-BF16 exists)",
    "compile": "torch.compile the network",
    "threads": "torch threads of each process",
    "processes": "processes that take every step together, each on its own batch",
    "init": "start from the weights of this checkpoint",
}

# Commands with a parser of their own: module, function, help.
_COMMANDS = {
    "average": (".commands", "average", "the mean of several runs' weights"),
    "restore": (".commands", "restore", "make the networks that ship trainable again"),
    "evaluate": (".commands", "evaluate", "held-out numbers of exported networks"),
    "card": (".card", "main", "write the measured part of the model card"),
    "preview": ("..synth.preview", "main", "write a contact sheet of training samples"),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``densefit train``; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] and argv[0] in _COMMANDS:
        module, function, _ = _COMMANDS[argv[0]]
        return getattr(importlib.import_module(module, __package__), function)(argv[1:])
    args = _parser().parse_args(argv)
    if args.task == "plot":
        from .plots import plot_run

        print(plot_run(Path(args.run)))
        return 0
    config = config_from_args(args)
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))
    if config.processes > 1 and config.device == "cuda":
        raise ConfigError(
            "--processes: several processes take steps together on a CPU; on a GPU use --workers to make data ahead"
        )
    if config.processes > 1:
        from .parallel import run_together

        run_together(config.processes, train, config)
    else:
        train(config)
    return 0


def train(config: TrainConfig, peers: Peers | None = None) -> None:
    """One run, or this process's part of it."""
    from .loop import Trainer
    from .plots import plot_run
    from .tasks import make_task

    task = make_task(config)
    task.spec.check()
    trainer = Trainer(config, task, say=_say, peers=peers)
    if peers is not None and peers.rank:
        trainer.run()
        return
    (trainer.out / "pid").write_text(f"{os.getpid()}\n")
    metrics = trainer.run()
    (trainer.out / "result.json").write_text(json.dumps(metrics, indent=2) + "\n")
    plot_run(trainer.out)


def config_from_args(args: argparse.Namespace) -> TrainConfig:
    """Command-line options to a configuration.  Raises ConfigError on malformed JSON."""
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    values = {k: v for k, v in vars(args).items() if k in known and v is not None}
    for name in ("network", "data"):
        try:
            values[name] = json.loads(values.get(name, "{}"))
        except ValueError as error:
            raise ConfigError(f"--{name} expects a JSON object, got {values[name]!r}") from error
        if not isinstance(values[name], dict):
            raise ConfigError(f"--{name} expects a JSON object, got {values[name]!r}")
    values.setdefault("out", f"runs/{args.task}")
    return TrainConfig(**values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="densefit train", description="Train a network on synthetic people.")
    tasks = parser.add_subparsers(dest="task", required=True)
    for task in TASKS:
        own = tasks.add_parser(task, help=f"train the {task} network", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        for f in dataclasses.fields(TrainConfig):
            if f.name in ("task", "network", "data"):
                continue
            flag = "--" + f.name.replace("_", "-")
            default = None if f.default is dataclasses.MISSING else f.default
            if isinstance(default, bool):
                own.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=_HELP.get(f.name, f.name))
            else:
                kind = str if default is None else type(default)
                own.add_argument(flag, type=kind, default=default, help=_HELP.get(f.name, f.name.replace("_", " ")))
        own.add_argument("--network", default="{}", help="JSON object of network constructor arguments")
        own.add_argument("--data", default="{}", help="JSON object of arguments of the sample source")
    plot = tasks.add_parser("plot", help="draw the curves of a run")
    plot.add_argument("run", help="directory of the run")
    for name, (_, _, text) in _COMMANDS.items():
        tasks.add_parser(name, help=text)
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
