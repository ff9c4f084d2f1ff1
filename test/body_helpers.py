"""A small body in SMPL's format, and pickles as Python 2 with chumpy wrote them."""

from __future__ import annotations

import io
import pickle

import numpy as np
import scipy.sparse

from densefit_ros.body.joints import SMPL_PARENTS
from densefit_ros.types import BodyParams


def toy_arrays(columns: int = 10, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """A closed tube of 96 vertices, 1.7 m tall, with every key that SMPL's files have."""
    rng = rng or np.random.default_rng(0)
    rings, around = 12, 8
    angle = 2 * np.pi * np.arange(around) / around
    height = np.linspace(-0.85, 0.85, rings)
    grid = np.stack(np.broadcast_arrays(0.2 * np.sin(angle), height[:, None], 0.2 * np.cos(angle)), -1).reshape(-1, 3)
    faces = []
    for r in range(rings - 1):
        for a in range(around):
            i, j = r * around + a, r * around + (a + 1) % around
            faces += [[i, j, j + around], [i, j + around, i + around]]
    for a in range(1, around - 1):
        faces += [[0, a + 1, a], [len(grid) - around, len(grid) - around + a, len(grid) - around + a + 1]]
    weights = np.zeros((len(grid), 24))
    for v in range(len(grid)):
        weights[v, rng.choice(24, 4, replace=False)] = rng.dirichlet(np.ones(4))
    regressor = np.zeros((24, len(grid)))
    for j in range(24):
        regressor[j, rng.choice(len(grid), 8, replace=False)] = rng.dirichlet(np.ones(8))
    parents = np.array(SMPL_PARENTS)
    return {
        "v_template": grid,
        "shapedirs": rng.normal(0, 0.02, (len(grid), 3, columns)),
        "posedirs": rng.normal(0, 0.005, (len(grid), 3, 207)),
        "J_regressor": regressor,
        "kintree_table": np.stack([np.where(parents < 0, 2**32 - 1, parents), np.arange(24)]),
        "weights": weights,
        "f": np.array(faces, np.uint32),
    }


def random_params(persons: int, seed: int = 0, dtype: type = np.float64, angle: float = 0.4) -> BodyParams:
    """Persons in random poses about 3 m in front of a camera."""
    rng = np.random.default_rng(seed)
    return BodyParams(
        rng.normal(0, 1, (persons, 10)).astype(dtype),
        rng.normal(0, 1, (persons, 3)).astype(dtype),
        rng.normal(0, angle, (persons, 23, 3)).astype(dtype),
        (rng.normal(0, 0.3, (persons, 3)) + [0, 0, 3]).astype(dtype),
    )


class Ch:
    """What chumpy's array leaves in a pickle: its state, with the numbers under ``x``."""

    def __init__(self, x: np.ndarray) -> None:
        self.__dict__.update(x=x, _status="new", _dirty_vars=["x"], label=None)


class Select:
    """chumpy's view of chosen elements."""

    def __init__(self, a: object, idxs: np.ndarray, shape: tuple[int, ...]) -> None:
        self.__dict__.update(a=a, idxs=idxs, preferred_shape=shape)


class Csc:
    """scipy's old sparse matrix."""

    def __init__(self, matrix: np.ndarray) -> None:
        m = scipy.sparse.csc_matrix(matrix)
        self.__dict__.update(format="csc", _shape=m.shape, indptr=m.indptr, data=m.data, maxprint=50, indices=m.indices)


_OLD_NAMES = {
    "Ch": "chumpy.ch",
    "Select": "chumpy.reordering",
    "Csc": "scipy.sparse.csc",
    "_reconstruct": "numpy.core.multiarray",
    "scalar": "numpy.core.multiarray",
    "_reconstructor": "copy_reg",
}


class _OldPickler(pickle._Pickler):
    """Writes strings as Python 2 did, and the names of classes that are not installed."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_old_string(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    def save_global(self, obj: object, name: str | None = None) -> None:
        name = name or obj.__qualname__
        module = _OLD_NAMES.get(name, getattr(obj, "__module__", "__builtin__"))
        module = "__builtin__" if module == "builtins" else module
        self.write(pickle.GLOBAL + f"{module}\n{'csc_matrix' if name == 'Csc' else name}\n".encode())
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = save_old_string
    dispatch[type] = save_global


_OldPickler.dispatch[type(pickle.dumps)] = _OldPickler.save_global
_OldPickler.dispatch[type(np.core.multiarray._reconstruct)] = _OldPickler.save_global
_OldPickler.dispatch[type(lambda: 0)] = _OldPickler.save_global


def old_pickle(data: object, protocol: int = 2) -> bytes:
    """The bytes of a pickle as Python 2, numpy 1 and chumpy would have written it."""
    stream = io.BytesIO()
    _OldPickler(stream, protocol, fix_imports=False).dump(data)
    return stream.getvalue()


def smpl_like_pickle(columns: int = 300, protocol: int = 2) -> tuple[dict[str, np.ndarray], bytes]:
    """Arrays of the toy body, and the same as a pickle of SMPL's kind: chumpy arrays and a sparse regressor."""
    arrays = toy_arrays(columns)
    data = dict(arrays)
    data["v_template"] = Ch(arrays["v_template"])
    flat = arrays["shapedirs"].reshape(-1)
    data["shapedirs"] = Select(Ch(flat[::-1].copy()), np.arange(len(flat))[::-1].copy(), arrays["shapedirs"].shape)
    data["posedirs"] = Ch(np.asfortranarray(arrays["posedirs"]))
    data["J_regressor"] = Csc(arrays["J_regressor"])
    data["bs_style"], data["bs_type"] = "lbs", "lrotmin"
    return arrays, old_pickle(data, protocol)
