"""One active node as a real process over DDS: topics, faults, stamps, parameters, services, camera restarts."""

import array
import gc
import types
import weakref

import numpy as np
import pytest
import rclpy
from densefit_ros.msg import FrameTiming, MeshTopology, SmplBodyArray, SmplMeshArray
from diagnostic_msgs.msg import DiagnosticStatus
from fake_engine import FakeEngine
from harness import Client, NodeProcess, stamps
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Log, Parameter, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

pytestmark = pytest.mark.ros
BODIES = "/densefit/bodies"
FAST = ("-p", "ros.diagnostics_period_s:=0.2", "-p", "ros.log_period_s:=60.0")


@pytest.fixture(scope="module")
def pair():
    """One active node, and a client that listens to its bodies, for all tests that leave it as it was."""
    with NodeProcess(*FAST) as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        client.start()
        yield node, client
        assert node.stop() == 0, node.log


def test_every_topic(pair):
    node, client = pair
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    client.listen(SmplBodyArray, "/densefit/first_estimate")
    client.listen(SmplMeshArray, "/densefit/meshes")
    client.listen(MeshTopology, "/densefit/topology", latched)
    client.listen(MarkerArray, "/densefit/markers")
    client.listen(Image, "/densefit/overlay")
    client.listen(FrameTiming, "/densefit/timing")
    client.listen(TFMessage, "/tf")
    assert client.until(lambda: all(client.got.values()), each=client.send), {k: len(v) for k, v in client.got.items()}

    bodies, meshes, topology = (client.got[t][-1] for t in (BODIES, "/densefit/meshes", "/densefit/topology"))
    assert bodies.header.frame_id == "optical"
    assert [b.id for b in bodies.bodies] == ["abcde"]
    body = bodies.bodies[0]
    np.testing.assert_allclose(body.transl, [0.2, 0.1, 3.0], rtol=1e-6)
    assert body.tracking_state == body.TRACKED and body.scale_source == "prior"
    np.testing.assert_allclose(np.reshape(body.joint_covariance, (24, 3, 3))[5], np.eye(3) * 1e-4, rtol=1e-6)
    assert bodies.topology_id == meshes.topology_id == topology.topology_id
    vertices = np.reshape(meshes.meshes[0].vertices, (-1, 3))
    faces = np.reshape(topology.faces, (-1, 3))
    assert len(vertices) == topology.vertex_count and faces.max() < topology.vertex_count

    first = client.got["/densefit/first_estimate"][-1].bodies[0]
    np.testing.assert_allclose(first.joints, body.joints, atol=1e-5)
    shown = {m.ns: m for m in client.got["/densefit/markers"][-1].markers}
    marker, label = shown["densefit_mesh"], shown["densefit_labels"]
    assert label.text == "abcde 3.0 m" and label.type == label.TEXT_VIEW_FACING
    assert not body.velocity_over_ground
    np.testing.assert_allclose([body.velocity, first.velocity], [[0.5, 0, -0.25], [0, 0, 0]])
    assert (marker.header.frame_id, marker.ns, marker.type) == ("optical", "densefit_mesh", marker.TRIANGLE_LIST)
    points = np.array([[p.x, p.y, p.z] for p in marker.points[:300]])
    np.testing.assert_allclose(points, vertices[faces.reshape(-1)[:300]], atol=1e-6)
    assert len(marker.points) == faces.size and marker.lifetime.nanosec == 500_000_000

    # Every output carries the stamp of an image that was sent, and TF never repeats one.
    tf = client.got["/tf"]
    tf_stamps = stamps([m.transforms[0] for m in tf])
    assert np.all(np.diff(tf_stamps) > 0)
    assert set(tf_stamps) <= set(stamps(client.got[BODIES]))
    assert {t.child_frame_id for t in tf[-1].transforms} >= {"body_abcde", "head_abcde", "l_wrist_abcde", "r_ankle_abcde"}
    timing = client.got["/densefit/timing"][-1]
    assert list(timing.stages) == ["fake"] and 0 < timing.age_ms < 5000


def test_tf_axes(pair):
    """A person upright before the camera and facing it: x of the body points at the camera, z up."""
    _, client = pair
    client.listen(TFMessage, "/tf")
    assert client.more("/tf", 1)
    body = next(t for t in client.got["/tf"][-1].transforms if t.child_frame_id == "body_abcde")
    assert body.header.frame_id == "optical"
    q = body.transform.rotation
    x, y, z, w = q.x, q.y, q.z, q.w
    forward = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)])
    up = np.array([2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)])
    np.testing.assert_allclose(forward, [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(up, [0, -1, 0], atol=1e-6)


def test_nobody_gives_an_empty_array(pair):
    _, client = pair
    client.got[BODIES].clear()
    assert client.until(
        lambda: client.got[BODIES] and not client.got[BODIES][-1].bodies, each=lambda: client.send(client.image(0))
    )


FAULTS = {
    "truncated": ("image", lambda c: c.send(c.image(data=array.array("B", b"123"))), "truncated"),
    "encoding": ("image", lambda c: c.send(c.image(encoding="mystery")), "mystery"),
    "empty": ("image", lambda c: c.send(Image(encoding="rgb8")), "0x0"),
    "zero camera_info": ("camera_info", lambda c: c.send(info=CameraInfo(width=64, height=48)), "all zero"),
    "other camera": ("camera_info", lambda c: c.send(info=CameraInfo(width=640, height=480, k=c.info().k)), "different streams"),
    "bug": ("internal", lambda c: c.send(c.image(data=array.array("B", b"\xff\0\0" * 3072))), "planted bug"),
}


def test_faults_are_named_and_survived(pair):
    node, client = pair
    client.listen(Log, "/rosout")
    assert client.more(BODIES)
    for name, (kind, send, words) in FAULTS.items():
        client.got["/diagnostics"].clear()
        assert client.until(lambda k=kind, w=words: w in client.fault(k), each=lambda s=send: s(client)), name
        assert client.more(BODIES), f"no answers after: {name}"
    kinds = ("image", "camera_info", "internal")

    def came_again():
        return all(int(client.diagnostic(f"fault_{kind}_count") or 0) > 1 for kind in kinds)

    # Diagnostics may have been written right after the first of the last kind: send on until they count more than one.
    assert client.until(came_again, each=lambda: [send(client) for _, send, _ in FAULTS.values()])
    # Throttled: one line per kind although each came many times; none where a test before had the fault within the minute.
    lines = {kind: [m.msg for m in client.got["/rosout"] if m.msg.startswith(f"{kind}: ")] for kind in kinds}
    assert max(map(len, lines.values())) == 1, lines


def test_stamps(pair):
    _, client = pair
    client.listen(TFMessage, "/tf")
    assert client.more(BODIES)
    same = client.image()
    assert client.until(lambda: "same stamp" in client.fault("stamp"), each=lambda: client.send(same))
    old = client.image()

    def send_older():
        old.header.stamp.sec -= 1000
        client.send(old)

    assert client.until(lambda: "went back" in client.fault("stamp"), each=send_older)
    assert client.more(BODIES)
    tf_stamps = stamps([m.transforms[0] for m in client.got["/tf"]])
    assert len(set(tf_stamps)) == len(tf_stamps)


def test_parameters(pair):
    _, client = pair
    names = ["fit.iterations", "device", "ros.markers_rate_hz"]
    described = client.call(
        DescribeParameters, "/densefit/describe_parameters", DescribeParameters.Request(names=names)
    ).descriptors
    assert all(d.description for d in described)
    assert described[0].integer_range and described[2].floating_point_range and "cuda" in described[1].additional_constraints
    assert [d.additional_constraints.split("takes effect ")[-1] for d in described] == ["in configure", "in configure", "at once"]

    def change(name, **value):
        kinds = {"integer_value": 2, "double_value": 3, "string_value": 4}
        kind = kinds[next(iter(value))]
        request = SetParameters.Request(parameters=[Parameter(name=name, value=ParameterValue(type=kind, **value))])
        return client.call(SetParameters, "/densefit/set_parameters", request).results[0]

    assert change("ros.markers_rate_hz", double_value=30.0).successful
    assert change("ros.marker_lifetime_s", integer_value=1).successful and not change("ros.fov_deg", integer_value=-1).successful
    assert change("track.lost_after_s", double_value=1.0).successful
    assert not change("ros.markers_rate_hz", double_value=-1.0).successful
    for refused in (change("device", string_value="cuda"), change("ros.diagnostics_period_s", double_value=0.3)):
        assert not refused.successful and "takes effect in configure" in refused.reason
    assert client.more(BODIES)


def test_services(pair):
    _, client = pair
    assert client.more(BODIES)
    assert client.call(Trigger, "/densefit/reset_tracks", Trigger.Request()).success
    assert client.call(SetBool, "/densefit/enable", SetBool.Request(data=False)).success
    assert client.falls_silent(BODIES)
    assert client.call(SetBool, "/densefit/enable", SetBool.Request(data=True)).success
    assert client.more(BODIES)


def test_images_without_a_frame_id(pair):
    """They are answered; that /tf stays empty is said."""
    _, client = pair
    client.listen(TFMessage, "/tf")

    def send():
        image = client.image()
        image.header.frame_id = ""
        client.send(image)

    assert client.until(lambda: "nothing goes to /tf" in client.fault("frame_id"), each=send)
    before = client.count("/tf")
    assert client.more(BODIES, each=send) and client.count("/tf") <= before + 1


def test_diagnostics_in_every_state():
    """A camera that says nothing is an error that names the topic; a node that is not active says so."""
    args = ("-p", "ros.diagnostics_period_s:=0.2", "-r", "__node:=other", "-r", "image:=/wrong/image")
    with NodeProcess(*args) as node, Client(node="/other") as client:
        assert client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.until(lambda: client.diagnostic("state", "other") == "inactive")
        assert client.change_state(Transition.TRANSITION_ACTIVATE)
        assert client.until(lambda: client.diagnostic("state", "other") == "active") and not client.fault("no_image", "other")
        assert client.until(lambda: "nothing on /wrong/image" in client.fault("no_image", "other"), each=client.send)
        levels = [s.level for m in client.got["/diagnostics"] for s in m.status if "other" in s.name]
        assert levels[-1] == DiagnosticStatus.ERROR
        assert client.change_state(Transition.TRANSITION_DEACTIVATE)
        assert client.until(lambda: client.diagnostic("state", "other") == "inactive")
        assert node.stop() == 0, node.log


def test_what_fails_late_in_configure_is_said_and_leaves_nothing():
    """A camera whose topics no node may have: the publishers of the first are taken back, and configure can be tried again."""
    args = ("-r", "__node:=late", "-p", "ros.cameras:=a," + "b" * 240)
    with NodeProcess(*args) as node, Client(node="/late") as client:
        assert not client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.until(lambda: not client.node.count_publishers("/late/a/bodies"))
        named = Parameter(name="ros.cameras", value=ParameterValue(type=4, string_value="a"))
        request = SetParameters.Request(parameters=[named])
        assert client.call(SetParameters, "/late/set_parameters", request).results[0].successful
        assert client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.until(lambda: client.node.count_publishers("/late/a/bodies") == 1)
        assert node.stop() == 0, node.log
    assert any("cannot configure:" in line and "topic" in line for line in node.log.splitlines())


def test_a_camera_that_fails_in_the_middle_of_its_topics_leaves_none():
    """Its shorter names are possible, its longer ones are not: in configure, and in activate."""
    long = "b" * 230
    args = ("-r", "__node:=late", "-p", f"ros.cameras:=a,{long}")
    with NodeProcess(*args) as node, Client(node="/late") as client:
        assert not client.change_state(Transition.TRANSITION_CONFIGURE)
        topics = lambda: [n for n, _ in client.node.get_topic_names_and_types() if n.startswith(f"/late/{long}")]  # noqa: E731
        assert client.until(lambda: not any(map(client.node.count_publishers, topics())))
        assert node.stop() == 0, node.log
    assert "topic length" in node.log
    args = ("-r", "__node:=later", "-p", "ros.depth:=true", "-r", "depth:=/" + 250 * "d", "-r", "camera_info:=/later_info")
    with NodeProcess(*args) as node, Client(node="/later") as client:
        assert client.change_state(Transition.TRANSITION_CONFIGURE)
        assert not client.change_state(Transition.TRANSITION_ACTIVATE)
        assert client.until(lambda: not client.node.count_subscribers("/later_info"))
        assert node.stop() == 0, node.log
    assert "cannot activate: " in node.log


def test_camera_restart(pair):
    _, client = pair
    assert client.more(BODIES)
    for _ in range(2):
        with Client() as other:
            goal = client.count(BODIES) + 3
            assert other.until(
                lambda g=goal: client.executor.spin_once(timeout_sec=0) or client.count(BODIES) >= g, each=other.send
            )


def test_an_engine_that_refers_to_itself_is_freed_by_cleanup():
    """Activation keeps the garbage collector away from the models; cleanup calls it."""
    from densefit_ros.ros.node import DensefitNode

    class Circular(FakeEngine):
        def __init__(self, config):
            super().__init__(config)
            self.itself = self
            engines.append(weakref.ref(self))

    engines, context = [], rclpy.Context()
    rclpy.init(context=context, domain_id=101)
    node = DensefitNode(Circular, context=context)
    try:
        assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS and engines[0]() is not None
        gc.disable()
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert engines[0]() is None
    finally:
        gc.enable()
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_settings_changed_while_the_node_runs_reach_the_engine():
    from rclpy.parameter import Parameter

    from densefit_ros.ros.node import DensefitNode

    engines, context = [], rclpy.Context()
    rclpy.init(context=context, domain_id=101)
    node = DensefitNode(lambda config: engines.append(FakeEngine(config)) or engines[0], context=context)
    try:
        assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        (engine,) = engines
        (answer,) = node.set_parameters([Parameter("detect.interval_s", value=0.25)])
        assert answer.successful and engine.config.detect.interval_s == 0.25
        (answer,) = node.set_parameters([Parameter("detect.interval_s", value=-1.0)])
        assert not answer.successful and engine.config.detect.interval_s == 0.25
        before = engine.resets
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS and engine.resets > before
    finally:
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_an_image_that_fails_after_cleanup_has_no_camera_left_to_report_to():
    from densefit_ros.ros.node import DensefitNode

    node = types.SimpleNamespace(context=types.SimpleNamespace(ok=lambda: True), _streams={})
    DensefitNode._on_bug(node, "left", ZeroDivisionError("planted"))
