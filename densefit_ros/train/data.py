"""Streams of training batches that depend on seeds alone.

Batch ``i`` of a source is a function of (seed, i): whichever process makes it, and whether or not the run was
interrupted in between, it holds the same samples.  Making a synthetic person costs as much as learning from it, so each
made sample is used several times: batches are made in chunks, and a chunk is passed over ``reuse`` times in shuffled
order, with fresh cheap augmentation each time.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..errors import ConfigError, DensefitError

Batch = dict[str, np.ndarray]
_WORKER_TIMEOUT_S = 600.0


class Source(Protocol):
    """Makes labelled batches.  Implementations are cheap to construct from picklable arguments in another process."""

    def batch(self, index: int) -> Batch:
        """Arrays with the samples along axis 0, a function of ``index`` and the source's seed alone."""
        ...

    def augment(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """A cheap variation of a batch, for repeated use."""
        ...


@dataclass(frozen=True)
class SourceSpec:
    """How to build a source in any process."""

    module: str
    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def other(self, rank: int) -> SourceSpec:
        """The same source with other samples: seeds of runs are small numbers, so these are nobody's."""
        return SourceSpec(self.module, self.name, {**self.kwargs, "seed": self.kwargs["seed"] + 1_000_000 * rank})

    def build(self) -> Source:
        return self._kind(**self.kwargs)

    def check(self) -> None:
        """Raise ConfigError for arguments that the source does not take."""
        makers = [vars(c)["__init__"] for c in self._kind.__mro__[:-1] if "__init__" in vars(c)]  # each hands the rest on
        known = {n for make in makers for n in inspect.signature(make).parameters} - {"self", "args", "kwargs"}
        unknown = sorted(set(self.kwargs) - known)
        if unknown:
            raise ConfigError(f"--data: {self.name} takes {', '.join(sorted(known - {'seed'}))}; got {unknown[0]!r}")

    @property
    def _kind(self) -> type:
        return getattr(importlib.import_module(self.module), self.name)


class Loader:
    """Endless training batches from step ``start`` on.

    ``chunk`` made batches are held at a time and used ``reuse`` times each, in training batches ``split`` times smaller
    than the made ones.  With ``workers`` > 0 as many processes make batches ahead; the order and content of the batches do
    not depend on their number.
    """

    def __init__(
        self, spec: SourceSpec, seed: int, chunk: int, reuse: int, workers: int = 0, start: int = 0, split: int = 1
    ) -> None:
        self._seed, self._chunk, self._reuse, self._split = seed, max(chunk, 1), max(reuse, 1), split
        self._start = start
        self._local = spec.build()
        first = self._chunk * (start // (self._chunk * self._reuse * split))
        self._made = _Workers(spec, workers, first) if workers else _inline(self._local, first)

    def __iter__(self) -> Iterator[Batch]:
        step = self._start
        per_pass = self._chunk * self._split
        per_chunk = per_pass * self._reuse
        pool: Batch = {}
        order = np.empty(0, np.int64)
        while True:
            chunk_index, within = divmod(step, per_chunk)
            pass_index, slot = divmod(within, per_pass)
            if not pool or within == 0:
                made = [next(self._made) for _ in range(self._chunk)]
                size = len(next(iter(made[0].values()))) // self._split
                pool = {k: np.concatenate([m[k] for m in made]) for k in made[0]}
            if slot == 0 or not len(order):
                order = np.random.default_rng([self._seed, 1, chunk_index, pass_index]).permutation(size * per_pass)
            take = np.sort(order[slot * size : (slot + 1) * size])
            batch = {k: v[take] for k, v in pool.items()}
            if pass_index or self._reuse > 1:
                batch = self._local.augment(batch, np.random.default_rng([self._seed, 2, step]))
            yield batch
            step += 1

    def close(self) -> None:
        """Stop the workers."""
        close = getattr(self._made, "close", None)
        if close:
            close()


def _inline(source: Source, first: int) -> Iterator[Batch]:
    index = first
    while True:
        yield source.batch(index)
        index += 1


class _Workers:
    """Worker w makes batches first + w, first + w + n, ...; they are handed out in order."""

    def __init__(self, spec: SourceSpec, count: int, first: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._queues = [context.Queue(maxsize=3) for _ in range(count)]
        self._processes = [
            context.Process(target=_work, args=(spec, first + w, count, q), daemon=True) for w, q in enumerate(self._queues)
        ]
        for process in self._processes:
            process.start()
        self._next = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        worker = self._next
        self._next = (worker + 1) % len(self._queues)
        waited_s = 0.0
        while True:
            try:
                result = self._queues[worker].get(timeout=5.0)
                break
            except queue.Empty:
                waited_s += 5.0
                if not self._processes[worker].is_alive() or waited_s > _WORKER_TIMEOUT_S:
                    code = self._processes[worker].exitcode
                    raise DensefitError(f"data worker {worker} died or hung (exit code {code})") from None
        if isinstance(result, str):
            raise DensefitError(f"data worker {worker} failed: {result}")
        return result

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5.0)


def _work(spec: SourceSpec, first: int, stride: int, out: Any) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    import cv2

    cv2.setNumThreads(1)
    try:
        source, trainer = spec.build(), multiprocessing.parent_process()
        index, batch = first, source.batch(first)
        while trainer.is_alive():
            try:
                out.put(batch, timeout=5.0)
            except queue.Full:
                continue
            index += stride
            batch = source.batch(index)
        out.cancel_join_thread()  # nobody will read what is left
    except Exception as error:  # crosses a process border: the trainer raises it again with its text
        out.put(f"{type(error).__name__}: {error}")
        raise
