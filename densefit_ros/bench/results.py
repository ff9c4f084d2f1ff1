"""``densefit results`` (``make results``): runs of docs/results/runs.yaml, a record of each, docs/RESULTS.md from the records.

A run whose record has the same command and the same weights is not repeated; one that was stopped goes on where it can.
With ``--limit`` the records are those of a trial: they stay with the runs, and no document is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from ..errors import AssetError
from ..eval.provenance import commit, insert
from . import hardware
from .results_text import KINDS, measured

ROOT = Path(__file__).resolve().parents[2]
OUT = "{out}"  # in a command: the folder of the run
log = logging.getLogger("densefit")


@dataclass(frozen=True)
class Run:
    """One entry of runs.yaml."""

    name: str
    kind: str  # how its result is shown: one of KINDS
    title: str
    about: str
    command: tuple[str, ...]  # of densefit
    result: str  # the JSON that it leaves, below its folder
    plot: str = ""  # the picture that it leaves, if any


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="densefit results", description=__doc__.splitlines()[0].replace("``", ""))
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of RESULTS.md and results/runs.yaml")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "results", help="folder of the runs")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these runs")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="repeat these although their record is good")
    parser.add_argument("--limit", type=int, help="samples of each densefit eval: a trial that leaves the documents alone")
    parser.add_argument("--no-run", action="store_true", help="write the text from the records that are there")
    args = parser.parse_args(arguments)
    runs = read_runs(args.docs / "results" / "runs.yaml")
    unknown = {*args.only, *args.again} - {r.name for r in runs}
    if unknown:
        raise AssetError(f"{args.docs / 'results' / 'runs.yaml'}: holds no run '{sorted(unknown)[0]}'")
    trial = args.limit is not None
    folder = args.work / "trial" if trial else args.docs  # numbers of a few samples do not take the place of the recorded ones
    for run in [] if args.no_run else runs:
        if not args.only or run.name in args.only:
            refresh(limited(run, args.limit), folder, args.work, run.name in args.again)
    if trial:
        log.info("a trial: records in %s, %s is as it was", folder / "results", args.docs / "RESULTS.md")
    else:
        write_text(runs, args.docs)
    return 0


def read_runs(path: Path) -> list[Run]:
    """The entries of runs.yaml.  Raises AssetError."""
    try:
        entries = yaml.safe_load(path.read_text())
        runs = [Run(**{**e, "command": tuple(map(str, e["command"]))}) for e in entries]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as e:
        raise AssetError(f"cannot read the list of runs {path}: {str(e).splitlines()[0]}") from e
    for run in runs:
        if run.kind not in KINDS:
            raise AssetError(f"{path}: expected a kind among {', '.join(KINDS)} for '{run.name}', got '{run.kind}'")
    return runs


def limited(run: Run, limit: int | None) -> Run:
    """The same with fewer samples, where a run has samples."""
    if limit is None or run.command[0] != "eval":
        return run
    return Run(**{**vars(run), "command": (*run.command, "--limit", str(limit))})


def refresh(run: Run, docs: Path, work: Path, again: bool = False) -> None:
    """Bring a run's record below ``docs`` up to date.  Raises AssetError when its command fails or leaves no result."""
    record_path = docs / "results" / f"{run.name}.json"
    weights = weights_id()
    before = read_record(record_path)
    if before and not again and (before["command"], before["weights"]) == (list(run.command), weights):
        log.info("%s: up to date", run.name)
        return
    absent = [folder for folder in _backgrounds(run.command) if not (ROOT / folder).is_dir()]
    if absent:
        log.warning("%s: left out, there is no folder %s (docs/SYNTHETIC.md, Photographs)", run.name, absent[0])
        return
    # Another command or other weights get another folder: an interrupted run never goes on with rows that are not its own.
    key = hashlib.sha256(json.dumps([run.command, weights]).encode()).hexdigest()[:8]
    folder = work / f"{run.name}_{key}"
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = [part.replace(OUT, str(folder)) for part in run.command]
    log.info("%s: densefit %s", run.name, " ".join(command))
    done = subprocess.run([sys.executable, "-m", "densefit_ros.cli", *command], cwd=ROOT)
    if done.returncode:
        raise AssetError(f"{run.name}: densefit {command[0]} ended with {done.returncode}; run `make results` again to go on")
    try:
        result = json.loads((folder / run.result).read_text())
    except (OSError, json.JSONDecodeError) as e:
        raise AssetError(f"{run.name}: left no readable {run.result}: {e}") from e
    record = {
        "command": list(run.command), "weights": weights, "commit": commit(), "hardware": hardware.describe(),
        "result": result,
    }  # fmt: skip
    record_path.parent.mkdir(parents=True, exist_ok=True)
    record_path.write_text(json.dumps(record, indent=1) + "\n")
    if run.plot:
        (docs / "images").mkdir(exist_ok=True)
        shutil.copyfile(folder / run.plot, docs / "images" / f"results_{run.name}{Path(run.plot).suffix}")


def _backgrounds(command: Sequence[str]) -> Sequence[str]:
    """The folders of photographs that a command names: packages of Debian fill them, nothing that this repository installs."""
    if "--backgrounds" not in command:
        return ()
    return list(takewhile(lambda part: not part.startswith("--"), command[command.index("--backgrounds") + 1 :]))


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none.  Raises AssetError when it is damaged."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        return {k: record[k] for k in ("command", "weights", "commit", "hardware", "result")}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as e:
        raise AssetError(f"{path}: not a record of `make results`: {e}") from e


def write_text(runs: Sequence[Run], docs: Path) -> None:
    """The part of RESULTS.md between its markers."""
    text = text_of(runs, docs)
    path = docs / "RESULTS.md"
    path.write_text(insert(path.read_text(), text))
    log.info("wrote the measured part of %s", path)


def text_of(runs: Sequence[Run], docs: Path) -> str:
    """What the records say."""
    pairs = [(run, read_record(docs / "results" / f"{run.name}.json")) for run in runs]
    return measured(pairs, lambda run: (docs / "images" / f"results_{run.name}{Path(run.plot).suffix}").is_file())


def weights_id() -> str:
    """A name for the weights that ship: numbers of other weights are other numbers."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "densefit_ros" / "weights").glob("*.onnx")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
