"""DensePose maps (Guler et al. 2018) as evidence: every pixel of an IUV image names a place on the body.

An IUV image holds the part I (1..24, 0 is background) and U, V in 0..255.  A chart says which place that is.  The chart of
the DensePose project (``UV_Processed.mat``, for SMPL's topology only) is read from its file; a body of another topology
gets an own one of the same form, so that IUV evidence can be simulated and tested on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree

from ..body.model import BodyModel, face_parts
from ..errors import AssetError, ShapeError
from ..types import Correspondences

NUM_PARTS = 24
# Places on each face that a look-up can answer: the centre and three near the corners.
_SAMPLES = np.array([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]], np.float32)
_SAMPLES /= _SAMPLES.sum(1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Chart:
    """Part and coordinates of every face of one body."""

    face_part: np.ndarray  # (F,) int32 in 1..24, 0: not charted
    corner_uv: np.ndarray  # (F,3,2) float32 in [0,1]; a periodic u may exceed 1 inside a face that crosses the seam
    periodic_u: bool

    def encode(self, face_id: np.ndarray, bary: np.ndarray) -> np.ndarray:
        """The IUV image of a rendering: face_id (h,w) int32 (-1 outside), bary (h,w,3) -> (h,w,3) uint8."""
        out = np.zeros((*face_id.shape, 3), np.uint8)
        covered = face_id >= 0
        face = face_id[covered]
        uv = np.einsum("nk,nkc->nc", bary[covered], self.corner_uv[face])
        if self.periodic_u:
            uv[:, 0] %= 1.0
        out[covered, 0] = self.face_part[face]
        out[covered, 1:] = np.where(self.face_part[face, None] > 0, np.clip(np.round(uv * 255), 0, 255), 0)
        return out

    def decode(self, part: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nearest place to part (N,) and uv (N,2) in [0,1]: face (N,), bary (N,3), and distance in the chart (N,).

        Distance inf and face 0 where the part is not charted.
        """
        face = np.zeros(len(part), np.int32)
        bary = np.tile(np.array([1, 0, 0], np.float32), (len(part), 1))
        distance = np.full(len(part), np.inf, np.float32)
        for p, (tree, faces, corners) in self._trees.items():
            rows = np.flatnonzero(part == p)
            if len(rows):
                distance[rows], nearest = tree.query(self._embed(uv[rows]))
                face[rows], bary[rows] = faces[nearest], corners[nearest]
        return face, bary, distance

    @cached_property
    def _trees(self) -> dict[int, tuple[cKDTree, np.ndarray, np.ndarray]]:
        trees = {}
        for p in range(1, NUM_PARTS + 1):
            faces = np.flatnonzero(self.face_part == p)
            if len(faces):
                uv = np.einsum("sk,fkc->fsc", _SAMPLES, self.corner_uv[faces]).reshape(-1, 2)
                repeated = np.repeat(faces, len(_SAMPLES)).astype(np.int32)
                trees[p] = (cKDTree(self._embed(uv)), repeated, np.tile(_SAMPLES, (len(faces), 1)))
        return trees

    def _embed(self, uv: np.ndarray) -> np.ndarray:
        if not self.periodic_u:
            return uv
        turn = 2 * np.pi * uv[:, 0]
        return np.stack([np.cos(turn) / (2 * np.pi), np.sin(turn) / (2 * np.pi), uv[:, 1]], 1)


@dataclass(frozen=True)
class DenseposeOptions:
    """How an IUV image becomes matches."""

    max_points: int = 600  # per person
    sigma_share: float = 0.012  # standard deviation of a match, as a share of the person's box diagonal
    max_distance: float = 0.06  # in the chart; farther look-ups fall off the charted surface
    border_px: int = 2  # pixels this near to another part or the background mix two answers


_DEFAULTS = DenseposeOptions()


def to_correspondences(iuv: np.ndarray, person: int, chart: Chart, options: DenseposeOptions = _DEFAULTS,
                       origin_px: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> Correspondences:  # fmt: skip
    """Matches of one person from an IUV image (h,w,3) uint8 of its own.

    The image may be a window: its pixel (column, row) lies at ``origin + scale * (column + .5, row + .5)`` in the full
    image.  Raises ShapeError on another dtype or shape.
    """
    if iuv.ndim != 3 or iuv.shape[2] != 3 or iuv.dtype != np.uint8:
        raise ShapeError(f"expected an (h,w,3) uint8 IUV image, got {iuv.shape} {iuv.dtype}")
    part = iuv[..., 0]
    if part.max(initial=0) > NUM_PARTS:
        raise ShapeError(f"expected parts 0 to {NUM_PARTS} in the first channel, got {part.max()}: channels in another order?")
    rows, columns = np.nonzero(_interior(part, options.border_px))
    if not len(rows):
        return Correspondences.empty()
    diagonal = scale * float(np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1))
    step = max(1, int(np.ceil(len(rows) / options.max_points)))
    rows, columns = rows[step // 2 :: step], columns[step // 2 :: step]
    face, bary, distance = chart.decode(part[rows, columns], iuv[rows, columns, 1:].astype(np.float32) / 255)
    good = distance <= options.max_distance
    at = np.stack([columns, rows], 1)[good] + 0.5
    count = int(good.sum())
    return Correspondences(
        np.full(count, person, np.int32),
        face[good],
        bary[good],
        (np.asarray(origin_px) + scale * at).astype(np.float32),
        np.full(count, 1.0 / max(options.sigma_share * diagonal, 1.0), np.float32),
    )


def read_iuv(path: str | Path) -> np.ndarray:
    """An IUV picture as DensePose writes it, (h,w,3) uint8 in the order I, U, V.  Raises AssetError.

    Its tools write the map with OpenCV, which keeps the order: I is the *blue* channel of the file.
    """
    iuv = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if iuv is None or iuv.ndim != 3 or iuv.shape[2] < 3 or iuv.dtype != np.uint8:
        raise AssetError(f"{path}: expected an IUV picture with three channels of bytes")
    if iuv[..., 0].max(initial=0) > NUM_PARTS:
        raise AssetError(f"{path}: parts up to {iuv[..., 0].max()}, expected 0 to {NUM_PARTS}: channels in another order?")
    return np.ascontiguousarray(iuv[..., :3])


def people_matches(
    iuv: np.ndarray, boxes_xywh: np.ndarray, chart: Chart, options: DenseposeOptions = _DEFAULTS
) -> Correspondences:
    """Matches of everybody in the map of a full image, (H,W,3) uint8.

    ``boxes_xywh`` (P,4) px say where the people are.  A pixel in several boxes goes to the one whose middle is nearest, in
    units of the box; a map does not say whose a pixel is.
    """
    boxes = np.asarray(boxes_xywh, np.float64).reshape(-1, 4)
    rows, columns = np.nonzero(iuv[..., 0])
    if not len(boxes) or not len(rows):
        return Correspondences.empty()
    middle, half = boxes[:, :2] + boxes[:, 2:] / 2, np.maximum(boxes[:, 2:] / 2, 1.0)
    at = np.stack([columns, rows], -1) + 0.5
    far = np.stack([np.abs((at - m) / h).max(-1) for m, h in zip(middle, half)])
    owner = np.where(far.min(0) <= 1.0, far.argmin(0), -1)
    matches = []
    for person in range(len(boxes)):
        r, c = rows[owner == person], columns[owner == person]
        if not len(r):
            continue
        top, left = r.min(), c.min()
        window = np.zeros((r.max() - top + 1, c.max() - left + 1, 3), np.uint8)
        window[r - top, c - left] = iuv[r, c]
        matches.append(to_correspondences(window, person, chart, options, (float(left), float(top))))
    return Correspondences.concat(matches)


def read_chart(path: str | Path, body: BodyModel) -> Chart:
    """The DensePose project's ``UV_Processed.mat`` for a body of SMPL's topology.

    Raises AssetError when the file is another one, or the body has other faces.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = Path(path)
    try:
        tree = loadmat(str(path))
        vertex = np.asarray(tree["All_vertices"]).ravel().astype(np.int64) - 1
        corners = np.asarray(tree["All_Faces"]).astype(np.int64) - 1
        part = np.asarray(tree["All_FaceIndices"]).ravel().astype(np.int32)
        uv = np.stack([np.asarray(tree[k]).ravel() for k in ("All_U_norm", "All_V_norm")], 1).astype(np.float32)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as e:
        raise AssetError(f"cannot read the DensePose chart {path}: {str(e).splitlines()[0]}") from e
    except KeyError as e:
        raise AssetError(f"{path}: expected DensePose's UV_Processed.mat with {e}") from e
    if corners.ndim != 2 or corners.shape[1] != 3 or len(part) != len(corners) or len(uv) != len(vertex):
        raise AssetError(f"{path}: faces {corners.shape}, parts {part.shape} and coordinates {uv.shape} do not fit together")
    if not ((corners >= 0).all() and (corners < len(vertex)).all() and (part >= 1).all() and (part <= NUM_PARTS).all()):
        raise AssetError(f"{path}: vertex or part numbers out of range")
    number = {tuple(sorted(f)): i for i, f in enumerate(body.faces.tolist())}
    face_part = np.zeros(body.num_faces, np.int32)
    corner_uv = np.zeros((body.num_faces, 3, 2), np.float32)
    for triple, p in zip(corners, part):
        ids = vertex[triple]
        face = number.get(tuple(sorted(ids.tolist())))
        if face is None:
            raise AssetError(f"{path}: its face {ids.tolist()} is none of the body '{body.name}': it needs SMPL's topology")
        order = [int(np.flatnonzero(ids == v)[0]) for v in body.faces[face]]
        face_part[face], corner_uv[face] = p, uv[triple[order]]
    return Chart(face_part, corner_uv, periodic_u=False)


OWN_CHART = (
    "read by this body's own chart, which maps of the DensePose project do not follow: for those set body.densepose_chart to its "
    "UV_Processed.mat and body.model_path to your SMPL file"
)


def body_chart(body: BodyModel) -> Chart:
    """A chart for any body: part k + 1 belongs to joint k, u is the angle round its bone, v the place along it."""
    face_part = face_parts(body).astype(np.int32)
    corner_uv = np.zeros((body.num_faces, 3, 2), np.float32)
    joints = body.joint_template
    for k in range(NUM_PARTS):
        faces = np.flatnonzero(face_part == k)
        if not len(faces):
            continue
        children = np.flatnonzero(body.parents == k)
        axis = joints[children].mean(0) - joints[k] if len(children) else joints[k] - joints[body.parents[k]]
        axis = axis / np.linalg.norm(axis)
        side = np.eye(3)[np.argmin(np.abs(axis))]
        side = side - (side @ axis) * axis
        side = side / np.linalg.norm(side)
        offset = body.v_template[body.faces[faces]] - joints[k]
        along = offset @ axis
        angle = np.arctan2(offset @ np.cross(axis, side), offset @ side) / (2 * np.pi) % 1.0
        # A face across the seam keeps its corners together beyond 1.
        angle = np.where((np.ptp(angle, axis=1) > 0.5)[:, None] & (angle < 0.5), angle + 1, angle)
        span = max(float(np.ptp(along)), 1e-6)
        corner_uv[faces] = np.stack([angle, (along - along.min()) / span], -1)
    return Chart(face_part + 1, corner_uv, periodic_u=True)


def _interior(part: np.ndarray, border_px: int) -> np.ndarray:
    """Pixels whose neighbourhood shows one part only."""
    keep = part > 0
    for axis in (0, 1):
        for shift in range(1, border_px + 1):
            for sign in (-1, 1):
                other = np.roll(part, sign * shift, axis)
                edge = [slice(None), slice(None)]
                edge[axis] = slice(0, shift) if sign > 0 else slice(-shift, None)
                other[tuple(edge)] = 0
                keep &= other == part
    return keep
