"""Nodes as real processes over DDS: lifecycle, QoS mixes, missing parts, namespaces, transports.  All waits are bounded."""

import array
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from densefit_ros.msg import SmplBodyArray
from diagnostic_msgs.msg import DiagnosticStatus
from harness import WAIT_S, Client, NodeProcess
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Log, Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

pytestmark = pytest.mark.ros
BODIES = "/densefit/bodies"
FAST = ("-p", "ros.diagnostics_period_s:=0.2", "-p", "ros.log_period_s:=60.0")


@pytest.mark.parametrize("published", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
@pytest.mark.parametrize("wanted", ["best_effort", "reliable"])
def test_qos_mixes(published, wanted):
    """Every compatible pair works; the one that cannot is named in diagnostics."""
    with NodeProcess(*FAST, "-p", f"ros.image_reliability:={wanted}") as node, Client(reliability=published) as client:
        client.listen(SmplBodyArray, BODIES)
        client.start()
        if wanted == "reliable" and published == ReliabilityPolicy.BEST_EFFORT:
            assert client.until(lambda: "does not match" in client.fault("qos"), each=client.send)
            assert not client.got[BODIES]
        else:
            assert client.more(BODIES)
        assert node.stop() == 0, node.log


def test_a_subscriber_that_asks_for_more_than_is_offered_is_named():
    with NodeProcess(*FAST, "-p", "ros.output_reliability:=best_effort") as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        client.start()
        assert client.until(lambda: f"a subscriber of {BODIES} asks for" in client.fault("qos"), each=client.send)
        assert "RELIABILITY" in client.fault("qos") and not client.got[BODIES]
        assert node.stop() == 0, node.log


def test_a_node_that_lost_its_gpu_ends_so_that_it_can_be_started_again():
    with NodeProcess(*FAST) as node, Client() as client:
        client.start()
        green = client.image(data=array.array("B", b"\0\xff\0" * 3072))
        assert client.until(lambda: node.process.poll() is not None, each=lambda: client.send(green))
        assert node.stop() == 1 and "planted loss; ending" in node.log, node.log


def test_lifecycle_in_any_order():
    with NodeProcess(*FAST) as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        assert client.state() == "unconfigured"
        assert not client.change_state(Transition.TRANSITION_ACTIVATE)
        for _ in range(2):
            assert client.change_state(Transition.TRANSITION_CONFIGURE)
            for _ in range(2):
                assert client.change_state(Transition.TRANSITION_ACTIVATE)
                assert client.more(BODIES)
                assert client.change_state(Transition.TRANSITION_DEACTIVATE)
                assert client.falls_silent(BODIES)
            assert client.change_state(Transition.TRANSITION_CLEANUP)
        assert client.state() == "unconfigured"
        assert client.change_state(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        assert client.state() == "finalized"
        assert node.stop() == 0, node.log


def test_a_missing_backend_fails_configure_with_its_reason():
    with NodeProcess("-p", "device:=cuda") as node, Client() as client:
        assert not client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.state() == "unconfigured"
        node.stop()
        assert "cannot configure: no CUDA in the fake engine" in node.log
    with NodeProcess("-p", "device:=cuda", "-p", "ros.autostart:=true") as node:
        assert node.process.wait(WAIT_S) == 1


@pytest.mark.parametrize(
    "text, words",
    [
        ("{/**: {ros__parameters: {ros: {image_depth: 7.5}}}}", "'ros.image_depth' to '7.5' of type 'DOUBLE', expecting"),
        ("{/**: {ros__parameters: {ros: {markers_rate_hz: often}}}}", "ros.markers_rate_hz: expected float, got 'often'"),
        ("{/**: {ros__parameters: {ros: {markers_rate_hz: 900.0}}}}", "ros.markers_rate_hz out of range"),
        ("track: {max_people: 2}", "parse params file"),
    ],
)
def test_a_parameter_file_that_cannot_be_used_is_named_in_one_line(text, words, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with NodeProcess("--params-file", str(tmp_path / "mine.yaml")) as node:
        assert node.process.wait(WAIT_S) == 1
        node.stop()
        (line,) = [x for x in node.log.splitlines() if x.startswith("[densefit] error: ")]
        assert words in line and "Traceback" not in node.log


def test_a_signal_in_the_middle_of_an_image_that_comes_again_is_an_orderly_end():
    with NodeProcess(*FAST, env={"DENSEFIT_FAKE_MS": "700"}) as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        client.start()
        assert client.more(BODIES, 1)
        client.until(lambda: False, 0.3, client.send)  # the next image is being worked on
        for _ in range(20):
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        assert node.stop() == 0 and "Traceback" not in node.log and "internal" not in node.log, node.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_models_load_is_an_orderly_end(number):
    args = (*FAST, "-p", "ros.autostart:=true")
    with Client() as client, NodeProcess(*args, env={"DENSEFIT_FAKE_LOAD_S": "3"}) as node:
        client.listen(Log, "/rosout", QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        assert client.until(lambda: any("loading models" in m.msg for m in client.got["/rosout"]))
        node.process.send_signal(number)
        assert node.process.wait(WAIT_S) == 0 and node.stop() == 0, node.log
        assert "cannot" not in node.log and "Traceback" not in node.log, node.log


def test_a_configuration_begins_enabled():
    with NodeProcess(*FAST) as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        client.start()
        assert client.call(SetBool, "/densefit/enable", SetBool.Request(data=False)).success
        assert client.falls_silent(BODIES)
        assert client.change_state(Transition.TRANSITION_DEACTIVATE)
        assert client.change_state(Transition.TRANSITION_CLEANUP)
        client.start()
        assert client.more(BODIES)
        assert node.stop() == 0, node.log


def test_an_image_that_hangs_in_the_models_is_an_error():
    with NodeProcess(*FAST, env={"DENSEFIT_FAKE_MS": "60000"}) as node, Client() as client:
        client.start()
        assert client.until(lambda: "an image has been in the models for" in client.fault("stuck"), each=client.send)
        assert client.got["/diagnostics"][-1].status[0].level == DiagnosticStatus.ERROR
        node.process.kill()  # its orderly end waits ten seconds for the image


def test_no_camera_info_and_an_assumed_field_of_view():
    with NodeProcess(*FAST) as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        client.start()
        alone = lambda: client._image.publish(client.image())  # noqa: E731
        assert client.until(lambda: "no camera_info" in client.fault("camera_info"), each=alone)
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=70.0)
        request = SetParameters.Request(parameters=[Parameter(name="ros.fov_deg", value=value)])
        assert client.call(SetParameters, "/densefit/set_parameters", request).results[0].successful
        assert client.more(BODIES, each=alone)
        assert node.stop() == 0, node.log


def test_two_cameras_in_namespaces():
    def args(ns):
        return (*FAST, "-r", f"__ns:={ns}", "-p", "ros.autostart:=true")

    with NodeProcess(*args("/left")) as a, NodeProcess(*args("/right")) as b:
        with Client("/left") as left, Client("/right") as right:
            for client, name in ((left, "left"), (right, "right")):
                client.listen(SmplBodyArray, f"/{name}/densefit/bodies")
                assert client.more(f"/{name}/densefit/bodies"), name
            assert right.falls_silent("/right/densefit/bodies", sending=False)
            other = right.count("/right/densefit/bodies")
            assert left.more("/left/densefit/bodies")
            right.until(lambda: False, 0.2)
            assert right.count("/right/densefit/bodies") == other
        assert a.stop() == 0 and b.stop() == 0, a.log + b.log


@pytest.mark.parametrize("transport", ["raw", "compressedDepth"])
def test_depth_and_compressed(transport):
    import cv2
    from sensor_msgs.msg import CompressedImage

    settings = ("ros.depth:=true", f"ros.depth_transport:={transport}", "ros.image_transport:=compressed")
    with NodeProcess(*FAST, *[w for s in settings for w in ("-p", s)]) as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        colour = client.node.create_publisher(CompressedImage, "image/compressed", 5)
        raw = transport == "raw"
        kind, name = (Image, "depth") if raw else (CompressedImage, "depth/compressedDepth")
        depth = client.node.create_publisher(kind, name, 5)
        png = cv2.imencode(".png", np.full((48, 64), 3000, np.uint16))[1].tobytes()
        jpeg = array.array("B", cv2.imencode(".jpg", np.full((48, 64, 3), 120, np.uint8))[1].tobytes())
        metres = array.array("B", np.full((48, 64), 3.0, np.float32).tobytes())
        client.start()

        def send():
            stamp = client.node.get_clock().now().to_msg()
            message = CompressedImage(format="jpeg", data=jpeg)
            message.header.stamp, message.header.frame_id = stamp, "optical"
            client._info.publish(client.info())
            colour.publish(message)
            if raw:
                depth.publish(client.image(stamp=stamp, encoding="32FC1", step=256, data=metres))
            else:
                packed = CompressedImage(format="16UC1; compressedDepth png", data=array.array("B", bytes(12) + png))
                packed.header = message.header
                depth.publish(packed)

        assert client.more(BODIES, each=send)
        assert client.until(lambda: any(b.bodies and b.bodies[0].scale_source == "depth" for b in client.got[BODIES]), each=send)
        assert node.stop() == 0, node.log


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are named in /proc")
def test_nobody_asks_others_for_their_types():
    """Fast DDS 3's thread for it crashes processes; the profile that these tests and the launch file use leaves it out."""
    with NodeProcess(*FAST) as node, Client() as client:
        assert client.state() == "unconfigured"
        threads = [t.read_text() for t in Path(f"/proc/{node.process.pid}/task").glob("*/comm")]
        assert len(threads) > 5 and not [t for t in threads if t.startswith("dds.tls")]
