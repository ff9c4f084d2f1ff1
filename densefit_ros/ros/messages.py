"""Results to messages of this package.  Stamps and frames are always the image's."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from densefit_ros.msg import FrameTiming, MeshTopology, SmplBody, SmplBodyArray, SmplMesh, SmplMeshArray

from ..types import FrameResult
from . import fields

_NS = 1_000_000_000


def time_message(ns: int) -> Time:
    """Nanoseconds to a ROS time."""
    return Time(sec=ns // _NS, nanosec=ns % _NS)


def time_ns(stamp: Time) -> int:
    """A ROS time to nanoseconds."""
    return stamp.sec * _NS + stamp.nanosec


def bodies_message(result: FrameResult, header: Header, topology_id: str) -> SmplBodyArray:
    """Everybody, refined."""
    return _body_array(fields.bodies(result, topology_id), header)


def first_estimate_message(result: FrameResult, header: Header, body: Any) -> SmplBodyArray:
    """Everybody as first estimated, before refinement."""
    return _body_array(fields.first_estimates(result, body), header)


def meshes_message(result: FrameResult, header: Header, topology_id: str) -> SmplMeshArray:
    """Everybody's surface."""
    said = fields.meshes(result, topology_id)
    meshes = [SmplMesh(id=m["id"], vertices=_array(m["vertices"])) for m in said["meshes"]]
    return SmplMeshArray(header=header, topology_id=topology_id, meshes=meshes)


def topology_message(body: Any, now: Time) -> MeshTopology:
    """How the vertices of this body model are connected."""
    said = fields.topology(body)
    arrays = {n: _array(said.pop(n)) for n in ("faces", "uv", "uv_faces")}
    return MeshTopology(header=Header(stamp=now), **said, **arrays)


def timing_message(
    result: FrameResult, header: Header, total_ms: float, age_ms: float, counts: tuple[int, int, int]
) -> FrameTiming:
    """Where the time went; ``counts`` are images received, answered, dropped."""
    said = fields.timing(result, total_ms, age_ms, counts)
    return FrameTiming(header=header, **{**said, "stage_ms": _array(said["stage_ms"])})


def _body_array(said: fields.Fields, header: Header) -> SmplBodyArray:
    return SmplBodyArray(header=header, topology_id=said["topology_id"], bodies=[SmplBody(**b) for b in said["bodies"]])


def _array(a: np.ndarray) -> array.array:
    # array.array crosses into the message by one memory copy; lists and NumPy arrays are walked element by element.
    out = array.array("f" if a.dtype == np.float32 else "I")
    out.frombytes(a.tobytes())
    return out
