"""Named arrays in one block of memory, so that all of them cross to a device, or back, in one copy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import warp as wp

_ALIGNMENT = 256


def shares_memory(device: Any) -> bool:
    """Whether host and device see the same memory; the tests say no to take a GPU's way on the CPU."""
    return bool(device.is_cpu)


class Arena:
    """``host.name`` is a NumPy array, ``device.name`` the Warp array behind it; on the CPU both are the same memory.

    The host's side is pinned, so that copies are queued on the device's current stream and nobody waits.
    """

    def __init__(self, device: Any, **arrays: tuple[int, type]) -> None:
        """arrays: number of elements and Warp type of each."""
        offsets, total = {}, 0
        for name, (count, dtype) in arrays.items():
            offsets[name] = total
            total += -(-count * wp.types.type_size_in_bytes(dtype) // _ALIGNMENT) * _ALIGNMENT
        self._at, self._copies = device, not shares_memory(device)
        self._host = wp.zeros(max(total, 1), dtype=wp.uint8, device="cpu", pinned=not device.is_cpu)
        self._device = wp.zeros(max(total, 1), dtype=wp.uint8, device=device) if self._copies else self._host
        self.host, self.device = SimpleNamespace(), SimpleNamespace()
        self.fresh = False  # the host has seen what the device wrote last
        for name, (count, dtype) in arrays.items():
            place = {"dtype": dtype, "shape": count}
            setattr(self.device, name, wp.array(ptr=self._device.ptr + offsets[name], device=device, **place))
            setattr(self.host, name, wp.array(ptr=self._host.ptr + offsets[name], device="cpu", **place).numpy())

    def upload(self) -> None:
        """Queue the copy to the device."""
        if self._copies:
            wp.copy(self._device, self._host)

    def download(self) -> None:
        """Queue the copy to the host.  Who waits for it may set ``fresh``."""
        if self._copies:
            wp.copy(self._host, self._device)

    def arrive(self) -> None:
        """Bring the host up to date and wait for it, unless it is ``fresh``."""
        if self._copies and not self.fresh:
            self.download()
            wp.synchronize_device(self._at)
        self.fresh = True
