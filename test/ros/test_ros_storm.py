"""Everything that can be wrong with a camera, at random and at 120 Hz.  DENSEFIT_STORM_S=600 makes it a soak test."""

import array
import os
import random

import pytest
from builtin_interfaces.msg import Time
from densefit_ros.msg import SmplBodyArray
from harness import Client, NodeProcess, stamps
from sensor_msgs.msg import CameraInfo, Image

pytestmark = pytest.mark.ros
SECONDS = float(os.environ.get("DENSEFIT_STORM_S", "8"))
BODIES = "/densefit/bodies"


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


class Storm:
    """A camera out of its mind, with a fixed seed; ``good`` are the stamps of the images that deserve an answer."""

    def __init__(self, client: Client, depth) -> None:
        self.client, self.depth, self.random, self.good = client, depth, random.Random(5), set()

    def shot(self) -> None:
        c, r = self.client, self.random
        image, info = c.image(r.choice([0, 90, 120, 200])), c.info()
        kind = r.choice(
            ["good"] * 4 + ["truncated", "encoding", "size", "zero k", "nan k", "other k", "same stamp", "old", "bug", "burst"]
        )
        if kind == "truncated":
            image.data = image.data[: r.randrange(9000)]
        elif kind == "encoding":
            image.encoding = r.choice(["", "32FC1", "bayer_what8", "rgb8 "])
        elif kind == "size":
            image.width, image.height = r.choice([(0, 0), (64, 4000), (2**31, 1), (63, 48)])
        elif kind == "zero k":
            info = CameraInfo(width=64, height=48)
        elif kind == "nan k":
            info.k = [float("nan")] * 9
        elif kind == "other k":
            info = c.info(k=r.uniform(50, 80))
        elif kind == "same stamp" and self.good:
            ns = max(self.good)
            image.header.stamp = Time(sec=ns // 10**9, nanosec=ns % 10**9)
        elif kind == "old":
            image.header.stamp.sec -= r.randrange(1, 100)
        elif kind == "bug":
            image.data = array.array("B", b"\xff\0\0" * 3072)
        for _ in range(4 if kind == "burst" else 1):
            if kind == "burst":
                image = c.image()
            self.good.add(int(stamps([image])[0]))
            noise = [r.choice([float("nan"), float("inf"), -1.0, 2.5]) for _ in range(48 * 64)]
            depth = Image(
                height=48, width=64, encoding="32FC1", step=256, data=array.array("B", array.array("f", noise).tobytes())
            )
            depth.header = image.header
            self.depth.publish(depth)
            c.send(image, info)


def test_storm():
    fast = ("-p", "ros.diagnostics_period_s:=0.2", "-p", "ros.depth:=true", "-p", "ros.depth_wait_s:=0.001")
    with NodeProcess(*fast) as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        depth = client.node.create_publisher(Image, "depth", 5)
        client.start()
        storm = Storm(client, depth)
        client.until(lambda: False, SECONDS / 3, each=storm.shot)
        before = memory_mb(node.process.pid)
        client.until(lambda: False, SECONDS * 2 / 3, each=storm.shot)
        assert node.process.poll() is None
        assert memory_mb(node.process.pid) - before < 20
        client.until(lambda: False, 0.5)
        answered = [int(s) for s in stamps(client.got[BODIES])]
        # After the clock was set back stamps may come again, as in a bag that loops; never twice in a row.
        assert len(answered) > 3 * SECONDS and all(a != b for a, b in zip(answered, answered[1:]))
        assert set(answered) <= storm.good
        assert client.more(BODIES), "no answers after the storm"
        missing = [k for k in ("image", "camera_info", "stamp", "internal") if not client.fault(k)]
        assert not missing, f"not named in diagnostics: {missing}"
        assert node.stop() == 0, node.log
