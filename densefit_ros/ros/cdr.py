"""Markers as bytes.

A TRIANGLE_LIST of 13,000 faces as Point objects takes a tenth of a second to fill and serialise.  Here one small marker
is serialised once by ROS itself; the offsets of what changes are found by sentinel values, and per image NumPy writes
stamp, id, colour and points into a buffer that is published as it is, several of them as one array.  Nothing about the
message layout is assumed except CDR's alignment rule, so it works with every ROS 2 distribution's Marker.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Quaternion, Vector3
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ..errors import ShapeError

_STAMP = Time(sec=0x51525354, nanosec=0x21222324)
_ID = 0x61626364
_COLOR = (0.11328125, 0.2265625, 0.33984375, 0.453125)  # exact in float32
_POINTS = (1.0e101, 2.0e102, 3.0e103, 4.0e104, 5.0e105, 6.0e106)
_POINT_BYTES = 24
_HEAD_BYTES = 8  # of a serialised MarkerArray: the encapsulation, and how many markers follow


def joined(arrays: Sequence[bytes]) -> bytes:
    """Serialised MarkerArrays as one: rviz takes one message of a topic for each picture it draws, and drops what queues up.

    All but the last are of the classes below, whose lengths keep the eight-byte alignment of what follows.
    """
    count = sum(struct.unpack_from("<I", a, 4)[0] for a in arrays)
    out = bytearray(arrays[0][:4] + struct.pack("<I", count))
    for array in arrays:
        if len(out) % 8:
            raise ShapeError("markers of a length that moves the next one's numbers off their places")
        out += array[_HEAD_BYTES:]
        out += bytes(-len(out) % 4)
    return bytes(out)


class MeshMarker:
    """A MarkerArray with one TRIANGLE_LIST, as bytes ready for ``publisher.publish``."""

    def __init__(self, faces: np.ndarray, frame_id: str, lifetime_s: float, ns: str) -> None:
        """``faces`` (F,3) vertex indices; ``frame_id`` is fixed because its length sets every later offset."""
        self.key = (frame_id, lifetime_s)
        self._corners = np.ascontiguousarray(faces, np.int64).reshape(-1)
        small = _whole(lambda text: [_sentinel_mesh(frame_id, lifetime_s, ns, text)])
        data = _offset(small, struct.pack("<6d", *_POINTS))
        # The count stands before the points, with padding in between where eight-byte alignment asks for it.
        count = data - 4 if struct.unpack_from("<I", small, data - 4)[0] == 2 else data - 8
        if struct.unpack_from("<I", small, count)[0] != 2:
            raise ShapeError("cannot find the points of a serialised Marker: this ROS 2 serialises in an unknown way")
        n = len(self._corners)
        # Two points or n: both a multiple of eight bytes, so that the tail keeps its alignment.
        tail = small[data + 2 * _POINT_BYTES :]
        self._buffer = np.frombuffer(bytearray(small[:data]) + bytearray(n * _POINT_BYTES) + bytearray(tail), np.uint8).copy()
        self._buffer[count : count + 4] = np.frombuffer(struct.pack("<I", n), np.uint8)
        self._points = np.empty((n, 3), np.float64)
        self._points_bytes = self._buffer[data : data + n * _POINT_BYTES]
        self._stamp = _offset(small, struct.pack("<iI", _STAMP.sec, _STAMP.nanosec))
        self._id = _offset(small, struct.pack("<3i", _ID, Marker.TRIANGLE_LIST, Marker.ADD))
        self._color = _offset(small, struct.pack("<4f", *_COLOR))

    def render(self, vertices_m: np.ndarray, stamp_ns: int, marker_id: int, rgba: tuple[float, float, float, float]) -> bytes:
        """Bytes of the message for one person's surface, (V,3) m in the marker's frame."""
        # mode="clip" skips the bounds check that makes take() buffer its output; the corners are checked by BodyModel.
        np.take(np.asarray(vertices_m, np.float64), self._corners, axis=0, out=self._points, mode="clip")
        self._points_bytes[:] = self._points.view(np.uint8).reshape(-1)
        struct.pack_into("<iI", self._buffer, self._stamp, stamp_ns // 1_000_000_000, stamp_ns % 1_000_000_000)
        struct.pack_into("<i", self._buffer, self._id, marker_id)
        struct.pack_into("<4f", self._buffer, self._color, *rgba)
        return self._buffer.tobytes()


class EllipsoidMarkers:
    """A MarkerArray with a fixed number of ellipsoids, as bytes ready for ``publisher.publish``."""

    def __init__(self, count: int, frame_id: str, lifetime_s: float, ns: str) -> None:
        """``frame_id`` and ``ns`` are fixed because their lengths set every later offset."""
        self.key = (frame_id, lifetime_s)
        data = _whole(lambda text: [_sentinel_sphere(frame_id, lifetime_s, ns, k, text) for k in range(count)])
        self._buffer = bytearray(data)
        # Pose (7 doubles), scale (3) and colour (4 floats) follow one another without padding.
        self._body = [_offset(data, struct.pack("<10d4f", *_sphere_numbers(k), *_COLOR)) for k in range(count)]
        self._stamp = [_offset(data, struct.pack("<iI", _STAMP.sec, k)) for k in range(count)]
        self._id = [_offset(data, struct.pack("<3i", _ID + k, Marker.SPHERE, Marker.ADD)) for k in range(count)]

    def render(
        self,
        centre_m: np.ndarray,
        quat_xyzw: np.ndarray,
        diameter_m: np.ndarray,
        stamp_ns: int,
        first_id: int,
        rgba: tuple[float, float, float, float],
    ) -> bytes:
        """Bytes of the message; centres (N,3), axes (N,4) and diameters (N,3) in the marker's frame."""
        stamp = stamp_ns // 1_000_000_000, stamp_ns % 1_000_000_000
        for k, numbers in enumerate(np.c_[centre_m, quat_xyzw, diameter_m].astype(np.float64).tolist()):
            struct.pack_into("<10d4f", self._buffer, self._body[k], *numbers, *rgba)
            struct.pack_into("<iI", self._buffer, self._stamp[k], *stamp)
            struct.pack_into("<i", self._buffer, self._id[k], first_id + k)
        return bytes(self._buffer)


def deletions(markers: list[tuple[str, int]], frame_id: str, stamp_ns: int) -> list[Marker]:
    """Takes markers, by namespace and id, off the screen at once instead of after their lifetime."""
    stamp = Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
    header = Header(stamp=stamp, frame_id=frame_id)
    return [Marker(header=header, ns=ns, id=n, action=Marker.DELETE) for ns, n in markers]


def _whole(markers: Callable[[str], list[Marker]]) -> bytes:
    """A serialised array behind which another's markers may stand: nobody reads the text of such markers, which fills it up."""
    for letters in range(8):
        data = serialize_message(MarkerArray(markers=markers(" " * letters)))
        if -(-len(data) // 4) % 2 == 0:
            return data
    raise ShapeError("no text makes a serialised Marker a multiple of eight bytes: this ROS 2 serialises in an unknown way")


def _sentinel_mesh(frame_id: str, lifetime_s: float, ns: str, text: str) -> Marker:
    marker = _sentinel(frame_id, lifetime_s, ns, _STAMP, _ID)
    marker.text = text
    marker.type = Marker.TRIANGLE_LIST
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = 1.0
    marker.points = [Point(x=_POINTS[i], y=_POINTS[i + 1], z=_POINTS[i + 2]) for i in (0, 3)]
    return marker


def _sentinel_sphere(frame_id: str, lifetime_s: float, ns: str, k: int, text: str) -> Marker:
    marker = _sentinel(frame_id, lifetime_s, ns, Time(sec=_STAMP.sec, nanosec=k), _ID + k)
    marker.type, marker.text = Marker.SPHERE, text
    n = _sphere_numbers(k)
    marker.pose.position = Point(x=n[0], y=n[1], z=n[2])
    marker.pose.orientation = Quaternion(x=n[3], y=n[4], z=n[5], w=n[6])
    marker.scale = Vector3(x=n[7], y=n[8], z=n[9])
    return marker


def _sphere_numbers(k: int) -> list[float]:
    return [(i + 1) * 10.0 ** (100 + k) for i in range(10)]


def _sentinel(frame_id: str, lifetime_s: float, ns: str, stamp: Time, marker_id: int) -> Marker:
    marker = Marker(ns=ns, id=marker_id, action=Marker.ADD)
    marker.header = Header(stamp=stamp, frame_id=frame_id)
    marker.color = ColorRGBA(r=_COLOR[0], g=_COLOR[1], b=_COLOR[2], a=_COLOR[3])
    marker.lifetime = Duration(sec=int(lifetime_s), nanosec=int(lifetime_s % 1 * 1e9))
    return marker


def _offset(data: bytes, pattern: bytes) -> int:
    # Patterns are of eight bytes or more: padding is uninitialised and may hold a shorter one from an earlier message.
    at = data.find(pattern)
    if at < 0 or data.find(pattern, at + 1) >= 0:
        raise ShapeError("a sentinel of the Marker template is not found exactly once: this ROS 2 serialises in an unknown way")
    return at
