"""Reading dataset files: which file, what is wrong, in one line; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..body.assets import load_body
from ..body.model import BodyModel
from ..body.unpickle import restricted_load
from ..errors import AssetError

GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female", "n": "neutral", "neutral": "neutral"}


def load_mapping(path: Path) -> Mapping[str, Any]:
    """A pickle that holds a dictionary, through the restricted unpickler."""
    tree = restricted_load(path)
    if not isinstance(tree, Mapping):
        raise AssetError(f"{path}: expected a dictionary, got {type(tree).__name__}")
    return {str(k): v for k, v in tree.items()}


def field(tree: Mapping[str, Any], name: str, path: Path) -> Any:
    """An entry that must be there."""
    if name not in tree:
        raise AssetError(f"{path}: expected '{name}', got {', '.join(sorted(map(str, tree))[:12])}")
    return tree[name]


def array(value: Any, name: str, path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """Finite float64 numbers of a shape; None admits any length."""
    try:
        out = np.asarray(value, np.float64)
    except (TypeError, ValueError) as e:
        raise AssetError(f"{path}: expected numbers in '{name}', got {type(value).__name__}") from e
    if out.ndim != len(shape) or any(s is not None and s != n for s, n in zip(shape, out.shape)):
        raise AssetError(f"{path}: expected '{name}' of shape {shape}, got {out.shape}")
    if not np.isfinite(out).all():
        raise AssetError(f"{path}: '{name}' holds numbers that are not finite")
    return out


def gender(value: Any, path: Path) -> str:
    """``m``, ``Male``, b``female`` ... -> male, female, neutral."""
    text = value.decode("latin1") if isinstance(value, bytes) else str(value)
    if text.lower() not in GENDERS:
        raise AssetError(f"{path}: expected a gender among {', '.join(sorted(set(GENDERS.values())))}, got '{text[:20]}'")
    return GENDERS[text.lower()]


def image_reader(path: Path) -> Callable[[], np.ndarray]:
    """Reads the picture when called; RGB."""

    def read() -> np.ndarray:
        if not path.is_file():
            raise AssetError(f"{path}: the picture is missing")
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if bgr is None:
            raise AssetError(f"{path}: not a picture, or damaged")
        return np.ascontiguousarray(bgr[..., ::-1])

    return read


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    image = image_reader(path)()
    return image.shape[1], image.shape[0]


class GenderedBodies:
    """SMPL files by gender in one folder: ``SMPL_MALE.pkl``, ``SMPL_FEMALE.npz`` and so on, loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._loaded: dict[str, BodyModel] = {}

    def __call__(self, name: str) -> BodyModel:
        if name not in self._loaded:
            candidates = [self.folder / f"SMPL_{name.upper()}{suffix}" for suffix in (".npz", ".pkl")]
            found = [c for c in candidates if c.is_file()]
            if not found:
                raise AssetError(f"{self.folder}: expected {candidates[0].name} or {candidates[1].name} (licensed SMPL files)")
            self._loaded[name] = load_body(found[0])
        return self._loaded[name]


def h36m_regressor(root: Path) -> np.ndarray:
    """``J_regressor_h36m.npy`` (17,V), beside the dataset or its bodies."""
    path = Path(root) / "J_regressor_h36m.npy"
    if not path.is_file():
        raise AssetError(f"{path}: the Human3.6M joint regressor is missing: 3DPW tables are made with it")
    try:
        matrix = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise AssetError(f"{path}: cannot be read ({str(e).splitlines()[0]})") from e
    if matrix.ndim != 2 or len(matrix) != 17 or not np.isfinite(matrix).all():
        raise AssetError(f"{path}: expected finite numbers (17,V), got {matrix.shape}")
    return np.asarray(matrix, np.float64)


def to_camera(body: BodyModel, betas: np.ndarray, root_rotmat: np.ndarray, trans: np.ndarray, T_camera_world: np.ndarray):
    """Root rotation (3,3) and SMPL translation (3,) of a world-frame body in the camera frame.

    SMPL turns about the pelvis and then adds ``trans``: turning the camera moves the pelvis, not ``trans`` itself.
    """
    pelvis = body.joint_template[0] + body.joint_shapedirs[0] @ betas
    R, t = T_camera_world[:3, :3], T_camera_world[:3, 3]
    return R @ root_rotmat, R @ (pelvis + trans) + t - pelvis
