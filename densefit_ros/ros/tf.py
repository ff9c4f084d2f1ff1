"""Bodies as TF frames (:mod:`densefit_ros.ros.links`): one message per image, stamped as the image."""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from std_msgs.msg import Header

from ..types import FrameResult
from .links import Pose, frames


def transforms(result: FrameResult, body: Any, header: Header, links: bool, smpl_joints: bool) -> list[TransformStamped]:
    """All frames of one image, for one TFMessage.  ``header`` is the image's."""
    return [_message(pose, header) for pose in frames(result, body, header.frame_id, links, smpl_joints)]


def _message(pose: Pose, header: Header) -> TransformStamped:
    x, y, z = pose.xyz_m.tolist()
    qx, qy, qz, qw = pose.quat_xyzw.tolist()
    return TransformStamped(
        header=Header(stamp=header.stamp, frame_id=pose.parent),
        child_frame_id=pose.child,
        transform=Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)),
    )
