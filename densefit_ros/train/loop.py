"""The training loop: one for both networks, on CPU and CUDA, that survives being killed at any moment."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import AssetError, BackendUnavailable, ConfigError
from ..eval.provenance import commit
from .config import TrainConfig
from .data import Batch, Loader, SourceSpec
from .grow import take_over
from .optimizer import Stepper
from .parallel import Peers

Metrics = dict[str, float]
# May change from one sitting of a run to the next: how long, on what, and how often it reports.
_FREE = frozenset(
    ("out", "minutes", "steps", "workers", "threads", "compile", "device")
    + ("checkpoint_minutes", "validate_minutes", "log_steps")
)


class Task(Protocol):
    """What differs between the networks."""

    spec: SourceSpec  # training data
    validation_spec: SourceSpec  # other seeds, never trained on

    def network(self, config: dict[str, Any]) -> nn.Module: ...

    def loss(self, net: nn.Module, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]: ...

    def validate(self, net: nn.Module, batches: list[Batch], device: str) -> Metrics:
        """Metrics on held-out batches; "score" is the one to minimise."""
        ...


class Trainer:
    """One run in one directory.  Construct and call :meth:`run`; constructing over an interrupted run resumes it.

    Raises AssetError when the directory holds a run of other settings (its length and reports may change), and
    BackendUnavailable without the device, ConfigError for arguments that the network does not take.

    Files: config.json, log.csv (training), validation.csv, last.pt (complete state, written atomically), best.pt
    (averaged weights with the lowest validation score), provenance.json (commits, settings).  ``peers``: the processes that
    take the steps together with this one; each makes its own samples, the first one writes the files.
    """

    def __init__(self, config: TrainConfig, task: Task, say: Callable[[str], None] = print, peers: Peers | None = None) -> None:
        if config.device == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable("torch sees no CUDA device to train on: install a CUDA build of torch, or --device cpu")
        self.config, self.task, self._say, self._peers = config, task, say, peers
        self._first = peers is None or peers.rank == 0
        self.out = Path(config.out)
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        try:
            net = task.network(config.network)
        except TypeError as error:
            raise ConfigError(f"--network {json.dumps(config.network)}: {error}") from error
        self.net = net.to(config.device, memory_format=torch.channels_last)
        for name in filter(None, config.init.split(",")):
            _start_from(Path(name), self.net, config.task)
        self.out.mkdir(parents=True, exist_ok=True)
        self.average = copy.deepcopy(self.net).eval()
        self._forward = torch.compile(self.net) if config.compile else self.net
        self.optimizer = Stepper(self.net, config.optimizer, config.lr, config.weight_decay)
        self.step, self.elapsed_s, self.best = 0, 0.0, math.inf
        self._validation: list[Batch] = []
        self._resume()
        if self._first:
            config.save(self.out / "config.json")
            self._provenance()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> Metrics:
        """Train to the end of the budget; returns the last validation metrics."""
        c = self.config
        spec = self.task.spec if self._first else self.task.spec.other(self._peers.rank)
        loader = Loader(spec, c.seed, c.chunk, c.reuse, c.workers, self.step, c.made // c.batch)
        started = self._started = time.monotonic() - self.elapsed_s
        next_save = self.elapsed_s + 60 * c.checkpoint_minutes
        next_validation = self.elapsed_s + 60 * c.validate_minutes
        sums: dict[str, float] = {}
        count, since = 0, time.monotonic()
        try:
            for batch in loader:
                if self.progress() >= 1.0:
                    break
                for name, value in self.train_step(batch).items():
                    sums[name] = sums.get(name, 0.0) + value
                count += 1
                if self._peers is None:
                    self.elapsed_s = time.monotonic() - started
                if not self._first:
                    continue
                if self.step % c.log_steps == 0:
                    now = time.monotonic()
                    row = {"step": self.step, "minutes": self.elapsed_s / 60, "lr": self.learning_rate()}
                    row["samples_per_s"] = count * c.batch * c.processes / (now - since)
                    taken = max(count - sums["skipped"], 1)
                    row |= {k: v / (count if k == "skipped" else taken) for k, v in sums.items()}
                    self._write("log.csv", row)
                    sums, count, since = {}, 0, now
                if self.elapsed_s >= next_save:
                    self.save()
                    next_save = self.elapsed_s + 60 * c.checkpoint_minutes
                if self.elapsed_s >= next_validation:
                    self.validate()
                    next_validation = self.elapsed_s + 60 * c.validate_minutes
        finally:
            loader.close()
        if not self._first:
            return {}
        metrics = self.validate()
        self.save()
        return metrics

    def train_step(self, batch: Batch) -> Metrics:
        """One update; returns the parts of the loss."""
        c, rate = self.config, self.learning_rate()
        self.net.train()
        kept = [b.clone() for b in self.net.buffers()]
        tensors = to_tensors(batch, c.device)
        with torch.autocast(c.device, torch.bfloat16, enabled=c.bf16):
            total, parts = self.task.loss(self._forward, tensors, self.progress())
        self.net.zero_grad(set_to_none=True)
        total.backward()
        if self._peers is not None:
            self.elapsed_s = self._peers.average(list(self.net.parameters()), time.monotonic() - self._started)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), c.grad_clip)
        # One broken sample must not end an hour of training: a non-finite gradient is counted, not applied.
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step(rate)
            self._update_average()
        else:  # the forward pass has written it into the running statistics already
            for buffer, value in zip(self.net.buffers(), kept):
                buffer.copy_(value)
        self.step += 1
        said = {"loss": float(total.detach()), "grad": float(norm)} | {k: float(v) for k, v in parts.items()}
        return {k: v if finite else 0.0 for k, v in said.items()} | {"skipped": float(not finite)}

    def progress(self) -> float:
        """Share of the budget used, in [0, 1]."""
        if self.config.steps > 0:
            return min(self.step / self.config.steps, 1.0)
        return min(self.elapsed_s / (60 * self.config.minutes), 1.0)

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to the floor."""
        p, warm, floor = self.progress(), self.config.warmup, self.config.lr_floor
        if p < warm:
            return self.config.lr * max(p / warm, 0.02)
        return self.config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (p - warm) / (1 - warm))))

    def validate(self) -> Metrics:
        """Metrics of the averaged weights on held-out data; keeps them when they are the best so far."""
        if not self._validation:
            source = self.task.validation_spec.build()
            self._validation = [source.batch(i) for i in range(self.config.validation_batches)]
        metrics = self.task.validate(self.average, self._validation, self.config.device)
        self._write("validation.csv", {"step": self.step, "minutes": self.elapsed_s / 60} | metrics)
        self._say(f"step {self.step} {self.elapsed_s / 60:.1f} min  " + "  ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
        if metrics["score"] < self.best:
            self.best = metrics["score"]
            record = {"weights": self.average.state_dict(), "network": self.net.config, "task": self.config.task}
            record |= {"step": self.step, "metrics": metrics, "commit": commit(), "seed": self.config.seed}
            save_checkpoint(record, self.out / "best.pt")
        return metrics

    # -- state ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """The complete state, atomically."""
        state = {"net": self.net.state_dict(), "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {
            "rng": torch.get_rng_state(),
            "seed": self.config.seed,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "best": self.best,
        }
        save_checkpoint(state, self.out / "last.pt")

    def _resume(self) -> None:
        path = self.out / "last.pt"
        if not path.is_file():
            return
        state = load_checkpoint(path, self.config.device)
        if state.get("seed") != self.config.seed:
            raise AssetError(f"{path}: made with seed {state.get('seed')}, this run has {self.config.seed}; choose another --out")
        if self._first:
            self._check_settings()
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        self.step, self.elapsed_s, self.best = state["step"], state["elapsed_s"], state["best"]
        self._say(f"resuming {self.out} at step {self.step}, {self.elapsed_s / 60:.1f} min")

    def _check_settings(self) -> None:
        saved, now = (
            json.loads(json.dumps(dataclasses.asdict(c))) for c in (TrainConfig.load(self.out / "config.json"), self.config)
        )
        changed = {k: f"{k} {saved[k]!r}, now {now[k]!r}" for k in now if k not in _FREE and saved[k] != now[k]}
        if changed:
            which = changed.get("task", "; ".join(changed.values()))
            raise AssetError(f"{self.out}: holds a run of other settings ({which}); choose another --out")

    def _update_average(self) -> None:
        # The first steps of a run from nothing would weigh for long in a plain average: it starts short and lengthens.
        decay = self.config.ema if self.config.init else min(self.config.ema, (1 + self.step) / (10 + self.step))
        done = set()  # a module that two networks share has two names
        with torch.no_grad():
            for mine, new in zip(self.average.state_dict().values(), self.net.state_dict().values()):
                if mine.data_ptr() in done:
                    continue
                done.add(mine.data_ptr())
                if mine.dtype.is_floating_point:
                    mine.lerp_(new.to(mine.dtype), 1 - decay)
                else:
                    mine.copy_(new)

    def _provenance(self) -> None:
        parameters = sum(p.numel() for p in self.net.parameters())
        record = {"commit": commit(), "config": dataclasses.asdict(self.config)}
        record |= {"parameters": parameters, "torch": torch.__version__}
        path = self.out / "provenance.json"
        if self.step and path.is_file():  # what made the first steps stays named
            before = json.loads(path.read_text())
            later = [*before.get("resumed_by", []), record["commit"]]
            record |= {"commit": before["commit"], "resumed_by": [c for c in dict.fromkeys(later) if c != before["commit"]]}
        path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")

    def _write(self, name: str, row: dict[str, float]) -> None:
        path = self.out / name
        fresh = not path.exists()
        with path.open("a", newline="") as f:
            writer = csv.writer(f)
            if fresh:
                writer.writerow(row)
            writer.writerow([v if isinstance(v, int) else f"{v:.6g}" for v in row.values()])


def to_tensors(batch: Batch, device: str) -> dict[str, Tensor]:
    """NumPy batch to tensors on the device; half precision that only saved memory becomes float32."""
    out = {}
    for name, array in batch.items():
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
        out[name] = tensor.float() if tensor.dtype in (torch.float16, torch.float64) else tensor
    return out


def _start_from(path: Path, net: nn.Module, task: str) -> None:
    weights = load_weights(path)
    try:
        take_over(net, weights)
    except (ValueError, LookupError, AttributeError, RuntimeError) as error:  # torch names missing weights with the last
        reason = str(error).splitlines()[0]
        raise AssetError(f"--init {path}: expected weights of a {task} network, as large or smaller ({reason})") from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Averaged weights of a best.pt or last.pt.  Raises AssetError."""
    state = load_checkpoint(path, "cpu")
    if "weights" not in state and "average" not in state:
        raise AssetError(f"{path}: expected a training checkpoint (best.pt or last.pt), got keys {sorted(state)[:5]}")
    return state["weights"] if "weights" in state else state["average"]


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Atomically: a killed writer leaves the file before it."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path, device: str) -> dict[str, Any]:
    """Runs no code of the file's.  Raises AssetError."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises pickle, zip and runtime errors for a damaged file
        raise AssetError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
