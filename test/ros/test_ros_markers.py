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
    markers, sent = Markers(engine.body, 2000), []
    for publish, each in ((markers.publish_meshes, 2), (markers.publish_joints, 24)):  # two: mesh and name
        sent.clear()
        for result in (somebody, nobody, nobody):
            publish(
                lambda m: sent.append(deserialize_message(m, MarkerArray) if isinstance(m, bytes) else m),
                result,
                HEADER,
                RosConfig(),
            )
        *added, deleted, nothing = sent
        added = [m for message in added for m in message.markers]
        assert len(added) == each and {(m.ns, m.id) for m in deleted.markers} == {(m.ns, m.id) for m in added}
        assert all(m.action == m.DELETE for m in deleted.markers) and nothing.markers == []


def test_whom_nobody_sees_is_faint_and_said_to_be_unseen(body):
    engine = FakeEngine(Config())
    seen = engine.process(Frame(np.full((48, 64, 3), 120, np.uint8), 5, camera_from_fov(64, 48, 60.0)))
    unseen = dataclasses.replace(seen.people[0], tracking_state=TrackingState.PREDICTED)
    alpha, text = [], []
    for person in (seen.people[0], unseen):
        sent = []
        Markers(engine.body, 2000).publish_meshes(sent.append, dataclasses.replace(seen, people=(person,)), HEADER, RosConfig())
        alpha.append(deserialize_message(sent[1], MarkerArray).markers[0].color.a)
        text.append(sent[0].markers[0].text)
        assert sent[0].markers[0].pose.position.y < person.joints[15, 1] - 0.2, "above the head, y points down"
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
