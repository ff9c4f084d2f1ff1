"""What a fit can be told: its options, and the values it takes besides the evidence of :mod:`densefit_ros.types`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import ConfigError, ShapeError
from ..types import BodyParams

INF = float("inf")


@dataclass(frozen=True)
class Claim:
    """What the covariance of a result believes of an anchor; the fit itself takes all of it.

    For what steadies a fit and is no new evidence.
    """

    share: float = 1.0  # of the precision of rotations and translation
    betas_sigma: float = 0.0  # betas count as no surer than this

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.betas_sigma < INF:
            raise ShapeError(f"expected a claim with share in [0, 1] and betas_sigma at least 0, got {self}")


@dataclass(frozen=True)
class Anchor:
    """Gaussian prior around given parameters: a track's prediction, a regressor's estimate, a mean body.

    Standard deviations broadcast: ``rot_sigma_rad`` scalar, (24,) or (P,24), of the angle per axis of each joint's
    rotation (the root's is global, the others relative to their parents); ``betas_sigma`` scalar, (10,) or (P,10);
    ``t_sigma_m`` scalar, (3,) or (P,3).  Infinity means no pull.
    """

    params: BodyParams
    rot_sigma_rad: np.ndarray | float = INF
    betas_sigma: np.ndarray | float = INF
    t_sigma_m: np.ndarray | float = INF
    claim: Claim = Claim()


@dataclass(frozen=True)
class FitOptions:
    """Everything that steers a fit; defaults are for a warm-started frame of a tracker."""

    iterations: int = 4  # Levenberg-Marquardt steps tried
    robust_scale: float = 4.0  # Geman-McClure scale of dense residuals, in standard deviations
    robust_start: float = 16.0  # scale of the first iteration; larger than robust_scale: graduated, for rough starts
    robust_factor: float = 0.5  # scale shrinks by this at each accepted step, down to robust_scale
    keypoint_sigma_px: float | None = None  # standard deviation of a keypoint; None: a share of the person's extent
    keypoint_sigma_share: float = 0.015  # of the diagonal of the confident keypoints' box; used when sigma_px is None
    keypoint_scale_ratio: float = 1.5  # the keypoints' robust scale over that of dense matches
    direction_sigma: float = 0.3  # standard deviation of a limb's unit direction, rad
    shape_sigma: float = 1.0  # of each beta around zero; inf: none
    limit_sigma_rad: float = 0.1  # softness of the joint limits; inf: none
    pose_prior_weight: float = 1.0  # on the squared norm of the pose prior, if one is given
    damping: float = 1e-4  # initial, relative to the diagonal of the normal matrix
    damping_min: float = 1e-6  # float32 keeps about seven digits: less damping is lost in rounding
    damping_max: float = 1e6
    tolerance: float = 1e-5  # relative decrease of the cost of an accepted step that counts as converged
    min_matches: int = 6  # usable matches, depth points and keypoints below which a person keeps its start
    z_min_m: float = 0.05  # points nearer than this do not project
    guard: bool = True  # keep the start when the result is not supported by the evidence
    guard_inlier_min: float = 0.1  # share of the evidence that must lie within inlier_sigma of a result, or it is noise
    guard_inlier_loss: float = 0.02  # share of inliers that a result may lose
    guard_gain: float = 0.0  # relative drop of the robust cost of the evidence that a result must reach
    # Errors of one displacement field are shared: hundreds of matches taken at their word outvote keypoints and priors.
    # n points of one part of the body count as n share / (1 + (n - 1) correlation) independent ones, in the objective as in
    # the covariance.
    independent_share: float = 1.0
    part_correlation: float = 0.0
    covariance_share: float = 1.0  # of the evidence's information counts in the covariance; the fit itself takes all of it
    inlier_sigma: float = 3.0
    dtype: str = "float32"  # or "float64": for checks
    linear: str = "auto"  # "lapack" (host in the loop, CPU only), "tile" (all on the device, one graph)

    def __post_init__(self) -> None:
        positive = ("robust_scale", "robust_start", "direction_sigma", "shape_sigma", "limit_sigma_rad", "damping")
        positive += ("damping_min", "damping_max", "z_min_m", "keypoint_sigma_share", "keypoint_scale_ratio", "inlier_sigma")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"fit.{name} must be positive, got {getattr(self, name)}")
        if INF in (self.robust_scale, self.robust_start):
            raise ConfigError("fit.robust_scale and robust_start must be finite: a large number (1e6) switches robustness off")
        if self.keypoint_sigma_px is not None and not self.keypoint_sigma_px > 0:
            raise ConfigError(f"fit.keypoint_sigma_px must be positive or None, got {self.keypoint_sigma_px}")
        if not 0 < self.independent_share <= 1 or not 0 <= self.part_correlation <= 1:
            got = f"{self.independent_share} and {self.part_correlation}"
            raise ConfigError(f"fit expects independent_share in (0, 1] and part_correlation in [0, 1], got {got}")
        if not 0 < self.covariance_share <= 1:
            raise ConfigError(f"fit.covariance_share must lie in (0, 1], got {self.covariance_share}")
        if self.iterations < 1:
            raise ConfigError(f"fit.iterations must be at least 1, got {self.iterations}")
        if not 0 < self.robust_factor <= 1:
            raise ConfigError(f"fit.robust_factor must lie in (0,1], got {self.robust_factor}")
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"fit.dtype must be float32 or float64, got {self.dtype!r}")
        if self.linear not in ("auto", "lapack", "tile"):
            raise ConfigError(f"fit.linear must be auto, lapack or tile, got {self.linear!r}")


# Soft boxes on the local rotation vector of each joint, rad, in SMPL's rest pose (T-pose, x to the person's left, y up, z
# to the front).  Read off the joints' ranges of motion in anatomy books, widened by 20 degrees: they stop an elbow that
# bends backwards, and nothing that people do.
_LIMITS = {
    # index: (low xyz, high xyz)
    1: ((-2.7, -1.4, -0.9), (0.9, 1.6, 1.4)),  # left hip: flexion is -x
    2: ((-2.7, -1.6, -1.4), (0.9, 1.4, 0.9)),
    3: ((-0.8, -0.9, -0.8), (1.3, 0.9, 0.8)),  # spine1
    4: ((-0.25, -0.9, -0.5), (2.9, 0.9, 0.5)),  # left knee: flexion is +x
    5: ((-0.25, -0.9, -0.5), (2.9, 0.9, 0.5)),
    6: ((-0.7, -0.8, -0.7), (0.9, 0.8, 0.7)),
    7: ((-1.0, -0.9, -0.8), (1.2, 0.9, 0.8)),
    8: ((-1.0, -0.9, -0.8), (1.2, 0.9, 0.8)),
    9: ((-0.7, -0.8, -0.7), (0.9, 0.8, 0.7)),
    10: ((-0.9, -0.6, -0.6), (0.9, 0.6, 0.6)),
    11: ((-0.9, -0.6, -0.6), (0.9, 0.6, 0.6)),
    12: ((-1.0, -1.4, -0.9), (1.0, 1.4, 0.9)),
    13: ((-0.7, -0.9, -1.1), (0.7, 0.9, 0.9)),
    14: ((-0.7, -0.9, -0.9), (0.7, 0.9, 1.1)),
    15: ((-0.9, -1.2, -0.8), (0.9, 1.2, 0.8)),
    16: ((-3.2, -2.6, -2.3), (3.2, 1.9, 2.1)),  # left shoulder: raised above the head it comes near pi about x
    17: ((-3.2, -1.9, -2.1), (3.2, 2.6, 2.3)),
    18: ((-1.6, -2.9, -1.0), (1.6, 0.35, 1.0)),  # left elbow: flexion is -y
    19: ((-1.6, -0.35, -1.0), (1.6, 2.9, 1.0)),
    20: ((-1.6, -1.1, -1.6), (1.6, 1.1, 1.6)),
    21: ((-1.6, -1.1, -1.6), (1.6, 1.1, 1.6)),
    22: ((-0.8, -0.8, -1.6), (0.8, 0.8, 1.6)),
    23: ((-0.8, -0.8, -1.6), (0.8, 0.8, 1.6)),
}


def default_limits() -> tuple[np.ndarray, np.ndarray]:
    """(24,3) lower and upper bounds of each joint's local rotation vector, rad; the root is free."""
    low, high = np.full((24, 3), -10.0), np.full((24, 3), 10.0)
    for k, (lo, hi) in _LIMITS.items():
        low[k], high[k] = lo, hi
    return low, high


@dataclass(frozen=True)
class PoseGaussian:
    """What a pose prior looks like around a pose: see :mod:`densefit_ros.fit.priors`."""

    mean: np.ndarray  # (P,23,3) rotation vectors, rad
    precision: np.ndarray  # (P,69,69)
    energy: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (P,) the prior's own energy where it was expanded


# For starts that may be far off: wide robust scale first, careful steps, and no guard, because a rough start explains
# nothing and the result of one stage is only the start of the next.
ROUGH = FitOptions(iterations=15, robust_start=200.0, robust_factor=0.5, damping=1e-2, guard=False)
