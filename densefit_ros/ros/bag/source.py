"""A rosbag2 (mcap or sqlite3, a folder or a file) as the camera that it recorded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader

from ...errors import AssetError
from ..bagtypes import typestore
from ..convert import stamp_ns
from ..sync import StampBuffer
from ..topics import camera_info_beside

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
DEPTH_PATIENCE_NS = 1_000_000_000  # of recorded time: depth that comes later than this is not waited for


@dataclass(frozen=True)
class Topics:
    """Names of the topics to read; None where there is none."""

    image: str
    camera_info: str | None
    depth: str | None


@dataclass(frozen=True, eq=False)
class Shot:
    """One image with the calibration known by then."""

    image: Any  # sensor_msgs/Image or CompressedImage
    info: Any | None  # sensor_msgs/CameraInfo
    time_ns: int  # when it was recorded


class BagDamaged(AssetError):
    """The rest of a bag cannot be read."""


@contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """Raises AssetError when there is no bag, or one without its end: a recorder that was killed leaves such files."""
    if not path.exists():
        raise AssetError(f"{path}: no such bag")
    try:
        reader = AnyReader([path], default_typestore=typestore())
        reader.open()
    except Exception as e:  # the readers check little: damaged files raise anything, from OverflowError to the database's own
        raise AssetError(
            f"{path}: not a readable rosbag2 (mcap or sqlite3): {_first_line(e)}; "
            "a recording that was cut off may be repaired with 'ros2 bag reindex' or 'mcap recover'"
        ) from e
    try:
        yield reader
    finally:
        reader.close()


def choose_topics(
    reader: AnyReader, path: Path, image: str | None, camera_info: str | None, depth: str | None, need_info: bool
) -> Topics:
    """The topics asked for, else the only image topic and the camera_info beside it.

    Raises AssetError that lists what the bag holds: no image, several of them, no calibration where one is needed.
    """
    kinds = {c.topic: c.msgtype for c in reader.connections}
    pictures = sorted(t for t, kind in kinds.items() if kind in IMAGE_TYPES)
    images = [t for t in pictures if not t.endswith("/compressedDepth")]
    infos = sorted(t for t, kind in kinds.items() if kind == INFO_TYPE)
    if image is None:
        if len(images) != 1:
            found = f"several image topics: {', '.join(images)}" if images else f"no image topic; it has {_listed(kinds)}"
            raise AssetError(f"{path} has {found}" + ("; choose one with --image-topic" if images else ""))
        image = images[0]
    for name, topic, known in (
        ("--image-topic", image, images),
        ("--camera-info-topic", camera_info, infos),
        ("--depth-topic", depth, pictures),
    ):
        if topic is not None and topic not in known:
            raise AssetError(f"{name} {topic} is not in {path}; of that type it has: {', '.join(known) or 'none'}")
    if camera_info is None:
        beside = camera_info_beside(image)
        camera_info = beside if beside in infos else None
    if camera_info is None and need_info:
        raise AssetError(
            f"{path} has no camera_info beside {image} (it has: {', '.join(infos) or 'none'}): "
            "name one with --camera-info-topic, or give --camera FILE or --fov DEG"
        )
    return Topics(image, camera_info, depth)


def count(reader: AnyReader, topic: str) -> int:
    """Messages of a topic."""
    return sum(c.msgcount for c in reader.connections if c.topic == topic)


def shots(reader: AnyReader, topics: Topics, depths: StampBuffer | None, slop_s: float) -> Iterator[Shot]:
    """Images in the order of recording; depth images go to ``depths``, and their colour images wait for them.

    Calibrations that were recorded after the first image hold for it as well.  Raises BagDamaged where reading fails.
    """
    wanted = {topics.image, topics.camera_info, topics.depth}
    connections = [c for c in reader.connections if c.topic in wanted]
    waiting: deque[Shot] = deque()
    with _damage("camera_info"):
        info = _first(reader, topics.camera_info)
    messages = reader.messages(connections)
    while True:
        with _damage("messages"):
            item = next(messages, None)
            if item is None:
                break
            connection, time_ns, data = item
            message = reader.deserialize(data, connection.msgtype)
        if connection.topic == topics.image:
            waiting.append(Shot(message, info, time_ns))
        elif connection.topic == topics.camera_info:
            info = message
        elif depths is not None:
            depths.add(message)
        while waiting and not _must_wait(waiting[0], depths, slop_s, time_ns):
            yield waiting.popleft()
    yield from waiting


def _must_wait(shot: Shot, depths: StampBuffer | None, slop_s: float, now_ns: int) -> bool:
    if depths is None or now_ns - shot.time_ns > DEPTH_PATIENCE_NS:
        return False
    return depths.may_come(stamp_ns(shot.image), slop_s)


def _first(reader: AnyReader, topic: str | None) -> Any | None:
    connections = [c for c in reader.connections if c.topic == topic]
    if not connections:
        return None
    for connection, _, data in reader.messages(connections):
        return reader.deserialize(data, connection.msgtype)
    return None


@contextmanager
def _damage(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:  # only the readers' code runs in here, see open_bag
        raise BagDamaged(f"the bag is damaged or cut off: {what} cannot be read: {_first_line(e)}") from e


def _listed(kinds: dict[str, str]) -> str:
    return ", ".join(f"{t} ({kind})" for t, kind in sorted(kinds.items())) or "no topics at all"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
