"""Several cameras in one process, simulated time, lenses and depth by stamp: real processes over DDS."""

from __future__ import annotations

import array
import time

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from densefit_ros.msg import FrameTiming, MeshTopology, SmplBodyArray
from harness import Client, NodeProcess, stamps
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

pytestmark = pytest.mark.ros
FAST = ("-p", "ros.diagnostics_period_s:=0.2", "-p", "ros.log_period_s:=60.0")
LENSES = {
    "plumb_bob": [-0.2, 0.05, 0.001, -0.002, 0.0],
    "rational_polynomial": [-0.2, 0.05, 0.001, -0.002, 0.0, 0.1, 0.01, 0.0],
    "equidistant": [-0.05, 0.01, 0.0, 0.0],
}


def both(*clients):
    """Spin the other clients too."""
    for client in clients:
        client.executor.spin_once(timeout_sec=0)


def test_two_cameras_in_one_process():
    """In a namespace: topics per camera, own faults, different people, turns for the slow camera, restart of one of them."""
    args = (*FAST, "-r", "__ns:=/robot", "-p", "ros.cameras:=left, right")
    with NodeProcess(*args, env={"DENSEFIT_FAKE_MS": "30"}) as node:
        with Client("/robot/left", "/robot/densefit") as left, Client("/robot/right", "/robot/densefit") as right:
            names = {left: "/robot/densefit/left/bodies", right: "/robot/densefit/right/bodies"}
            for client, topic in names.items():
                client.listen(SmplBodyArray, topic)
            left.listen(TFMessage, "/tf")
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            left.listen(MeshTopology, "/robot/densefit/right/topology", latched)
            left.start()
            assert left.more(names[left]) and right.more(names[right])
            assert left.until(lambda: left.got["/robot/densefit/right/topology"])

            # One camera at full speed, the other only after its last image was answered: the engine is too slow for the first,
            # yet the second is answered every time.
            right.until(lambda: False, 0.5)
            right.got[names[right]].clear()
            sent_s = [0.0]

            def send():
                for _ in range(4):
                    left.send()
                both(right)
                # Best effort may lose an image on the way: after a while the camera goes on.
                if right.count(names[right]) >= len(sent_s) - 1 or time.monotonic() - sent_s[-1] > 3.0:
                    sent_s.append(time.monotonic())
                    right.send()

            assert left.until(lambda: right.count(names[right]) >= 8, each=send)
            assert left.until(lambda: int(left.diagnostic("dropped", "left tracker") or 0) > 0)

            ids = [{b.id for m in c.got[t] for b in m.bodies} for c, t in names.items()]
            assert ids == [{"lllll"}, {"rrrrr"}]
            children = {t.child_frame_id for m in left.got["/tf"] for t in m.transforms}
            assert {"body_lllll", "body_rrrrr"} <= children

            # A broken camera is that camera's fault.
            assert left.until(
                lambda: "mystery" in left.fault("image", "left tracker"), each=lambda: left.send(left.image(encoding="mystery"))
            )
            assert not left.fault("image", "right tracker")
            assert right.more(names[right])
            assert left.call(Trigger, "/robot/densefit/reset_tracks", Trigger.Request()).success

            with Client("/robot/right", "/robot/densefit") as restarted:
                goal = right.count(names[right]) + 3
                assert restarted.until(lambda: both(right) or right.count(names[right]) >= goal, each=restarted.send)
            assert left.change_state(Transition.TRANSITION_DEACTIVATE)
            assert left.falls_silent(names[left]) and right.falls_silent(names[right])
            assert left.change_state(Transition.TRANSITION_ACTIVATE)
            assert left.more(names[left]) and right.more(names[right])
        assert node.stop() == 0, node.log


def test_a_camera_without_depth_does_not_hold_up_the_other():
    args = (*FAST, "-p", "ros.cameras:=left,right", "-p", "ros.depth:=true", "-p", "ros.depth_wait_s:=1.0")
    with NodeProcess(*args) as node, Client("/left") as left, Client("/right") as right:
        topic = "/densefit/right/bodies"
        right.listen(SmplBodyArray, topic)
        depth = right.node.create_publisher(Image, "depth", 5)
        metres = array.array("B", np.full((48, 64), 3.0, np.float32).tobytes())
        right.start()

        def send():
            image = right.image()
            depth.publish(right.image(stamp=image.header.stamp, encoding="32FC1", step=256, data=metres))
            right.send(image)
            left.send()

        assert right.more(topic, 3, each=send)
        assert right.more(topic, 20, each=send, timeout_s=10.0), "20 images in 10 s although the left camera waits 1 s for each"
        assert node.stop() == 0, node.log


def test_names_of_cameras_are_checked_and_fixed():
    with NodeProcess("-p", "ros.cameras:=left,left") as node, Client() as client:
        assert not client.change_state(Transition.TRANSITION_CONFIGURE)
        value = ParameterValue(type=4, string_value="left,right")
        request = SetParameters.Request(parameters=[Parameter(name="ros.cameras", value=value)])
        assert client.call(SetParameters, "/densefit/set_parameters", request).results[0].successful
        client.start()
        refused = client.call(SetParameters, "/densefit/set_parameters", request).results[0]
        assert not refused.successful and "takes effect in configure" in refused.reason
        assert node.stop() == 0, node.log
        assert "expected different names" in node.log


def test_depth_of_another_moment_is_not_used():
    with NodeProcess(*FAST, "-p", "ros.depth:=true") as node, Client() as client:
        topic = "/densefit/bodies"
        client.listen(SmplBodyArray, topic)
        depth = client.node.create_publisher(Image, "depth", 5)
        client.start()
        metres = array.array("B", np.full((48, 64), 3.0, np.float32).tobytes())
        near_ns = {"offset": 0}

        def send():
            image = client.image()
            ns = int(stamps([image])[0]) + near_ns["offset"]
            stamp = Time(sec=ns // 10**9, nanosec=ns % 10**9)
            depth.publish(client.image(stamp=stamp, encoding="32FC1", step=256, data=metres))
            client.send(image)

        def scale():
            return [b.scale_source for m in client.got[topic][-3:] for b in m.bodies]

        for offset_ns, expected in ((10_000_000, "depth"), (-500_000_000, "prior"), (15_000_000, "depth")):
            near_ns["offset"] = offset_ns
            assert client.until(lambda e=expected: scale() == [e] * 3, each=send), offset_ns
        assert client.until(lambda: "no message of depth within 0.02 s" in client.fault("depth"), each=send)
        assert node.stop() == 0, node.log


def test_lenses_and_a_camera_info_that_changes():
    with NodeProcess(*FAST) as node, Client() as client:
        client.listen(SmplBodyArray, "/densefit/bodies")
        client.start()
        assert client.more("/densefit/bodies")
        assert client.until(lambda: client.diagnostic("camera_info") == "pinhole", each=client.send)
        for model, d in LENSES.items():

            def send(model=model, d=d):
                info = client.info()
                info.distortion_model, info.d = model, d
                client.send(info=info)

            assert client.until(lambda: client.diagnostic("camera_info") == "undistorting", each=send), model
            assert client.more("/densefit/bodies", each=send), model
            assert client.until(lambda: client.diagnostic("camera_info") == "pinhole", each=client.send)
        assert not client.fault("camera_info")
        assert node.stop() == 0, node.log


def test_simulated_time():
    """The node comes up and reports without /clock; ages are those of simulated time; a bag that starts over is followed."""
    args = (*FAST, "-p", "use_sim_time:=true", "-p", "ros.autostart:=true")
    with NodeProcess(*args) as node, Client() as client:
        client.listen(SmplBodyArray, "/densefit/bodies")
        client.listen(FrameTiming, "/densefit/timing")
        assert client.until(lambda: client.state() == "active")
        assert client.until(lambda: client.diagnostic("state") == "active")
        clock = client.node.create_publisher(Clock, "/clock", 5)
        now = {"ns": 1000 * 10**9}

        def send():
            """/clock runs 50 ms ahead of the stamps."""
            now["ns"] += 33_000_000
            ahead = now["ns"] + 50_000_000
            clock.publish(Clock(clock=Time(sec=ahead // 10**9, nanosec=ahead % 10**9)))
            client.send(client.image(stamp=Time(sec=now["ns"] // 10**9, nanosec=now["ns"] % 10**9)))

        def ages():
            return [m.age_ms for m in client.got["/densefit/timing"]][-5:]

        assert client.more("/densefit/timing", 5, each=send)
        assert client.until(lambda: max(abs(a - 50) for a in ages()) < 200, each=send), ages()
        now["ns"] = 500 * 10**9  # the bag is played again
        assert client.until(
            lambda: client.got["/densefit/bodies"] and client.got["/densefit/bodies"][-1].header.stamp.sec in range(500, 600),
            each=send,
        )
        assert client.more("/densefit/timing", 5, each=send)
        assert client.until(lambda: max(abs(a - 50) for a in ages()) < 200, each=send), ages()
        assert client.until(lambda: "went back" in client.fault("stamp"), each=send)
        assert node.stop() == 0, node.log
