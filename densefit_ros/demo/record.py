"""What a demo run left behind, read back: the camera's list of images and the recorded answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader

from ..ros.bagtypes import typestore
from ..types import Camera


@dataclass(frozen=True)
class Image:
    """One image that the camera sent."""

    index: int  # in the source
    name: str
    stamp_ns: int
    camera: Camera


@dataclass(eq=False)
class Answer:
    """What the node published about one image."""

    received_ns: int  # arrival of ~/bodies at the recorder
    bodies: list[Any]  # SmplBody
    first_estimates: dict[str, Any] = field(default_factory=dict)  # id -> SmplBody
    stage_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished demo run."""

    kind: str
    text: str
    fps: float
    stills: bool
    images: list[Image]  # warm-up left out
    warm_up: int
    answers: dict[int, Answer]  # by image stamp
    backends: dict[str, str]  # from diagnostics


def read_run(out: Path) -> Run:
    """Read camera.json and the bag of ``out``."""
    about = json.loads((out / "camera.json").read_text())
    sent = [i for i in about["images"] if not i["warm_up"]]
    images = [Image(i["index"], i["name"], i["stamp_ns"], Camera(*i["camera"])) for i in sent]
    answers: dict[int, Answer] = {}
    later: list[tuple[int, str, Any]] = []
    backends: dict[str, str] = {}
    store = typestore()
    with Reader(out / "bag") as bag:
        wanted = [
            c for c in bag.connections if c.topic.rsplit("/", 1)[-1] in ("bodies", "first_estimate", "timing", "diagnostics")
        ]
        for connection, received_ns, data in bag.messages(wanted):
            message = store.deserialize_cdr(data, connection.msgtype)
            topic = connection.topic.rsplit("/", 1)[-1]
            stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            if topic == "bodies":
                answers.setdefault(stamp_ns, Answer(received_ns, list(message.bodies)))
            elif topic == "diagnostics":
                backends.update({v.key[8:]: v.value for s in message.status for v in s.values if v.key.startswith("backend_")})
            else:
                later.append((stamp_ns, topic, message))
    for stamp_ns, topic, message in later:
        answer = answers.get(stamp_ns)
        if answer is not None and topic == "first_estimate":
            answer.first_estimates = {b.id: b for b in message.bodies}
        elif answer is not None:
            answer.stage_ms = dict(zip(message.stages, map(float, message.stage_ms)), total=float(message.total_ms))
    return Run(
        about["kind"], about["text"], about["fps"], about["stills"], images, len(about["images"]) - len(sent), answers, backends
    )
