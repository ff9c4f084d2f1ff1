"""Named arrays in one block of memory, so that all of them cross to the device, or back, in one copy."""

from __future__ import annotations

from types import SimpleNamespace

import warp as wp

_ALIGNMENT = 256


class Arena:
    """``host.name`` is a NumPy array, ``device.name`` the Warp array behind it; on the CPU both are the same memory.

    The host's side is pinned, so that copies are queued on the device's current stream and nobody waits.
    """

    def __init__(self, device: wp.context.Device, **arrays: tuple[int, type]) -> None:
        """arrays: number of elements and Warp type of each."""
        offsets, total = {}, 0
        for name, (count, dtype) in arrays.items():
            offsets[name] = total
            total += -(-count * wp.types.type_size_in_bytes(dtype) // _ALIGNMENT) * _ALIGNMENT
        self._copies = not device.is_cpu
        self._host = wp.zeros(max(total, 1), dtype=wp.uint8, device="cpu", pinned=self._copies)
        self._device = wp.zeros_like(self._host, device=device) if self._copies else self._host
        self.host, self.device = SimpleNamespace(), SimpleNamespace()
        for name, (count, dtype) in arrays.items():
            place = {"dtype": dtype, "shape": count}
            setattr(self.device, name, wp.array(ptr=self._device.ptr + offsets[name], device=device, **place))
            setattr(self.host, name, wp.array(ptr=self._host.ptr + offsets[name], device="cpu", **place).numpy())

    def upload(self) -> None:
        """Queue the copy to the device."""
        if self._copies:
            wp.copy(self._device, self._host)

    def download(self) -> None:
        """Queue the copy to the host."""
        if self._copies:
            wp.copy(self._host, self._device)
