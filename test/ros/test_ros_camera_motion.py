"""Poses of a moving camera from TF.  tf2_ros is not among the wheels: a stand-in with its names answers here."""

import sys
from types import SimpleNamespace as Some

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from densefit_ros.errors import BackendUnavailable
from densefit_ros.ros.camera_motion import CameraMotion
from densefit_ros.ros.diagnostics import Faults, Stats
from densefit_ros.ros.handler import POLL_S, Handler, Job
from densefit_ros.ros.inputs import check_installed
from densefit_ros.ros.params import RosConfig
from densefit_ros.types import FrameResult

HALF = np.sqrt(0.5)
FLOORS = {"base_footprint": 1.2, "shelf": -1.2}


class TransformException(Exception):
    pass


class Buffer:
    """Poses of "optical" in "odom" up to the second ``newest``: 1 m ahead for each second, turned left by 90 degrees.

    And always 1.2 m above "base_footprint", looking ahead, and as far below "shelf".
    """

    newest = 3
    cleared = 0

    def can_transform(self, target, source, time):
        if target in FLOORS:
            return source == "optical"
        return (target, source) == ("odom", "optical") and time.nanoseconds <= self.newest * 1_000_000_000

    taken = []

    def set_transform(self, transform, authority):
        self.taken.append(transform.child_frame_id)

    def clear(self):
        type(self).cleared += 1

    def lookup_transform(self, target, source, time):
        if not self.can_transform(target, source, time):
            raise TransformException(f"Lookup would require extrapolation into the future\nfrom {source}")
        if target in FLOORS:
            pose = Some(translation=Some(x=0.1, y=0.0, z=FLOORS[target]), rotation=Some(x=-0.5, y=0.5, z=-0.5, w=0.5))
            return Some(header=Some(stamp=Time()), transform=pose)
        x = (time.nanoseconds or self.newest * 1_000_000_000) * 1e-9
        pose = Some(translation=Some(x=x, y=0.0, z=0.0), rotation=Some(x=0.0, y=0.0, z=HALF, w=HALF))
        return Some(header=Some(stamp=Time(sec=int(x))), transform=pose)


class TransformListener:
    made = []

    def __init__(self, buffer, node, *, spin_thread):
        assert not spin_thread, "the node's own executor serves it"
        self.registered, self.buffer = True, buffer
        self.made.append(self)

    def unregister(self):
        self.registered = False


@pytest.fixture
def tf(monkeypatch):
    library = Some(Buffer=Buffer, TransformListener=TransformListener, TransformException=TransformException)
    monkeypatch.setitem(sys.modules, "tf2_ros", library)
    return library


def test_without_the_library_configure_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    check_installed(RosConfig())
    with pytest.raises(BackendUnavailable, match="ros.world_frame and ros.ground_frame need the package tf2_ros"):
        check_installed(RosConfig(world_frame="odom"))
    with pytest.raises(BackendUnavailable, match="ros.ground_frame need the package tf2_ros"):
        check_installed(RosConfig(ground_frame="base_footprint"))


def test_poses_go_with_the_images(tf):
    said, frames, image = [], [], Image(height=48, width=64, encoding="rgb8", step=192, data=bytes(48 * 192))
    motion, ros = CameraMotion(None, ["odom"]), RosConfig(fov_deg=70.0, world_frame="odom")
    engine = Some(
        process=lambda f, *_: frames.append(f) or FrameResult(f.stamp_ns, f.camera, (), {}),
        reset=lambda *_: None,
        body=Some(landmarks={}),
    )
    handler = Handler(engine, lambda: ros, lambda *_: None, Faults(said.append, lambda: 0.0), Stats(), False, {}, "", motion)
    for sec, frame_id in ((1, "optical"), (2, "optical"), (9, "optical"), (10, "other")):
        image.header = Header(stamp=Time(sec=sec), frame_id=frame_id)
        handler(Job(image, None, 0.0))
    T = frames[1].T_world_camera
    np.testing.assert_allclose(T @ [0, 1, 0, 1], [2 - 1, 0, 0, 1], atol=1e-12)
    assert [f.T_world_camera is None for f in frames] == [False, False, True, True]
    assert len(said) == 2 and "from 'optical' to 'odom': Lookup would require" in said[0] and "'other'" in said[1]
    assert all("going on as if the camera stood" in line and "\n" not in line for line in said)
    image.header = Header(stamp=Time(sec=2), frame_id="optical")
    handler(Job(image, None, 0.0))
    assert Buffer.cleared == 1 and len(frames) == 5, "time went back: older transforms would be refused"
    motion.destroy()
    assert not TransformListener.made[-1].registered


def test_people_are_not_taken_into_the_buffer(tf, monkeypatch):
    """tf2 forgets no frame: every person of a day would stay."""
    monkeypatch.setattr(Buffer, "taken", [])
    motion = CameraMotion(None, ["odom"])
    motion.leave_out(["abcde", "zzzzz"])
    # Joints of a humanoid, and frames of a robot with legs, have names like those of people.
    others = ["base_link", "body_lotion", "head", "arm_camera", "r_wrist_3_link", "head_pitch", "body_frame", "body_qqqqq"]
    for frame in ("body_abcde", "l_knee_zzzzz", "smpl_left_hand_abcde", *others):
        _said(frame, "base_link")
    assert Buffer.taken == others


def test_people_of_other_nodes_are_not_taken_either(tf, monkeypatch):
    """A node for each camera: all hear the same /tf."""
    monkeypatch.setattr(Buffer, "taken", [])
    CameraMotion(None, ["odom"])
    for frame, parent in (
        ("body_rivet", "left_camera_optical_frame"),  # somebody tracked there, and below: a limb and a joint of SMPL's
        ("l_hip_rivet", "body_rivet"),
        ("smpl_left_hand_rivet", "left_camera_optical_frame"),
        ("body_frame", "base_link"),
        ("l_hip_frame", "body_frame"),
        ("left_camera_optical_frame", "head_frame"),
    ):
        _said(frame, parent)
    assert Buffer.taken == ["body_frame", "l_hip_frame", "left_camera_optical_frame"]


def _said(frame, parent):
    transform = Some(child_frame_id=frame, header=Some(frame_id=parent))
    TransformListener.made[-1].buffer.set_transform(transform, "somebody")


def test_an_image_waits_a_moment_for_its_pose(tf):
    import time

    ros = RosConfig(fov_deg=70.0, world_frame="odom", external_wait_s=0.2)
    motion = CameraMotion(None, ["base_footprint", "odom"])
    handler = Handler(None, lambda: ros, None, Faults(print, lambda: 0.0), Stats(), False, {}, "", motion)
    image = Image(header=Header(stamp=Time(sec=1), frame_id="optical"))
    assert handler.patience(Job(image, None, time.monotonic())) == 0
    image.header.stamp = Time(sec=8)
    assert handler.patience(Job(image, None, time.monotonic())) == 0, "nobody has said anything for five seconds"
    image.header.stamp = Time(sec=3, nanosec=50_000_000)
    assert 0 < handler.patience(Job(image, None, time.monotonic())) <= POLL_S
    assert handler.patience(Job(image, None, time.monotonic() - 1.0)) <= 0
    image.header.frame_id = "other"
    assert handler.patience(Job(image, None, time.monotonic())) == 0, "frames that nobody connects"


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ("base_footprint", None),
        ("shelf", "the camera is 1.20 m below 'shelf': going on without"),
        ("cellar", "from 'optical' to 'cellar'"),
    ],
)
def test_the_floor_goes_with_the_images(tf, frame, said):
    faults, frames = [], []
    motion, ros = CameraMotion(None, [frame, "odom"]), RosConfig(fov_deg=70.0, world_frame="odom", ground_frame=frame)
    engine = Some(
        process=lambda f, *_: frames.append(f) or FrameResult(f.stamp_ns, f.camera, (), {}),
        reset=lambda *_: None,
        body=Some(landmarks={}),
    )
    handler = Handler(engine, lambda: ros, lambda *_: None, Faults(faults.append, lambda: 0.0), Stats(), False, {}, "", motion)
    image = Image(height=48, width=64, encoding="rgb8", step=192, data=bytes(48 * 192))
    image.header = Header(stamp=Time(sec=2), frame_id="optical")
    handler(Job(image, None, 0.0))
    assert frames[0].T_world_camera is not None
    if said is None:  # straight ahead: y down
        np.testing.assert_allclose(frames[0].ground, [0, -1, 0, 1.2], atol=1e-12)
        assert not faults
    else:
        assert frames[0].ground is None and len(faults) == 1 and said in faults[0]
