"""What rviz shows of people: meshes with names, and an ellipsoid of uncertainty around every joint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from rclpy.serialization import serialize_message
from scipy.special import gammaincinv
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ..body.joints import JOINT_INDEX
from ..geometry import so3
from ..types import NUM_JOINTS, FrameResult, PersonResult, TrackingState
from ..viz.decimate import decimated
from ..viz.overlay import color_of
from .cdr import EllipsoidMarkers, MeshMarker, deletions, joined
from .params import RosConfig

MESH_NS, JOINT_NS, LABEL_NS = "densefit_mesh", "densefit_joints", "densefit_labels"
COASTING_ALPHA = 0.4  # of the opacity, for people whom nobody sees
LABEL_M, LABEL_ABOVE_HEAD_M = 0.12, 0.3  # height of the letters, and their middle over the head's joint


def marker_number(track_id: str) -> int:
    """A number below 26^5 for a name of five letters: the same person has the same marker ids, also after coming back."""
    number = 0
    for letter in track_id:
        number = number * 26 + ord(letter) - ord("a")
    return number


def ellipsoids(covariance: np.ndarray, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Axes of the ellipsoids that hold a joint with the given probability, for covariances (N,3,3) m^2.

    Returns quaternions (N,4) xyzw of their axes in the covariances' frame, and diameters (N,3) m.
    """
    variance, axes = np.linalg.eigh(np.asarray(covariance, np.float64))
    axes[np.linalg.det(axes) < 0, :, 0] *= -1
    # The squared distance in standard deviations is chi-square with three degrees of freedom.
    squared_radius = 2.0 * gammaincinv(1.5, probability)
    return so3.to_quat_xyzw(axes), 2.0 * np.sqrt(squared_radius * np.maximum(variance, 1e-10))


class Markers:
    """Makes the two MarkerArrays, serialised; each has its own topic, so that each is made only while somebody looks at it."""

    def __init__(self, body: Any, max_faces: int) -> None:
        """The mesh is decimated here, once."""
        self._vertices, self._faces = decimated(body, max_faces)
        self._mesh: MeshMarker | None = None
        self._joints: EllipsoidMarkers | None = None
        self._shown: dict[str, set[str]] = {MESH_NS: set(), JOINT_NS: set()}

    def meshes(self, result: FrameResult, header: Header, config: RosConfig) -> bytes:
        """A triangle list and a name per person; people who have gone are deleted."""
        if self._mesh is None or self._mesh.key != (header.frame_id, config.marker_lifetime_s):
            self._mesh = MeshMarker(self._faces, header.frame_id, config.marker_lifetime_s, MESH_NS)
        arrays = []
        for person in result.people:
            rgba = _color(person, config.marker_alpha)
            vertices, number = person.vertices[self._vertices], marker_number(person.track_id)
            arrays.append(self._mesh.render(vertices, result.stamp_ns, number, rgba))
        gone = self._gone((MESH_NS, LABEL_NS), 1, result, header)
        return _array(arrays, [*(_label(p, header, config) for p in result.people), *gone])

    def joints(self, result: FrameResult, header: Header, config: RosConfig) -> bytes:
        """24 ellipsoids per person, each with its joint inside it with probability ros.joint_marker_probability."""
        if self._joints is None or self._joints.key != (header.frame_id, config.marker_lifetime_s):
            self._joints = EllipsoidMarkers(NUM_JOINTS, header.frame_id, config.marker_lifetime_s, JOINT_NS)
        arrays = []
        for person in result.people:
            quat_xyzw, diameter_m = ellipsoids(person.joint_covariance, config.joint_marker_probability)
            first = NUM_JOINTS * marker_number(person.track_id)
            rgba = _color(person, config.marker_alpha)
            arrays.append(self._joints.render(person.joints, quat_xyzw, diameter_m, result.stamp_ns, first, rgba))
        return _array(arrays, self._gone((JOINT_NS,), NUM_JOINTS, result, header))

    def _gone(self, names: tuple[str, ...], each: int, result: FrameResult, header: Header) -> list[Marker]:
        present = {p.track_id for p in result.people}
        gone, self._shown[names[0]] = self._shown[names[0]] - present, present
        ids = [(ns, each * marker_number(t) + k) for ns in names for t in sorted(gone) for k in range(each)]
        return deletions(ids, header.frame_id, result.stamp_ns)


def _array(arrays: Sequence[bytes], markers: Sequence[Marker]) -> bytes:
    """All of an image's markers in one message, those that are serialised first."""
    return joined([*arrays, serialize_message(MarkerArray(markers=list(markers)))])


def _label(person: PersonResult, header: Header, config: RosConfig) -> Marker:
    """Name and distance of the pelvis, above the head in the picture."""
    x, y, z = (person.joints[JOINT_INDEX["head"]] - (0.0, LABEL_ABOVE_HEAD_M, 0.0)).tolist()
    lifetime_s = config.marker_lifetime_s
    marker = Marker(header=header, ns=LABEL_NS, id=marker_number(person.track_id), type=Marker.TEXT_VIEW_FACING)
    marker.pose.position, marker.pose.orientation.w, marker.scale.z = Point(x=x, y=y, z=z), 1.0, LABEL_M
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    marker.lifetime = Duration(sec=int(lifetime_s), nanosec=int(lifetime_s % 1 * 1e9))
    unseen = ", not seen" if person.tracking_state is TrackingState.PREDICTED else ""
    marker.text = f"{person.track_id} {np.linalg.norm(person.joints[0]):.1f} m{unseen}"
    return marker


def _color(person: PersonResult, alpha: float) -> tuple[float, float, float, float]:
    r, g, b = (color_of(person.track_id) / 255.0).tolist()
    return r, g, b, alpha * (COASTING_ALPHA if person.tracking_state is TrackingState.PREDICTED else 1.0)
