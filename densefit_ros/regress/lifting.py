"""Keypoints to bodies: a start, then the fit.

2D keypoints fix what is seen, 3D hints (if any) and priors fix the depth.  Where a regressor has looked at the same windows, its
answer is start and prior: of pictures it knows less than a keypoint detector, of depth much more.  Without one, and where it does
not fit the points, the start is a pose read off them (:mod:`densefit_ros.regress.lifting_start`).  The scale comes from
the adult size prior, unless something else measures it later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..body.joints import JOINT_INDEX
from ..body.model import BodyModel
from ..fit.options import Anchor, FitOptions
from ..fit.solver import Fitter
from ..types import NUM_JOINTS, BodyParams, Camera, Correspondences, Crop, Estimate, FitStatus, Keypoints
from .lifting_start import StartFinder

MIN_KEYPOINTS = 4
# Several points on one rigid part would outvote an elbow; faces seen from behind are guesses; fingers move on their own.
FINE_POINTS = ("eye", "mouth", "pinky", "index", "thumb")
FINE_WEIGHT = 0.3
# What keypoints cannot see is held near the start (rad): trunk and neck bend little each, hands and toes not at all.
SPREAD_RAD = {"spine": 0.25, "neck": 0.25, "head": 0.25, "collar": 0.15, "wrist": 0.15, "hand": 0.05, "foot": 0.05}
LIMB_SPREAD_RAD = 0.8
ROOT_SPREAD_RAD = 1.0
REST_PARTS = ("collar", "wrist", "hand", "foot")  # held at rest, not at the start
LIFTING_OPTIONS = FitOptions(
    iterations=14, robust_scale=3.0, robust_start=12.0, keypoint_sigma_share=0.012, direction_sigma=0.2, guard=False
)
MAX_LIFTED = 8
WINDOW_MARGIN = 1.05  # side of a window over the person's, as render.crop_margin has it by default
# A regressor's answer is a prior from this confidence on; it is doubted where the fitted body is this far (of the diagonal of the
# points' box) from the points on average, and left where points alone come to half of that: it had the person facing away.
MIN_PRIOR_CONFIDENCE = 0.3
DOUBTFUL_SHARE = 0.02
CLEARLY_BETTER = 0.5
SUPPORT_SHARE = 0.08  # points that far from a body on average support it by half
# Errors of lifted rotations that the fit does not know of: keypoints are biased, and 3D hints are wrong together.
FLOOR_SIGMA_RAD = 0.12
UNSEEN_SIGMA_RAD = 1.0


class LiftingRegressor:
    """Lifts keypoints of any set that the body has landmarks for."""

    name = "lifting"

    def __init__(self, body: BodyModel, fitter: Fitter | None = None, device: str = "cpu") -> None:
        """``fitter`` is best made with LIFTING_OPTIONS; one is made when left out."""
        self._body = body
        self._fitter = fitter or Fitter(body, device, max_persons=MAX_LIFTED, max_points=64, options=LIFTING_OPTIONS)
        self._starts: dict[str, StartFinder] = {}
        parts = [(j, s) for name, j in JOINT_INDEX.items() for part, s in SPREAD_RAD.items() if part in name]
        self._spread = np.full(NUM_JOINTS, LIMB_SPREAD_RAD)
        self._spread[0] = ROOT_SPREAD_RAD
        for j, s in parts:
            self._spread[j] = s
        self._resting = [j - 1 for n, j in JOINT_INDEX.items() if any(part in n for part in REST_PARTS)]

    def lift(
        self,
        keypoints: Keypoints,
        camera: Camera,
        warm: Sequence[BodyParams] = (),
        source: str = "keypoints",
        prior: Estimate | None = None,
    ) -> Estimate:
        """(P,K) keypoints of one frame -> P bodies.

        ``prior``: what a regressor says of the same P people, with its ``rot_sigma_rad``.  ``warm`` holds a prediction for each
        of the first ``len(warm)`` persons; where no prior is used it is the start if it explains the keypoints better than
        the pose read off them.  ``confidence`` is 0 for people with fewer than four keypoints;
        ``keypoints`` of the answer carry the weights that were used.
        """
        persons = len(keypoints.uv)
        if not persons:
            none = np.zeros(0, np.float32)
            return Estimate(BodyParams.rest(0), none, keypoints, source, rot_sigma_rad=np.zeros((0, NUM_JOINTS), np.float32))
        fine = self._fine(keypoints)
        weighted = self.weighted(keypoints)
        limit = self._fitter.max_persons
        parts = []
        for i in range(0, persons, limit):
            rows = slice(i, i + limit)
            parts.append(self._lift(_rows(weighted, rows), camera, warm[rows], _prior_rows(prior, rows)))
        params = BodyParams.stack([p[0] for p in parts])
        sigma, support = (np.concatenate([p[k] for p in parts]) for k in (1, 2))
        seen = np.nan_to_num(keypoints.confidence)[:, ~fine]
        confidence = np.where((seen > 0.1).sum(1) >= MIN_KEYPOINTS, seen.mean(1) * support, 0.0)
        seen = None if prior is None else prior.seen
        return Estimate(params, confidence.astype(np.float32), weighted, source, rot_sigma_rad=sigma, seen=seen)

    def weighted(self, keypoints: Keypoints) -> Keypoints:
        """With the confidences that lifting and fit go by: of crowds of points on a face and a hand each counts less."""
        share = np.where(self._fine(keypoints), FINE_WEIGHT, 1.0).astype(np.float32)
        return dataclasses.replace(keypoints, confidence=share * np.nan_to_num(keypoints.confidence))

    def _fine(self, keypoints: Keypoints) -> np.ndarray:
        names = self._body.landmarks[keypoints.set_name].names
        return np.array([any(part in n for part in FINE_POINTS) for n in names])

    def estimate(
        self,
        keypoints: Keypoints,
        crop: Crop,
        camera: Camera,
        warm: Sequence[BodyParams] = (),
        source: str = "keypoints",
        prior: Estimate | None = None,
    ) -> Estimate:
        """:meth:`lift` with one row of keypoints per window of ``crop``.

        Windows without a person's keypoints keep confidence 0 and get the prediction, the prior, or somebody who stands in them.
        """
        estimate = self.lift(keypoints, camera, warm, source, prior)
        unseen = np.flatnonzero(estimate.confidence <= 0)
        if not len(unseen):
            return estimate
        # Confidence 0 says that this is no measurement; it is still the best answer for a window that somebody gave.
        people = [estimate.params.person(i) for i in range(len(estimate.params))]
        sigma = estimate.rot_sigma_rad.copy()
        for i in unseen:
            if i < len(warm):
                people[i] = warm[i]
            elif prior is not None and prior.confidence[i] >= MIN_PRIOR_CONFIDENCE:
                people[i] = prior.params.person(i)
            else:
                people[i] = self.upright(crop.image_from_crop[i], crop.size, camera)
            sigma[i] = UNSEEN_SIGMA_RAD
        return dataclasses.replace(estimate, params=BodyParams.stack(people), rot_sigma_rad=sigma)

    def upright(self, image_from_crop: np.ndarray, size: int, camera: Camera) -> BodyParams:
        """A person of mean shape who stands in the middle of a window (2,3), as tall as a window's person usually is."""
        scale = float(image_from_crop[0, 0])
        centre = image_from_crop[:, 2] + 0.5 * size * scale
        # The head, hands and feet of a mean body span 1.7 m.
        depth = camera.fy * 1.7 / (scale * size / WINDOW_MARGIN)
        middle = np.array([(centre[0] - camera.cx) / camera.fx, (centre[1] - camera.cy) / camera.fy, 1.0]) * depth
        # The pelvis of a standing person is about the middle of its height.
        t = middle - self._body.joint_template[0]
        rest = BodyParams.rest(1)
        return dataclasses.replace(
            rest, root_rotvec=np.array([[np.pi, 0, 0]], np.float32), t_camera_root=t[None].astype(np.float32)
        )

    def _lift(
        self, keypoints: Keypoints, camera: Camera, warm: Sequence[BodyParams], prior: Estimate | None
    ) -> tuple[BodyParams, np.ndarray, np.ndarray]:
        """Parameters, rotation sigmas (P,24) rad, and how well the keypoints agree with a body (P,) in [0,1]."""
        if keypoints.set_name not in self._starts:
            self._starts[keypoints.set_name] = StartFinder(self._body, keypoints.set_name)
        finder = self._starts[keypoints.set_name]
        usable = np.zeros(len(keypoints.uv), bool)
        if prior is not None:
            usable = (prior.confidence >= MIN_PRIOR_CONFIDENCE) & np.isfinite(prior.rot_sigma_rad).all(1)
        if not usable.any():
            lifted = self._from_points(finder, keypoints, camera, warm)
        else:
            lifted = self._from_prior(finder, keypoints, camera, prior)
            doubtful = ~(usable & (lifted.error < DOUBTFUL_SHARE))
            if doubtful.any():
                alone = self._from_points(finder, keypoints, camera, warm)
                lifted = lifted.replaced(alone, doubtful & (~usable | (alone.error < CLEARLY_BETTER * lifted.error)))
        support = np.where(lifted.failed, 0.0, 1.0 / (1.0 + (lifted.error / SUPPORT_SHARE) ** 2))
        return lifted.params, _rotation_sigma(lifted.information), support

    def _from_points(self, finder: StartFinder, keypoints: Keypoints, camera: Camera, warm: Sequence[BodyParams]) -> _Lifted:
        """From the pose read off the points, or the prediction where that explains them better."""
        start = finder.start(keypoints, camera)
        people = [start.person(i) for i in range(len(start))]
        for i, prediction in enumerate(warm):
            own, predicted = (
                finder.reprojection_px(p, keypoints.uv[i], keypoints.confidence[i], camera) for p in (people[i], prediction)
            )
            if predicted < own:
                people[i] = prediction
        start = BodyParams.stack(people)
        held = start.joint_rotvec.copy()
        held[:, self._resting] = 0.0
        anchor = Anchor(dataclasses.replace(start, joint_rotvec=held), rot_sigma_rad=self._spread)
        return self._solved(finder, keypoints, camera, start, anchor)

    def _from_prior(self, finder: StartFinder, keypoints: Keypoints, camera: Camera, prior: Estimate) -> _Lifted:
        """From the prior's pose, moved to where the points are; it holds what they leave open, as surely as it says."""
        places = zip(keypoints.uv, keypoints.confidence)
        t = [finder.place(prior.params.person(i), uv, c, camera) for i, (uv, c) in enumerate(places)]
        start = dataclasses.replace(prior.params, t_camera_root=np.array(t, np.float32))
        sigma = np.where(np.isfinite(prior.rot_sigma_rad), prior.rot_sigma_rad, UNSEEN_SIGMA_RAD)
        return self._solved(finder, keypoints, camera, start, Anchor(start, rot_sigma_rad=sigma))

    def _solved(self, finder: StartFinder, keypoints: Keypoints, camera: Camera, start: BodyParams, anchor: Anchor) -> _Lifted:
        result = self._fitter.solve(start, camera, Correspondences.empty(), keypoints=keypoints, anchors=[anchor])
        persons = range(len(start))
        error = [
            finder.reprojection_px(result.params.person(i), keypoints.uv[i], keypoints.confidence[i], camera)
            / _extent_px(keypoints, i)
            for i in persons
        ]
        failed = [result.status[i] in (FitStatus.INVALID_START, FitStatus.NO_EVIDENCE) for i in persons]
        return _Lifted(result.params, result.information, np.array(error), np.array(failed))


@dataclass(frozen=True, eq=False)
class _Lifted:
    """Bodies fitted to keypoints."""

    params: BodyParams
    information: np.ndarray  # (P,85,85)
    error: np.ndarray  # (P,) mean distance to the points over the diagonal of their box
    failed: np.ndarray  # (P,) bool

    def replaced(self, other: _Lifted, which: np.ndarray) -> _Lifted:
        """``other``'s answer for the persons of ``which`` (P,) bool."""
        people = [(other if w else self).params.person(i) for i, w in enumerate(which)]
        information = np.where(which[:, None, None], other.information, self.information)
        error, failed = np.where(which, other.error, self.error), np.where(which, other.failed, self.failed)
        return _Lifted(BodyParams.stack(people), information, error, failed)


def make_lifting(body: BodyModel, max_persons: int = 1, device: str = "cpu") -> LiftingRegressor:
    """Lifting with a fitter for the usual number of people; more are lifted in several turns."""
    fitter = Fitter(body, device, max_persons=max(1, min(max_persons, MAX_LIFTED)), max_points=64, options=LIFTING_OPTIONS)
    return LiftingRegressor(body, fitter)


def _rows(keypoints: Keypoints, rows: slice) -> Keypoints:
    direction = None if keypoints.direction_xyz is None else keypoints.direction_xyz[rows]
    return Keypoints(keypoints.set_name, keypoints.uv[rows], keypoints.confidence[rows], direction)


def _prior_rows(prior: Estimate | None, rows: slice) -> Estimate | None:
    if prior is None:
        return None
    return Estimate(prior.params.rows(rows), prior.confidence[rows], rot_sigma_rad=prior.rot_sigma_rad[rows])


def _extent_px(keypoints: Keypoints, i: int) -> float:
    good = (keypoints.confidence[i] > 0.1) & np.isfinite(keypoints.uv[i]).all(1)
    return float(np.hypot(*np.ptp(keypoints.uv[i][good], axis=0))) + 1e-6 if good.any() else 1e-6


def _rotation_sigma(information: np.ndarray) -> np.ndarray:
    """(P,85,85) -> (P,24) rad, marginal standard deviation of each joint's rotation, per axis."""
    p = len(information)
    diagonal = np.einsum("pii->pi", information)
    # Unobserved directions make the matrix singular; a prior of 1 rad, m or unit bounds them.
    ridge = np.eye(information.shape[1]) * np.maximum(1e-9 * diagonal.max(1, initial=0.0), 1.0)[:, None, None]
    variance = np.einsum("pii->pi", np.linalg.inv(information + ridge))[:, 3:75].reshape(p, NUM_JOINTS, 3).mean(2)
    return np.sqrt(np.maximum(variance, 0.0) + FLOOR_SIGMA_RAD**2).astype(np.float32)
