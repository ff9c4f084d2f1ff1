"""Keypoints and displacements in one fit, against either alone: ``densefit train evaluate --only together``.

Held-out synthetic people, fitted as the tracker does it in a person's first frame.  Keypoints have a detector's noise, drawn
here; displacements are the network's, or true ones with noise.  What must hold: both together are never worse than the better
of the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..body.joints import landmark_positions
from ..body.model import BodyModel, face_parts, pose, rest_joints
from ..config import Config
from ..displace.contract import STRIDE_PX
from ..displace.decode import decode
from ..displace.displacer import Displacer
from ..eval.metrics import mean_interval, pve_mm
from ..evidence.keypoints import rows_of
from ..fit.options import Anchor
from ..fit.solver import Fitter
from ..geometry.camera import project
from ..models import fit_options
from ..regress.lifting import make_lifting
from ..regress.network_regressor import NetworkRegressor
from ..steps.priors import decode_options, estimate_t_sigmas_m
from ..synth.crops import CropBatch
from ..synth.displacement import DisplacementPairs, make_pairs
from ..synth.perturb import disturb
from ..types import NUM_JOINTS, BodyParams, Camera, Correspondences, Crop, DisplacementField, Estimate, Keypoints
from .sources import EVALUATION_SUBJECT, People
from .tasks import VALIDATION_SEED

SEED = VALIDATION_SEED + 2
BATCH = 16
SET = "openpose25"
START_DEG = 8.0
HINT_M = 0.06  # of 3D points as MediaPipe gives them: lifted bodies are then about as far off as on photographs
WAYS = ("start", "keypoints", "displacements", "both")


@dataclass(frozen=True)
class KeypointNoise:
    """A detector's errors.  Its confidence c is calibrated: the standard deviation of a point is sigma_share / c."""

    confidence: tuple[float, float] = (4.0, 1.5)  # of the beta distribution of c: mean 0.73
    sigma_share: float = 0.012  # of the diagonal of the person's points, for a fully confident point
    missing: float = 0.05
    wrong: float = 0.03  # on another limb or on somebody else, with some confidence
    wrong_share: float = 0.15  # how far away, as a share of the diagonal
    hint_m: float | None = None  # standard deviation of 3D hints; None: 2D alone

    def draw(self, rng: np.random.Generator, exact: Keypoints) -> Keypoints:
        """``exact`` as such a detector sees it."""
        people, points = exact.confidence.shape
        size = np.stack([np.ptp(uv[c > 0], axis=0) if (c > 0).any() else np.ones(2) for uv, c in zip(exact.uv, exact.confidence)])
        diagonal = np.linalg.norm(size, axis=-1)[:, None, None]
        sure = rng.beta(*self.confidence, (people, points))
        noise = self.sigma_share / np.maximum(sure, 0.1)[..., None] * rng.normal(size=exact.uv.shape)
        wrong = rng.random((people, points)) < self.wrong
        noise = np.where(wrong[..., None], self.wrong_share * rng.normal(size=exact.uv.shape), noise)
        seen = (exact.confidence > 0) & (rng.random((people, points)) >= self.missing)
        confidence = np.where(seen, np.where(wrong, np.minimum(sure, 0.6), sure), 0.0)
        hints = None
        if self.hint_m is not None:
            hints = (exact.direction_xyz + self.hint_m * rng.normal(size=exact.direction_xyz.shape)).astype(np.float32)
        return Keypoints(exact.set_name, (exact.uv + diagonal * noise).astype(np.float32), confidence.astype(np.float32), hints)


@dataclass(frozen=True)
class FlowNoise:
    """Errors of a displacement field, correlated as those of a network are; the stated variance is right for each cell.

    Of sure cells, errors in units of what the network states are correlated by 0.8 to 0.9 within a part of the body and by 0.2 to
    0.3 between parts (docs/FIT.md).
    """

    sigma_px: float  # of the crop
    within_part: float = 0.85
    between_parts: float = 0.22

    def draw(self, rng: np.random.Generator, pairs: DisplacementPairs, face_part: np.ndarray) -> DisplacementField:
        """The true flow with such errors; ``face_part`` (F,) is the part of each face."""
        people, _, rows, columns = pairs.flow.shape
        half = STRIDE_PX // 2
        face = pairs.surface.face_id[:, half::STRIDE_PX, half::STRIDE_PX]
        part = np.where(face >= 0, face_part[face], 0)
        common = rng.normal(size=(people, 1, 1, 2))
        own = rng.normal(size=(people, NUM_JOINTS, 2))[np.arange(people)[:, None, None], part]
        rest = rng.normal(size=(people, rows, columns, 2))
        shares = (self.between_parts, self.within_part - self.between_parts, 1 - self.within_part)
        error = sum(np.sqrt(share) * e for share, e in zip(shares, (common, own, rest)))
        seen = pairs.valid & pairs.visible
        log_var = np.where(seen, 2 * np.log(self.sigma_px), 12.0).astype(np.float32)
        flow = pairs.flow + self.sigma_px * error.transpose(0, 3, 1, 2)
        return DisplacementField(flow.astype(np.float32), log_var[:, None], STRIDE_PX)


@dataclass(frozen=True, eq=False)
class Case:
    """A batch of people with a start and both kinds of evidence."""

    truth: BodyParams
    cameras: tuple[Camera, ...]
    start: BodyParams
    sigma_rad: np.ndarray  # (P,24) of the start, as stated
    keypoints: Keypoints
    matches: Correspondences
    labelled: np.ndarray


def case(
    source: People,
    index: int,
    first: str,
    noise: KeypointNoise,
    field: FlowNoise | Displacer,
    config: Config,
    regressor: NetworkRegressor | None = None,
) -> Case:
    """``first``: where the fit starts, ``disturbed``, or ``lifted`` from the keypoints and, if given, the regressor's answer."""
    crops = source.crops(index)
    rng = np.random.default_rng([SEED, 15, index])
    keypoints = noise.draw(rng, true_keypoints(source.body, crops))
    if first == "lifted":
        estimate = _lifted(source.body, keypoints, crops, regressor)
        start, sigma, keypoints = estimate.params, estimate.rot_sigma_rad, estimate.keypoints
    else:
        start = disturb(rng, crops.params, rest_joints(source.body, crops.params.betas)[:, 0], degrees=START_DEG)
        sigma = np.full((len(crops), 24), np.radians(START_DEG) / np.sqrt(3), np.float32)  # per axis
    pairs = make_pairs(rng, source.engine, crops, start)
    crop = crops.crop
    predicted = isinstance(field, Displacer)
    flow = field.predict(crop, pairs.surface) if predicted else field.draw(rng, pairs, face_parts(source.body))
    matches = decode(flow, pairs.surface, crop, decode_options(config))
    return Case(crops.params, crops.cameras, start, sigma, keypoints, matches, crops.labelled)


def true_keypoints(body: BodyModel, crops: CropBatch) -> Keypoints:
    """25 points in px of the full images and in camera axes; confidence 0 outside the image."""
    points = landmark_positions(body.landmarks[SET], pose(body, crops.params))
    uv = np.stack([project(c, p) for c, p in zip(crops.cameras, points)])
    size = np.array([(c.width, c.height) for c in crops.cameras])[:, None]
    inside = (np.isfinite(uv) & (uv >= 0) & (uv < size)).all(-1)
    return Keypoints(SET, np.nan_to_num(uv).astype(np.float32), inside.astype(np.float32), points.astype(np.float32))


def refine(fitter: Fitter, body: BodyModel, c: Case, way: str, config: Config) -> np.ndarray:
    """Vertex error (P,) mm, pelvis-aligned, after one fit with some of the evidence."""
    params = c.start
    if way != "start":
        scale = config.fit.estimate_sigma_scale
        mean = dataclasses.replace(c.start, betas=np.zeros_like(c.start.betas))
        anchors = [
            Anchor(c.start, rot_sigma_rad=scale * c.sigma_rad, t_sigma_m=estimate_t_sigmas_m(c.start)),
            Anchor(mean, betas_sigma=config.fit.betas_sigma),
        ]
        matches = c.matches if way != "keypoints" else Correspondences.empty()
        keypoints = c.keypoints if way != "displacements" else None
        params = fitter.solve(c.start, c.cameras, matches, keypoints=keypoints, anchors=anchors).params
    got, truth = pose(body, params), pose(body, c.truth)
    return pve_mm(got.vertices, truth.vertices, got.joints[:, 0], truth.joints[:, 0])


USUAL = KeypointNoise()
GOOD = KeypointNoise((12, 1), missing=0.0, wrong=0.01)
BAD = KeypointNoise((2, 3), missing=0.15)


def scenarios(
    network: Displacer, regressor: NetworkRegressor
) -> Iterator[tuple[str, str, KeypointNoise, FlowNoise | Displacer, NetworkRegressor | None]]:
    """Name, start, keypoints, displacements, and the regressor whose answer keypoints are lifted from."""
    hinted = dataclasses.replace(USUAL, hint_m=HINT_M)
    yield "network", "disturbed", USUAL, network, None
    for kind, noise in (("keypoints", hinted), ("2D keypoints", USUAL), ("bad 2D keypoints", BAD)):
        yield f"network, from {kind} lifted alone", "lifted", noise, network, None
        yield f"network, from {kind} lifted from the regressor", "lifted", noise, network, regressor
    yield "true flow, 1 px of noise", "disturbed", USUAL, FlowNoise(1.0), None
    yield "true flow, 1 px, from lifted keypoints", "lifted", hinted, FlowNoise(1.0), regressor
    yield "true flow, 3.8 px; good keypoints", "disturbed", GOOD, FlowNoise(3.8), None
    yield "true flow, 1 px; bad keypoints", "disturbed", BAD, FlowNoise(1.0), None


def evaluate_together(
    displacer: Displacer, people: int, backgrounds: Sequence[str] | None = None, config: Config | None = None
) -> dict[str, dict[str, float]]:
    """Per scenario the mean vertex error of each way in mm, and by how much both exceed the better one (95 % interval)."""
    config = config or Config()
    source = People(SEED, BATCH, held_out=True, first_subject=EVALUATION_SUBJECT, backgrounds=backgrounds)
    fitter = Fitter(source.body, max_persons=BATCH, max_points=config.fit.max_points, options=fit_options(config))
    out = {}
    for name, first, noise, field, regressor in scenarios(displacer, NetworkRegressor(source.body, displacer.encoder)):
        rows: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
        for index in range(-(-people // BATCH)):
            c = case(source, index, first, noise, field, config, regressor)
            for way in WAYS:
                rows[way].append(refine(fitter, source.body, c, way, config)[c.labelled])
        errors = {way: np.concatenate(v) for way, v in rows.items()}
        out[name] = {f"{way}_pve_mm": float(v.mean()) for way, v in errors.items()} | excess(errors)
    return out


def excess(errors: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean of both minus the mean of the better one alone, mm, with its 95 % bootstrap interval over people."""
    both, alone = errors["both"], np.stack([errors["keypoints"], errors["displacements"]])
    # Which one is better is decided once, on all people: deciding it in every draw would favour the single ones.
    best = alone[alone.mean(1).argmin()]
    _, low, high = mean_interval(both - best)
    return {"excess_mm": float((both - best).mean()), "excess_low_mm": low, "excess_high_mm": high}


def _lifted(body: BodyModel, keypoints: Keypoints, crops: CropBatch, regressor: NetworkRegressor | None) -> Estimate:
    """Each picture has its own camera, so people are lifted one by one."""
    lifting, parts = make_lifting(body), []
    for i, camera in enumerate(crops.cameras):
        rows = slice(i, i + 1)
        crop = Crop(crops.rgb[rows], crops.inside[rows], crops.image_from_crop[rows], crops.size)
        prior = None if regressor is None else regressor.estimate(crop, camera)
        parts.append(lifting.lift(rows_of(keypoints, [i]), camera, prior=prior))
    weighted = dataclasses.replace(keypoints, confidence=np.concatenate([p.keypoints.confidence for p in parts]))
    return Estimate(
        BodyParams.stack([p.params for p in parts]),
        np.concatenate([p.confidence for p in parts]),
        weighted,
        rot_sigma_rad=np.concatenate([p.rot_sigma_rad for p in parts]),
    )
