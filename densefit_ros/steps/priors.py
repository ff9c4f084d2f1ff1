"""What is believed before the image is looked at closely: where the fit starts, and what pulls on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..body.between import between
from ..body.model import rest_joints
from ..config import Config
from ..displace.decode import DecodeOptions
from ..evidence.depth import distance_ratio
from ..fit.options import Anchor, Claim, PoseGaussian
from ..models import Models
from ..track.state import Track
from ..types import (
    BodyParams,
    Camera,
    Crop,
    Estimate,
    Frame,
    ImageFeatures,
    Surface,
    TrackingState,
)

NOMINAL_DT_S = 1 / 30  # the motion sigmas of FitConfig are for one frame at 30 Hz; they grow with the root of time
KEYPOINT_ROT_SIGMA_RAD = 0.35  # how far a lifted pose may be off per joint; keypoints enter the fit a second time, so loose
# A single view knows distance no better than size: 60 held-out people at 2 to 6 m were placed 4.8 % off.
ESTIMATE_T_SIGMA_M, ESTIMATE_Z_SIGMA_SHARE = 0.25, 0.05
# First estimates that no network has weighed against what poses people take.
UNWEIGHED = ("external", "track")
# What a frame gets wrong the next gets wrong as well: a prediction steadies the fit and tells the covariance nothing new.  What
# is left says that a joint which nothing else sees is off by about a radian, and that size is known as of anybody.  With the
# shape belief taken at its word, 50 % ellipsoids held 0.47 of the joints, without it 0.56; 95 % ones 0.82 and 0.88.
PREDICTION_CLAIM = Claim(share=0.02, betas_sigma=1.0)


def prediction_sigmas(tracks: Sequence[Track], config: Config, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """How far the predictions may be off: rotations (P,1) rad, translation (P,1) m; infinite in the frame of birth."""
    since_s = np.array([[(stamp_ns - t.measured_ns) * 1e-9] for t in tracks])
    growth = np.where(since_s > 0, np.sqrt(np.maximum(since_s, 0) / NOMINAL_DT_S), np.inf)
    return config.fit.prediction_rot_sigma_rad * growth, config.fit.prediction_t_sigma_m * growth


def _newborn(tracks: Sequence[Track], config: Config, stamp_ns: int) -> np.ndarray:
    """(P,) bool: nothing was known of them before this frame."""
    return ~np.isfinite(prediction_sigmas(tracks, config, stamp_ns)[0][:, 0])


def estimate_sigmas(estimate: Estimate, config: Config) -> np.ndarray:
    """(P,24) rad: how far each joint rotation of the first estimate may be off."""
    sigma = estimate.rot_sigma_rad
    if sigma is None:
        sigma = np.full((len(estimate.params), 24), KEYPOINT_ROT_SIGMA_RAD, np.float32)
    return sigma * config.fit.estimate_sigma_scale


def estimate_t_sigmas_m(params: BodyParams) -> np.ndarray:
    """(P,3): how far a first estimate's translation may be off, in the camera's axes."""
    sigma = np.full((len(params), 3), ESTIMATE_T_SIGMA_M, np.float32)
    sigma[:, 2] = np.maximum(sigma[:, 2], ESTIMATE_Z_SIGMA_SHARE * params.t_camera_root[:, 2])
    return sigma


def fuse(tracks: Sequence[Track], estimate: Estimate, config: Config, stamp_ns: int) -> BodyParams:
    """The start of the fit: prediction and first estimate, each joint weighted by its precision.

    Shape is the track's belief; where the estimate is worthless (confidence below regress.min_confidence) the
    prediction stands alone, of newcomers the estimate.
    """
    predicted = BodyParams.stack([t.params for t in tracks])
    rot_sigma, t_sigma = prediction_sigmas(tracks, config, stamp_ns)
    newborn = ~np.isfinite(rot_sigma)
    usable = (estimate.confidence >= config.regress.min_confidence)[:, None] | newborn
    est2 = estimate_sigmas(estimate, config) ** 2
    pre2 = np.where(newborn, 1.0, rot_sigma) ** 2
    share = np.where(newborn, 1.0, pre2 / (pre2 + est2)) * usable
    t_est2 = estimate_t_sigmas_m(estimate.params)[:, 2:] ** 2
    t_pre2 = np.where(newborn, 1.0, t_sigma) ** 2
    t_share = np.where(newborn, 1.0, t_pre2 / (t_pre2 + t_est2)) * usable
    start = between(predicted, estimate.params, share, t_share[:, 0])
    betas = np.stack([t.shape.mean if t.state is not TrackingState.DETECTED else t.params.betas[0] for t in tracks])
    return dataclasses.replace(start, betas=betas.astype(np.float32))


def anchors(tracks: Sequence[Track], estimate: Estimate, config: Config, stamp_ns: int) -> list[Anchor]:
    """The priors of the fit: the track's prediction and shape belief, and the first estimate with its own precision."""
    rot_sigma, t_sigma = prediction_sigmas(tracks, config, stamp_ns)
    predicted = dataclasses.replace(
        BodyParams.stack([t.params for t in tracks]), betas=np.stack([t.shape.mean for t in tracks]).astype(np.float32)
    )
    everyone = len(tracks)
    usable = _second_opinions(estimate, ~np.isfinite(rot_sigma), config)
    return [
        Anchor(
            params=predicted,
            rot_sigma_rad=np.broadcast_to(rot_sigma, (everyone, 24)),
            betas_sigma=np.stack([t.shape.sigma for t in tracks]),
            t_sigma_m=np.broadcast_to(t_sigma, (everyone, 3)),
            claim=PREDICTION_CLAIM,
        ),
        Anchor(
            params=estimate.params,
            rot_sigma_rad=np.where(usable, estimate_sigmas(estimate, config), np.inf),
            betas_sigma=np.full((everyone, 10), np.inf),
            t_sigma_m=np.where(usable, estimate_t_sigmas_m(estimate.params), np.inf),
        ),
    ]


def _second_opinions(estimate: Estimate, newborn: np.ndarray, config: Config) -> np.ndarray:
    """(P,1) bool: whose first estimate counts beside the prediction; ``newborn`` (P,1), who have none."""
    # A carried prediction is one already: as a second opinion about the distance it would count the first again.
    looked = np.array([estimate.source_of(i) != "track" for i in range(len(newborn))])
    return ((estimate.confidence >= config.regress.min_confidence)[:, None] | newborn) & looked[:, None]


def translation_precision(tracks: Sequence[Track], estimate: Estimate, config: Config, stamp_ns: int) -> np.ndarray:
    """(P,3) per m^2: how much :func:`anchors` hold each person's translation."""
    _, t_sigma = prediction_sigmas(tracks, config, stamp_ns)
    usable = _second_opinions(estimate, ~np.isfinite(t_sigma), config)
    return 1.0 / t_sigma**2 + usable / np.square(estimate_t_sigmas_m(estimate.params), dtype=np.float64)


def pose_gaussian(
    models: Models, params: BodyParams, tracks: Sequence[Track], estimate: Estimate, stamp_ns: int
) -> PoseGaussian | None:
    """The fitter's pose prior around ``params``; without weight for newcomers whose estimate knows what poses people take.

    It holds tracks against what predictions count again in every frame.  In single pictures it gains nothing, and costs the
    rare pose (docs/DECISIONS.md).
    """
    prior = models.fitter.pose_prior
    if prior is None:
        return None
    newborn = _newborn(tracks, models.config, stamp_ns)
    weighed = [estimate.source_of(i) not in UNWEIGHED for i in range(len(tracks))]
    around = prior.gaussian(params.joint_rotvec.astype(np.float64))
    return dataclasses.replace(around, precision=around.precision * ~(newborn & weighed)[:, None, None])


def seen(models: Models, tracks: Sequence[Track], crop: Crop, estimate: Estimate, stamp_ns: int) -> ImageFeatures:
    """What the displacement network reads of the crops: they are looked at now where the first estimate did not need it."""
    if estimate.seen is not None:
        return estimate.seen
    return models.displacer.look(crop.rgb, looked_at_twice(models.config, _newborn(tracks, models.config, stamp_ns)))


def looked_at_twice(config: Config, new: np.ndarray) -> tuple[int, ...]:
    """The people whom ``regress.mirrored`` names, of whom those ``new`` (P,) bool are not tracked yet."""
    chosen = {"always": np.ones_like(new), "new": new, "never": np.zeros_like(new)}[config.regress.mirrored]
    return tuple(np.flatnonzero(chosen).tolist())


def scale_to_depth(
    models: Models, params: BodyParams, anchors: Sequence[Anchor], frame: Frame, crop: Crop
) -> tuple[BodyParams, list[Anchor], np.ndarray]:
    """Move everybody along their ray to where the depth image says they are; (P,) bool tells whose depth is known.

    The priors move along: they know the direction, and as long as size is a guess, nothing about the distance.
    """
    vertices = models.skinner.pose(params).vertices
    face_id, rendered_m = models.renderer.render_depth(vertices, frame.camera, crop.image_from_crop, crop.size)
    ratio = distance_ratio(frame.depth_m, face_id, rendered_m, crop.image_from_crop)
    known = np.isfinite(ratio)
    scale = np.where(known, ratio, 1.0)[:, None].astype(np.float32)
    # It is the pelvis that stays on its ray; t_camera_root leads there from where the body model has it at rest.
    pelvis = rest_joints(models.body, params.betas)[:, 0]
    moved_t = (scale * (params.t_camera_root + pelvis) - pelvis).astype(np.float32)
    moved_params = dataclasses.replace(params, t_camera_root=moved_t)
    # One view's distance is a guess, a measured one is not: both anchors now stand where the depth put the start.
    return (
        moved_params,
        [dataclasses.replace(a, params=dataclasses.replace(a.params, t_camera_root=moved_t)) for a in anchors],
        known,
    )


def render(models: Models, vertices_m: np.ndarray, tracks: Sequence[Track], camera: Camera, crop: Crop) -> Surface:
    """Render the bodies, vertices (P,V,3) in the camera frame, with their own textures into their crops."""
    return models.renderer.render(vertices_m, [t.appearance for t in tracks], camera, crop.image_from_crop, crop.size)


def decode_options(config: Config) -> DecodeOptions:
    """The settings of the decoder."""
    d = config.displace
    return DecodeOptions(
        max_sigma_px=d.max_sigma_px, sigma_scale=d.sigma_scale, max_points=min(d.max_points, config.fit.max_points)
    )
