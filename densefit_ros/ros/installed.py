"""Where the files of this package lie that are not Python: in the checkout, or under share/ of an installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import AssetError

PACKAGE = "densefit_ros"


def share(file: str) -> Path:
    """Where ``file`` lies, a path such as config/default.yaml.  Raises AssetError."""
    checkout = Path(__file__).resolve().parents[2]
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [sys.prefix]
    for folder in [checkout, *(Path(p) / "share" / PACKAGE for p in prefixes)]:
        if (folder / file).is_file():
            return folder / file
    raise AssetError(f"{file} is not found in {checkout} or under share/{PACKAGE} of a ROS prefix: is the package installed?")
