"""Poses: limits, mirror symmetry, variety, and that the signs mean what they say."""

import numpy as np
import pytest

from densefit_ros.body.joints import JOINT_INDEX, SMPL_FLIP
from densefit_ros.errors import ShapeError
from densefit_ros.geometry import so3
from densefit_ros.synth import dof, motion, poses
from densefit_ros.synth.gait import gait


def joints_for(**degrees):
    row = poses.from_names({k.replace("_dot_", "."): v for k, v in degrees.items()})
    return poses.joints_of(dof.to_rotmat(row[None]))[0]


def test_shapes_and_determinism():
    a = poses.sample_poses(np.random.default_rng(3), 17)
    b = poses.sample_poses(np.random.default_rng(3), 17)
    assert a.shape == (17, 23, 3) and a.dtype == np.float32 and np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - poses.sample_poses(np.random.default_rng(4), 17)).max() > 0.1


def test_zero_is_arms_hanging_and_signs_are_clinical():
    rest = joints_for()
    shoulder, wrist = rest[JOINT_INDEX["left_shoulder"]], rest[JOINT_INDEX["left_wrist"]]
    assert wrist[1] < shoulder[1] - 0.4  # hangs
    forward = joints_for(L_dot_arm_flex=90)[JOINT_INDEX["left_wrist"]]
    assert forward[2] > shoulder[2] + 0.4
    out = joints_for(L_dot_arm_abd=90)[JOINT_INDEX["left_wrist"]]
    assert out[0] > shoulder[0] + 0.4
    curl = joints_for(R_dot_elbow=90)[JOINT_INDEX["right_wrist"]]
    assert curl[2] > rest[JOINT_INDEX["right_elbow"]][2] + 0.15
    knee = joints_for(L_dot_knee=90)[JOINT_INDEX["left_ankle"]]
    assert knee[2] < rest[JOINT_INDEX["left_knee"]][2] - 0.3  # shanks fold backwards
    thigh = joints_for(R_dot_leg_flex=90)[JOINT_INDEX["right_knee"]]
    assert thigh[2] > 0.3
    bend = joints_for(bend=60)[JOINT_INDEX["neck"]]
    assert bend[2] > 0.1
    turned = dof.to_rotmat(poses.from_names({"turn": 30})[None])[0]
    heading = turned[JOINT_INDEX["spine1"]] @ turned[JOINT_INDEX["spine2"]] @ turned[JOINT_INDEX["spine3"]] @ [0, 0, 1]
    assert heading[0] > 0.4  # towards the person's left


def test_inward_rotation_brings_the_hand_to_the_belly_on_both_sides():
    for side, sign in (("L", 1), ("R", -1)):
        name = {"L": "left", "R": "right"}[side]
        j = joints_for(**{f"{side}_dot_elbow": 90, f"{side}_dot_arm_in": 60})
        assert sign * (j[JOINT_INDEX[f"{name}_elbow"]][0] - j[JOINT_INDEX[f"{name}_wrist"]][0]) > 0.15


def test_mirror_mirrors_the_skeleton():
    rng = np.random.default_rng(0)
    rows = np.array([poses.draw_dofs(rng)[1] for _ in range(20)])
    a = poses.joints_of(dof.to_rotmat(rows))
    b = poses.joints_of(dof.to_rotmat(dof.mirror(rows)))
    np.testing.assert_allclose(b, a[:, list(SMPL_FLIP)] * [-1, 1, 1], atol=2e-5)
    np.testing.assert_array_equal(dof.mirror(dof.mirror(rows)), rows)


def test_drawn_poses_respect_limits_and_keep_limbs_apart():
    rng = np.random.default_rng(1)
    rows = np.array([poses.draw_dofs(rng)[1] for _ in range(200)])
    limits = dof.joint_limits()
    low, high = np.array(list(limits.values())).T
    assert set(limits) == set(dof.DOF_NAMES)
    assert (rows >= low - 1e-6).all() and (rows <= high + 1e-6).all()
    s = poses.sample(np.random.default_rng(2), 200)
    rotmat = np.concatenate([s.R_world_root[:, None], so3.exp(s.joint_rotvec)], 1)
    assert (poses.self_overlap(rotmat) > 0.04).mean() < 0.03
    angle = np.linalg.norm(s.joint_rotvec, axis=-1)
    assert np.percentile(angle[:, JOINT_INDEX["left_shoulder"] - 1], 90) > 1.2 and angle.max() < np.pi
    assert len(set(s.archetype)) >= 10


def test_overlap_sees_a_hand_inside_the_belly():
    inside = {"L.arm_flex": 15, "L.elbow": 100, "L.arm_in": 80, "L.arm_abd": -10}
    apart = {"L.arm_abd": 60, "R.arm_abd": 60}
    rotmat = dof.to_rotmat(np.stack([poses.from_names(inside), poses.from_names(apart)]))
    overlap = poses.self_overlap(rotmat)
    assert overlap[0] > 0.05 and overlap[1] <= 0.0


def test_gait_is_periodic_and_alternates():
    for phase in (0.0, 1.0, 4.0):
        a, b, c = gait(phase, 1.0, 0.3), gait(phase + 2 * np.pi, 1.0, 0.3), gait(phase + np.pi, 1.0, 0.3)
        assert a == pytest.approx(b, abs=1e-6)
        assert a["L.knee"] == pytest.approx(c["R.knee"], abs=1e-6)


def test_free_motion_is_smooth_and_within_limits():
    time_s = np.arange(60) / 30
    track = motion.free_dofs(np.random.default_rng(5), time_s)
    assert track.shape == (60, dof.NUM_DOFS)
    assert np.abs(np.diff(track, axis=0)).max() < 0.45  # rad a frame at 30 Hz
    assert (track >= dof.DOF_LOW - 1e-5).all() and (track <= dof.DOF_HIGH + 1e-5).all()


def test_wrong_shape_is_named():
    with pytest.raises(ShapeError, match="angles"):
        dof.to_rotvec(np.zeros((2, 3), np.float32))
