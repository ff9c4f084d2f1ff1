"""Reading pickles of arrays from strangers: nothing but array data is ever built.

SMPL's files and many pose datasets are Python 2 pickles of NumPy arrays, SciPy sparse matrices and chumpy objects.  A
pickle is a program; this reader admits an exact list of (module, name) pairs, each replaced by a constructor of ours or
one that only allocates, so that a hostile file ends in an AssetError before it does anything.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import scipy.sparse

from ..errors import AssetError

MAX_PICKLE_BYTES = 1 << 30
_ARRAY_STATE = 5  # (version, shape, dtype, is_fortran, data)


class ChumpyArray:
    """Stand-in for any chumpy object: keeps its state, executes nothing; see :func:`plain`."""

    def __init__(self, *args: object) -> None:
        self.args = args
        self.state: dict = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class SparseMatrix:
    """Stand-in for a scipy.sparse matrix: its arrays are checked before one is built."""

    layout = "csc"

    def __init__(self, *args: object) -> None:
        self.state: dict = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class _CsrMatrix(SparseMatrix):
    layout = "csr"


class _CooMatrix(SparseMatrix):
    layout = "coo"


def _reconstruct(subtype: object, shape: object, kind: object) -> np.ndarray:
    """In place of numpy's: an empty array that __setstate__ fills; never a subclass."""
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError("only plain numpy arrays are admitted")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _scalar(dtype: object, data: object = b"") -> object:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, (bytes, str)):
        raise pickle.UnpicklingError("numpy scalar of an unexpected kind")
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype, count=1)[0]


def _frombuffer(data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise pickle.UnpicklingError("numpy buffer of an unexpected kind")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """In place of _codecs.encode, which protocol 2 uses for bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("unexpected text encoding")
    return text.encode("latin1")


_CHUMPY = {
    ("chumpy.ch", "Ch"), ("chumpy.ch", "add"), ("chumpy.ch", "subtract"), ("chumpy.reordering", "transpose"),
    ("chumpy.reordering", "concatenate"), ("chumpy.reordering", "Select"), ("chumpy.reordering", "Reshape"), ("chumpy.ch", "Select"),
    ("chumpy", "Ch"),
}  # fmt: skip
_ADMITTED: dict[tuple[str, str], object] = {
    **{key: ChumpyArray for key in _CHUMPY},
    **{(f"scipy.sparse{m}", f"{k}_matrix"): c for k, c in (("csc", SparseMatrix), ("csr", _CsrMatrix), ("coo", _CooMatrix))
       for m in ("", f".{k}", f"._{k}")},
    **{(f"numpy.{m}.multiarray", "_reconstruct"): _reconstruct for m in ("core", "_core")},
    **{(f"numpy.{m}.multiarray", "scalar"): _scalar for m in ("core", "_core")},
    **{(f"numpy.{m}.numeric", "_frombuffer"): _frombuffer for m in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
}  # fmt: skip


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _ADMITTED[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted: only arrays are") from None

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("persistent references are not admitted")


def restricted_load(path: str | Path, encoding: str = "latin1") -> object:
    """Load a pickle of dictionaries, lists, numbers, text, NumPy arrays, SciPy sparse matrices and chumpy arrays.

    chumpy objects come back as their arrays.  ``encoding`` is that of Python 2 strings.  Raises AssetError, naming the file,
    for anything else, without having run it.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path}: no such file (expected a pickle)")
    size = path.stat().st_size
    if size > MAX_PICKLE_BYTES:
        raise AssetError(f"{path}: {size >> 20} MB is too large for a pickle of arrays (limit {MAX_PICKLE_BYTES >> 20} MB)")
    try:
        with path.open("rb") as stream:
            return plain(_RestrictedUnpickler(stream, encoding=encoding).load())
    except AssetError:
        raise
    except Exception as error:  # a damaged stream can raise nearly anything from inside the unpickler
        raise AssetError(f"{path}: not a pickle of arrays: {type(error).__name__}: {error}") from error


def plain(value: object, depth: int = 0) -> object:
    """Stand-ins replaced by arrays, through dictionaries, lists and tuples."""
    if depth > 50:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return {plain(k, depth + 1): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v, depth + 1) for v in value)
    if isinstance(value, SparseMatrix):
        return _sparse(value)
    if isinstance(value, ChumpyArray):
        return _chumpy(value, depth)
    return value


def _sparse(value: SparseMatrix) -> scipy.sparse.spmatrix:
    state = value.state
    shape = tuple(int(n) for n in state.get("_shape", state.get("shape", ())))
    if len(shape) != 2 or not all(0 < n <= 10_000_000 for n in shape):
        raise ValueError(f"sparse matrix of shape {shape}")
    if value.layout == "coo":
        matrix = scipy.sparse.coo_matrix((state["data"], (state["row"], state["col"])), shape=shape)
    else:
        kind = scipy.sparse.csc_matrix if value.layout == "csc" else scipy.sparse.csr_matrix
        matrix = kind((state["data"], state["indices"], state["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
    return matrix


def _chumpy(value: ChumpyArray, depth: int) -> np.ndarray:
    """A Ch keeps its numbers in ``x``; Select picks elements ``idxs`` of ``a``, with ``preferred_shape``."""
    state = value.state
    if "x" in state:
        return np.asarray(plain(state["x"], depth + 1))
    if "a" in state and "idxs" in state:
        picked = np.asarray(plain(state["a"], depth + 1)).reshape(-1)[np.asarray(state["idxs"], np.int64)]
        return picked.reshape(state["preferred_shape"]) if "preferred_shape" in state else picked
    raise ValueError(f"chumpy object with {sorted(map(str, state))}: expected its numbers in 'x'")
