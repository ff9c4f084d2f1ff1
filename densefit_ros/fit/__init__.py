"""Fit a body to the evidence of one image.  See docs/FIT.md."""

from __future__ import annotations

from .lift import lift
from .options import ROUGH, Anchor, FitOptions, PoseGaussian
from .solver import Fitter

__all__ = ["ROUGH", "Anchor", "FitOptions", "Fitter", "PoseGaussian", "lift"]
