"""First estimate, refinement by every source of evidence under every pose prior, scores: one sample at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ..body.model import rest_joints
from ..errors import ConfigError
from ..fit.options import Anchor, FitOptions, PoseGaussian
from ..fit.priors import NAMES as PRIORS
from ..fit.priors import PosePrior, make_prior
from ..fit.priors.flow import D, FlowPrior, estimate_context
from ..fit.solver import Fitter
from ..geometry import crop as crops
from ..models import Models
from ..runtime.picture import SIZE_PX
from ..steps.find import first_estimate
from ..steps.priors import KEYPOINT_ROT_SIGMA_RAD, estimate_sigmas, estimate_t_sigmas_m, looked_at_twice
from ..synth.perturb import disturb
from ..types import BodyParams, Crop, Estimate, FitStatus, Frame
from .evidence import EvidenceMaker, EvidenceOptions
from .sample import Dataset, Sample, Score, score

MIN_SIGMA_DEG = 2.0  # a disturbed start is trusted no further than this
DISTURBED_BETAS_SIGMA = 1.0  # of the shape of a disturbed start, which is nearer than that
# Displacements are small by their nature, and the tracker's robust scale rejects large ones.  DensePose and true displacements
# say where a point *is*, however far the start: their fits begin with a wide scale, as SMPLify's do.  (Keypoints do not gain.)
ABSOLUTE = {"robust_start": 64.0, "damping": 1e-2}
# Neighbours in a DensePose map err together, but less than those of a displacement field; the truth does not err.
OWN_OPTIONS: dict[str, dict[str, float]] = {
    "densepose": {**ABSOLUTE, "independent_share": 0.1, "part_correlation": 0.0},
    "gt-displacement": {**ABSOLUTE, "independent_share": 1.0, "part_correlation": 0.0},
}


@dataclass(frozen=True)
class HarnessOptions:
    """What to compare."""

    evidence: tuple[str, ...] = ("pipeline",)
    priors: tuple[str, ...] = ("none",)  # of the pose, beside the anchor at the first estimate; name or name=file
    first: str = "estimator"  # or "disturbed:DEG": the truth with joint errors of that size
    iterations: int = 10
    passes: int = 2

    @property
    def cells(self) -> tuple[tuple[str, str], ...]:
        """Every evidence under every prior; without evidence there is nothing that a prior could be weighed against."""
        names = tuple(p.partition("=")[0] for p in self.priors)
        return tuple((e, p) for e, p in product(self.evidence, names) if e != "none" or p == names[0])


@dataclass(frozen=True, eq=False)
class Row:
    """One sample refined by one source of evidence under one pose prior."""

    key: str
    sequence: str
    frame: int
    fps: float
    evidence: str
    prior: str
    confidence: float
    status: str
    ms: float  # making the evidence and refining, all passes; made from the truth, that costs rendering it
    epe_px: float  # of the displacements in the first pass, crop px; NaN where there are none, or no truth
    zero_px: float
    first: Score
    refined: Score
    points_mm: tuple[np.ndarray, np.ndarray, np.ndarray]  # (K,3) first, refined, true; each relative to its root


class Harness:
    """Scores samples of one dataset with one set of models."""

    def __init__(self, models: Models, dataset: Dataset, options: HarnessOptions, sources: EvidenceOptions) -> None:
        self._models, self._dataset, self._options = models, dataset, options
        self._maker = EvidenceMaker(models, sources)
        self._degrees = _degrees(options.first)
        self._priors = read_priors(options.priors)
        self._fitters: dict[FitOptions, Fitter] = {}

    def rows(self, sample: Sample, cells: Sequence[tuple[str, str]]) -> Iterator[Row]:
        """One row per (evidence, prior).  Raises AssetError when the picture cannot be read."""
        crop, estimate = self.first_estimate(sample)
        first_posed = self._models.skinner.pose(estimate.params)
        first_vertices, first_joints = first_posed.vertices[0].copy(), first_posed.joints[0].copy()
        protocol = self._dataset.protocol
        first_score = score(protocol, sample, first_vertices, first_joints)
        for name, prior in cells:
            begin = time.perf_counter()
            params, status, (epe, zero) = self.refine(name, prior, sample, estimate, crop)
            ms = (time.perf_counter() - begin) * 1e3
            posed = self._models.skinner.pose(params)
            points = [protocol.points(first_vertices, first_joints), protocol.points(posed.vertices[0], posed.joints[0])]
            points.append((sample.truth.points_m, sample.truth.root_m))
            yield Row(
                sample.key, sample.sequence, sample.frame, sample.fps, name, prior, float(estimate.confidence[0]), status.name,
                ms, epe, zero,
                first_score, score(protocol, sample, posed.vertices[0], posed.joints[0]),
                tuple(1000 * (p - root) for p, root in points),
            )  # fmt: skip

    def first_estimate(self, sample: Sample) -> tuple[Crop, Estimate]:
        """The window of the sample's box, and the body estimated in it."""
        square = crops.square_around(sample.box_xywh, self._models.config.render.crop_margin)
        rgb = sample.image()
        crop = crops.extract(rgb, square[None], SIZE_PX)
        if self._degrees is None:
            return crop, first_estimate(self._models, crop, sample.box_xywh[None], Frame(rgb, 0, sample.camera), (), None)
        truth = sample.truth.params
        if truth is None:
            raise ConfigError(f"disturbed starts need the true parameters, which {self._dataset.name} does not have")
        rng = np.random.default_rng(np.frombuffer(sample.key.encode(), np.uint8))
        start = disturb(rng, truth, rest_joints(self._models.body, truth.betas)[:, 0], degrees=self._degrees)
        # Stated per axis, while the degrees are the length of the error.
        sigma = np.full((1, 24), np.radians(max(self._degrees, MIN_SIGMA_DEG)) / np.sqrt(3), np.float32)
        displacer, twice = self._models.displacer, looked_at_twice(self._models.config, np.ones(1, bool))
        seen = None if displacer is None else displacer.look(crop.rgb, twice)
        return crop, Estimate(start, np.ones(1, np.float32), None, "disturbed", rot_sigma_rad=sigma, seen=seen)

    def refine(
        self, name: str, prior: str, sample: Sample, estimate: Estimate, crop: Crop
    ) -> tuple[BodyParams, FitStatus, tuple[float, float]]:
        """The refined body, and the errors of the first pass's displacements and of none, px.

        The first estimate where the evidence says nothing or speaks against the result.
        """
        unknown = (float("nan"), float("nan"))
        if name == "none":
            return estimate.params, FitStatus.NO_EVIDENCE, unknown
        config = self._models.config
        mean, betas_sigma = estimate.params, DISTURBED_BETAS_SIGMA
        if estimate.source != "disturbed":  # which knows the person's shape as well as the pose
            mean, betas_sigma = dataclasses.replace(mean, betas=np.zeros_like(mean.betas)), config.fit.betas_sigma
        anchors = [
            Anchor(
                estimate.params, rot_sigma_rad=estimate_sigmas(estimate, config), t_sigma_m=estimate_t_sigmas_m(estimate.params)
            ),
            Anchor(mean, betas_sigma=betas_sigma),
        ]
        params, status, flow = estimate.params, FitStatus.NO_EVIDENCE, None
        for _ in range(self._options.passes):
            made = self._maker.make(name, sample, params, estimate, crop)
            flow = flow or (made.epe_px, made.zero_px)
            result = self._fitter(name).solve(
                params,
                sample.camera,
                made.matches,
                keypoints=made.keypoints,
                anchors=anchors,
                iterations=self._options.iterations,
                pose_gaussian=self._gaussian(prior, params, estimate),
            )
            ended = FitStatus(int(result.status[0]))
            if ended < FitStatus.REJECTED or status >= FitStatus.REJECTED:  # a pass that finds no more leaves what others found
                status = ended
            params = result.params
        return params, status, flow or unknown

    def _fitter(self, evidence: str) -> Fitter:
        """The tracker's fitter with the options that this evidence needs, and without a pose prior of its own."""
        tracker = self._models.fitter
        options = dataclasses.replace(tracker.options, **OWN_OPTIONS.get(evidence, {}))
        if options not in self._fitters:
            device = self._models.backends["device"]
            self._fitters[options] = Fitter(self._models.body, device, 1, tracker.max_points, options)
        return self._fitters[options]

    def _gaussian(self, name: str, params: BodyParams, estimate: Estimate) -> PoseGaussian | None:
        """The pose prior around the current pose."""
        prior = self._priors[name]
        if prior is None:
            return None
        context = None
        if isinstance(prior, FlowPrior):
            context = estimate.feature
            if len(prior.context_mean) == D + 1:  # conditioned on a regressor's own estimate
                sigma = KEYPOINT_ROT_SIGMA_RAD if estimate.rot_sigma_rad is None else float(estimate.rot_sigma_rad.mean())
                context = estimate_context(estimate.params.joint_rotvec, sigma)
            if context is None or context.shape[1] != len(prior.context_mean):
                raise ConfigError(f"the flow prior is conditioned on {len(prior.context_mean)} numbers, the regressor has others")
        return prior.gaussian(params.joint_rotvec.astype(np.float64), context)


def read_priors(priors: Sequence[str]) -> dict[str, PosePrior | None]:
    """Priors by name from ``name`` or ``name=file``.  Raises ConfigError or AssetError."""
    out = {}
    for text in priors:
        name, _, file = text.partition("=")
        if name not in (*PRIORS, "none"):
            raise ConfigError(f"--prior: expected names among none, {', '.join(PRIORS)}, got '{name}'")
        out[name] = make_prior(name, Path(file) if file else None)
    return out


def _degrees(first: str) -> float | None:
    if first == "estimator":
        return None
    kind, _, number = first.partition(":")
    try:
        degrees = float(number)
    except ValueError:
        degrees = -1.0
    if kind != "disturbed" or not 0 <= degrees <= 60:
        raise ConfigError(f"first estimate: expected 'estimator' or 'disturbed:DEG' with 0 to 60 degrees, got '{first}'")
    return degrees
