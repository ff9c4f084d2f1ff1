"""The node's topics into a rosbag2, with their definitions, without ROS.

A single file is written in a folder beside it, NAME.mcap.unfinished, and takes its place when it is whole.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys.store import Typestore

from ...errors import AssetError
from ...types import FrameResult
from .. import fields
from ..bagtypes import PACKAGE, typestore
from ..links import frames
from ..params import RosConfig

NODE = "/densefit"
TYPES = {
    f"{NODE}/bodies": f"{PACKAGE}/msg/SmplBodyArray",
    f"{NODE}/first_estimate": f"{PACKAGE}/msg/SmplBodyArray",
    f"{NODE}/meshes": f"{PACKAGE}/msg/SmplMeshArray",
    f"{NODE}/timing": f"{PACKAGE}/msg/FrameTiming",
    f"{NODE}/topology": f"{PACKAGE}/msg/MeshTopology",
    f"{NODE}/overlay": "sensor_msgs/msg/Image",
    "/tf": "tf2_msgs/msg/TFMessage",
}
_FAILURES = (OSError, sqlite3.Error, WriterError)
_FOREVER = QosTime(2147483647, 4294967295)


class BagSink:
    """Writes answers.  ``path`` ending in .mcap becomes one file, anything else a rosbag2 folder; used with ``with``."""

    def __init__(self, path: Path, body: Any, ros: RosConfig, overlay: bool = False, sqlite: bool = False) -> None:
        """``ros`` says which frames go to /tf.

        Raises AssetError when the place is taken, be it by a run that did not end, or cannot be written.
        """
        self._path, self._body, self._ros = path, body, ros
        single = path.suffix == ".mcap"
        self._folder = path.with_name(path.name + ".unfinished") if single else path
        if path.exists():
            raise AssetError(f"{path} exists already: remove it, or choose another --out")
        if self._folder.exists():
            raise AssetError(
                f"{self._folder} exists already, of a run that did not end: keep what you need of it and remove it, "
                "or choose another --out"
            )
        self._store, self._broken = typestore(), False
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            plugin = StoragePlugin.SQLITE3 if sqlite and not single else StoragePlugin.MCAP
            # Version 9 names QoS in words, which Humble and Iron cannot read; newer ROS reads 8 as well.
            self._writer = Writer(self._folder, version=8, storage_plugin=plugin)
            self._writer.open()
            self._connections = {
                topic: self._writer.add_connection(
                    topic, kind, typestore=self._store, offered_qos_profiles=[latched()] if topic.endswith("/topology") else []
                )
                for topic, kind in TYPES.items()
                if overlay or not topic.endswith("/overlay")
            }
        except _FAILURES as e:
            if not isinstance(e, WriterError):  # which another run's folder may be the reason of
                shutil.rmtree(self._folder, ignore_errors=True)
            raise AssetError(f"cannot write a bag to {path}: {e}") from e
        self._topology_written = False

    def __enter__(self) -> BagSink:
        return self

    def __exit__(self, *_: object) -> None:
        """Finishes the file, also after an error: what was answered is kept.  Raises AssetError when that fails."""
        try:
            self._writer.close()
            if self._folder != self._path and not self._broken:
                (self._folder / f"{self._folder.name}.mcap").rename(self._path)
                shutil.rmtree(self._folder)
        except _FAILURES as e:
            if not self._broken:  # or the error on its way has said it
                raise self._failed(e) from e

    def write(self, result: FrameResult, header: Any, time_ns: int, total_ms: float, count: int, picture: Any = None) -> None:
        """Everything about one image; ``header`` is the image's, ``time_ns`` when it was recorded.  Raises AssetError."""
        stamp = {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec}
        head = {"header": {"stamp": stamp, "frame_id": header.frame_id}}
        if not self._topology_written:
            self._topology_written = True
            said = {"header": {"stamp": stamp, "frame_id": ""}, **fields.topology(self._body)}
            self._put(f"{NODE}/topology", time_ns, said)
        self._put(f"{NODE}/bodies", time_ns, {**head, **fields.bodies(result, self._body.topology_id)})
        self._put(f"{NODE}/first_estimate", time_ns, {**head, **fields.first_estimates(result, self._body)})
        self._put(f"{NODE}/meshes", time_ns, {**head, **fields.meshes(result, self._body.topology_id)})
        # Nobody waits for an offline answer: its age is the time that it took.
        self._put(f"{NODE}/timing", time_ns, {**head, **fields.timing(result, total_ms, total_ms, (count, count, 0))})
        if self._ros.tf and result.people and header.frame_id:
            poses = frames(result, self._body, header.frame_id, self._ros.tf_links, self._ros.tf_smpl_joints)
            self._put("/tf", time_ns, {"transforms": [_transform(p, stamp) for p in poses]})
        if picture is not None:
            height, width = picture.shape[:2]
            image = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
            self._put(f"{NODE}/overlay", time_ns, {**head, **image, "data": picture.reshape(-1)})

    def _put(self, topic: str, time_ns: int, values: fields.Fields) -> None:
        message = build(self._store, TYPES[topic], values)
        try:
            self._writer.write(self._connections[topic], time_ns, self._store.serialize_cdr(message, TYPES[topic]))
        except _FAILURES as e:
            self._broken = True
            raise self._failed(e) from e

    def _failed(self, error: Exception) -> AssetError:
        return AssetError(f"{self._path} cannot be written (disk full?): {error}; what came before is in {self._folder}")


def build(store: Typestore, kind: str, values: fields.Fields) -> Any:
    """A message of a bag from nested dictionaries, lists and arrays.  Raises KeyError on a missing field."""
    _, definition = store.fielddefs[kind]
    return store.types[kind](**{name: _value(store, node, args, values[name]) for name, (node, args) in definition})


def _value(store: Typestore, node: Nodetype, args: Any, value: Any) -> Any:
    if node == Nodetype.NAME:
        return build(store, args, value)
    if node == Nodetype.BASE:
        return value
    (element, element_args), _ = args
    if element == Nodetype.NAME:
        return [build(store, element_args, v) for v in value]
    if element_args[0] == "string":
        return list(value)
    return np.ascontiguousarray(value, element_args[0])


def _transform(pose: Any, stamp: dict[str, int]) -> fields.Fields:
    return {
        "header": {"stamp": stamp, "frame_id": pose.parent},
        "child_frame_id": pose.child,
        "transform": {
            "translation": dict(zip("xyz", pose.xyz_m.tolist())),
            "rotation": dict(zip("xyzw", pose.quat_xyzw.tolist())),
        },
    }


def latched() -> Qos:
    """For a topic whose last message late subscribers still get."""
    return Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, _FOREVER, _FOREVER,
        QosLiveliness.AUTOMATIC, _FOREVER, False,
    )  # fmt: skip
