"""Body model files: the shipped free body, any other file in SMPL's format (.npz), and SMPL's own pickles (.pkl).

Files are untrusted: pickles go through the restricted unpickler, arrays are loaded without pickle, and every shape, range
and value is checked before a BodyModel exists.  Whatever is wrong, the answer is an AssetError that names the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from ..errors import AssetError, BackendUnavailable
from ..types import NUM_BETAS, NUM_JOINTS
from .joints import SMPL_PARENTS, keypoint_sets
from .landmarks import points_of_file
from .model import BodyModel, joint_shares, topology_id
from .unpickle import restricted_load

if TYPE_CHECKING:
    import smplx

DEFAULT_BODY = Path(__file__).parent / "data" / "densefit_body.npz"
MAX_FILE_BYTES = 1 << 29  # SMPL's own pickles are 40 to 250 MB
MAX_UNPACKED_BYTES = 1 << 29  # a zip bomb stops here
MAX_VERTICES = 200_000
MAX_FACES = 400_000
MAX_NUMBER = 1e6  # m, or m per unit of shape: a flipped bit of an exponent overflows when the body is posed
SKIN_SLOTS = 4
_REQUIRED = ("v_template", "shapedirs", "J_regressor", "kintree_table", "weights", "f")


def load_body(path: str | Path | None = None) -> BodyModel:
    """The free body, or the body in a file of SMPL's format: ``.npz``, or SMPL's own ``.pkl``.

    Real SMPL files have 300 shape directions (the first 10 are used) and 207 pose directions.  Raises AssetError naming the
    file and what is wrong with it.
    """
    path = DEFAULT_BODY if path is None else Path(path)
    data = read_arrays(path)
    try:
        return _body(data, path)
    except AssetError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise AssetError(f"{path}: not a body model in SMPL's format: {type(error).__name__}: {error}") from error


def read_arrays(path: Path) -> dict[str, object]:
    """The raw entries of a body file, nothing executed and nothing checked but size and container."""
    if not path.is_file():
        raise AssetError(f"{path}: no such file (expected a body model, .npz or .pkl)")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise AssetError(f"{path}: {size >> 20} MB is too large for a body model (limit {MAX_FILE_BYTES >> 20} MB)")
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".pkl":
        data = restricted_load(path)
        if not isinstance(data, dict):
            raise AssetError(f"{path}: expected a dictionary of arrays, got {type(data).__name__}")
        return {str(k): v for k, v in data.items()}
    raise AssetError(f"{path}: expected a .npz or .pkl body model, got '{path.suffix}'")


def read_npz(path: Path) -> dict[str, object]:
    """All arrays of a .npz, without pickle and of bounded size; arrays of objects are left out.  Raises AssetError.

    SMPL-X's files have some (joint2num, part2num), which nobody needs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise AssetError(f"{path}: {unpacked >> 20} MB unpacked is too large (limit {MAX_UNPACKED_BYTES >> 20} MB)")
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if not _holds_objects(archive, key)}
    except AssetError:
        raise
    except Exception as error:  # zipfile, zlib, struct, tokenize and numpy each have errors of their own for a damaged file
        raise AssetError(f"{path}: not a readable .npz archive: {type(error).__name__}: {error}") from error


def _holds_objects(archive: np.lib.npyio.NpzFile, key: str) -> bool:
    if f"{key}.npy" not in archive.zip.namelist():
        return False  # something else that lies in the archive
    with archive.zip.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)[2].hasobject


def _body(data: Mapping[str, object], path: Path) -> BodyModel:
    missing = [k for k in _REQUIRED if k not in data]
    if missing:
        raise AssetError(f"{path}: missing {', '.join(missing)} (found {', '.join(sorted(data)[:20])}): not in SMPL's format")
    template = _numbers(data, "v_template", path)
    if template.ndim != 2 or template.shape[1] != 3 or not 4 <= len(template) <= MAX_VERTICES:
        raise AssetError(f"{path}: expected v_template (V,3) with 4 to {MAX_VERTICES} vertices, got {template.shape}")
    v = len(template)
    extent = float(np.ptp(template, axis=0).max())
    if not 0.3 < extent < 5.0:
        raise AssetError(f"{path}: v_template spans {extent:.3g}, expected a person in metres (0.3 to 5)")
    shapedirs = _numbers(data, "shapedirs", path)
    if shapedirs.ndim != 3 or shapedirs.shape[:2] != (v, 3) or shapedirs.shape[2] < NUM_BETAS:
        raise AssetError(f"{path}: expected shapedirs ({v},3,10 or more), got {shapedirs.shape}")
    shapedirs = np.ascontiguousarray(shapedirs[:, :, :NUM_BETAS])
    _check_tree(data, path)
    faces = _faces(data, "f", v, path)
    skin_joint, skin_weight = _skin(_shaped(data, "weights", (v, NUM_JOINTS), path), path)
    regressor = _regressor(_shaped(data, "J_regressor", (NUM_JOINTS, v), path), path)
    uv, uv_faces = _uv(data, len(faces), path)
    dense = regressor.astype(np.float64)
    name = str(data["version"]) if "version" in data else path.stem
    points = points_of_file(data, v, len(faces), path)
    return BodyModel(
        name, topology_id(faces, v), template.astype(np.float32), shapedirs.astype(np.float32), _posedirs(data, v, path),
        (dense @ template).astype(np.float64), np.einsum("jv,vcb->jcb", dense.toarray(), shapedirs), regressor,
        skin_joint, skin_weight, np.array(SMPL_PARENTS, np.int32), faces, uv, uv_faces, keypoint_sets(points),
        str(data.get("license", "")),
    )  # fmt: skip


def _numbers(data: Mapping[str, object], key: str, path: Path) -> np.ndarray:
    value = data[key]
    if scipy.sparse.issparse(value):
        if key != "J_regressor":  # whose shape has been checked: a sparse matrix claims any size for free
            raise AssetError(f"{path}: expected a dense {key}, got a sparse matrix {value.shape}")
        value = value.toarray()
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise AssetError(f"{path}: expected numbers in {key}, got dtype {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise AssetError(f"{path}: {key} has {int((~np.isfinite(array)).sum())} values that are not finite: damaged file")
    if np.abs(array).max(initial=0.0) > MAX_NUMBER:
        raise AssetError(f"{path}: {key} has values up to {np.abs(array).max():.3g}, no body is that large: damaged file")
    return array


def _shaped(data: Mapping[str, object], key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    value = data[key]
    got = np.shape(value) if not scipy.sparse.issparse(value) else value.shape
    if got != shape:
        raise AssetError(f"{path}: expected {key} {shape}, got {got}")
    return _numbers(data, key, path)


def _check_tree(data: Mapping[str, object], path: Path) -> None:
    tree = np.asarray(data["kintree_table"])
    if tree.shape != (2, NUM_JOINTS) or tree.dtype.kind not in "iuf":
        raise AssetError(f"{path}: expected kintree_table (2,24), got {tree.shape} {tree.dtype}: SMPL-X and SMPL+H do not fit")
    if tuple(tree[0, 1:].astype(np.int64).tolist()) != SMPL_PARENTS[1:]:
        raise AssetError(f"{path}: kintree_table is not SMPL's tree, got parents {tree[0].tolist()}")


def _faces(data: Mapping[str, object], key: str, count: int, path: Path) -> np.ndarray:
    faces = np.asarray(data[key])
    if faces.ndim != 2 or faces.shape[1] != 3 or not 1 <= len(faces) <= MAX_FACES or faces.dtype.kind not in "iu":
        wanted = f"{key} (F,3) whole numbers with 1 to {MAX_FACES} triangles"
        raise AssetError(f"{path}: expected {wanted}, got {faces.shape} {faces.dtype}")
    low, high = int(faces.min()), int(faces.max())
    if low < 0 or high >= count:
        raise AssetError(f"{path}: {key} points at {low} to {high}, expected 0 to {count - 1}: faces of another mesh")
    return np.ascontiguousarray(faces, np.int32)


def _skin(weights: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if weights.min() < -1e-6:
        raise AssetError(f"{path}: weights has negative values (least {weights.min():.3g})")
    total = weights.sum(1)
    if np.abs(total - 1.0).max() > 5e-3:
        worst = int(np.argmax(np.abs(total - 1.0)))
        raise AssetError(f"{path}: weights of vertex {worst} sum to {total[worst]:.4g}, expected 1")
    joint = np.argsort(-weights, axis=1, kind="stable")[:, :SKIN_SLOTS]
    weight = np.take_along_axis(weights, joint, 1)
    kept = weight.sum(1, keepdims=True)
    if kept.min() < 0.95:
        raise AssetError(f"{path}: expected at most {SKIN_SLOTS} weights a vertex, vertex {int(np.argmin(kept))} has more")
    return np.ascontiguousarray(joint, np.int32), np.ascontiguousarray(weight / kept, np.float32)


def _regressor(matrix: np.ndarray, path: Path) -> scipy.sparse.csr_matrix:
    total = matrix.sum(1)
    worst = int(np.argmax(np.abs(total - 1.0)))
    if abs(total[worst] - 1.0) > 1e-2:
        raise AssetError(f"{path}: J_regressor row {worst} sums to {total[worst]:.4g}, expected 1")
    return scipy.sparse.csr_matrix(matrix.astype(np.float32))


def _posedirs(data: Mapping[str, object], v: int, path: Path) -> np.ndarray | None:
    if "posedirs" not in data:
        return None
    columns = 9 * (NUM_JOINTS - 1)
    if np.shape(data["posedirs"]) != (v, 3, columns):
        raise AssetError(f"{path}: expected posedirs ({v},3,{columns}), got {np.shape(data['posedirs'])}")
    raw = np.asarray(data["posedirs"])
    if raw.dtype.kind == "f" and not raw.any():
        return None  # NaN counts as any
    return np.ascontiguousarray(_numbers(data, "posedirs", path).reshape(-1, columns).T, np.float32)


def _uv(data: Mapping[str, object], num_faces: int, path: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    if "vt" not in data or "ft" not in data:
        return None, None
    uv = _numbers(data, "vt", path)
    if uv.ndim != 2 or uv.shape[1] != 2 or not 1 <= len(uv) <= 4 * MAX_VERTICES or uv.min() < 0 or uv.max() > 1:
        raise AssetError(f"{path}: expected vt (T,2) within [0,1], got {uv.shape}")
    uv_faces = _faces(data, "ft", len(uv), path)
    if len(uv_faces) != num_faces:
        raise AssetError(f"{path}: expected ft ({num_faces},3) beside f, got {uv_faces.shape}")
    return uv.astype(np.float32), uv_faces


def to_smplx(body: BodyModel) -> smplx.SMPL:
    """The same body as ``smplx.SMPL`` (torch), for baselines.  smplx is under a non-commercial licence and stays optional;
    BackendUnavailable tells how to install it.
    """
    try:
        import smplx
        from smplx.utils import Struct
    except ImportError as error:
        raise BackendUnavailable(f"the baselines need smplx (pip install smplx, non-commercial licence): {error}") from error
    v = body.num_vertices
    parents = np.array(SMPL_PARENTS, np.int64)
    posedirs = np.zeros((v, 3, 207), np.float32) if body.posedirs is None else body.posedirs.T.reshape(v, 3, 207)
    struct = Struct(
        v_template=body.v_template, shapedirs=body.shapedirs, posedirs=posedirs, J_regressor=body.j_regressor.toarray(),
        kintree_table=np.stack([parents, np.arange(NUM_JOINTS)]), weights=joint_shares(body), f=body.faces,
    )  # fmt: skip
    return smplx.SMPL(model_path="", data_struct=struct, num_betas=NUM_BETAS, vertex_ids=_vertex_ids(body))


def _vertex_ids(body: BodyModel) -> dict[str, int]:
    """smplx appends 21 surface points to its joints, and its defaults are vertex numbers of SMPL's own mesh."""
    strongest: dict[str, int] = {}
    for points in (body.landmarks["mediapipe33"], body.landmarks["openpose25"]):
        best = np.take_along_axis(points.vertex_index, np.argmax(points.vertex_weight, 1)[:, None], 1)[:, 0]
        strongest.update(zip(points.names, best.tolist()))
    names = {
        "nose": "nose", "reye": "right_eye", "leye": "left_eye", "rear": "right_ear", "lear": "left_ear",
        "LBigToe": "left_big_toe", "LSmallToe": "left_small_toe", "LHeel": "left_heel", "RBigToe": "right_big_toe",
        "RSmallToe": "right_small_toe", "RHeel": "right_heel", "lthumb": "left_thumb", "lindex": "left_index",
        "lmiddle": "left_index", "lring": "left_pinky", "lpinky": "left_pinky", "rthumb": "right_thumb",
        "rindex": "right_index", "rmiddle": "right_index", "rring": "right_pinky", "rpinky": "right_pinky",
    }  # fmt: skip
    return {ours: strongest.get(theirs, 0) for ours, theirs in names.items()}
