"""Frames of a body: names, a proper tree, axes of REP-155, one stamp, and the SMPL joints when asked for."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from fake_engine import FakeEngine
from std_msgs.msg import Header

from densefit_ros.body.joints import JOINT_INDEX, SMPL_JOINTS
from densefit_ros.config import Config
from densefit_ros.geometry.camera import camera_from_fov
from densefit_ros.ros.tf import transforms
from densefit_ros.types import BodyParams, Frame, FrameResult

REP_155 = {"body", "waist", "torso", "head"} | {
    f"{s}_{n}" for s in "lr" for n in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
}
HEADER = Header(stamp=Time(sec=12, nanosec=34), frame_id="optical")


@pytest.fixture(scope="module")
def engine():
    return FakeEngine(Config())


@pytest.fixture(scope="module")
def result(engine):
    return engine.process(Frame(np.full((48, 64, 3), 120, np.uint8), 5, camera_from_fov(64, 48, 60.0)))


def matrix(t) -> np.ndarray:
    q, p = t.transform.rotation, t.transform.translation
    x, y, z, w = q.x, q.y, q.z, q.w
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = p.x, p.y, p.z
    return out


def in_camera(frames) -> dict[str, np.ndarray]:
    """Pose of every frame in the camera; parents come before their children."""
    out = {"optical": np.eye(4)}
    for t in frames:
        out[t.child_frame_id] = out[t.header.frame_id] @ matrix(t)
    return out


def test_links_form_the_tree_of_rep_155(engine, result):
    frames = transforms(result, engine.body, HEADER, links=True, smpl_joints=False)
    assert {t.child_frame_id for t in frames} == {f"{n}_abcde" for n in REP_155}
    assert [t.header.frame_id for t in frames].count("optical") == 1 and frames[0].child_frame_id == "body_abcde"
    assert all(t.header.stamp == HEADER.stamp for t in frames)
    assert all(np.isclose(np.linalg.norm([getattr(t.transform.rotation, c) for c in "xyzw"]), 1) for t in frames)


def test_links_stand_at_the_joints_and_the_body_between_the_hips(engine, result):
    poses, joints = in_camera(transforms(result, engine.body, HEADER, True, False)), result.people[0].joints
    hips = joints[[JOINT_INDEX["left_hip"], JOINT_INDEX["right_hip"]]].mean(0)
    np.testing.assert_allclose(poses["body_abcde"][:3, 3], hips, atol=1e-5)
    for link, joint in (("l_wrist", "left_wrist"), ("r_ankle", "right_ankle"), ("r_elbow", "right_elbow"), ("head", "head")):
        np.testing.assert_allclose(poses[f"{link}_abcde"][:3, 3], joints[JOINT_INDEX[joint]], atol=1e-5)
    forward, left, up = poses["body_abcde"][:3, :3].T
    np.testing.assert_allclose(forward, [0, 0, -1], atol=1e-6)  # the person faces the camera
    np.testing.assert_allclose(up, [0, -1, 0], atol=1e-6)
    assert left @ (joints[JOINT_INDEX["left_hip"]] - joints[JOINT_INDEX["right_hip"]]) > 0.05


def test_hanging_arms_are_parallel_to_the_body(engine, result):
    """Straight and with hanging arms, as the URDF of the standard has it at zero."""
    import dataclasses

    p = engine.params
    joints = p.joint_rotvec.copy()
    joints[0, 15, 2], joints[0, 16, 2] = -np.pi / 2, np.pi / 2
    params = BodyParams(p.betas, p.root_rotvec, joints, p.t_camera_root)
    person = dataclasses.replace(result.people[0], params=params)
    hanging = dataclasses.replace(result, people=(person,))
    for name, pose in in_camera(transforms(hanging, engine.body, HEADER, True, False)).items():
        if name.removesuffix("_abcde") in REP_155:
            np.testing.assert_allclose(pose[:3, :3], [[0, 1, 0], [0, 0, -1], [-1, 0, 0]], atol=1e-5, err_msg=name)


def test_smpl_joints_are_an_option_and_come_with_the_rest(engine, result):
    frames = transforms(result, engine.body, HEADER, links=False, smpl_joints=True)
    assert [t.child_frame_id for t in frames] == ["body_abcde", *(f"smpl_{n}_abcde" for n in SMPL_JOINTS)]
    positions = np.array([in_camera(frames)[f"smpl_{n}_abcde"][:3, 3] for n in SMPL_JOINTS])
    np.testing.assert_allclose(positions, result.people[0].joints, atol=1e-5)


def test_nobody_has_no_frames(engine, result):
    assert transforms(FrameResult(6, result.camera, (), {}), engine.body, HEADER, True, True) == []
