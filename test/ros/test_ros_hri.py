"""REP-155 mode: topics that come and go with people, what they say, and one plain line where hri_msgs is missing."""

import os
import threading
from collections import deque
from types import SimpleNamespace as Some

import numpy as np
import pytest
from harness import WAIT_S, Client, NodeProcess, stamps
from other_messages import provide
from rclpy.clock import Clock

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import joint_transforms
from densefit_ros.config import Config
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.ros.hri_joints import MIN_BEND, joint_angles
from densefit_ros.ros.links import LINK_INDEX, link_rotmats
from densefit_ros.types import BodyParams, Frame

FAST = ("-p", "ros.diagnostics_period_s:=0.2")


@pytest.fixture(scope="module")
def body():
    return load_body()


def about(axis: str, angle: float) -> np.ndarray:
    return so3.exp(angle * np.eye(3)["xyz".index(axis)])


def posed(body, seed: int, scale: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rest = BodyParams.rest(1)
    joints = rng.normal(0, scale, (1, 23, 3)).astype(np.float32)
    joints[0, 15, 2], joints[0, 16, 2] = -1.1 + joints[0, 15, 2], 1.1 + joints[0, 16, 2]  # arms down
    params = BodyParams(rest.betas, np.array([[3.0, 0.2, 0.1]], np.float32), joints, np.array([[0, 0, 3]], np.float32))
    return joint_transforms(body, params)[0][0]


@pytest.mark.parametrize("seed", range(12))
def test_angles_put_the_limbs_where_they_are(body, seed):
    """Through the URDF's own axes: head exactly, and the directions of upper arm, forearm, thigh and shin."""
    rotmat = posed(body, seed, 0.45)
    a, world = joint_angles(rotmat), link_rotmats(rotmat.astype(float))
    hips = world[LINK_INDEX["body"]]
    torso = hips @ about("y", a["waist"])
    head = torso @ about("x", a["r_head"]) @ about("z", a["y_head"]) @ about("y", -a["p_head"])
    np.testing.assert_allclose(head, world[LINK_INDEX["head"]], atol=1e-5)
    for s, sign in (("l", 1), ("r", -1)):
        arm = about("z", -sign * a[f"{s}_y_shoulder"]) @ about("x", sign * a[f"{s}_p_shoulder"])
        arm = torso @ arm @ about("z", sign * a[f"{s}_r_shoulder"])
        leg = about("z", -a[f"{s}_y_hip"]) @ about("x", sign * a[f"{s}_p_hip"]) @ about("y", -a[f"{s}_r_hip"])
        leg = hips @ leg
        for got, hinge, upper, lower in (
            (arm, a[f"{s}_elbow"], f"{s}_shoulder", f"{s}_elbow"),
            (leg, a[f"{s}_knee"], f"{s}_hip", f"{s}_knee"),
        ):
            np.testing.assert_allclose(got[:, 2], world[LINK_INDEX[upper]][:, 2], atol=1e-5)
            error = np.linalg.norm((got @ about("y", -hinge))[:, 2] - world[LINK_INDEX[lower]][:, 2])
            assert error < 1e-5 or error < 2 * MIN_BEND and abs(hinge) < 1.1 * MIN_BEND
        assert a[f"{s}_elbow"] >= 0 >= a[f"{s}_knee"] and a[f"{s}_p_shoulder"] >= 0


def test_a_straight_person_with_hanging_arms_has_all_angles_near_zero(body):
    rest = BodyParams.rest(1)
    joints = rest.joint_rotvec.copy()
    joints[0, 15, 2], joints[0, 16, 2] = -np.pi / 2, np.pi / 2
    rotmat = joint_transforms(body, BodyParams(rest.betas, rest.root_rotvec, joints, rest.t_camera_root))[0][0]
    angles = joint_angles(rotmat)
    assert len(angles) == 20 and max(map(abs, angles.values())) < 1e-3, angles


def test_messages_are_in_shares_of_the_image(body):
    provide("hri_msgs")
    import hri_msgs.msg as types
    from fake_engine import FakeEngine
    from std_msgs.msg import Header

    from densefit_ros.ros import hri

    engine, camera = FakeEngine(Config()), camera_from_fov(640, 480, 60.0)
    result = engine.process(Frame(np.full((480, 640, 3), 120, np.uint8), 5, camera))
    person, header = result.people[0], Header(frame_id="optical")
    roi = hri.roi_message(types, person, result, header, None)
    np.testing.assert_allclose([roi.xmin, roi.ymin, roi.xmax, roi.ymax, roi.c], [10 / 640, 20 / 480, 110 / 640, 220 / 480, 0.9])
    skeleton = hri.skeleton_message(types, person, result, header, body, None).skeleton
    assert len(skeleton) == 18
    wrist = skeleton[4]  # Skeleton2D's RIGHT_WRIST
    expected = project(camera, person.joints[21:22])[0] / [640, 480]
    np.testing.assert_allclose([wrist.x, wrist.y], expected, atol=0.02)
    assert skeleton[2].x < skeleton[5].x, "facing the camera, the right shoulder is on the left of the image"
    assert all(0 <= p.x <= 1 and 0 <= p.y <= 1 and (p.c > 0 or p.x == p.y == 0) for p in skeleton)


def test_positions_are_those_of_the_image_as_it_came(body):
    """Whoever draws them on the camera's image, and a node that takes them from /humans, means that image."""
    provide("hri_msgs")
    import hri_msgs.msg as types
    from fake_engine import FakeEngine
    from std_msgs.msg import Header

    from densefit_ros.geometry.camera import camera_from_k
    from densefit_ros.geometry.lens import lens_of
    from densefit_ros.ros import hri
    from densefit_ros.ros.camera_info import Calibration
    from densefit_ros.ros.external import HRI_POINTS, skeletons_of

    k = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    lens, camera = lens_of("plumb_bob", [-0.3, 0.1, 0, 0, 0], k), camera_from_k(k, 640, 480)
    result = FakeEngine(Config()).process(Frame(np.full((480, 640, 3), 120, np.uint8), 5, camera))
    person, header = result.people[0], Header(frame_id="optical")
    message = hri.skeleton_message(types, person, result, header, body, lens)
    plain = hri.skeleton_message(types, person, result, header, body, None)
    straight, bent = (np.array([[p.x * 640, p.y * 480, p.c] for p in m.skeleton]) for m in (plain, message))
    seen = (straight[:, 2] > 0) & (bent[:, 2] > 0)
    assert seen.sum() > 10 and np.abs(straight - bent)[seen].max() > 3.0
    calib = Calibration(camera, lens.maps(640, 480), "undistorting", lens)
    back = skeletons_of([message], "optical", calib, body.landmarks["openpose25"])
    order = [body.landmarks["openpose25"].names.index(n) for n in HRI_POINTS]
    np.testing.assert_allclose(back.uv[0, order][seen], straight[seen, :2], atol=0.05)
    roi = hri.roi_message(types, person, result, header, lens)
    inside = lens.place((person.vertices[:, :2] / person.vertices[:, 2:]).astype(float)) / [640, 480]
    low, high = np.clip(np.nanmin(inside, 0), 0, 1), np.clip(np.nanmax(inside, 0), 0, 1)
    np.testing.assert_allclose([roi.xmin, roi.ymin, roi.xmax, roi.ymax], [*low, *high], atol=1e-5)


@pytest.mark.ros
def test_topics_come_and_go_with_people():
    provide("hri_msgs")
    from hri_msgs.msg import IdsList, NormalizedRegionOfInterest2D, Skeleton2D
    from sensor_msgs.msg import JointState

    topics = {"roi": NormalizedRegionOfInterest2D, "skeleton2d": Skeleton2D, "joint_states": JointState}
    with NodeProcess(*FAST, "-p", "hri.enabled:=true") as node, Client() as client:
        client.listen(IdsList, "/humans/bodies/tracked")
        for name, kind in topics.items():
            client.listen(kind, f"/humans/bodies/abcde/{name}")
        client.start()
        assert client.until(lambda: all(client.got[f"/humans/bodies/abcde/{n}"] for n in topics), each=client.send)
        tracked = client.got["/humans/bodies/tracked"]
        assert list(tracked[-1].ids) == ["abcde"] and tracked[-1].header.frame_id == "optical"
        joints = client.got["/humans/bodies/abcde/joint_states"][-1]
        assert "l_elbow_abcde" in joints.name and len(joints.name) == len(joints.position) == 20
        assert set(stamps(client.got["/humans/bodies/abcde/roi"])) <= set(stamps(tracked))

        def present() -> bool:
            return any("/humans/bodies/abcde/" in n for n, _ in client.node.get_topic_names_and_types() if _publishers(client, n))

        assert present()
        nobody = lambda: client.send(client.image(0))  # noqa: E731
        assert client.until(lambda: not tracked[-1].ids and not present(), each=nobody), "publishers go with the person"
        before = len(client.got["/humans/bodies/abcde/roi"])
        assert client.until(lambda: len(client.got["/humans/bodies/abcde/roi"]) > before, each=client.send), "and come again"
        assert client.until(lambda: not tracked[-1].ids and not present()), "nor does a camera that has stopped see anybody"
        assert node.stop() == 0, node.log


@pytest.mark.ros
def test_a_camera_that_fell_silent_sees_nobody_however_seldom_diagnostics_come():
    provide("hri_msgs")
    from hri_msgs.msg import IdsList

    with NodeProcess("-p", "ros.diagnostics_period_s:=30.0", "-p", "hri.enabled:=true") as node, Client() as client:
        client.listen(IdsList, "/humans/bodies/tracked")
        client.start()
        tracked = client.got["/humans/bodies/tracked"]
        assert client.until(lambda: tracked and tracked[-1].ids, each=client.send)
        assert client.until(lambda: not tracked[-1].ids)
        assert node.stop() == 0, node.log


@pytest.mark.ros
def test_a_second_publisher_of_the_list_is_named():
    provide("hri_msgs")
    from hri_msgs.msg import IdsList

    with NodeProcess(*FAST, "-p", "hri.enabled:=true") as node, Client() as client:
        client.start()
        assert client.until(lambda: client.got["/diagnostics"]) and not client.fault("hri")
        client.node.create_publisher(IdsList, "/humans/bodies/tracked", 10)
        assert client.until(lambda: "2 publishers of /humans/bodies/tracked" in client.fault("hri"))
        assert "ros.cameras" in client.fault("hri")
        assert node.stop() == 0, node.log


@pytest.mark.parametrize("ended", [True, False])
def test_a_signal_in_the_middle_of_the_last_list_is_an_orderly_end(ended):
    """The context is up when it is asked and down when the list is published."""
    from densefit_ros.ros.hri import HriTopics

    topics, answers = object.__new__(HriTopics), [True, not ended]

    def publish(message):
        raise RuntimeError("context is invalid")

    topics._node = Some(context=Some(ok=lambda: answers.pop(0)), get_clock=lambda: Clock())
    topics._types, topics._tracked = Some(IdsList=Some), Some(publish=publish)
    topics._seen, topics._publishers = {"": ("abcde",)}, {}
    topics._lock, topics._waiting = threading.Lock(), deque()
    if ended:
        topics.forget()
    else:
        with pytest.raises(RuntimeError, match="invalid"):
            topics.forget()


def _publishers(client: Client, topic: str) -> int:
    return client.node.count_publishers(topic)


@pytest.mark.ros
def test_a_missing_package_is_said_once_and_the_node_works(tmp_path):
    """hri_msgs blocked, as on a machine without it."""
    (tmp_path / "hri_msgs").mkdir()
    (tmp_path / "hri_msgs" / "__init__.py").write_text("raise ImportError('blocked')\n")
    old = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(tmp_path), old) if p)
    try:
        process = NodeProcess(*FAST, "-p", "hri.enabled:=true")
    finally:
        os.environ["PYTHONPATH"] = old
    from densefit_ros.msg import SmplBodyArray

    with process as node, Client() as client:
        client.listen(SmplBodyArray, "/densefit/bodies")
        client.start()
        assert client.more("/densefit/bodies")
        assert client.until(lambda: client.got["/diagnostics"], each=client.send)
        values = {v.key: v.value for s in client.got["/diagnostics"][-1].status for v in s.values}
        assert values["hri"] == "hri_msgs is missing"
        assert node.stop() == 0, node.log
        said = [line for line in node.log.splitlines() if "hri_msgs" in line]
        assert len(said) == 1 and "which is not installed" in said[0]


@pytest.mark.ros
def test_the_node_does_not_follow_its_own_bodies():
    with NodeProcess("-p", "hri.enabled:=true", "-p", "ros.keypoints:=hri", "-p", "ros.autostart:=true") as node:
        assert node.process.wait(2 * WAIT_S) == 1
        node.stop()
        assert "exclude one another" in node.log
