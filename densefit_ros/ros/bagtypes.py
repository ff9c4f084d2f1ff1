"""The message types of this package for rosbags, which reads and writes bags without ROS."""

from __future__ import annotations

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from .installed import PACKAGE, share


def typestore() -> Typestore:
    """The standard types and ours.  Raises AssetError when our definitions are not installed."""
    store = get_typestore(Stores.ROS2_KILTED)
    for path in sorted(share("msg/SmplBody.msg").parent.glob("*.msg")):
        store.register(get_types_from_msg(path.read_text(), f"{PACKAGE}/msg/{path.stem}"))
    return store
