"""results.jsonl: one line per picture and person.

Keys of a line: ``file`` (name), ``frame`` (of a video; the number of a picture otherwise), ``id`` (stable over a track),
``box_xywh`` (px, of the refined mesh), ``status`` (how the fit ended), ``tracking_state``, ``source`` of the first estimate, and
the bodies ``first_estimate`` and ``refined``.  Keys of a body: ``joints_px`` (24 x 2), ``joints_m`` (24 x 3), ``betas`` (10),
``root_rotvec`` (3), ``joint_rotvec`` (23 x 3), ``t_camera_root`` (3).

Pixels are those of the input picture; pixel centres lie at half-integers, so (0, 0) is the outer corner of the first pixel
and subtracting 0.5 gives OpenCV's coordinates.  Metres are in the camera's optical frame: x right, y down, z forward.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AssetError
from ..geometry.camera import NEAR_M, box_of
from ..types import BodyParams, FitStatus, PersonResult
from .cameras import Calibrated

CONVENTION = "px of the input picture, pixel centres at half-integers; metres in the optical frame (x right, y down, z forward)"


def body_record(params: BodyParams, joints_m: np.ndarray, camera: Calibrated) -> dict[str, Any]:
    """One body (a batch of one) as plain lists; joints (24,3) m in the camera frame."""
    return {
        "joints_px": _plain(camera.to_picture(joints_m), 3),
        "joints_m": _plain(joints_m, 5),
        "betas": _plain(params.betas[0], 5),
        "root_rotvec": _plain(params.root_rotvec[0], 6),
        "joint_rotvec": _plain(params.joint_rotvec[0], 6),
        "t_camera_root": _plain(params.t_camera_root[0], 5),
    }


def person_record(file: str, frame: int, person: PersonResult, first_joints_m: np.ndarray, camera: Calibrated) -> dict[str, Any]:
    """One line of results.jsonl."""
    return {
        "file": file,
        "frame": frame,
        "id": person.track_id,
        "box_xywh": _plain(_box_in_picture(person, camera), 2),
        "status": FitStatus(person.status).name,
        "tracking_state": person.tracking_state.name,
        "source": person.source,
        "first_estimate": body_record(person.first_estimate, first_joints_m, camera),
        "refined": body_record(person.params, person.joints, camera),
    }


def _box_in_picture(person: PersonResult, camera: Calibrated) -> np.ndarray:
    if camera.lens is None:
        return person.box_xywh
    return box_of(camera.to_picture(person.vertices[person.vertices[:, 2] > NEAR_M]))


def read_boxes(path: str | Path, names: set[str]) -> dict[str, np.ndarray]:
    """``{file name: [[x, y, w, h], ...]}`` -> (N,4) float32 px per file.

    Raises AssetError on another structure, or when no name in it is one of ``names``.
    """
    path = Path(path)
    try:
        tree = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise AssetError(f"cannot read boxes from {path}: {str(e).splitlines()[0]}") from e
    if not isinstance(tree, dict):
        raise AssetError(f"{path}: expected {{file name: [[x, y, w, h], ...]}}, got a {type(tree).__name__}")
    out = {}
    for name, rows in tree.items():
        try:
            boxes = np.atleast_2d(np.asarray(rows, np.float32)) if len(rows) else np.zeros((0, 4), np.float32)
        except (TypeError, ValueError) as e:
            raise AssetError(f"{path}: expected [[x, y, w, h], ...] for '{name}', got {str(rows)[:60]}") from e
        if boxes.ndim != 2 or boxes.shape[1] != 4:  # four rows with a score would make five boxes
            raise AssetError(f"{path}: expected [[x, y, w, h], ...] for '{name}', got {str(rows)[:60]}")
        if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
            raise AssetError(f"{path}: expected finite boxes with positive sizes for '{name}', got {boxes.tolist()}")
        if Path(name).name in out:
            raise AssetError(f"{path}: two pictures are called {Path(name).name}: split the file by their folders")
        out[Path(name).name] = boxes
    if out and not names & set(out):
        raise AssetError(f"{path}: none of its file names ({', '.join(sorted(out)[:3])}, ...) is in the input")
    return out


def _plain(values: np.ndarray, digits: int) -> list[Any]:
    """Nested lists, rounded; None in place of numbers that are not finite, which JSON cannot hold."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    return _no_nan(rounded.tolist())


def _no_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_no_nan(v) for v in value]
    return value if np.isfinite(value) else None


class ResultsFile:
    """results.jsonl of a folder that is made here; the lines of a run before stay until there is something to take their place.

    Raises AssetError when the folder cannot be written to.
    """

    def __init__(self, out: Path) -> None:
        self._out, self.path, self._file = out, out / "results.jsonl", None
        try:
            out.mkdir(parents=True, exist_ok=True)
            open(self.path, "a").close()
        except OSError as e:
            raise AssetError(f"cannot write to {out}: {e.strerror}") from e

    def begin(self) -> None:
        """Called with every answer: the first one empties the file, and takes away the description of the former content."""
        if self._file is None:
            (self._out / "run.json").unlink(missing_ok=True)
            self._file = open(self.path, "w")

    def write(self, record: dict[str, Any]) -> None:
        """One line; after :meth:`begin`."""
        self._file.write(json.dumps(record) + "\n")

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
