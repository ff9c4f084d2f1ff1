"""Which sources made a number, and the documents that numbers are written into."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..errors import AssetError

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def commit() -> str:
    """Twelve digits of the source tree's commit, with ``+`` where it has changes; the package's version outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "densefit_ros")
        return head + ("+" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        from .. import __version__

        return f"v{__version__}"


def insert(text: str, measured: str) -> str:
    """``text`` with everything between the lines BEGIN and END replaced.  Raises AssetError unless it has one of each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise AssetError(f"the document has no '{BEGIN}' and '{END}' lines to write between")
    return f"{text.split(BEGIN)[0]}{BEGIN}\n{measured}{END}{text.split(END)[1]}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
