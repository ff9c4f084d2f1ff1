"""Where the camera is in a frame that stands still, and above the floor, from TF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ..errors import BackendUnavailable, MessageError
from .links import is_persons, person_below

DEAD_NS = 1_000_000_000  # whoever says where the camera is and said nothing for so long is not waited for


class CameraMotion:
    """Listens to /tf and /tf_static of the node; lookups are for any thread."""

    def __init__(self, node: Any, frames: Sequence[str]) -> None:
        """``frames``: those that :meth:`T_to` will be asked for.  Raises BackendUnavailable without tf2_ros."""
        tf2_ros = library()
        self._errors = tf2_ros.TransformException
        self._frames = tuple(frames)
        self._buffer = tf2_ros.Buffer()
        self._people: set[str] = set()
        self._listener = tf2_ros.TransformListener(_OfOthers(self._buffer, self._people), node, spin_thread=False)

    def leave_out(self, track_ids: Iterable[str]) -> None:
        """Frames of these people are about to be published here: they are nothing that a camera hangs on."""
        self._people.update(track_ids)

    def may_come(self, frame_id: str, stamp: Any) -> bool:
        """Whether a pose of the camera at the stamp (builtin_interfaces/Time) is still to come: the newest is a little older."""
        return any(self._may_come(frame, frame_id, stamp) for frame in self._frames)

    def _may_come(self, frame: str, frame_id: str, stamp: Any) -> bool:
        if self._buffer.can_transform(frame, frame_id, _time(stamp)):
            return False
        try:
            newest = self._buffer.lookup_transform(frame, frame_id, _time()).header.stamp
        except self._errors:
            return False  # the frames have nothing to do with one another, so far
        return 0 < _time(stamp).nanoseconds - _time(newest).nanoseconds < DEAD_NS

    def T_to(self, frame: str, frame_id: str, stamp: Any) -> np.ndarray:
        """(4,4) m from ``frame_id``, the image's, to one of the frames at the stamp.  Raises MessageError."""
        try:
            found = self._buffer.lookup_transform(frame, frame_id, _time(stamp)).transform
        except self._errors as e:
            raise MessageError(f"no transform from '{frame_id}' to '{frame}': {str(e).splitlines()[0]}") from e
        T = np.eye(4)
        q, t = found.rotation, found.translation
        if not abs(q.x**2 + q.y**2 + q.z**2 + q.w**2 - 1) < 0.1:  # written so that NaN fails
            raise MessageError(f"the transform from '{frame_id}' to '{frame}' has no rotation")
        T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
        T[:3, 3] = t.x, t.y, t.z
        return T

    def forget(self) -> None:
        """Time went back: what comes now is older than what is there, and would be refused."""
        self._buffer.clear()

    def destroy(self) -> None:
        """Stop listening."""
        self._listener.unregister()


class _OfOthers:
    """A tf2 buffer that takes no people in: it never forgets a frame, and every person ever tracked brings sixteen.

    Those of other nodes, one for each camera, say, are known by their first frame.
    """

    def __init__(self, buffer: Any, people: set[str]) -> None:
        self._buffer, self._people = buffer, people

    def set_transform(self, transform: Any, authority: str) -> None:
        """As tf2's."""
        if name := person_below(transform.child_frame_id, transform.header.frame_id):
            self._people.add(name)
        if not is_persons(transform.child_frame_id, self._people):
            self._buffer.set_transform(transform, authority)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)


def library() -> Any:
    """The module tf2_ros.  Raises BackendUnavailable."""
    try:
        import tf2_ros
    except ImportError as e:
        raise BackendUnavailable(
            "ros.world_frame and ros.ground_frame need the package tf2_ros (apt: ros-<distro>-tf2-ros-py), "
            f"which is not installed: {e}"
        ) from e
    return tf2_ros


def _time(stamp: Any = None) -> Any:
    """A stamp as tf2_ros takes it; without one the newest time that it knows."""
    from rclpy.time import Time  # here: bags are answered by the same handler without ROS

    return Time() if stamp is None else Time.from_msg(stamp)
