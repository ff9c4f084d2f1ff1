"""Scoring samples, in this process or in several, each with models of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2

from ..config import Config
from ..errors import AssetError, ConfigError
from ..models import Models, load_models
from ..settings import with_overrides
from .evidence import EvidenceOptions
from .harness import Harness, HarnessOptions, Row
from .sample import Dataset

CHUNK = 8  # samples that one worker takes at a time; a block of synthetic people
# A thread pool in each of several processes is slower than one thread in each.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class DatasetOptions:
    """Which samples."""

    name: str
    root: Path | None = None
    bodies: Path | None = None
    split: str | None = None
    stride: int = 1
    count: int = 2000  # synthetic people
    seed: int = 0
    backgrounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to make its own harness."""

    config: Config
    dataset: DatasetOptions
    options: HarnessOptions
    sources: EvidenceOptions


@dataclass(frozen=True)
class Todo:
    """One sample and the (evidence, prior) pairs that are missing of it."""

    index: int
    key: str
    cells: tuple[tuple[str, str], ...]


Answer = tuple[Todo, list[Row], str]  # the rows, and what was wrong with the sample


def make_dataset(options: DatasetOptions, body: Any) -> Dataset:
    """The dataset by name; each is imported when it is asked for."""
    if options.name == "synthetic":
        from .synthetic import Synthetic

        return Synthetic(body, options.count, options.seed, options.backgrounds)
    if options.name == "synthetic-video":
        from .synthetic import SyntheticVideo

        return SyntheticVideo(body, options.count, options.seed, options.backgrounds)
    if options.root is None:
        raise ConfigError(f"--root: the folder of the {options.name} download is needed")
    if not body.is_smpl:  # it has as many vertices as SMPL, so nothing else would notice
        raise ConfigError(f"{options.name} measures SMPL's vertices and joints: --set body.model_path=SMPL_NEUTRAL.pkl")
    bodies = options.bodies or options.root
    if options.name == "3dpw":
        from .threedpw import ThreeDPW

        return ThreeDPW(options.root, bodies, options.split or "test", options.stride)
    if options.name == "rich":
        from .rich import Rich

        return Rich(options.root, bodies, options.split or "test", options.stride)
    from .emdb import Emdb

    return Emdb(options.root, bodies, options.split or "emdb1", options.stride)


def evaluate(job: Job, models: Models, dataset: Dataset, todo: Sequence[Todo], workers: int) -> Iterator[Answer]:
    """Answers in any order.  ``models`` and ``dataset`` are used with one worker; more load their own."""
    if workers <= 1:
        harness = Harness(models, dataset, job.options, job.sources)
        yield from (_answer(harness, dataset, t) for t in todo)
        return
    for name in _ONE_THREAD:
        os.environ.setdefault(name, "1")
    chunks = [todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK)]
    # spawn: a forked process would share the networks' locks and thread pools in whatever state they are.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (job,))
    waiting = iter(chunks)
    running = {pool.submit(_score, chunk) for chunk in islice(waiting, 2 * workers)}
    try:
        while running:
            # A few chunks ahead, no more: answers of a whole dataset would fill the memory.
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_score, chunk) for chunk in islice(waiting, len(done))}
            for future in done:
                yield from future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def default_workers(samples: int, device: str) -> int:
    """One per CPU core; one where that would not pay, or where they would share a GPU."""
    if device != "cpu" or samples < 8 * CHUNK:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_own: tuple[Harness, Dataset] | None = None  # of a worker process


def _begin(job: Job) -> None:
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the business of the process that was started
    cv2.setNumThreads(1)
    # There is a process for each core already.
    models = load_models(with_overrides(job.config, {"runtime.threads": 1}))
    dataset = make_dataset(job.dataset, models.body)
    _own = Harness(models, dataset, job.options, job.sources), dataset


def _score(chunk: Sequence[Todo]) -> list[Answer]:
    assert _own is not None
    harness, dataset = _own
    return [_answer(harness, dataset, t) for t in chunk]


def _answer(harness: Harness, dataset: Dataset, todo: Todo) -> Answer:
    try:
        return todo, list(harness.rows(dataset[todo.index], todo.cells)), ""
    except AssetError as e:
        return todo, [], str(e)
