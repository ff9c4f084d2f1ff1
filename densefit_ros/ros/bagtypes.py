"""The message types of this package for rosbags, which reads and writes bags without ROS."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ..errors import AssetError

PACKAGE = "densefit_ros"


def typestore() -> Typestore:
    """The standard types and ours.  Raises AssetError when our definitions are not installed."""
    store = get_typestore(Stores.ROS2_KILTED)
    for path in sorted(_message_directory().glob("*.msg")):
        store.register(get_types_from_msg(path.read_text(), f"{PACKAGE}/msg/{path.stem}"))
    return store


def _message_directory() -> Path:
    beside = Path(__file__).resolve().parents[2] / "msg"
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [Path(sys.prefix)]
    for directory in [beside, *(p / "share" / PACKAGE / "msg" for p in prefixes)]:
        if (directory / "SmplBody.msg").is_file():
            return directory
    raise AssetError(f"the .msg files of {PACKAGE} are not found; expected them in {beside} or under share/ of a ROS prefix")
