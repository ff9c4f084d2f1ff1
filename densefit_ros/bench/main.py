"""``densefit bench NAME``: measurements of single parts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from ..errors import ConfigError

BENCHES = {
    "fit": ("densefit_ros.bench.fit_bench", "time the fit against the baselines (without a name: this one)"),
    "tracked": ("densefit_ros.bench.tracked", "what does refinement gain people who are tracked, and the floor?"),
    "covariance": ("densefit_ros.bench.track_covariance", "are the published covariances right?"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand over to the named one; options alone mean ``fit``."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] in (["-h"], ["--help"]):
        print("usage: densefit bench NAME [options]; densefit bench NAME --help tells more\n")
        print("\n".join(f"  {name:12}{about}" for name, (_, about) in BENCHES.items()))
        raise SystemExit(0)
    named = bool(arguments) and not arguments[0].startswith("-")
    name = arguments[0] if named else "fit"
    if name not in BENCHES:
        raise ConfigError(f"unknown measurement '{name}', expected one of {', '.join(BENCHES)}")
    return int(importlib.import_module(BENCHES[name][0]).main(arguments[1:] if named else arguments) or 0)
