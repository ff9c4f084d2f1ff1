"""Reading pickles of arrays from strangers: nothing but array data is ever built.

SMPL's files and many pose datasets are Python 2 pickles of NumPy arrays, SciPy sparse matrices and chumpy objects.  A
pickle is a program.  This reader runs it on Python's own (not C) unpickler with an exact list of (module, name) pairs,
every one of them a stand-in of ours that only notes what it is given; arrays are built from the notes afterwards.  A
hostile file therefore never reaches a function of NumPy, SciPy or the interpreter.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import scipy.sparse

from ..errors import AssetError

MAX_PICKLE_BYTES = 1 << 30
_MAX_DEPTH = 50
_DTYPE = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1|\?|[SU][1-9][0-9]{0,5}|O[48]?)")


class _StandIn:
    """Notes the arguments and the state that a pickle gives to an object."""

    def __init__(self, *args: object) -> None:
        self.args = args
        self.state: object = None


class _Dtype(_StandIn):
    def numpy(self) -> np.dtype:
        text = self.args[0] if self.args else None
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise ValueError(f"dtype {str(text)[:40]!r} is not admitted: only plain numbers and text are")
        dtype = np.dtype(text)
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "|"
        return dtype.newbyteorder(order) if order in ("<", ">") else dtype


class _Array(_StandIn):
    """Made by numpy's _reconstruct; the state is (version, shape, dtype, Fortran order, data)."""


class _Buffer(_StandIn):
    """Made by numpy's _frombuffer (protocol 5): data, dtype, shape, order."""


class _Scalar(_StandIn):
    """Made by numpy's scalar: dtype, data."""


class _Chumpy(_StandIn):
    """Any chumpy array."""


class _Csc(_StandIn):
    kind = scipy.sparse.csc_matrix


class _Csr(_StandIn):
    kind = scipy.sparse.csr_matrix


class _Coo(_StandIn):
    kind = scipy.sparse.coo_matrix


class _Class:
    """A class that pickles only name, never call."""


def _new_object(cls: object, base: object = None, state: object = None) -> _StandIn:
    """In place of copy_reg._reconstructor: protocol 0 and 1 make objects with it."""
    if not (isinstance(cls, type) and issubclass(cls, _StandIn)):
        raise pickle.UnpicklingError("only arrays are admitted")
    return cls()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """In place of _codecs.encode, by which protocol 2 carries bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("unexpected text encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """In place of bytes, which protocol 2 calls for the empty string only."""
    return b""


def _mapping(pairs: object = ()) -> dict:
    out = {}
    for key, value in pairs:
        out[_key(key)] = value
    return out


def _collection(items: object = ()) -> list:
    """Sets become lists: nobody asks them, and hashing is a stranger's choice of work."""
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError("expected a list of items")
    return list(items)


def _default(factory: object = None) -> dict:
    """In place of collections.defaultdict: a dictionary whose missing entries stay missing."""
    return {}


def _key(key: object) -> object:
    if isinstance(key, _Scalar):
        key = _Plain().convert(key).item()
    if not isinstance(key, (str, bytes, int, float)):
        raise pickle.UnpicklingError(f"expected text or numbers as keys, got {type(key).__name__}")
    return key


_CORE = ("numpy.core", "numpy._core")
_BUILTIN = ("__builtin__", "builtins")
_ADMITTED: dict[tuple[str, str], object] = {
    **{(f"{m}.multiarray", "_reconstruct"): _Array for m in _CORE},
    **{(f"{m}.multiarray", "scalar"): _Scalar for m in _CORE},
    **{(f"{m}.numeric", "_frombuffer"): _Buffer for m in _CORE},
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Class(),
    **{(m, "object"): _Class() for m in _BUILTIN},
    **{(m, n): _collection for m in _BUILTIN for n in ("set", "frozenset")},
    **{(m, n): _Class() for m in _BUILTIN for n in ("dict", "list")},
    **{(m, "bytes"): _no_bytes for m in _BUILTIN},
    **{(m, "_reconstructor"): _new_object for m in ("copy_reg", "copyreg")},
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _mapping,
    ("collections", "defaultdict"): _default,
    **{
        (f"scipy.sparse{m}", f"{cls.__name__[1:].lower()}_matrix"): cls
        for cls in (_Csc, _Csr, _Coo)
        for m in ("", f".{cls.__name__[1:].lower()}", f"._{cls.__name__[1:].lower()}")
    },
    **{("chumpy.ch", n): _Chumpy for n in ("Ch", "add", "subtract", "Select")},
    **{("chumpy.reordering", n): _Chumpy for n in ("Select", "transpose", "concatenate", "Reshape")},
}


class _Unpickler(pickle._Unpickler):  # in Python: its memo is a dictionary, and its opcodes can be replaced one by one
    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> object:
        try:
            return _ADMITTED[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted: only arrays are"[:200]) from None

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("persistent references are not admitted")

    def load_build(self) -> None:
        """Only stand-ins take a state: others would let a file write into this module's own objects."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _StandIn):
            raise pickle.UnpicklingError("a state for something that is no array")
        self.stack[-1].state = state

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._dictionary(self.stack[-1])[_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._dictionary(self.stack[-1]).update(_mapping(zip(items[::2], items[1::2])))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_mapping(zip(items[::2], items[1::2])))

    @staticmethod
    def _dictionary(target: object) -> dict:
        if not isinstance(target, dict):
            raise pickle.UnpicklingError("items for something that is no dictionary")
        return target

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    for _opcode in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        del dispatch[_opcode[0]]
    del _opcode


def restricted_load(path: str | Path, encoding: str = "latin1") -> object:
    """Load a pickle of dictionaries, lists, numbers, text, NumPy arrays, SciPy sparse matrices and chumpy arrays.

    chumpy objects come back as their arrays, sets as lists.  ``encoding`` is that of Python 2 strings.  Raises AssetError,
    naming the file, for anything else, without having run it.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path}: no such file (expected a pickle)")
    size = path.stat().st_size
    if size > MAX_PICKLE_BYTES:
        raise AssetError(f"{path}: {size >> 20} MB is too large for a pickle of arrays (limit {MAX_PICKLE_BYTES >> 20} MB)")
    try:
        with path.open("rb") as stream:
            return _Plain().convert(_Unpickler(stream, encoding=encoding).load())
    except Exception as error:  # a damaged stream can raise nearly anything, KeyError of an opcode included
        raise AssetError(f"{path}: not a pickle of arrays: {type(error).__name__}: {str(error)[:300]}") from error


class _Plain:
    """Stand-ins to arrays, through dictionaries, lists and tuples; each object once, however often it is referred to."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[object, object]] = {}  # id -> the object (kept alive) and its result

    def convert(self, value: object, depth: int = 0) -> object:
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep, or within itself")
        if not isinstance(value, (dict, list, tuple, _StandIn, _Class, type)) and not callable(value):
            return value
        if id(value) not in self._done:
            self._done[id(value)] = (value, self._convert(value, depth + 1))
        return self._done[id(value)][1]

    def _convert(self, value: object, depth: int) -> object:
        if isinstance(value, dict):
            return {k: self.convert(v, depth) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.convert(v, depth) for v in value)
        if isinstance(value, _Array):
            state = value.state
            if not isinstance(state, tuple) or len(state) not in (4, 5):
                raise ValueError("an array without its data")
            shape, dtype, fortran, data = state[-4:]
            return self._array(data, dtype, shape, "F" if fortran else "C", depth)
        if isinstance(value, _Buffer):
            data, dtype, shape, order = value.args
            return self._array(data, dtype, shape, order, depth)
        if isinstance(value, _Scalar):
            dtype, data = value.args
            return self._array(data, dtype, (), "C", depth)[()]
        if isinstance(value, _Chumpy):
            return self._chumpy(self._state(value, depth))
        if isinstance(value, (_Csc, _Csr, _Coo)):
            return _sparse(value.kind, self._state(value, depth))
        if isinstance(value, _Dtype):
            return value.numpy()
        raise ValueError("a class or function where data was expected")

    def _state(self, value: _StandIn, depth: int) -> dict:
        if not isinstance(value.state, dict):
            raise ValueError(f"{type(value).__name__[1:].lower()} object without its arrays")
        wanted = {"x", "a", "idxs", "preferred_shape", "_shape", "shape", "data", "indices", "indptr", "row", "col"}
        return {k: self.convert(v, depth) for k, v in value.state.items() if k in wanted}

    def _array(self, data: object, dtype: object, shape: object, order: object, depth: int) -> np.ndarray:
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without a type")
        kind = dtype.numpy()
        if kind.hasobject:
            if not isinstance(data, list):
                raise ValueError("an array of objects without its list")
            out = np.empty(len(data), object)
            for i, item in enumerate(data):
                out[i] = self.convert(item, depth)
            return out.reshape(_shape(shape), order="F" if order == "F" else "C")
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(raw, (bytes, bytearray)):
            raise ValueError(f"expected an array's bytes, got {type(raw).__name__}")
        flat = np.frombuffer(bytes(raw), kind) if raw else np.zeros(0, kind)
        return flat.reshape(_shape(shape), order="F" if order == "F" else "C").copy(order="C")

    @staticmethod
    def _chumpy(state: dict) -> np.ndarray:
        """A Ch keeps its numbers in ``x``; Select picks elements ``idxs`` of ``a`` into ``preferred_shape``."""
        if "x" in state:
            return np.asarray(state["x"])
        if "a" in state and "idxs" in state:
            picked = np.asarray(state["a"]).reshape(-1)[np.asarray(state["idxs"], np.int64).reshape(-1)]
            return picked.reshape(_shape(state["preferred_shape"])) if "preferred_shape" in state else picked
        raise ValueError("chumpy object of a kind that is computed, expected one that holds its numbers")


def _shape(shape: object) -> tuple[int, ...]:
    shape = tuple(int(n) for n in (shape if isinstance(shape, (tuple, list, np.ndarray)) else (shape,)))
    if len(shape) > 8 or any(n < 0 for n in shape):
        raise ValueError(f"array of shape {shape[:9]}")
    return shape


def _sparse(kind: type, state: dict) -> scipy.sparse.spmatrix:
    shape = _shape(state.get("_shape", state.get("shape", ())))
    if len(shape) != 2 or not all(0 < n <= 10_000_000 for n in shape):
        raise ValueError(f"sparse matrix of shape {shape}")
    if kind is _Coo.kind:
        row, col = (np.asarray(state[k], np.int64) for k in ("row", "col"))
        return kind((np.asarray(state["data"]), (row, col)), shape=shape)
    matrix = kind((np.asarray(state["data"]), np.asarray(state["indices"]), np.asarray(state["indptr"])), shape=shape)
    matrix.check_format(full_check=True)
    return matrix
