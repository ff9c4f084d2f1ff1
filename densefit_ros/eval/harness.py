"""First estimate, refinement by every source of evidence, scores: one sample at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..body.model import rest_joints
from ..errors import ConfigError
from ..fit.solver import Anchor
from ..geometry import crop as crops
from ..models import CROP_SIZE_PX, Models
from ..steps.priors import ESTIMATE_T_SIGMA_M, estimate_sigmas
from ..synth.perturb import disturb
from ..types import BodyParams, Crop, Estimate, FitStatus
from .evidence import EvidenceMaker, EvidenceOptions
from .sample import Dataset, Sample, Score, score

MIN_SIGMA_DEG = 2.0  # a disturbed start is trusted no further than this


@dataclass(frozen=True)
class HarnessOptions:
    """What to compare."""

    evidence: tuple[str, ...] = ("pipeline",)
    first: str = "estimator"  # or "disturbed:DEG": the truth with joint errors of that size
    iterations: int = 10
    passes: int = 2


@dataclass(frozen=True, eq=False)
class Row:
    """One sample refined by one source of evidence."""

    key: str
    sequence: str
    frame: int
    fps: float
    evidence: str
    confidence: float
    status: str
    ms: float  # refinement alone, all passes
    first: Score
    refined: Score
    points_mm: tuple[np.ndarray, np.ndarray, np.ndarray]  # (K,3) first, refined, true; each relative to its root


class Harness:
    """Scores samples of one dataset with one set of models."""

    def __init__(self, models: Models, dataset: Dataset, options: HarnessOptions, sources: EvidenceOptions) -> None:
        self._models, self._dataset, self._options = models, dataset, options
        self._maker = EvidenceMaker(models, sources)
        self._degrees = _degrees(options.first)

    def rows(self, sample: Sample, evidence: Sequence[str]) -> Iterator[Row]:
        """One row per name in ``evidence``.  Raises AssetError when the picture cannot be read."""
        crop, estimate = self.first_estimate(sample)
        first_posed = self._models.skinner.pose(estimate.params)
        first_vertices, first_joints = first_posed.vertices[0].copy(), first_posed.joints[0].copy()
        protocol = self._dataset.protocol
        first_score = score(protocol, sample, first_vertices, first_joints)
        for name in evidence:
            begin = time.perf_counter()
            params, status = self.refine(name, sample, estimate, crop)
            ms = (time.perf_counter() - begin) * 1e3
            posed = self._models.skinner.pose(params)
            points = [protocol.points(first_vertices, first_joints), protocol.points(posed.vertices[0], posed.joints[0])]
            points.append((sample.truth.points_m, sample.truth.root_m))
            yield Row(
                sample.key, sample.sequence, sample.frame, sample.fps, name, float(estimate.confidence[0]), status.name, ms,
                first_score, score(protocol, sample, posed.vertices[0], posed.joints[0]),
                tuple(1000 * (p - root) for p, root in points),
            )  # fmt: skip

    def first_estimate(self, sample: Sample) -> tuple[Crop, Estimate]:
        """The window of the sample's box, and the body estimated in it."""
        square = crops.square_around(sample.box_xywh, self._models.config.render.crop_margin)
        crop = crops.extract(sample.image(), square[None], CROP_SIZE_PX)
        if self._degrees is None:
            return crop, self._models.estimator.estimate(crop, sample.camera)
        truth = sample.truth.params
        if truth is None:
            raise ConfigError(f"disturbed starts need the true parameters, which {self._dataset.name} does not have")
        rng = np.random.default_rng(np.frombuffer(sample.key.encode(), np.uint8))
        start = disturb(rng, truth, rest_joints(self._models.body, truth.betas)[:, 0], degrees=self._degrees)
        sigma = np.full((1, 24), np.radians(max(self._degrees, MIN_SIGMA_DEG)), np.float32)
        return crop, Estimate(start, np.ones(1, np.float32), None, "disturbed", rot_sigma_rad=sigma)

    def refine(self, name: str, sample: Sample, estimate: Estimate, crop: Crop) -> tuple[BodyParams, FitStatus]:
        """The refined body; the first estimate where the evidence says nothing or speaks against the result."""
        if name == "none":
            return estimate.params, FitStatus.NO_EVIDENCE
        config = self._models.config
        mean = dataclasses.replace(estimate.params, betas=np.zeros_like(estimate.params.betas))
        anchors = [
            Anchor(estimate.params, rot_sigma_rad=estimate_sigmas(estimate, config), t_sigma_m=ESTIMATE_T_SIGMA_M),
            Anchor(mean, betas_sigma=config.fit.betas_sigma),
        ]
        params, status = estimate.params, FitStatus.NO_EVIDENCE
        dense = name in ("displacement", "pipeline", "gt-displacement")
        for _ in range(self._options.passes if dense else 1):
            matches, keypoints = self._maker.make(name, sample, params, estimate, crop)
            result = self._models.fitter.solve(
                params, sample.camera, matches, keypoints=keypoints, anchors=anchors, iterations=self._options.iterations
            )
            params, status = result.params, FitStatus(int(result.status[0]))
        return params, status


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
