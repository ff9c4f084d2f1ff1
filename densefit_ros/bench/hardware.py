"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
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


def commit() -> str:
    """The commit of the source tree, with ``+`` where it has changes; the package's version outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "densefit_ros")
        return head + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        from densefit_ros import __version__

        return f"v{__version__}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
