"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe(device: str = "cpu") -> str:
    """Processor (and GPU) in one line; no name of the machine."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    text = f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    if device.startswith("cuda"):
        import warp as wp

        text += f", {wp.get_device(device).name}"
    return text
