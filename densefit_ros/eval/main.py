"""``densefit eval``: measure first estimates and refinements on a dataset."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..body.joints import SMPL_PARENTS
from ..config import Config, load_config, read_settings
from ..errors import AssetError, ConfigError
from ..fit.priors import NAMES as PRIORS
from ..models import load_models
from ..settings import parse_overrides, settings
from ..weights import weights_path
from . import parallel, report
from .evidence import NAMES, EvidenceOptions
from .harness import HarnessOptions
from .parallel import DatasetOptions, Job, Todo, make_dataset
from .sample import SMPL24, Dataset
from .store import RowStore

BENCHMARK = "pipeline,keypoints,gt-displacement,gt-joints"  # what --json prints
DATASETS = ("synthetic", "synthetic-video", "3dpw", "rich", "emdb")
log = logging.getLogger("densefit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``densefit eval``; returns the exit code."""
    args = _parser().parse_args(arguments)
    if args.out is None and not args.json:
        raise ConfigError("--out: the folder of the results is needed")
    if args.out is None:
        with tempfile.TemporaryDirectory(prefix="densefit_eval_") as folder:
            args.out = Path(folder)
            return _measure(args)
    return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    job = read_job(args)
    models = load_models(job.config)
    dataset = make_dataset(job.dataset, models.body)
    store = RowStore(args.out, _settings(job, models.backends), growing=("priors",))
    try:
        todo = missing(dataset, job.options, store, args.limit)
        workers = args.workers or parallel.default_workers(len(todo), models.backends["device"])
        run(job, models, dataset, todo, store, workers, not args.quiet)
        scores = store.scores()
        if not scores:
            raise AssetError(f"{args.dataset}: no sample could be evaluated")
        protocol = dataset.protocol
        skeleton = SMPL_PARENTS if protocol.regressor is None and protocol.joints == SMPL24.joints else None
        summary = report.summarise(scores, store.points, skeleton)
    finally:
        store.close()
    first = models.backends["regress"] if args.first == "estimator" else args.first
    text = report.markdown(summary, args.dataset, dataset.protocol, first)
    about = {"dataset": args.dataset, "first_estimate": first, "protocol": dataset.protocol.description}
    written = report.write(args.out, summary, text, scores, about)
    if args.json:
        said = {"dataset": args.dataset, "regressor": first, "protocol": dataset.protocol.description}
        print(json.dumps({**said, **report.benchmark(summary)}, indent=2))
        return 0
    print(text)
    print("\n".join(str(p) for p in (store.path, *written)))
    return 0


def read_job(args: argparse.Namespace) -> Job:
    """What the command line asks for.  Raises ConfigError."""
    evidence, priors = _names(args.evidence or (BENCHMARK if args.json else "pipeline")), _names(args.prior)
    unknown = [n for n in evidence if n not in NAMES]
    if unknown:
        raise ConfigError(f"--evidence: expected names among {', '.join(NAMES)}, got '{unknown[0]}'")
    for what in ("stride", "count", "iterations", "passes"):
        if getattr(args, what) < 1:
            raise ConfigError(f"--{what}: expected 1 or more, got {getattr(args, what)}")
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit: expected 1 or more, got {args.limit}")
    if args.seed < 0:
        raise ConfigError(f"--seed: expected 0 or more, got {args.seed}")
    overrides = parse_overrides(args.set)
    _refuse_idle(args, evidence, overrides)
    if args.regressor:
        overrides["regress.backend"] = args.regressor
    if not {"displacement", "pipeline"} & set(evidence):
        overrides.setdefault("displace.enabled", "false")  # a network that nobody asks needs no weights
    overrides.setdefault("detect.backend", "none")  # the boxes come from the dataset
    options = HarnessOptions(evidence, priors, args.first, args.iterations, args.passes)
    data = DatasetOptions(
        args.dataset, args.root, args.bodies, args.split, args.stride, args.count, args.seed, tuple(args.backgrounds)
    )
    sources = EvidenceOptions(args.keypoints, args.densepose)
    config = load_config(args.config, overrides)
    if config.regress.backend == "external" and args.first == "estimator":
        raise ConfigError("regress.backend external makes no first estimates, so there is none to measure; see --first")
    return Job(config, data, options, sources)


def _refuse_idle(args: argparse.Namespace, evidence: Sequence[str], overrides: Mapping[str, str]) -> None:
    """Raise ConfigError for an option that would change nothing."""
    # A copy of config/default.yaml names everything: what it leaves as it was asks for nothing.
    usual = {s.name: s.value for s in settings(Config())}
    given = {f"--config {args.config}": read_settings(args.config) if args.config else {}, "--set": overrides}
    for name, flag in (("displace.passes", "--passes"), ("fit.iterations", "--iterations")):
        for where, values in given.items():
            if name in values and (where == "--set" or values[name] != usual[name]):
                raise ConfigError(
                    f"{where} {name}: this command takes {flag} (its defaults are not the tracker's, see docs/EVAL.md)"
                )
    if args.regressor and "regress.backend" in overrides:
        raise ConfigError(f"--set regress.backend={overrides['regress.backend']}: --regressor {args.regressor} says it already")
    for needs in ("keypoints", "densepose"):
        if getattr(args, needs) and needs not in evidence:
            raise ConfigError(f"--{needs}: only --evidence {needs} reads it, and this run has {', '.join(evidence)}")
    if args.stride != 1 and args.dataset.startswith("synthetic"):
        raise ConfigError(f"--stride: {args.dataset} has no recorded frames to leave out; --count says how many people are made")
    if args.backgrounds and not args.dataset.startswith("synthetic"):
        raise ConfigError(
            f"--backgrounds: the people of {args.dataset} stand where they stood, only synthetic ones are put somewhere"
        )


def missing(dataset: Dataset, options: HarnessOptions, store: RowStore, limit: int | None) -> list[Todo]:
    """What is not in the store yet, without reading any sample."""
    done = store.done()
    todo = []
    for index, key in enumerate(dataset.keys[:limit]):
        cells = tuple(c for c in options.cells if (key, *c) not in done)
        if cells:
            todo.append(Todo(index, key, cells))
    return todo


def run(job: Job, models: Any, dataset: Dataset, todo: Sequence[Todo], store: RowStore, workers: int, progress: bool) -> None:
    """Score and store.  A sample whose picture is missing or damaged is reported and left out."""
    from tqdm import tqdm

    answers = parallel.evaluate(job, models, dataset, todo, workers)
    for asked, rows, problem in tqdm(answers, total=len(todo), unit="sample", disable=not progress, dynamic_ncols=True):
        for row in rows:
            store.append(row)
        if problem:
            log.warning("left out %s: %s", asked.key, problem)


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="densefit eval",
        description="Measure first estimates and refinements.  A run that was stopped goes on where it was.",
        epilog="Licensed datasets and bodies are not part of the package: --root and --bodies say where yours are.",
    )
    p.add_argument("--dataset", choices=DATASETS, required=True)
    p.add_argument("--out", type=Path, metavar="DIR", help="folder for samples.csv, summary.json, table.md, plots")
    p.add_argument("--json", action="store_true", help="print the few numbers that runs are compared by; --out may be left out")
    p.add_argument("--root", type=Path, metavar="DIR", help="folder of the dataset")
    p.add_argument("--bodies", type=Path, metavar="DIR", help="SMPL or SMPL-X files and J_regressor_h36m.npy (default: --root)")
    p.add_argument("--split", help="test, val, train; emdb1, emdb2")
    p.add_argument("--stride", type=int, default=1, help="use every n-th frame (default: %(default)s)")
    p.add_argument("--limit", type=int, help="stop after this many samples")
    p.add_argument(
        "--count",
        "--frames",
        type=int,
        default=2000,
        help="synthetic: number of people; synthetic-video: of frames, 50 a person (default: %(default)s)",
    )
    p.add_argument("--seed", type=int, default=0, help="synthetic: which people (default: %(default)s)")
    p.add_argument(
        "--backgrounds",
        nargs="+",
        default=[],
        metavar="DIR",
        help="synthetic: folders with more photographs; held-out ones are used",
    )
    p.add_argument("--regressor", metavar="NAME", help="source of the first estimate: auto, network, mediapipe, custom")
    p.add_argument("--first", default="estimator", help="estimator, or disturbed:DEG, the truth with joint errors of that size")
    p.add_argument("--evidence", help=f"one or more of {', '.join(NAMES)}, separated by commas (default: pipeline)")
    p.add_argument(
        "--prior",
        default="none",
        help=f"one or more of none, {', '.join(PRIORS)}, separated by commas; NAME=FILE for gmm_08.pkl, a VPoser checkpoint, ...",
    )
    p.add_argument("--iterations", type=int, default=10, help="solver steps per pass (default: %(default)s)")
    p.add_argument("--passes", type=int, default=2, help="render and displace this often (default: %(default)s)")
    p.add_argument("--keypoints", type=Path, metavar="DIR", help="OpenPose JSON files, named after the pictures")
    p.add_argument("--densepose", type=Path, metavar="DIR", help="IUV pictures <name>_IUV.png; see body.densepose_chart")
    p.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, e.g. fit.robust_scale=3")
    p.add_argument("--workers", type=int, default=0, help="processes (default: one per CPU core, one on a GPU)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))


def _settings(job: Job, backends: Mapping[str, str]) -> dict[str, Any]:
    """What must be the same for a run to be continued.  The lists of evidences and priors, and the count, may grow; a prior's
    file, what the networks' files hold, and what ``auto`` has come to, may not change."""
    grows = ("evidence", "priors")
    run = {k: v for k, v in dataclasses.asdict(job.options).items() if k not in grows}
    priors = {name: file for name, _, file in (p.partition("=") for p in job.options.priors)}
    data = {k: str(v) for k, v in dataclasses.asdict(job.dataset).items() if k != "count"}
    sources = {k: str(v) for k, v in dataclasses.asdict(job.sources).items()}
    core = {s.name: s.value for s in _core(job.config)}
    files = {"regressor": job.config.regress.onnx, "displacement": job.config.displace.onnx}
    paths = {name: Path(file) if file else weights_path(f"{name}.onnx") for name, file in files.items()}
    # A file that is not there belongs to a network that is switched off, or its loading would have failed.
    networks = {name: hashlib.sha256(p.read_bytes()).hexdigest()[:16] if p.is_file() else "" for name, p in paths.items()}
    # Not the displacements' runtime: a run without them may grow by an evidence that asks for them, and it is the regressor's.
    resolved = {name: backends[name] for name in ("device", "regress", "render")}
    return {**run, **data, "backends": resolved, "sources": sources, "priors": priors, "networks": networks, "config": core}


def _core(config: Config) -> list[Any]:
    """Settings that change a number."""
    idle = ("runtime.threads", "runtime.device_frame", "displace.enabled", "detect", "track")
    return [s for s in settings(config) if not s.name.startswith(idle)]
