"""Everything that can be wrong with a camera, at random and up to 120 Hz, while people come and go.

``make storm MINUTES=10`` makes it a soak test: DENSEFIT_STORM_S is the length in seconds, DENSEFIT_STORM_NODE=pipeline puts
the real tracker in the place of the fake engine.  The numbers are printed (pytest -s) and written to DENSEFIT_STORM_LOG.
"""

from __future__ import annotations

import array
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from densefit_ros.msg import SmplBodyArray, SmplMeshArray
from harness import Client, NodeProcess, stamps
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

pytestmark = pytest.mark.ros
SECONDS = float(os.environ.get("DENSEFIT_STORM_S", "8"))
REAL = os.environ.get("DENSEFIT_STORM_NODE", "fake") == "pipeline"
LOG = os.environ.get("DENSEFIT_STORM_LOG", "")
MAX_GROWTH_MB = 20.0
GOOD = ("good", "other k", "burst", "old", "same stamp")
BAD_IMAGES = ("truncated", "encoding", "size", *(() if REAL else ("bug",)))  # never answered; the real node has no such bug
KINDS = (*GOOD, *BAD_IMAGES, "zero k", "nan k", "depth size", "depth short", *(("bug",) if REAL else ()))
FAULTS = ("image", "camera_info", "stamp", "depth", *(() if REAL else ("internal",)))
SEED = 5


class RealNode(NodeProcess):
    """The node with the real pipeline, on two cores beside everything else."""

    command = (sys.executable, "-m", "densefit_ros.ros.node")


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def pictures() -> list[np.ndarray]:
    """What the camera sees: a walker for the real tracker, grey for the fake engine; black is an empty room."""
    if not REAL:
        return [np.full((48, 64, 3), v, np.uint8) for v in (90, 120, 200)]
    import cv2

    from densefit_ros.body.assets import load_body
    from densefit_ros.synth.sequence import demo_sequence

    sequence = demo_sequence(load_body())
    return [np.ascontiguousarray(cv2.resize(sequence.frame(i)[0], (320, 240))) for i in range(0, 90, 2)]


class Storm:
    """A camera out of its mind, with a fixed seed; ``good`` are the stamps of the images that may be answered."""

    def __init__(self, client: Client) -> None:
        self.client, self.random = client, random.Random(SEED)
        self.good: set[int] = set()
        self.newest, self.shots = 0, 0
        self.pictures = [array.array("B", p.tobytes()) for p in pictures()]
        self.height, self.width = (240, 320) if REAL else (48, 64)
        self.black = array.array("B", bytes(3 * self.height * self.width))
        self.depth = client.node.create_publisher(Image, "depth", 5)

    def shot(self) -> None:
        r = self.random
        kind = r.choice(["good"] * 6 + list(KINDS))
        for _ in range(4 if kind == "burst" else 1):  # four at once, 30 times a second
            self.one(kind)

    def one(self, kind: str) -> None:
        c, r = self.client, self.random
        self.shots += 1
        # Somebody enters and leaves every few seconds.
        seen = (self.shots // 120) % 3 != 2
        data = self.pictures[self.shots % len(self.pictures)] if seen else self.black
        image = c.image(data=data, height=self.height, width=self.width, step=3 * self.width)
        info = self.info(1.0)
        if kind == "truncated":
            image.data = image.data[: r.randrange(len(data) - 100)]
        elif kind == "encoding":
            image.encoding = r.choice(["", "32FC1", "bayer_what8", "rgb8 "])
        elif kind == "size":
            image.width, image.height = r.choice([(0, 0), (64, 4000), (2**31, 1), (self.width - 1, self.height)])
        elif kind == "zero k":
            info = CameraInfo(width=self.width, height=self.height)
        elif kind == "nan k":
            info.k = [float("nan")] * 9
        elif kind == "other k":
            info = self.info(r.uniform(0.9, 1.1))
        elif kind == "same stamp" and self.newest:
            image.header.stamp = Time(sec=self.newest // 10**9, nanosec=self.newest % 10**9)
        elif kind == "old":
            image.header.stamp.sec -= r.randrange(1, 100)
        elif kind == "bug" and not REAL:
            image.data = array.array("B", b"\xff\0\0" * (self.width * self.height))
        stamp = int(stamps([image])[0])
        self.newest = max(self.newest, stamp)
        if kind not in BAD_IMAGES:
            self.good.add(stamp)
        self.depth.publish(self.depth_of(image, kind))
        c.send(image, info)

    def info(self, factor: float) -> CameraInfo:
        f = factor * 0.9 * self.width
        message = CameraInfo(width=self.width, height=self.height)
        message.k = [f, 0.0, self.width / 2 - 0.5, 0.0, f, self.height / 2 - 0.5, 0.0, 0.0, 1.0]
        message.header.frame_id = "optical"
        return message

    def depth_of(self, image: Image, kind: str) -> Image:
        """NaN, infinite, negative and true distances side by side."""
        noise = np.random.default_rng(self.shots).choice(np.float32([np.nan, np.inf, -1.0, 2.5]), self.width * self.height)
        data, height = noise.tobytes(), self.height
        if kind == "depth size":
            height //= 2
        elif kind == "depth short":
            data = data[:-8]
        message = Image(height=height, width=self.width, encoding="32FC1", step=4 * self.width, data=array.array("B", data))
        message.header = image.header
        return message


class Witness:
    """Stamps of everything that the node says; the messages themselves are let go."""

    def __init__(self, client: Client) -> None:
        self.stamps: dict[str, list[int]] = {}
        self.people = 0
        for topic, kind, headers in (
            ("/densefit/bodies", SmplBodyArray, lambda m: [m]),
            ("/densefit/meshes", SmplMeshArray, lambda m: [m]),
            ("/densefit/overlay", Image, lambda m: [m]),
            ("/densefit/joint_markers", MarkerArray, lambda m: m.markers[:1]),
            ("/tf", TFMessage, lambda m: m.transforms),
        ):
            self.stamps[topic] = []
            client.node.create_subscription(kind, topic, lambda m, t=topic, h=headers: self.note(t, m, h(m)), 50)

    def note(self, topic: str, message: Any, said: list[Any]) -> None:
        if said:
            at = {int(s) for s in stamps(said)}
            assert len(at) == 1, f"{topic}: one message, several stamps"
            self.stamps[topic].append(at.pop())
        self.people += len(getattr(message, "bodies", ()))


def test_storm():
    node_kind = RealNode if REAL else NodeProcess
    options = ["ros.diagnostics_period_s:=0.5", "ros.depth:=true", "ros.depth_wait_s:=0.001", "ros.overlay_rate_hz:=2.0"]
    options += ["ros.autostart:=true"]
    options += ["ros.log_period_s:=60.0"]  # nobody reads the node's output before its end, and a pipe holds 64 KB
    options += ["ros.marker_faces:=2000", "regress.backend:=network", "track.max_people:=2", "detect.interval_s:=0.5"]
    with node_kind(*[w for o in options for w in ("-p", o)]) as node, Client() as client:
        witness = Witness(client)
        storm = Storm(client)
        # The real models take a while to load, longer on a busy machine.
        heard = client.until(lambda: all(witness.stamps.values()), 180.0, each=lambda: storm.one("good"))
        assert heard, {t: len(s) for t, s in witness.stamps.items()}
        warm_s = min(SECONDS / 3, 60.0)
        client.until(lambda: False, warm_s, each=storm.shot)
        series = [memory_mb(node.process.pid)]
        for _ in range(10):
            client.until(lambda: node.process.poll() is not None, (SECONDS - warm_s) / 10, each=storm.shot)
            assert node.process.poll() is None, node.log
            series.append(memory_mb(node.process.pid))
        client.until(lambda: False, 1.0)
        bodies = witness.stamps["/densefit/bodies"]
        counts = {t: len(s) for t, s in witness.stamps.items()}
        values = {v.key: v.value for s in client.got["/diagnostics"][-1].status for v in s.values}
        report = {
            "seconds": SECONDS, "node": "pipeline" if REAL else "fake", "images": storm.shots, "messages": counts,
            "people": witness.people, "memory_mb": [round(m, 1) for m in series],
            "growth_mb": round(max(series) - series[0], 1),
            "faults": {k: v for k, v in values.items() if k.startswith("fault_")},
        }  # fmt: skip
        print(json.dumps(report, indent=1))
        if LOG:
            Path(LOG).write_text(json.dumps(report, indent=1) + "\n")
        wrong = {t: len(set(s) - storm.good) for t, s in witness.stamps.items()}
        assert not any(wrong.values()), f"answers with stamps of no good image: {wrong}"
        # After the clock was set back stamps may come again, as in a bag that loops; never twice in a row.  Markers are a
        # message for each person, and one for those who have gone.
        for topic in set(witness.stamps) - {"/densefit/joint_markers"}:
            said = witness.stamps[topic]
            assert all(a != b for a, b in zip(said, said[1:])), f"{topic} repeats a stamp"
        assert len(bodies) > (0.5 if REAL else 2) * SECONDS and witness.people > 0
        assert max(series) - series[0] < MAX_GROWTH_MB, series
        before = len(bodies)
        assert client.until(lambda: len(bodies) > before + 3, each=lambda: storm.one("good")), "no answers after the storm"
        missing = [k for k in FAULTS if f"fault_{k}_last" not in values]
        assert not missing, f"not named in diagnostics: {missing}"
        assert node.stop() == 0, node.log
