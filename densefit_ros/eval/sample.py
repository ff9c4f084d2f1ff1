"""The one form in which every dataset hands out people, and the protocols that say what is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import AssetError, ShapeError
from ..geometry.camera import project
from ..types import BodyParams, Camera
from . import metrics

VIEW = "#"  # in the name of a sequence, between the recording and whom of it, or from where, it shows

# Human3.6M's 17 joints to the 14 that are compared: ankles, knees, hips, wrists, elbows, shoulders, neck, head.
H36M_TO_14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)


@dataclass(frozen=True, eq=False)
class PointsProtocol:
    """Which points of a body are compared, and to which point they are aligned."""

    name: str
    description: str
    joints: tuple[int, ...] = tuple(range(24))  # of the body's own joints
    root: tuple[int, ...] = (0,)  # aligned to the middle of these
    regressor: np.ndarray | None = None  # (17,V) Human3.6M regressor: then 14 of its joints, aligned to its joint 0

    def points(self, vertices_m: np.ndarray, joints_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compared points (K,3) and root (3,) m of one body; vertices (V,3), joints (24,3)."""
        if self.regressor is None:
            return joints_m[list(self.joints)], joints_m[list(self.root)].mean(0)
        if self.regressor.shape[1] != len(vertices_m):
            raise ShapeError(
                f"protocol {self.name}: the joint regressor is for {self.regressor.shape[1]} vertices, the body has "
                f"{len(vertices_m)}: set body.model_path to the SMPL file that the dataset is annotated with"
            )
        found = self.regressor @ vertices_m
        return found[list(H36M_TO_14)], found[0]


SMPL24 = PointsProtocol("smpl24", "24 SMPL joints of the model, pelvis-aligned")


def h36m14(regressor: np.ndarray) -> PointsProtocol:
    """14 joints regressed from the vertices, aligned to Human3.6M's pelvis: the protocol of 3DPW tables."""
    if regressor.ndim != 2 or len(regressor) != 17:
        raise ShapeError(f"expected a Human3.6M joint regressor (17,V), got {regressor.shape}")
    text = "14 joints of J_regressor_h36m on the vertices, aligned to its joint 0; true body gendered, predicted body neutral"
    return PointsProtocol("h36m14", text, regressor=np.asarray(regressor, np.float64))


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one person, camera frame."""

    points_m: np.ndarray  # (K,3) the protocol's points
    root_m: np.ndarray  # (3,)
    vertices_m: np.ndarray | None = None  # (V,3) of the same topology as the predicted body, or None
    params: BodyParams | None = None  # of the predicted body's model: lets true displacements and joints be made


@dataclass(frozen=True, eq=False)
class Sample:
    """One person in one picture."""

    key: str  # unique in its dataset; the same in every run
    sequence: str  # of frames that follow one another; what is before VIEW in it names the recording
    frame: int
    fps: float  # 0: pictures that do not follow one another
    image: Callable[[], np.ndarray]  # (H,W,3) uint8, read when asked for
    camera: Camera
    box_xywh: np.ndarray  # (4,) px of the true person
    truth: Truth
    ground: np.ndarray | None = None  # the floor on which the person stands, as Frame has it, where it is known
    depth_m: Callable[[], np.ndarray] | None = None  # (H,W) of a depth camera, as Frame has it, where there is one
    picture: str = ""  # its file below the dataset's pictures: other programs' results have the same name; empty: the key


class Dataset(Protocol):
    """A set of samples and how it is scored."""

    name: str
    protocol: PointsProtocol
    keys: Sequence[str]  # of all samples, in order, without reading any

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...


@dataclass(frozen=True)
class Score:
    """One prediction against one sample."""

    mpjpe_mm: float
    pa_mpjpe_mm: float
    pve_mm: float  # NaN where the topologies differ
    absolute_mpjpe_mm: float  # without moving the root: depth included
    reproj_px: float
    pck_05: float
    pck_10: float


def score(protocol: PointsProtocol, sample: Sample, vertices_m: np.ndarray, joints_m: np.ndarray) -> Score:
    """All metrics of one predicted body; vertices (V,3) and joints (24,3) m in the camera frame."""
    points, root = protocol.points(np.asarray(vertices_m, np.float64), np.asarray(joints_m, np.float64))
    truth = sample.truth
    true_points = np.asarray(truth.points_m, np.float64)
    aligned, true_aligned = points - root, true_points - truth.root_m
    pve = float("nan")
    if truth.vertices_m is not None and truth.vertices_m.shape == vertices_m.shape:
        pve = float(metrics.pve_mm(vertices_m, truth.vertices_m, root, truth.root_m))
    with np.errstate(invalid="ignore"):
        uv, true_uv = project(sample.camera, points), project(sample.camera, true_points)
    visible = np.isfinite(true_uv).all(-1)
    # A point behind the camera is as wrong as the picture is large.
    uv = np.where(np.isfinite(uv), uv, 10.0 * max(sample.camera.width, sample.camera.height))
    size = np.float64(max(sample.box_xywh[2], sample.box_xywh[3]))
    return Score(
        float(metrics.mpjpe_mm(aligned, true_aligned, root=None)),
        float(metrics.pa_mpjpe_mm(points, true_points)),
        pve,
        float(metrics.mpjpe_mm(points, true_points, root=None)),
        float(metrics.reprojection_px(uv, true_uv, visible)),
        float(metrics.pck(uv, true_uv, size, 0.05, visible)),
        float(metrics.pck(uv, true_uv, size, 0.10, visible)),
    )


def box_of_points(uv: np.ndarray) -> np.ndarray:
    """(N,2) px -> the box x, y, w, h round the finite ones.  Raises AssetError where nothing is before the camera."""
    uv = uv[np.isfinite(uv).all(-1)]
    if not len(uv):
        raise AssetError("expected a person before the camera, got one who is wholly behind it")
    low, high = uv.min(0), uv.max(0)
    return np.concatenate([low, np.maximum(high - low, 1.0)]).astype(np.float32)
