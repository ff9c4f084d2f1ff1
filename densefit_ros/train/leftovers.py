"""Starts as tracks have them: what a frame left of an estimate's errors, because displacements did not see it.

In 31 tracked held-out videos the network left 0.78 of the errors that it was shown, of training's own starts 0.35: shares of an
estimate's errors are shares of all of them, while a fit takes away what can be seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..body.model import BodyModel, rest_joints
from ..config import Config
from ..displace.decode import decode
from ..displace.displacer import Displacer
from ..fit.options import Anchor
from ..fit.solver import Fitter
from ..models import fit_options
from ..runtime.factory import make_runtime
from ..runtime.protocol import Runtime
from ..steps.priors import decode_options, estimate_t_sigmas_m
from ..synth.crops import CropBatch
from ..synth.displacement import make_pairs
from ..synth.engine import SynthEngine
from ..synth.perturb import disturb
from ..types import BodyParams

ROT_SIGMA_RAD = 0.12  # of an estimate's joints; the network's own are between 0.05 and 0.4
MOVED_DEG = 2.0  # a joint: how far a prediction may be off on top


class Leftovers:
    """One frame of the tracker on labelled crops, with the networks before."""

    def __init__(self, body: BodyModel, displacement: Path, encoder: Runtime, count: int) -> None:
        """``encoder``: the regressor that ``displacement`` was trained with; ``count``: people at once."""
        config = Config()
        self._body, self._displacer = body, Displacer(make_runtime(displacement, device="cpu"), encoder)
        self._options = decode_options(config)
        self._fitter = Fitter(body, max_persons=count, max_points=config.fit.max_points, options=fit_options(config))

    def of(self, rng: np.random.Generator, engine: SynthEngine, crops: CropBatch, start: BodyParams) -> BodyParams:
        """``start`` refined once, as in a person's first frames, and moved a little."""
        surface = make_pairs(rng, engine, crops, start, live=1.0).surface
        crop = crops.crop
        matches = decode(self._displacer.predict(crop, surface), surface, crop, self._options)
        anchor = Anchor(start, rot_sigma_rad=ROT_SIGMA_RAD, betas_sigma=1.0, t_sigma_m=estimate_t_sigmas_m(start))
        refined = self._fitter.solve(start, crops.cameras, matches, anchors=[anchor]).params
        pelvis = rest_joints(self._body, refined.betas)[:, 0]
        return disturb(rng, refined, pelvis, degrees=rng.uniform(0, MOVED_DEG, len(crops)))
