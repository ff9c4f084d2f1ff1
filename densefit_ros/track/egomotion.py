"""The camera's own motion, where somebody knows it: what the tracker remembers is in the camera's frame, and moves the other way.

A head that turns at 1 rad/s moves somebody at 3 m by 10 cm from image to image.  While a person is measured the fit makes up for
that; who coasts or is lost would be looked for in the wrong place, and velocities would hold the camera's.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..body.model import BodyModel, rest_joints
from ..geometry import so3
from ..types import BodyParams
from . import motion
from .state import Track, TrackerState


def followed(body: BodyModel, state: TrackerState, T_world_camera: np.ndarray | None, stamp_ns: int) -> TrackerState:
    """``state`` in the camera's frame of ``stamp_ns``; (4,4) m from the camera's optical frame to one that stands still.

    Without a pose the camera is taken to have stood.  When there is one again, those move who were measured last while the one
    before held: who was measured since is where the camera of that image saw them.
    """
    before, pose_ns = state.T_world_camera, state.pose_ns
    if T_world_camera is None:
        return state
    T_world_camera = np.array(T_world_camera, float)  # a copy: the caller may write the next pose into the same array
    state = dataclasses.replace(state, T_world_camera=T_world_camera, pose_ns=stamp_ns)
    if before is None or np.array_equal(before, T_world_camera):
        return state
    T_now_before = np.linalg.inv(T_world_camera) @ before

    def moved(tracks: tuple[Track, ...]) -> tuple[Track, ...]:
        return tuple(_moved(body, t, T_now_before) if t.measured_ns <= pose_ns else t for t in tracks)

    return dataclasses.replace(state, tracks=moved(state.tracks), lost=moved(state.lost))


def moved_params(body: BodyModel, params: BodyParams, T: np.ndarray) -> BodyParams:
    """The same bodies with every point moved by the rigid motion ``T`` (4,4), m."""
    rotation = T[:3, :3]
    pelvis = rest_joints(body, params.betas)[:, 0]  # SMPL turns about it, and adds its translation afterwards
    t = (pelvis + params.t_camera_root) @ rotation.T + T[:3, 3] - pelvis
    root = so3.log(rotation @ so3.exp(params.root_rotvec.astype(np.float64)))
    return dataclasses.replace(params, root_rotvec=root.astype(np.float32), t_camera_root=t.astype(np.float32))


def _moved(body: BodyModel, track: Track, T: np.ndarray) -> Track:
    rotation = T[:3, :3].astype(np.float32)
    turning = track.velocity.rot_rad_s.copy()
    turning[0] = rotation @ turning[0]  # the root's alone is in the camera's frame
    return dataclasses.replace(
        track,
        params=moved_params(body, track.params, T),
        velocity=motion.Velocity(turning, rotation @ track.velocity.t_m_s),
        joint_covariance=rotation @ track.joint_covariance @ rotation.T,
    )
