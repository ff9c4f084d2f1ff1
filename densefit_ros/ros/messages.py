"""Results to messages of this package, and back where a tool needs it.  Stamps and frames are always the image's."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from densefit_ros.msg import FrameTiming, MeshTopology, SmplBody, SmplBodyArray, SmplMesh, SmplMeshArray

from ..body.model import joint_transforms
from ..types import BodyParams, FrameResult, PersonResult

_NS = 1_000_000_000


def time_message(ns: int) -> Time:
    """Nanoseconds to a ROS time."""
    return Time(sec=ns // _NS, nanosec=ns % _NS)


def time_ns(stamp: Time) -> int:
    """A ROS time to nanoseconds."""
    return stamp.sec * _NS + stamp.nanosec


def bodies_message(result: FrameResult, header: Header, topology_id: str) -> SmplBodyArray:
    """Everybody, refined."""
    bodies = [_body(p, p.params, p.joints) for p in result.people]
    return SmplBodyArray(header=header, topology_id=topology_id, bodies=bodies)


def first_estimate_message(result: FrameResult, header: Header, body: Any) -> SmplBodyArray:
    """Everybody as first estimated, before refinement; what only the fit knows is empty or zero."""
    bodies = []
    if result.people:
        _, joints, _ = joint_transforms(body, BodyParams.stack([p.first_estimate for p in result.people]))
        bodies = [_body(p, p.first_estimate, j, refined=False) for p, j in zip(result.people, joints)]
    return SmplBodyArray(header=header, topology_id=body.topology_id, bodies=bodies)


def meshes_message(result: FrameResult, header: Header, topology_id: str) -> SmplMeshArray:
    """Everybody's surface."""
    return SmplMeshArray(
        header=header, topology_id=topology_id, meshes=[SmplMesh(id=p.track_id, vertices=_f32(p.vertices)) for p in result.people]
    )


def topology_message(body: Any, now: Time) -> MeshTopology:
    """How the vertices of this body model are connected."""
    return MeshTopology(
        header=Header(stamp=now),
        topology_id=body.topology_id,
        body_model=body.name,
        vertex_count=len(body.v_template),
        faces=_u32(body.faces),
        uv=_f32(body.uv) if body.uv is not None else array.array("f"),
        uv_faces=_u32(body.uv_faces) if body.uv_faces is not None else array.array("I"),
    )


def timing_message(
    result: FrameResult, header: Header, total_ms: float, age_ms: float, counts: tuple[int, int, int]
) -> FrameTiming:
    """Where the time went; ``counts`` are images received, answered, dropped."""
    return FrameTiming(
        header=header,
        stages=list(result.stage_ms),
        stage_ms=array.array("f", result.stage_ms.values()),
        total_ms=float(total_ms),
        age_ms=float(age_ms),
        received=counts[0],
        answered=counts[1],
        dropped=counts[2],
    )


def params_of(message: SmplBody) -> BodyParams:
    """A body message back to parameters, a batch of one."""
    return BodyParams(
        np.asarray(message.betas, np.float32)[None],
        np.asarray(message.global_orient, np.float32)[None],
        np.asarray(message.body_pose, np.float32).reshape(1, 23, 3),
        np.asarray(message.transl, np.float32)[None],
    )


def _body(person: PersonResult, params: BodyParams, joints: np.ndarray, refined: bool = True) -> SmplBody:
    return SmplBody(
        id=person.track_id,
        tracking_state=int(person.tracking_state),
        status=int(person.status),
        confidence=float(person.confidence),
        betas=_flat(params.betas),
        global_orient=_flat(params.root_rotvec),
        body_pose=_flat(params.joint_rotvec),
        transl=_flat(params.t_camera_root),
        joints=_flat(joints),
        joint_covariance=_flat(person.joint_covariance) if refined else np.zeros(216, np.float32),
        box_xywh=_flat(person.box_xywh),
        fit_error_px=float(person.fit_error_px) if refined else float("nan"),
        iterations=int(person.iterations) if refined else 0,
        source=person.source,
        scale_source=person.scale_source,
    )


def _flat(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a, np.float32).reshape(-1)


def _f32(a: np.ndarray) -> array.array:
    # array.array crosses into the message by one memory copy; lists and NumPy arrays are walked element by element.
    out = array.array("f")
    out.frombytes(np.ascontiguousarray(a, np.float32).tobytes())
    return out


def _u32(a: np.ndarray) -> array.array:
    out = array.array("I")
    out.frombytes(np.ascontiguousarray(a, np.uint32).tobytes())
    return out
