"""Pickles as joblib writes them (WHAM, PHALP): arrays lie as raw bytes between the opcodes.  As restricted as the rest.

Layout, from joblib's numpy_pickle module: in place of each array stands a ``NumpyArrayWrapper`` with shape, order, dtype and
alignment; its bytes follow, after one byte that counts padding where an alignment is given.  The whole may be compressed.
"""

from __future__ import annotations

import io
import math
import pickle
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import AssetError
from . import unpickle
from .unpickle import MAX_PICKLE_BYTES

_ZLIB, _GZIP = b"\x78", b"\x1f\x8b"


class _JoblibArray(unpickle._StandIn):
    """Made in place of joblib.numpy_pickle.NumpyArrayWrapper; the state says how to read what follows."""


class _JoblibUnpickler(unpickle._Unpickler):
    dispatch = dict(unpickle._Unpickler.dispatch)

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self._stream = stream
        self._encoding = encoding

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return _JoblibArray
        return super().find_class(module, name)

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack[-1] = self._array(self.stack[-1].state)

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, state: object) -> object:
        dtype = state.get("dtype") if isinstance(state, dict) else None
        if not isinstance(dtype, unpickle._Dtype):
            raise pickle.UnpicklingError("an array without a type")
        kind, shape = dtype.numpy(), unpickle._shape(state.get("shape", ()))
        if kind.hasobject:
            return unpickle._Unpickler(self._stream, encoding=self._encoding).load()
        if state.get("numpy_array_alignment_bytes") is not None:
            self._stream.read(self._stream.read(1)[0])
        size = math.prod(shape) * kind.itemsize
        raw = self._stream.read(min(size, MAX_PICKLE_BYTES))
        if len(raw) != size:
            raise pickle.UnpicklingError(f"an array of {size} bytes, of which {len(raw)} are there")
        flat = np.frombuffer(raw, kind) if raw else np.zeros(0, kind)
        return flat.reshape(shape, order="F" if state.get("order") == "F" else "C").copy(order="C")


def restricted_load_joblib(path: str | Path, encoding: str = "latin1") -> object:
    """Like :func:`densefit_ros.body.unpickle.restricted_load`, for files of joblib and of pickle alike.

    Raises AssetError, naming the file, for anything but dictionaries, lists, numbers, text and arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise AssetError(f"{path}: no such file (expected a pickle)")
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise AssetError(f"{path}: {path.stat().st_size >> 20} MB is too large for a pickle of arrays")
    try:
        with _opened(path) as stream:
            return unpickle._Plain().convert(_JoblibUnpickler(stream, encoding).load())
    except Exception as error:  # a damaged stream can raise nearly anything, KeyError of an opcode included
        raise AssetError(f"{path}: not a pickle of arrays: {type(error).__name__}: {str(error)[:300]}") from error


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        head = stream.read(2)
    if head[:1] != _ZLIB and head != _GZIP:
        return path.open("rb")
    reader = zlib.decompressobj(31 if head == _GZIP else 15)
    data = reader.decompress(path.read_bytes(), MAX_PICKLE_BYTES + 1)
    if len(data) > MAX_PICKLE_BYTES:
        raise ValueError(f"more than {MAX_PICKLE_BYTES >> 20} MB unpacked")
    return io.BytesIO(data)
