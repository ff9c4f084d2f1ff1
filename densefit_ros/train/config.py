"""Everything that decides a training run, in one record that is saved beside its results."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError

TASKS = ("joint", "displacement", "regressor", "finder")
OPTIMIZERS = ("adamw", "muon")
BOTH = ("regressor", "displacement")  # networks of a run of both


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run; docs/MODEL_CARD.md has those that made the shipped weights."""

    task: str  # one of TASKS
    out: str  # directory of the run
    seed: int = 1
    minutes: float = 60.0  # wall time over all sittings; the learning rate is annealed over it
    steps: int = 0  # if positive: stop after this many steps instead, independent of the machine's speed
    batch: int = 8  # samples per step: small, because steps are what an early plateau is left by
    made: int = 32  # samples made at a time, a multiple of batch
    chunk: int = 8  # made batches held and mixed
    reuse: int = 2  # passes over each made batch
    workers: int = 0  # processes that make data ahead; 0: in the training process
    lr: float = 1.5e-3
    lr_floor: float = 0.01  # the learning rate ends at this share of lr; high for a phase that another one follows
    optimizer: str = "adamw"  # or muon, which takes the filters
    weight_decay: float = 0.01
    warmup: float = 0.03  # share of the run
    grad_clip: float = 2.0
    ema: float = 0.998
    device: str = "cpu"
    bf16: bool = True
    compile: bool = False
    threads: int = 1  # of each process
    processes: int = 1  # that take every step together, each on its own batch
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 6.0
    validation_batches: int = 8
    log_steps: int = 20
    # Checkpoints whose weights this run starts from, separated by commas, each over the one before (not a resume: optimiser
    # and step start anew).
    init: str = ""
    network: dict[str, Any] = field(default_factory=dict)  # constructor arguments
    data: dict[str, Any] = field(default_factory=dict)  # arguments of the sample source

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"train task expects one of {', '.join(TASKS)}, got {self.task!r}")
        if self.batch < 2 or self.minutes <= 0 or self.device not in ("cpu", "cuda"):
            got = f"{self.batch}, {self.minutes}, {self.device}"
            raise ConfigError(f"train expects batch >= 2, minutes > 0, device cpu|cuda; got {got}")
        for name in ("log_steps", "validation_batches", "processes", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train {name} expects 1 or more, got {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"train optimizer expects one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.made < 1 or self.made % self.batch:
            raise ConfigError(f"train expects made to be a multiple of batch, got {self.made} and {self.batch}")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n")

    @staticmethod
    def load(path: Path) -> TrainConfig:
        """Raises ConfigError when the file is not a saved configuration."""
        try:
            return TrainConfig(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: expected a saved training configuration ({error})") from error
