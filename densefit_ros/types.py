"""The frozen values that flow through one frame.

Letters in shapes: P persons, V vertices, F faces, J = 24 joints, B = 10 shape coefficients, h x w crop pixels, H x W
image pixels, N correspondences.  Lengths are metres, angles radians, image positions pixels.  The camera frame is the
ROS optical frame: x right, y down, z forward.  Pixel *centres* lie at half-integers: the centre of the top-left pixel
is (0.5, 0.5), so an image spans [0, W] x [0, H].

Arrays are NumPy, float32 unless a field says otherwise.  Values are frozen: to change one, use ``dataclasses.replace``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

NUM_JOINTS = 24
NUM_BETAS = 10
NUM_UNKNOWNS = 3 + 3 * NUM_JOINTS + NUM_BETAS  # translation, rotation increments, betas: 85


@dataclass(frozen=True)
class Camera:
    """Rectified pinhole camera; ``u = fx * x / z + cx`` with pixel centres at half-integers."""

    fx: float  # px
    fy: float  # px
    cx: float  # px
    cy: float  # px
    width: int  # px
    height: int  # px


@dataclass(frozen=True)
class Frame:
    """One image as it came from the camera, rectified."""

    rgb: np.ndarray  # (H,W,3) uint8, RGB order
    stamp_ns: int  # the image's own stamp, never the time of arrival
    camera: Camera
    depth_m: np.ndarray | None = None  # (H,W) float32 metres, aligned to rgb; NaN or <= 0 where unknown
    # People as somebody else's detector sees them, in this image's px: they take the place of finder and first estimate.
    keypoints: Keypoints | None = None
    # From this camera's optical frame to one that stands still, (4,4) m, where the camera moves and somebody knows how.
    T_world_camera: np.ndarray | None = None
    # DensePose's map of this image, (H,W,3) uint8: part (0 is background), u, v.  It is evidence beside the displacements.
    iuv: np.ndarray | None = None
    # The floor, (4,): ground[:3], of length 1, points up, and ground[:3] @ x + ground[3] is the height in m of x, camera frame.
    ground: np.ndarray | None = None


@dataclass(frozen=True)
class BodyParams:
    """SMPL parameters of P persons in the camera frame.

    ``root_rotvec`` is the orientation of the pelvis; ``joint_rotvec`` the 23 other joints relative to their parents;
    ``t_camera_root`` is SMPL's ``transl``: it is added to every posed vertex, so the pelvis joint lies at
    ``t_camera_root + J_rest[0]``.
    """

    betas: np.ndarray  # (P,10)
    root_rotvec: np.ndarray  # (P,3) rad
    joint_rotvec: np.ndarray  # (P,23,3) rad
    t_camera_root: np.ndarray  # (P,3) m

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def rotvec(self) -> np.ndarray:
        """(P,24,3) rad: the root's rotation first, in the camera frame, then those of the joints, each in its parent's."""
        return np.concatenate([self.root_rotvec[:, None], self.joint_rotvec], 1)

    def rows(self, which: slice | np.ndarray | list[int]) -> BodyParams:
        """Some of the persons: a slice, indices or a mask."""
        return BodyParams(*(getattr(self, n)[which] for n in _BODY_FIELDS))

    def person(self, index: int) -> BodyParams:
        """One person as a batch of one."""
        return self.rows(slice(index, index + 1))

    @staticmethod
    def stack(items: list[BodyParams] | tuple[BodyParams, ...]) -> BodyParams:
        """Concatenate along the person axis; an empty list gives an empty batch."""
        if not items:
            return BodyParams.rest(0)
        return BodyParams(*(np.concatenate([getattr(i, n) for i in items]) for n in _BODY_FIELDS))

    @staticmethod
    def rest(persons: int = 1) -> BodyParams:
        """Zero pose, mean shape, at the origin of the camera."""
        z = np.zeros
        return BodyParams(
            z((persons, NUM_BETAS), np.float32),
            z((persons, 3), np.float32),
            z((persons, NUM_JOINTS - 1, 3), np.float32),
            z((persons, 3), np.float32),
        )


_BODY_FIELDS = ("betas", "root_rotvec", "joint_rotvec", "t_camera_root")


@dataclass(frozen=True)
class PosedBody:
    """Surface and joints of P persons in the camera frame."""

    vertices: np.ndarray  # (P,V,3) m
    joints: np.ndarray  # (P,24,3) m


@dataclass(frozen=True)
class Crop:
    """A square window of the image, one per person, resampled to ``size`` x ``size`` pixels.  Our networks look at its middle
    columns (:func:`densefit_ros.geometry.crop.columns_seen`).

    ``image_from_crop @ [u, v, 1]`` takes crop pixels to image pixels (axis-aligned, uniform scale).
    """

    rgb: np.ndarray  # (P,size,size,3) uint8; outside the image: the border colour repeated
    inside: np.ndarray  # (P,size,size) bool: the pixel comes from inside the image
    image_from_crop: np.ndarray  # (P,2,3) float32
    size: int


@dataclass(frozen=True)
class Surface:
    """Renderings of P persons, each in its own crop."""

    face_id: np.ndarray  # (P,h,w) int32, -1 is background
    bary: np.ndarray  # (P,h,w,3) barycentrics of the pixel centre, perspective-correct, 0 on background
    depth_m: np.ndarray  # (P,h,w) z of the surface in the camera frame, 0 on background
    normals: np.ndarray  # (P,h,w,3) unit, camera frame, 0 on background
    rgb: np.ndarray  # (P,h,w,3) in [0,1], the person's own texture, 0 on background
    vertex_colors: np.ndarray  # (P,h,w,3) in [0,1], fixed function of the rest-pose position, 0 on background
    image_from_crop: np.ndarray  # (P,2,3)


@dataclass(frozen=True)
class DisplacementField:
    """Where each rendered pixel should go in the image, on a grid ``stride`` crop pixels apart.

    Cell (r, c) belongs to the crop position ``(c * stride + stride // 2 + .5, r * stride + stride // 2 + .5)``: a pixel's centre.
    """

    flow: np.ndarray  # (P,2,h,w) crop px: (du, dv)
    log_var: np.ndarray  # (P,1,h,w) log of the variance of each component, crop px^2
    stride: int


@dataclass(frozen=True)
class Correspondences:
    """Matches of surface points to image points, for all persons of a frame, in one flat list."""

    person: np.ndarray  # (N,) int32 in [0,P)
    face: np.ndarray  # (N,) int32 face of the body
    bary: np.ndarray  # (N,3) barycentrics in that face
    target_uv: np.ndarray  # (N,2) px, full image
    sqrt_weight: np.ndarray  # (N,) 1/px: one over the standard deviation of the target

    def __len__(self) -> int:
        return len(self.person)

    @staticmethod
    def empty() -> Correspondences:
        """No matches."""
        f = np.float32
        i = np.int32
        return Correspondences(np.zeros(0, i), np.zeros(0, i), np.zeros((0, 3), f), np.zeros((0, 2), f), np.zeros(0, f))

    @staticmethod
    def concat(items: list[Correspondences]) -> Correspondences:
        """All matches of several sources."""
        if not items:
            return Correspondences.empty()
        names = ("person", "face", "bary", "target_uv", "sqrt_weight")
        return Correspondences(*(np.concatenate([getattr(i, n) for i in items]) for n in names))


@dataclass(frozen=True)
class DepthPoints:
    """Surface points of all persons of a frame against measured planes: the evidence of a depth camera, and of the floor."""

    person: np.ndarray  # (N,) int32 in [0,P)
    face: np.ndarray  # (N,) int32 face of the body
    bary: np.ndarray  # (N,3) barycentrics in that face
    xyz_m: np.ndarray  # (N,3) measured point, camera frame
    normal: np.ndarray  # (N,3) unit normal of the measured surface there, camera frame
    sqrt_weight: np.ndarray  # (N,) 1/m: one over the standard deviation of the distance
    share: np.ndarray  # (N,) of an independent measurement, which each point counts as in the fit
    lasting: np.ndarray  # (N,) bool: neighbours and frames err alike, which covariances discount as they do displacements

    def __len__(self) -> int:
        return len(self.person)

    @staticmethod
    def concat(items: list[DepthPoints]) -> DepthPoints:
        """All points of several sources, of one at least."""
        names = ("person", "face", "bary", "xyz_m", "normal", "sqrt_weight", "share", "lasting")
        return DepthPoints(*(np.concatenate([getattr(i, n) for i in items]) for n in names))


@dataclass(frozen=True)
class Keypoints:
    """2D keypoints of P persons under one named set (see :mod:`densefit_ros.body.joints`), with optional 3D hints.

    ``direction_xyz`` holds 3D positions of the same keypoints up to translation and scale, in camera axes, as lifting
    networks give them (MediaPipe's world landmarks, for example).
    """

    set_name: str  # "smpl24", "openpose25", "coco17", "mediapipe33"
    uv: np.ndarray  # (P,K,2) px, full image
    confidence: np.ndarray  # (P,K) in [0,1]; 0 where missing
    direction_xyz: np.ndarray | None = None  # (P,K,3), scale-free


class FitStatus(IntEnum):
    """How a fit ended.  From REJECTED on the parameters are the start, unchanged; one that is not finite
    becomes the rest pose 3 m away."""

    CONVERGED = 0  # the last accepted step was below tolerance
    MAX_ITERATIONS = 1  # improved, and used up its iterations: the normal end of a real-time fit
    REJECTED = 2  # the guard found no improvement and kept the start
    NO_EVIDENCE = 3  # too few usable matches for this person
    INVALID_START = 4  # the start was not finite or lay behind the camera
    STALLED = 5  # no step lowered the cost


@dataclass(frozen=True)
class FitResult:
    """Result of one batched fit.  ``params`` is always finite."""

    params: BodyParams
    status: np.ndarray  # (P,) int32 of FitStatus
    cost: np.ndarray  # (P,K+1) robust cost: at the start, then after each iteration (rejected steps repeat the last)
    accepted: np.ndarray  # (P,) int32 accepted steps
    joint_covariance: np.ndarray  # (P,24,3,3) m^2, camera frame
    inlier_share: np.ndarray  # (P,) share of dense matches within 3 sigma at the result
    information: np.ndarray  # (P,85,85) J^T W J + priors at the result, order: t, 24 rotations, betas


@dataclass(frozen=True, eq=False)
class Measured:
    """What one frame says of P people, before their tracks take it in."""

    crop: Crop
    estimate: Estimate
    start: BodyParams  # where the fit began: track and first estimate fused
    matches: Correspondences  # of the last pass
    fit: FitResult
    posed: PosedBody  # of fit.params
    on_scale: np.ndarray  # (P,) bool: a depth image fixed the distance
    on_floor: np.ndarray  # (P,) bool: they stand on the known floor, which fixed it


@dataclass(frozen=True)
class Detection:
    """A person found in the full image."""

    box_xywh: np.ndarray  # (4,) px: left, top, width, height
    score: float  # in [0,1]; 0.5 is as good as a coin


class TrackingState(IntEnum):
    """What stands behind a published body."""

    DETECTED = 0  # started in this frame
    TRACKED = 1  # measured in this frame
    PREDICTED = 2  # coasting on the motion model: not seen in this frame


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What the image trunk makes of P crops of S x S pixels in N looks, of which those after the first P are in the mirror."""

    s4: np.ndarray  # (N,C4,S/4,S/4)
    s8: np.ndarray  # (N,C8,S/8,S/8)
    mirrored: tuple[int, ...] = ()  # the crops that the looks after the first P are at

    def take(self, rows: Sequence[int]) -> ImageFeatures:
        """The looks at some crops."""
        count = len(self.s4) - len(self.mirrored)
        again = [(new, count + k) for new, old in enumerate(rows) for k, crop in enumerate(self.mirrored) if crop == old]
        looks = [*rows, *(k for _, k in again)]
        return ImageFeatures(self.s4[looks], self.s8[looks], tuple(new for new, _ in again))


@dataclass(frozen=True)
class Estimate:
    """A first estimate of P bodies in one frame, with its own uncertainty."""

    params: BodyParams
    confidence: np.ndarray  # (P,) in [0,1]
    keypoints: Keypoints | None = None  # the 2D evidence that it was lifted from, if any
    source: str = ""  # "network", "custom", "mediapipe", "keypoints", "external", "track"
    feature: np.ndarray | None = None  # (P,C) image feature for conditional priors, if the source has one
    rot_sigma_rad: np.ndarray | None = None  # (P,24) rad, standard deviation of each local rotation, per axis
    uv_sigma: np.ndarray | None = None  # (P,24) standard deviation of each 2D joint, shares of the window's side
    sources: tuple[str, ...] = ()  # of each person, where they differ
    seen: ImageFeatures | None = None  # the crops as the image trunk sees them, where the estimate needed it

    def source_of(self, index: int) -> str:
        """Where the estimate of one person came from."""
        return self.sources[index] if self.sources else self.source


@dataclass(frozen=True)
class PersonResult:
    """What the pipeline says of one person in one frame."""

    track_id: str  # five lower-case letters, stable over the life of the track (REP-155)
    tracking_state: TrackingState
    status: FitStatus  # while PREDICTED this, fit_error_px and iterations are of a fit that was not believed
    params: BodyParams  # batch of one, refined
    first_estimate: BodyParams  # batch of one, before refinement, of this very frame
    source: str  # where the first estimate came from, as Estimate.source
    vertices: np.ndarray  # (V,3) m, refined, camera frame
    joints: np.ndarray  # (24,3) m, refined, camera frame
    # (3,) of t_camera_root, low-passed over track.velocity_tau_s; a moving camera's is in it unless T_world_camera is known.
    velocity_m_s: np.ndarray
    joint_covariance: np.ndarray  # (24,3,3) m^2
    box_xywh: np.ndarray  # (4,) px, of the refined mesh
    fit_error_px: float  # median dense residual after the fit, full-image px; NaN when nothing was matched
    iterations: int
    confidence: float  # in [0,1]
    scale_source: str  # "depth" (measured), "ground" (stands on the known floor) or "prior" (adult size prior)


@dataclass(frozen=True)
class FrameResult:
    """Answer to one frame; ``people`` is empty when nobody is seen."""

    stamp_ns: int  # the image's
    camera: Camera
    people: tuple[PersonResult, ...]
    stage_ms: dict[str, float]  # wall time per stage
    camera_motion_known: bool = False  # velocities are over the ground: T_world_camera was known
