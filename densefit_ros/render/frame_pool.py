"""Output buffers that answers borrow: no copy, no page faults, and still nobody overwrites what a caller holds.

On the CPU a copy of all channels of one 256 px crop took 1.1 ms (3.2 ms a frame with the page faults of fresh memory),
as long as rendering it.  So an answer's arrays are read-only views of a buffer set, and the set becomes free again when
the last of them is dropped.  Read-only, because a rasteriser pass leaves alone what was background the last time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import warp as wp

from .recorded import Recorded

MAX_FREE_SETS = 3


class BufferSet:
    """Arrays of one answer, flat, and the launch that fills them."""

    def __init__(self, arrays: tuple[wp.array, ...], fill: Recorded) -> None:
        self.arrays = arrays
        self.fill = fill


class FramePool:
    """Free buffer sets of one capacity."""

    def __init__(self, make: Callable[[], BufferSet]) -> None:
        self._make = make
        self._free: list[BufferSet] = []

    def take(self) -> BufferSet:
        """A set that nobody reads."""
        return self._free.pop() if self._free else self._make()

    def lend(self, buffers: BufferSet, shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
        """Read-only CPU views of shape ``shape`` (+ (3,) for vectors).  The set comes back when all are gone."""
        loan = _Loan(self, buffers)
        out = []
        for array in buffers.arrays:
            flat = np.asarray(_View(loan, array))
            view = flat[: shape[0] * shape[1] * shape[2]].reshape(shape + flat.shape[1:])
            view.flags.writeable = False
            out.append(view)
        return tuple(out)

    def give_back(self, buffers: BufferSet) -> None:
        """Called by the last view that dies, from whatever thread drops it."""
        if len(self._free) < MAX_FREE_SETS:
            self._free.append(buffers)


class _Loan:
    def __init__(self, pool: FramePool, buffers: BufferSet) -> None:
        self._pool = pool
        self._buffers = buffers

    def __del__(self) -> None:
        self._pool.give_back(self._buffers)


class _View:
    """What NumPy keeps as the base of a lent array."""

    def __init__(self, loan: _Loan, array: wp.array) -> None:
        self._loan = loan
        self.__array_interface__: dict[str, Any] = array.__array_interface__
