"""What is said of an image, as plain nested dictionaries of our messages' fields; headers are left out.

No ROS here: rclpy's messages and those of a bag written without ROS are both filled from these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..body.model import joint_transforms
from ..types import BodyParams, FrameResult, PersonResult

Fields = dict[str, Any]


def bodies(result: FrameResult, topology_id: str) -> Fields:
    """SmplBodyArray: everybody, refined."""
    return {"topology_id": topology_id, "bodies": [_body(p, p.params, p.joints, result) for p in result.people]}


def first_estimates(result: FrameResult, body: Any) -> Fields:
    """SmplBodyArray: everybody as first estimated, before refinement.

    Velocity, covariance and iterations are zero and the fit error NaN; status and box are those of the refined body."""
    out = []
    if result.people:
        _, joints, _ = joint_transforms(body, BodyParams.stack([p.first_estimate for p in result.people]))
        out = [_body(p, p.first_estimate, j, result, refined=False) for p, j in zip(result.people, joints)]
    return {"topology_id": body.topology_id, "bodies": out}


def meshes(result: FrameResult, topology_id: str) -> Fields:
    """SmplMeshArray: everybody's surface."""
    return {"topology_id": topology_id, "meshes": [{"id": p.track_id, "vertices": _flat(p.vertices)} for p in result.people]}


def topology(body: Any) -> Fields:
    """MeshTopology: how the vertices of this body model are connected."""
    empty = np.zeros(0, np.float32)
    return {
        "topology_id": body.topology_id,
        "body_model": body.name,
        "vertex_count": len(body.v_template),
        "faces": _flat(body.faces, np.uint32),
        "uv": _flat(body.uv) if body.uv is not None else empty,
        "uv_faces": _flat(body.uv_faces, np.uint32) if body.uv_faces is not None else empty.astype(np.uint32),
    }


def timing(result: FrameResult, total_ms: float, age_ms: float, counts: tuple[int, int, int]) -> Fields:
    """FrameTiming: where the time went; ``counts`` are images received, answered, dropped."""
    return {
        "stages": list(result.stage_ms),
        "stage_ms": np.array(list(result.stage_ms.values()), np.float32),
        "total_ms": float(total_ms),
        "age_ms": float(age_ms),
        "received": counts[0],
        "answered": counts[1],
        "dropped": counts[2],
    }


def _body(person: PersonResult, params: BodyParams, joints: np.ndarray, result: FrameResult, refined: bool = True) -> Fields:
    return {
        "id": person.track_id,
        "tracking_state": int(person.tracking_state),
        "status": int(person.status),
        "confidence": float(person.confidence),
        "betas": _flat(params.betas),
        "global_orient": _flat(params.root_rotvec),
        "body_pose": _flat(params.joint_rotvec),
        "transl": _flat(params.t_camera_root),
        "joints": _flat(joints),
        "velocity": _flat(person.velocity_m_s) if refined else np.zeros(3, np.float32),
        "velocity_over_ground": refined and result.camera_motion_known,
        "joint_covariance": _flat(person.joint_covariance) if refined else np.zeros(216, np.float32),
        "box_xywh": _flat(person.box_xywh),
        "fit_error_px": float(person.fit_error_px) if refined else float("nan"),
        "iterations": int(person.iterations) if refined else 0,
        "source": person.source,
        "scale_source": person.scale_source,
    }


def _flat(a: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    return np.ascontiguousarray(a, dtype).reshape(-1)
