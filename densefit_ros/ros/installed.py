"""Where the files of this package lie that are not Python: in the checkout, or under share/ of an installation.

And what to do where a Python package is missing.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path

from ..errors import AssetError

PACKAGE = "densefit_ros"

# What the node imports and package.xml cannot ask for, because rosdep has no key for it: module, and its name for pip.
_BY_PIP = {"warp": "warp-lang", "threadpoolctl": "threadpoolctl"}


def share(file: str) -> Path:
    """Where ``file`` lies, a path such as config/default.yaml.  Raises AssetError."""
    here = Path(__file__).resolve()
    checkout = here.parents[2]
    # What was installed together with this code is of its version.  Then ROS, and where pip puts things: in a virtual
    # environment, with --user, and on Debian, which keeps them in /usr/local though the prefix of its Python is /usr.
    beside = [p.parent for p in here.parents if p.name == "lib"][:1]
    ros = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    pip = [Path(p) for p in (sys.prefix, site.getuserbase(), sysconfig.get_path("data"))]
    prefixes = list(dict.fromkeys([*beside, *ros, *pip]))
    for folder in [checkout, *(p / "share" / PACKAGE for p in prefixes)]:
        if (folder / file).is_file():
            return folder / file
    searched = ", ".join(str(p) for p in prefixes)
    raise AssetError(f"{file} is not found in {checkout} or under share/{PACKAGE} of {searched}: is the package installed?")


def hint(error: Exception) -> str:
    """What to do where ``error`` misses a Python package that pip alone brings; empty for any other error."""
    if not isinstance(error, ModuleNotFoundError) or error.name not in _BY_PIP:
        return ""
    return (
        f"needs {error.name}, which is not installed for {sys.executable}: pip install {_BY_PIP[error.name]}, "
        "or activate the environment that has it and build the package anew"
    )
