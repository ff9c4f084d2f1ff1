"""``python -m densefit_ros.bench.fit_priors``: fit the shipped pose priors again, to synthetic poses (minutes on one core)."""

from __future__ import annotations

import sys

import numpy as np

from ..fit.priors import train
from ..synth.poses import sample_poses

POSES = 20_000


def main(arguments: list[str] | None = None) -> int:
    """Draw poses, fit, write; options of :func:`densefit_ros.fit.priors.train.main`."""
    return train.main(sample_poses(np.random.default_rng(7), POSES), arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
