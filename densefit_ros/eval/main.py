"""``densefit eval``: measure first estimates and refinements on a dataset."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..body.joints import SMPL_PARENTS
from ..config import Config, load_config, settings
from ..errors import AssetError, ConfigError
from ..models import load_models
from . import report
from .evidence import NAMES, EvidenceOptions
from .harness import Harness, HarnessOptions
from .sample import SMPL24, Dataset

DATASETS = ("synthetic", "3dpw", "rich", "emdb")
log = logging.getLogger("densefit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``densefit eval``; returns the exit code."""
    args = _parser().parse_args(arguments)
    names = tuple(dict.fromkeys(n.strip() for n in args.evidence.split(",")))
    unknown = [n for n in names if n not in NAMES]
    if unknown:
        raise ConfigError(f"--evidence: expected names among {', '.join(NAMES)}, got '{unknown[0]}'")
    overrides = dict(_pair(p) for p in args.set)
    if args.regressor:
        overrides["regress.backend"] = args.regressor
    if not {"displacement", "pipeline"} & set(names):
        overrides.setdefault("displace.enabled", "false")  # a network that nobody asks needs no weights
    config = load_config(args.config, overrides)
    options = HarnessOptions(names, args.first, args.iterations, args.passes)
    models = load_models(config)
    dataset = make_dataset(args, models.body)
    sources = EvidenceOptions(args.keypoints, args.densepose, args.densepose_chart)
    store = report.RowStore(args.out, _settings(args, options, config))
    try:
        evaluate(Harness(models, dataset, options, sources), dataset, names, store, not args.quiet, args.limit)
        if not store.rows:
            raise AssetError(f"{args.dataset}: no sample could be evaluated")
        skeleton = SMPL_PARENTS if dataset.protocol is SMPL24 else None
        summary = report.summarise(store.rows, store.points(), skeleton)
    finally:
        store.close()
    first = models.estimator.name if args.first == "estimator" else args.first
    text = report.markdown(summary, args.dataset, dataset.protocol, first)
    written = report.write(args.out, summary, text, store.rows)
    print(text)
    print("\n".join(str(p) for p in (store.path, *written)))
    return 0


def evaluate(
    harness: Harness, dataset: Dataset, names: Sequence[str], store: report.RowStore, progress: bool, limit: int | None
) -> None:
    """Score what is not in the store yet.  A sample whose picture is damaged is reported and left out."""
    from tqdm import tqdm

    done = store.done()
    total = len(dataset) if limit is None else min(limit, len(dataset))
    for number, sample in enumerate(tqdm(dataset, total=total, unit="sample", disable=not progress, dynamic_ncols=True)):
        if number >= total:
            break
        missing = [n for n in names if (sample.key, n) not in done]
        if not missing:
            continue
        try:
            for row in harness.rows(sample, missing):
                store.append(row)
        except AssetError as e:
            log.warning("left out %s: %s", sample.key, e)


def make_dataset(args: argparse.Namespace, body: Any) -> Dataset:
    """The dataset by name; each is imported when it is asked for."""
    if args.dataset == "synthetic":
        from .synthetic import Synthetic

        return Synthetic(body, args.count, args.seed)
    if args.root is None:
        raise ConfigError(f"--root: the folder of the {args.dataset} download is needed")
    bodies = args.bodies or args.root
    if args.dataset == "3dpw":
        from .threedpw import ThreeDPW

        return ThreeDPW(args.root, bodies, args.split or "test", args.stride)
    if args.dataset == "rich":
        from .rich import Rich

        return Rich(args.root, bodies, args.split or "test", args.stride)
    from .emdb import Emdb

    return Emdb(args.root, bodies, args.split or "emdb1", args.stride)


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="densefit eval",
        description="Measure first estimates and refinements.  A run that was stopped goes on where it was.",
        epilog="Licensed datasets and bodies are not part of the package: --root and --bodies say where yours are.",
    )
    p.add_argument("--dataset", choices=DATASETS, required=True)
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for samples.csv, summary.json, table.md, plots")
    p.add_argument("--root", type=Path, metavar="DIR", help="folder of the dataset")
    p.add_argument("--bodies", type=Path, metavar="DIR", help="SMPL or SMPL-X files and J_regressor_h36m.npy (default: --root)")
    p.add_argument("--split", help="test, val, train; emdb1, emdb2")
    p.add_argument("--stride", type=int, default=1, help="use every n-th frame (default: %(default)s)")
    p.add_argument("--limit", type=int, help="stop after this many samples")
    p.add_argument("--count", type=int, default=2000, help="synthetic: number of people (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="synthetic: which people (default: %(default)s)")
    p.add_argument("--regressor", choices=("auto", "network", "mediapipe"), help="source of the first estimate")
    p.add_argument("--first", default="estimator", help="estimator, or disturbed:DEG, the truth with joint errors of that size")
    p.add_argument("--evidence", default="pipeline", help=f"one or more of {', '.join(NAMES)}, separated by commas")
    p.add_argument("--iterations", type=int, default=10, help="solver steps per pass (default: %(default)s)")
    p.add_argument("--passes", type=int, default=2, help="render and displace this often (default: %(default)s)")
    p.add_argument("--keypoints", type=Path, metavar="DIR", help="OpenPose JSON files, named after the pictures")
    p.add_argument("--densepose", type=Path, metavar="DIR", help="IUV pictures <name>_IUV.png")
    p.add_argument("--densepose-chart", type=Path, metavar="FILE", help="UV_Processed.mat, for IUV pictures and real SMPL bodies")
    p.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, e.g. fit.robust_scale=3")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set: expected NAME=VALUE, got '{text}'")
    return name.strip(), value.strip()


def _settings(args: argparse.Namespace, options: HarnessOptions, config: Config) -> dict[str, Any]:
    """What must be the same for a run to be continued; the list of evidences may grow."""
    run = {k: v for k, v in dataclasses.asdict(options).items() if k != "evidence"}
    data = {k: str(getattr(args, k)) for k in ("dataset", "root", "split", "stride", "seed", "keypoints", "densepose")}
    core = {s.name: s.value for s in settings(config) if not s.name.startswith(("device", "runtime", "displace.enabled"))}
    return {**run, **data, "config": core}
