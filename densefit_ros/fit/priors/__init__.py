"""Pose priors, all behind one method: what the prior looks like around a pose, as a Gaussian over rotation vectors.

``gaussian(rotvec, context)`` returns mean and precision such that ``(w - mean)^T precision (w - mean)`` has, around the
given pose, the gradient and the Gauss-Newton curvature of twice the prior's energy (its negative log density).  The
solver's one kernel for Gaussians then serves them all; long fits expand again between calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import ConfigError
from ..options import PoseGaussian

DATA = Path(__file__).parent / "data"
NAMES = ("gmm", "vposer", "flow")


class PosePrior(Protocol):
    """A prior over the 23 local rotations of a body."""

    name: str

    def energy(self, rotvec: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """Negative log density up to a constant.  (P,23,3) rad -> (P,)."""

    def gaussian(self, rotvec: np.ndarray, context: np.ndarray | None = None) -> PoseGaussian:
        """Expansion around a pose.  ``context`` (P,C) is required by conditional priors only."""


def make_prior(name: str, path: str | Path | None = None) -> PosePrior | None:
    """A prior by name: "gmm", "vposer", "flow" or "none".

    path: another file than the shipped one: gmm_08.pkl of SMPLify, VPoser's V02_05 checkpoint, or a .npz of ours.
    Raises ConfigError for an unknown name, AssetError for a file that does not fit.
    """
    if name == "none":
        return None
    if name == "gmm":
        from .gmm import GmmPrior

        return GmmPrior.load(path or DATA / "gmm.npz")
    if name == "vposer":
        from .vposer import VPoserPrior

        return VPoserPrior.load(path or DATA / "vposer.npz")
    if name == "flow":
        from .flow import FlowPrior

        return FlowPrior.load(path or DATA / "flow.npz")
    raise ConfigError(f"expected a pose prior of {NAMES + ('none',)}, got {name!r}")
