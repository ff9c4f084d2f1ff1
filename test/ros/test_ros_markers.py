"""Markers: fewer triangles of the same body, ellipsoids that hold what they promise, and messages as ROS would write them."""

import dataclasses

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from fake_engine import FakeEngine
from harness import Client, NodeProcess
from rclpy.serialization import deserialize_message, serialize_message
from scipy.stats import chi2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from densefit_ros.body.assets import load_body
from densefit_ros.config import Config
from densefit_ros.geometry.camera import camera_from_fov
from densefit_ros.ros.cdr import EllipsoidMarkers
from densefit_ros.ros.markers import JOINT_NS, Markers, ellipsoids, marker_number
from densefit_ros.ros.params import RosConfig
from densefit_ros.track.association import track_name
from densefit_ros.types import Frame, FrameResult, TrackingState
from densefit_ros.viz.decimate import decimated

HEADER = Header(frame_id="optical")


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.mark.parametrize("wanted", [500, 2000, 5000])
def test_decimated_mesh_is_a_coarser_surface_of_the_same_body(body, wanted):
    kept, faces = decimated(body, wanted)
    assert 0.6 * wanted < len(faces) <= wanted and faces.max() == len(kept) - 1
    assert len(set(kept.tolist())) == len(kept)
    assert all(len(set(f)) == 3 for f in faces.tolist())
    v = body.v_template[kept]
    np.testing.assert_allclose(np.ptp(v, axis=0), np.ptp(body.v_template, axis=0), atol=0.06)
    area = np.linalg.norm(np.cross(v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]]), axis=1).sum()
    f, w = body.faces, body.v_template
    whole = np.linalg.norm(np.cross(w[f[:, 1]] - w[f[:, 0]], w[f[:, 2]] - w[f[:, 0]]), axis=1).sum()
    assert 0.75 < area / whole < 1.05
    outward = np.einsum("fc,fc->f", np.cross(v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]]), v[faces].mean(1))
    assert outward.sum() > 0, "faces keep their winding"


def test_zero_keeps_the_whole_mesh(body):
    kept, faces = decimated(body, 0)
    assert len(kept) == len(body.v_template) and faces is body.faces


@pytest.mark.parametrize("probability", [0.5, 0.95])
def test_ellipsoids_hold_the_joint_as_often_as_they_say(probability):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 3))
    covariance = 1e-4 * a @ a.T
    quat, diameter = ellipsoids(covariance[None], probability)
    x, y, z, w = quat[0]
    r = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    samples = rng.multivariate_normal(np.zeros(3), covariance, 20000)
    inside = np.sum((samples @ r / (diameter[0] / 2)) ** 2, 1) <= 1
    assert inside.mean() == pytest.approx(probability, abs=0.012)
    np.testing.assert_allclose(diameter.max(), 2 * np.sqrt(chi2.ppf(probability, 3) * np.linalg.eigvalsh(covariance)[-1]))


def test_ellipsoid_bytes_are_what_ros_would_have_serialised():
    rng = np.random.default_rng(1)
    for frame_id in ("", "a", "ab", "abc", "abcd", "camera_color_optical_frame"):
        centre, quat, diameter = rng.normal(size=(24, 3)), rng.normal(size=(24, 4)), rng.uniform(0.01, 0.1, (24, 3))
        made = EllipsoidMarkers(24, frame_id, 0.25, JOINT_NS)
        data = made.render(centre, quat, diameter, 12_000_000_034, 4800, (0.25, 0.5, 0.75, 1.0))
        message = deserialize_message(data, MarkerArray)
        assert len(serialize_message(message)) == len(data) and len(message.markers) == 24
        for k, m in enumerate(message.markers):
            assert (m.ns, m.id, m.type, m.action) == (JOINT_NS, 4800 + k, m.SPHERE, m.ADD)
            assert (m.header.frame_id, m.header.stamp) == (frame_id, Time(sec=12, nanosec=34))
            assert (m.color.g, m.lifetime.nanosec) == (0.5, 250_000_000)
            p, q, s = m.pose.position, m.pose.orientation, m.scale
            np.testing.assert_array_equal([p.x, p.y, p.z], centre[k])
            np.testing.assert_array_equal([q.x, q.y, q.z, q.w], quat[k])
            np.testing.assert_array_equal([s.x, s.y, s.z], diameter[k])


def test_ids_are_stable_and_fit_for_everybody():
    names = [track_name(i) for i in range(3000)] + ["aaaaa", "zzzzz"]
    numbers = [marker_number(n) for n in names]
    assert len(set(numbers)) == len(set(names)) and min(numbers) == 0 and 24 * max(numbers) + 23 < 2**31


def test_the_lost_are_deleted_once(body):
    engine = FakeEngine(Config())
    frame = Frame(np.full((48, 64, 3), 120, np.uint8), 5, camera_from_fov(64, 48, 60.0))
    somebody, nobody = engine.process(frame), FrameResult(6, frame.camera, (), {})
    markers = Markers(engine.body, 2000)
    for made, each in ((markers.meshes, 2), (markers.joints, 24)):  # two: mesh and name
        added, deleted, nothing = (
            deserialize_message(made(result, HEADER, RosConfig()), MarkerArray).markers for result in (somebody, nobody, nobody)
        )
        assert len(added) == each and {(m.ns, m.id) for m in deleted} == {(m.ns, m.id) for m in added}
        assert all(m.action == m.DELETE for m in deleted) and len(nothing) == 0


@pytest.mark.parametrize("frame_id", ["", "a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg"])  # every alignment
def test_everybody_of_an_image_is_in_one_message(body, frame_id):
    """rviz takes one message of a topic for each picture it draws: of several, some people would never be seen."""
    engine = FakeEngine(Config())
    seen = engine.process(Frame(np.full((48, 64, 3), 120, np.uint8), 5, camera_from_fov(64, 48, 60.0)))
    everybody = [
        dataclasses.replace(seen.people[0], track_id=name, vertices=seen.people[0].vertices + x, joints=seen.people[0].joints + x)
        for name, x in (("aaaab", 0.0), ("aaaac", 1.0), ("aaaad", 2.0))
    ]
    markers, header = Markers(engine.body, 2000), Header(frame_id=frame_id)
    three, one = (dataclasses.replace(seen, people=tuple(p)) for p in (everybody, everybody[1:2]))
    for made, each in ((markers.meshes, 1), (markers.joints, 24)):
        for result, gone in ((three, 0), (one, 2)):
            data = made(result, header, RosConfig())
            message = deserialize_message(data, MarkerArray)
            shapes = [m for m in message.markers if m.action == m.ADD and m.type != m.TEXT_VIEW_FACING]
            assert {m.header.frame_id for m in message.markers} == {frame_id}
            assert len(shapes) == each * len(result.people) and len({m.id for m in shapes}) == len(shapes)
            assert len({m.id for m in message.markers if m.action == m.DELETE}) == each * gone
            for k, person in enumerate(result.people):
                shape = shapes[each * k]
                got = shape.points[0] if each == 1 else shape.pose.position
                expected = person.vertices[markers._vertices[markers._faces[0, 0]]] if each == 1 else person.joints[0]
                np.testing.assert_array_equal(np.float32([got.x, got.y, got.z]), expected)
                assert shape.color.a > 0.1 and shape.lifetime.nanosec == int(1e9 * RosConfig().marker_lifetime_s)


def test_whom_nobody_sees_is_faint_and_said_to_be_unseen(body):
    engine = FakeEngine(Config())
    seen = engine.process(Frame(np.full((48, 64, 3), 120, np.uint8), 5, camera_from_fov(64, 48, 60.0)))
    unseen = dataclasses.replace(seen.people[0], tracking_state=TrackingState.PREDICTED)
    alpha, text = [], []
    for person in (seen.people[0], unseen):
        data = Markers(engine.body, 2000).meshes(dataclasses.replace(seen, people=(person,)), HEADER, RosConfig())
        mesh, label = deserialize_message(data, MarkerArray).markers
        alpha.append(mesh.color.a)
        text.append(label.text)
        assert label.pose.position.y < person.joints[15, 1] - 0.2, "above the head, y points down"
    assert 0 < alpha[1] < 0.5 * alpha[0] and text == ["abcde 3.0 m", "abcde 3.0 m, not seen"]


@pytest.mark.ros
def test_over_dds_rate_lifetime_and_deletion():
    rate_hz, joints = 4.0, "/densefit/joint_markers"
    options = ("ros.autostart:=true", f"ros.markers_rate_hz:={rate_hz}", "ros.marker_faces:=2000", "ros.marker_lifetime_s:=0.25")
    with NodeProcess(*[w for o in options for w in ("-p", o)]) as node, Client() as client:
        from densefit_ros.msg import SmplBodyArray

        client.listen(SmplBodyArray, "/densefit/bodies")
        client.listen(MarkerArray, "/densefit/markers")
        client.listen(MarkerArray, joints)
        assert client.until(lambda: client.got["/densefit/markers"] and client.got[joints], 60.0, client.send)
        before, start = client.count(joints), client.count("/densefit/bodies")
        client.until(lambda: False, 3.0, each=client.send)
        assert client.count(joints) - before <= 3.0 * rate_hz + 2 and client.count("/densefit/bodies") > start
        mesh = [m for a in client.got["/densefit/markers"] for m in a.markers if m.type == m.TRIANGLE_LIST][-1]
        spheres = client.got[joints][-1].markers
        assert 1000 < len(mesh.points) // 3 <= 2000 and len(spheres) == 24
        assert (mesh.lifetime.nanosec, mesh.id) == (250_000_000, marker_number("abcde"))
        nobody = lambda: client.send(client.image(0))  # noqa: E731
        gone = lambda m: m.markers and all(k.action == k.DELETE for k in m.markers)  # noqa: E731
        assert client.until(lambda: any(gone(m) for m in client.got["/densefit/markers"]), each=nobody)
        assert client.until(lambda: any(gone(m) and len(m.markers) == 24 for m in client.got[joints]), each=nobody)
        assert node.stop() == 0, node.log
