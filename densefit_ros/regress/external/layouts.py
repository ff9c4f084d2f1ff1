"""The six layouts.  Facts come from the public code of each source, named where they are used; all numbers are SMPL's.

The demos of 4D-Humans, TokenHMR and CameraHMR write pictures only.  Their layout here is what a user saves from them: the
network's own output and the crop's entries of the batch, under their own names, one row per person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import AssetError
from ...geometry import so3
from ...types import BodyParams
from .people import ExternalPerson, weak_to_full

if TYPE_CHECKING:
    from .read import Sizes

HMR2_FOCAL_PX, HMR2_IMAGE_PX = 5000.0, 256.0  # EXTRA.FOCAL_LENGTH and MODEL.IMAGE_SIZE of 4D-Humans' configuration
NAMES = ("imgname", "image_name", "img_name", "img_path", "image")


def guess(tree: Mapping[str, Any], path: Path) -> str:
    """The layout by its entries.  hmr2 and tokenhmr are one layout."""
    keys = set(tree)
    if _is_tracks(tree):
        return "hmr2"
    if keys and all(isinstance(v, Mapping) and {"pose", "trans", "frame_ids"} <= set(v) for v in tree.values()):
        return "wham"
    if {"pose", "shape", "global_t"} <= keys or {"pred_pose", "pred_shape"} <= keys:
        return "cliff"
    if "transl" in keys and "global_orient" in keys:
        return "sam3d"
    if "pred_cam" in keys and "box_center" in keys:
        return "camerahmr" if "cam_int" in keys else "hmr2"
    raise AssetError(f"{path}: none of the known layouts, it holds {', '.join(sorted(map(str, keys))[:12])}: see --format")


def read_hmr2(tree: Mapping[str, Any], path: Path, sizes: Sizes) -> list[ExternalPerson]:
    """4D-Humans and TokenHMR: tracks of PHALP, or saved outputs of demo.py.

    Outputs: pred_smpl_params {global_orient (N,1,3,3), body_pose (N,23,3,3), betas (N,10)}, pred_cam (N,3), box_center (N,2),
    box_size (N,), img_size (N,2) as width, height, picture names.  The demo's full-image focal length is 5000 / 256 times the
    longer side.  (public repository shubham-goel/4D-Humans, saidwivedi/TokenHMR: demo.py, utils/renderer.py)
    """
    if _is_tracks(tree):
        return _tracks(tree, path)
    rows = _Rows(_flat(tree), path, "pred_cam")
    weak, centre, side = rows.numbers("pred_cam", 3), rows.numbers("box_center", 2), rows.numbers("box_size")
    names = rows.names()
    size = rows.numbers("img_size", 2) if rows.has("img_size") else rows.sizes(sizes)
    focal = HMR2_FOCAL_PX / HMR2_IMAGE_PX * size.max(1)
    t = weak_to_full(weak, centre, side, size, focal)
    return _people(rows, names, _bodies(rows, rows.rotations(("global_orient", "body_pose")), t), focal, size / 2, size)


def read_cliff(tree: Mapping[str, Any], path: Path, sizes: Sizes) -> list[ExternalPerson]:
    """CLIFF's ``--save_results``, and saved outputs of BEDLAM's CLIFF for SMPL.

    CLIFF: pose (N,72) or (N,24,3,3), shape (N,10), global_t (N,3), focal_l (N,); imgname names the pictures, and column 0 of
    detection_all (N,.) says which of them a row belongs to.  (public repository huawei-noah/noah-research, CLIFF/demo.py)
    BEDLAM: pred_pose (N,24,3,3), pred_shape (N,10 or 11), imgname (N,), and either pred_cam_t (N,3), or pred_cam (N,3) with
    bbox_center (N,2) and bbox_scale (N,), of which 1 is 200 px.  Its focal length is the picture's diagonal unless cam_int
    (N,3,3) is there.  (public repository pixelite1201/BEDLAM, train/core/tester.py, train/models/head/smpl_cam_head.py)
    """
    if "pred_pose" not in tree:
        rows = _Rows(tree, path, "pose")
        names = rows.names("detection_all")
        bodies = _bodies(rows, rows.rotations(("pose",)), rows.numbers("global_t", 3), "shape")
        return _people(rows, names, bodies, rows.numbers("focal_l"), None)
    rows = _Rows(tree, path, "pred_pose")
    names, size = rows.names(), rows.sizes(sizes)
    focal, centre = rows.intrinsics() if rows.has("cam_int") else (np.hypot(*size.T), size / 2)
    if rows.has("pred_cam_t"):
        t = rows.numbers("pred_cam_t", 3)
    else:
        side = 200.0 * rows.numbers("bbox_scale")
        t = weak_to_full(rows.numbers("pred_cam", 3), rows.numbers("bbox_center", 2), side, size, focal)
    return _people(rows, names, _bodies(rows, rows.rotations(("pred_pose",)), t, "pred_shape"), focal, centre)


def read_wham(tree: Mapping[str, Any], path: Path, sizes: Sizes) -> list[ExternalPerson]:
    """WHAM's wham_output.pkl: {person: pose (T,72), trans (T,3), betas (T,10), frame_ids (T,)}.

    ``trans`` is SMPL's translation in the camera (the model's own offset is taken off before writing).  The focal length is the
    picture's diagonal, as in its preprocessing without a calibration file.  Frames are those of the video, from 0.
    (public repository yohanshin/WHAM, demo.py, lib/models/smpl.py)
    """
    people = []
    for name, entries in tree.items():
        if not isinstance(entries, Mapping):
            raise AssetError(f"{path}: expected a dictionary of WHAM for person {name}, got {type(entries).__name__}")
        rows = _Rows(entries, path, "pose")
        bodies = _bodies(rows, rows.rotations(("pose",)), rows.numbers("trans", 3))
        frames = rows.numbers("frame_ids").astype(np.int64)
        if (frames < 0).any():
            raise AssetError(f"{path}: person {name} has negative frame_ids")
        people += [ExternalPerson("", int(frames[i]), str(name), bodies.person(i)) for i in range(rows.count)]
    return people


def read_camerahmr(tree: Mapping[str, Any], path: Path, sizes: Sizes) -> list[ExternalPerson]:
    """CameraHMR: saved outputs of its estimator.

    global_orient (N,1,3,3), body_pose (N,23,3,3), betas (N,10), pred_cam (N,3), box_center (N,2), box_size (N,), img_size
    (N,2) as *height, width*, cam_int (N,3,3), picture names.  (public repository pixelite1201/CameraHMR, mesh_estimator.py)
    """
    rows = _Rows(_flat(tree), path, "pred_cam")
    names = rows.names()
    size = rows.numbers("img_size", 2)[:, ::-1] if rows.has("img_size") else rows.sizes(sizes)
    focal, centre = rows.intrinsics()
    t = weak_to_full(rows.numbers("pred_cam", 3), rows.numbers("box_center", 2), rows.numbers("box_size"), size, focal)
    return _people(rows, names, _bodies(rows, rows.rotations(("global_orient", "body_pose")), t), focal, centre, size)


def read_sam3d(tree: Mapping[str, Any], path: Path, sizes: Sizes) -> list[ExternalPerson]:
    """SAM 3D Body converted to SMPL by MHR's tool: its result_parameters, the estimator's focal_length, picture names.

    global_orient (N,3), body_pose (N,69), betas (N,10), transl (N,3) m in the camera: the tool fits SMPL to the vertices with
    the camera translation added.  focal_length () or (N,) px; the principal point is the picture's middle, or that of cam_int.
    (public repository facebookresearch/sam-3d-body, sam_3d_body_estimator.py; facebookresearch/MHR, tools/mhr_smpl_conversion)
    """
    rows = _Rows(tree, path, "transl")
    focal, centre = rows.intrinsics() if rows.has("cam_int") else (rows.numbers("focal_length"), None)
    bodies = _bodies(rows, rows.rotations(("global_orient", "body_pose")), rows.numbers("transl", 3))
    return _people(rows, rows.names(), bodies, focal, centre)


READERS: dict[str, Callable[[Mapping[str, Any], Path, Any], list[ExternalPerson]]] = {
    "hmr2": read_hmr2,
    "cliff": read_cliff,
    "tokenhmr": read_hmr2,
    "wham": read_wham,
    "camerahmr": read_camerahmr,
    "sam3d": read_sam3d,
}


def _is_tracks(tree: Mapping[str, Any]) -> bool:
    return bool(tree) and all(isinstance(v, Mapping) and {"smpl", "camera"} <= set(v) for v in tree.values())


def _tracks(tree: Mapping[str, Any], path: Path) -> list[ExternalPerson]:
    """PHALP: {picture: smpl, camera (3,), size (height, width), tid, tracked_time: a list over people each}.

    The picture is padded to a square and shrunk to 256 px, where the focal length is 5000 px and the centre the middle.
    People with tracked_time > 0 are predictions of the tracker, not estimates.
    (public repository brjathu/PHALP, phalp/trackers/PHALP.py)
    """
    people = []
    for name, entries in tree.items():
        for k, smpl in enumerate(entries["smpl"]):
            if k < len(entries.get("tracked_time", ())) and entries["tracked_time"][k] > 0:
                continue
            if not isinstance(smpl, Mapping):
                raise AssetError(f"{path}: expected 'smpl' of {name} to hold dictionaries, got {type(smpl).__name__}")
            row = {n: np.asarray(v)[None] for n, v in smpl.items()}
            row["camera"] = np.asarray(entries["camera"][k], np.float64).reshape(1, -1)
            rows = _Rows(row, path, "camera")
            height, width = (int(n) for n in np.ravel(entries["size"][k]))
            side = max(height, width)
            centre = (side / 2 - (side - width) // 2, side / 2 - (side - height) // 2)
            who = str(entries["tid"][k]) if k < len(entries.get("tid", ())) else str(k)
            bodies = _bodies(rows, rows.rotations(("global_orient", "body_pose")), rows.numbers("camera", 3))
            focal = HMR2_FOCAL_PX * side / HMR2_IMAGE_PX
            people.append(ExternalPerson(str(name), -1, who, bodies, focal, centre, (width, height)))
    return people


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Inner dictionaries (pred_smpl_params, smpl_params) spread out."""
    inner = {k: v for value in tree.values() if isinstance(value, Mapping) for k, v in value.items()}
    return {**inner, **{k: v for k, v in tree.items() if not isinstance(v, Mapping)}}


class _Rows:
    """Arrays with one row per person; every error names the file and the entry."""

    def __init__(self, tree: Mapping[str, Any], path: Path, counted: str) -> None:
        self._tree, self.path = tree, path
        if counted not in tree:
            raise AssetError(f"{path}: expected '{counted}', got {', '.join(sorted(map(str, tree))[:12])}")
        self.count = len(np.atleast_1d(np.asarray(tree[counted])))

    def has(self, name: str) -> bool:
        return name in self._tree

    def numbers(self, name: str, width: int | None = None) -> np.ndarray:
        """(N,) or (N,width) finite float64; a single number or row serves everybody."""
        value = self._raw(name)
        shape = (self.count,) if width is None else (self.count, width)
        if value.size == (width or 1):
            value = np.broadcast_to(value.reshape(-1) if width else value.reshape(()), shape)
        if value.size != np.prod(shape):
            raise AssetError(f"{self.path}: expected '{name}' of shape {shape}, got {value.shape}")
        return value.reshape(shape).astype(np.float64)

    def betas(self, name: str) -> np.ndarray:
        """(N,10): the first ten of each row; a single row serves everybody."""
        value = np.atleast_2d(self._raw(name))
        if value.ndim != 2 or value.shape[1] < 10 or len(value) not in (1, self.count):
            raise AssetError(f"{self.path}: expected '{name}' of shape ({self.count}, 10), got {value.shape}")
        return np.broadcast_to(value[:, :10], (self.count, 10))

    def rotations(self, names: tuple[str, ...]) -> np.ndarray:
        """(N,24,3) rotation vectors from matrices or rotation vectors, in one entry or in two (root, others)."""
        counts = (24,) if len(names) == 1 else (1, 23)
        return np.concatenate([self._rotvecs(n, c) for n, c in zip(names, counts)], 1)

    def _rotvecs(self, name: str, joints: int) -> np.ndarray:
        value = self._raw(name)
        if value.size == self.count * joints * 9 and value.shape[-2:] == (3, 3):
            return so3.log(so3.project(value.reshape(self.count, joints, 3, 3)))
        if value.size == self.count * joints * 3:
            return value.reshape(self.count, joints, 3)
        hint = " (SMPL-X has 21 body joints: convert it to SMPL first)" if value.size % (self.count * 21) == 0 else ""
        raise AssetError(
            f"{self.path}: expected '{name}' with {joints} rotations for each of {self.count} people, as 3x3 matrices "
            f"or rotation vectors, got {value.shape}{hint}"
        )

    def names(self, index: str | None = None) -> list[str]:
        """The picture of each row; the file's own stem where it names none, column 0 of ``index`` as a number into the list."""
        name = next((n for n in NAMES if n in self._tree), None)
        if name is None:
            return [self.path.name] * self.count
        value = [_text(v) for v in np.ravel(np.asarray(self._tree[name], object))]
        if index is not None and index in self._tree:
            rows = np.asarray(self._raw(index)).reshape(self.count, -1)[:, 0].astype(np.int64)
            if (rows < 0).any() or (rows >= len(value)).any():
                raise AssetError(f"{self.path}: '{index}' points beyond the {len(value)} pictures of '{name}'")
            return [value[r] for r in rows]
        if len(value) not in (1, self.count):
            raise AssetError(f"{self.path}: expected {self.count} names in '{name}', got {len(value)}")
        return value * self.count if len(value) == 1 else value

    def sizes(self, sizes: Sizes) -> np.ndarray:
        """(N,2) width and height of the rows' pictures, looked up."""
        return np.array([sizes(name, -1) for name in self.names()], np.float64)

    def intrinsics(self) -> tuple[np.ndarray, np.ndarray]:
        """Focal lengths (N,) and centres (N,2) of cam_int (N,3,3)."""
        k = self.numbers("cam_int", 9)
        return k[:, 0], k[:, [2, 5]]

    def _raw(self, name: str) -> np.ndarray:
        if name not in self._tree:
            raise AssetError(f"{self.path}: expected '{name}', got {', '.join(sorted(map(str, self._tree))[:12])}")
        try:
            value = np.asarray(self._tree[name], np.float64)
        except (TypeError, ValueError) as e:
            raise AssetError(f"{self.path}: expected numbers in '{name}'") from e
        if not np.isfinite(value).all():
            raise AssetError(f"{self.path}: '{name}' holds numbers that are not finite")
        return value


def _bodies(rows: _Rows, rotvec: np.ndarray, t: np.ndarray, betas: str = "betas") -> BodyParams:
    """All rows as one batch: rotations (N,24,3), translations (N,3)."""
    f = np.float32
    return BodyParams(rows.betas(betas).astype(f), rotvec[:, 0].astype(f), rotvec[:, 1:].astype(f), t.astype(f))


def _people(
    rows: _Rows,
    pictures: list[str],
    bodies: BodyParams,
    focal_px: np.ndarray,
    centre_px: np.ndarray | None,
    size_px: np.ndarray | None = None,
) -> list[ExternalPerson]:
    """One person per row; focal (N,) px, centre (N,2) px or None, size (N,2) as width, height or None."""
    if not (focal_px > 0).all():
        raise AssetError(f"{rows.path}: expected positive focal lengths, got {focal_px.min()}")
    centres = [None] * rows.count if centre_px is None else [(float(x), float(y)) for x, y in centre_px]
    sizes = [None] * rows.count if size_px is None else [(int(w), int(h)) for w, h in size_px]
    return [
        ExternalPerson(pictures[i], -1, str(i), bodies.person(i), float(focal_px[i]), centres[i], sizes[i])
        for i in range(rows.count)
    ]


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
