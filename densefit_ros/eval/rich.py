"""RICH (Huang et al. 2022): SMPL-X bodies per frame and person, OpenCV calibrations per camera.

``bodies/<split>/<sequence>/<frame:05d>/<subject>.pkl``, ``scan_calibration/<scene>/calibration/<camera:03d>.xml``,
``images/<split>/<sequence>/cam_<camera:02d>/<frame:05d>_<camera:02d>.jpeg`` (or .jpg, .png).  The scene is the sequence's
name up to the first underscore.  Compared are the 22 body joints that SMPL-X and SMPL have in common; SMPL-X has another
mesh, so there is no vertex error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ..body.assets import read_arrays
from ..errors import AssetError
from ..geometry import so3
from ..geometry.camera import camera_from_k, project
from ..types import Camera
from . import files
from .sample import VIEW, PointsProtocol, Sample, Truth, box_of_points

BODY_JOINTS = 22
PROTOCOL = PointsProtocol("body22", "22 body joints common to SMPL-X and SMPL, pelvis-aligned", joints=tuple(range(BODY_JOINTS)))
FULL_SIDES = (4112, 3008)  # the calibrations are for pictures of this size; downloads come smaller, too
PICTURE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp")


@dataclass(frozen=True)
class _Row:
    sequence: str
    frame: int
    subject: str
    camera: str
    body_file: Path
    picture: Path

    @property
    def key(self) -> str:
        return f"{self.sequence}/{self.camera}/{self.subject}/{self.frame:05d}"


class Rich:
    """``root`` holds bodies, images, scan_calibration and resource/gender.json; ``bodies`` SMPLX_MALE.npz, SMPLX_FEMALE.npz."""

    name = "rich"
    protocol: PointsProtocol = PROTOCOL

    def __init__(self, root: Path, bodies: Path | None = None, split: str = "test", stride: int = 1) -> None:
        self._root, self._models = Path(root), Path(bodies or root)
        folder = self._root / "bodies" / split
        sequences = sorted(p for p in folder.glob("*") if p.is_dir())
        if not sequences:
            raise AssetError(f"{folder}: no sequences: expected the RICH download with bodies/{split}/<sequence>")
        self._genders = self._read_genders()
        self._rows = [row for s in sequences for row in self._of_sequence(s, split, stride)]
        if not self._rows:
            raise AssetError(f"{self._root / 'images' / split}: no picture belongs to a body of {folder}")
        self.keys = tuple(row.key for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(self._rows[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self._sample(row) for row in self._rows)

    def _of_sequence(self, folder: Path, split: str, stride: int) -> list[_Row]:
        """Every person and camera of every ``stride``-th frame."""
        pictures: dict[int, list[tuple[str, Path]]] = {}
        for path in sorted((self._root / "images" / split / folder.name).glob("cam_*/*")):
            frame, _, camera = path.stem.partition("_")
            if path.suffix.lower() in PICTURE_SUFFIXES and frame.isdigit() and camera.isdigit():
                pictures.setdefault(int(frame), []).append((camera, path))
        rows: list[_Row] = []
        for body_file in sorted(folder.glob("*/*.pkl")):
            if not body_file.parent.name.isdigit():
                raise AssetError(f"{body_file}: expected the folder of a frame number, got '{body_file.parent.name}'")
            frame = int(body_file.parent.name)
            rows += [_Row(folder.name, frame, body_file.stem, c, body_file, p) for c, p in pictures.get(frame, ())]
        kept = set(sorted({row.frame for row in rows})[::stride])
        return [row for row in rows if row.frame in kept]

    def _read_genders(self) -> dict[int, str]:
        """The toolkit's ``resource/gender.json``, {"3": "female", ...}: shapes are those of the subject's gendered model."""
        places = (self._root / "resource" / "gender.json", self._root / "gender.json")
        path = next((p for p in places if p.is_file()), None)
        if path is None:
            raise AssetError(f"{places[0]}: missing: the RICH toolkit's repository has it, and shapes mean nothing without")
        try:
            tree = json.loads(path.read_text())
            return {int(k): files.gender(v, path) for k, v in tree.items()}
        except (OSError, ValueError, AttributeError) as e:
            raise AssetError(f"{path}: cannot be read ({str(e).splitlines()[0]})") from e

    def _gender_of(self, row: _Row) -> str:
        if not row.subject.isdigit() or int(row.subject) not in self._genders:
            raise AssetError(f"{row.body_file}: gender.json does not know subject '{row.subject}'")
        return self._genders[int(row.subject)]

    def _sample(self, row: _Row) -> Sample:
        tree = files.load_mapping(row.body_file)

        def numbers(name: str, count: int) -> np.ndarray:
            value = np.ravel(files.field(tree, name, row.body_file))
            return files.array(value[:count] if name == "betas" else value, name, row.body_file, (count,))

        rotvec = np.concatenate([numbers("global_orient", 3), numbers("body_pose", 63)]).reshape(BODY_JOINTS, 3)
        file = _model_file(self._models, self._gender_of(row))
        world = smplx_body_joints(*_rest_joints(file), numbers("betas", 10), rotvec, numbers("transl", 3))
        scene = row.sequence.split("_")[0]
        calibration = self._root / "scan_calibration" / scene / "calibration" / f"{int(row.camera):03d}.xml"
        width, height = files.image_size(row.picture)
        camera, T_camera_world = read_calibration(calibration, width, height)
        joints = world @ T_camera_world[:, :3].T + T_camera_world[:, 3]
        uv = project(camera, joints)
        if not ((uv >= 0) & (uv < [width, height])).all(1).any():  # the files hold every body, and each camera sees some
            raise AssetError(f"{row.key}: is not in the picture of camera {row.camera}")
        box = box_of_points(uv)
        margin = 0.12 * max(box[2:])  # joints lie inside the body
        return Sample(
            key=row.key,
            sequence=f"{row.sequence}{VIEW}{row.camera}/{row.subject}",
            frame=row.frame,
            fps=30.0,
            image=files.image_reader(row.picture),
            camera=camera,
            box_xywh=box + np.array([-margin, -margin, 2 * margin, 2 * margin], np.float32),
            truth=Truth(joints, joints[0]),
            picture=f"{row.sequence}/{row.picture.parent.name}/{row.picture.name}",
        )


def smplx_body_joints(
    template: np.ndarray, directions: np.ndarray, parents: np.ndarray, betas: np.ndarray, rotvec: np.ndarray, trans: np.ndarray
) -> np.ndarray:
    """The 22 body joints (22,3) m of SMPL-X: rest joints (22,3), their shape directions (22,3,10), rotations (22,3)."""
    rest = template + directions @ betas
    rotmat = so3.exp(rotvec)
    world, position = rotmat.copy(), rest.copy()
    for j in range(1, BODY_JOINTS):
        p = parents[j]
        world[j] = world[p] @ rotmat[j]
        position[j] = position[p] + world[p] @ (rest[j] - rest[p])
    return position + trans


def read_calibration(path: Path, width: int, height: int) -> tuple[Camera, np.ndarray]:
    """Camera of pictures of this size and its (3,4) world-to-camera matrix from an OpenCV storage file."""
    if not path.is_file():
        raise AssetError(f"{path}: the camera calibration is missing")
    storage = cv2.FileStorage()
    try:
        opened = storage.open(str(path), cv2.FILE_STORAGE_READ)
        extrinsics = storage.getNode("CameraMatrix").mat() if opened else None
        k = storage.getNode("Intrinsics").mat() if opened else None
    except cv2.error as e:
        raise AssetError(f"{path}: not an OpenCV calibration file ({str(e).splitlines()[0]})") from e
    finally:
        storage.release()
    if extrinsics is None or k is None:
        raise AssetError(f"{path}: expected the matrices CameraMatrix and Intrinsics")
    T = files.array(extrinsics, "CameraMatrix", path, (3, 4))
    k = files.array(k, "Intrinsics", path, (3, 3)).copy()
    full = FULL_SIDES if width >= height else FULL_SIDES[::-1]
    scale = np.array([width / full[0], height / full[1]])
    if abs(scale[0] / scale[1] - 1) > 0.02:
        raise AssetError(f"{path}: is for {full[0]}x{full[1]} px, the picture has {width}x{height}: cropped?")
    k[0, [0, 2]] = k[0, 0] * scale[0], (k[0, 2] + 0.5) * scale[0] - 0.5
    k[1, [1, 2]] = k[1, 1] * scale[1], (k[1, 2] + 0.5) * scale[1] - 0.5
    return camera_from_k(k, width, height), T


def _model_file(folder: Path, gender: str) -> Path:
    for suffix in (".npz", ".pkl"):
        path = folder / f"SMPLX_{gender.upper()}{suffix}"
        if path.is_file():
            return path
    raise AssetError(f"{folder}: expected SMPLX_{gender.upper()}.npz (a licensed SMPL-X file)")


@lru_cache(maxsize=3)
def _rest_joints(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rest joints (22,3), their shape directions (22,3,10) and parents (22,) of an SMPL-X file."""
    tree = read_arrays(path)
    vertices = files.array(files.field(tree, "v_template", path), "v_template", path, (None, 3))
    count = len(vertices)
    directions = np.asarray(files.field(tree, "shapedirs", path), np.float64)
    regressor = files.field(tree, "J_regressor", path)
    regressor = np.asarray(regressor.toarray() if hasattr(regressor, "toarray") else regressor, np.float64)
    parents = np.asarray(files.field(tree, "kintree_table", path))[0].astype(np.int64)
    if directions.ndim != 3 or directions.shape[:2] != (count, 3) or directions.shape[2] < 10:
        raise AssetError(f"{path}: expected shapedirs ({count},3,10 or more), got {directions.shape}")
    if regressor.ndim != 2 or regressor.shape[1] != count or len(regressor) < BODY_JOINTS or len(parents) < BODY_JOINTS:
        raise AssetError(f"{path}: expected a J_regressor for {count} vertices and 22 joints or more, got {regressor.shape}")
    rows = regressor[:BODY_JOINTS]
    if not (parents[1:BODY_JOINTS] < np.arange(1, BODY_JOINTS)).all() or (parents[1:BODY_JOINTS] < 0).any():
        raise AssetError(f"{path}: parents come after their children in kintree_table")
    return rows @ vertices, np.einsum("jv,vcb->jcb", rows, directions[..., :10]), parents[:BODY_JOINTS]
