"""Linear blend skinning: invariants of the NumPy reference, and parity of the Warp skinner and of smplx with it."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from body_helpers import random_params, toy_arrays

from densefit_ros import warp_setup
from densefit_ros.body.assets import load_body, to_smplx
from densefit_ros.body.joints import (
    COCO17,
    KEYPOINT_SETS,
    SMPL_FLIP,
    SMPL_JOINTS,
    SMPL_PARENTS,
    flip_map,
    landmark_positions,
)
from densefit_ros.body.model import outline_vertices, pose, rest_joints, rest_vertices, thinned, vertex_colors
from densefit_ros.body.skin import Skinner
from densefit_ros.errors import BackendUnavailable, ShapeError
from densefit_ros.geometry import so3
from densefit_ros.types import BodyParams


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A body with pose blendshapes and 8 UV-less faces a ring."""
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    np.savez(path, **toy_arrays())
    return load_body(path)


@pytest.fixture(params=["free", "toy"])
def either(request, body, toy):
    return body if request.param == "free" else toy


def test_zero_pose_is_the_shaped_template(either):
    params = dataclasses.replace(random_params(3), root_rotvec=np.zeros((3, 3)), joint_rotvec=np.zeros((3, 23, 3)))
    out = pose(either, params)
    shaped = either.v_template + np.einsum("vcb,pb->pvc", either.shapedirs.astype(np.float64), params.betas)
    np.testing.assert_allclose(out.vertices, shaped + params.t_camera_root[:, None], atol=1e-12)
    np.testing.assert_allclose(out.vertices, rest_vertices(either, params.betas) + params.t_camera_root[:, None], atol=1e-12)
    np.testing.assert_allclose(out.joints, rest_joints(either, params.betas) + params.t_camera_root[:, None], atol=1e-12)


def test_rest_joints_are_the_regressor_on_the_shaped_template(either):
    betas = random_params(4).betas
    regressed = np.stack([either.j_regressor.astype(np.float64) @ v for v in rest_vertices(either, betas)])
    np.testing.assert_allclose(rest_joints(either, betas), regressed, atol=1e-6)


def test_root_motion_is_rigid(either):
    params = random_params(2)
    turn, shift = so3.exp(np.array([0.3, -1.1, 0.7])), np.array([0.5, -0.2, 1.0])
    pelvis = rest_joints(either, params.betas)[:, 0]
    moved = dataclasses.replace(
        params,
        root_rotvec=so3.log(turn @ so3.exp(params.root_rotvec)),
        t_camera_root=np.einsum("ab,pb->pa", turn, pelvis + params.t_camera_root) + shift - pelvis,
    )
    before, after = pose(either, params), pose(either, moved)
    np.testing.assert_allclose(after.vertices, before.vertices @ turn.T + shift, atol=1e-9)
    np.testing.assert_allclose(after.joints, before.joints @ turn.T + shift, atol=1e-9)


def test_bones_keep_their_lengths(either):
    params = random_params(3, angle=1.5)
    posed, rest = pose(either, params).joints, rest_joints(either, params.betas)
    child, parent = np.arange(1, 24), np.array(SMPL_PARENTS[1:])
    np.testing.assert_allclose(
        np.linalg.norm(posed[:, child] - posed[:, parent], axis=-1), np.linalg.norm(rest[:, child] - rest[:, parent], axis=-1)
    )


def test_a_joint_moves_only_what_hangs_on_it(body):
    elbow = SMPL_JOINTS.index("left_elbow")
    params = BodyParams.rest(1)
    bent = dataclasses.replace(params, joint_rotvec=params.joint_rotvec.copy())
    bent.joint_rotvec[0, elbow - 1] = [0, -1.2, 0]
    shift = np.linalg.norm(pose(body, bent).vertices - pose(body, params).vertices, axis=-1)[0]
    below = {elbow, SMPL_JOINTS.index("left_wrist"), SMPL_JOINTS.index("left_hand")}
    share = np.where(np.isin(body.skin_joint, list(below)), body.skin_weight, 0).sum(1)
    assert shift[share == 0].max() < 1e-6 and shift[share > 0.99].min() > 1e-3


def test_a_thinned_body_is_the_body_at_these_vertices(either):
    params, some = random_params(3), np.array([5, 0, 17, 9])
    np.testing.assert_allclose(pose(thinned(either, some), params).vertices, pose(either, params).vertices[:, some], atol=1e-12)
    np.testing.assert_allclose(pose(thinned(either, some), params).joints, pose(either, params).joints, atol=1e-12)


def test_the_outline_says_where_a_body_begins_and_ends(body):
    chosen = outline_vertices(body)
    assert len(np.unique(chosen)) == 1024
    params = random_params(40, angle=0.8)
    outlines, bodies = Skinner(body, "cpu", 40).outline(params), pose(body, params).vertices
    assert outlines.shape == (40, 1024, 3)
    np.testing.assert_allclose(outlines, bodies[:, chosen], atol=1e-4)
    size = np.ptp(bodies, axis=1).max(1)[:, None]
    for end in (np.min, np.max):
        assert (np.abs(end(outlines, axis=1) - end(bodies, axis=1)) / size).max() < 0.02


def test_float64_in_float64_out(either):
    exact = pose(either, random_params(2))
    assert exact.vertices.dtype == np.float64 and exact.joints.dtype == np.float64
    single = pose(either, random_params(2, dtype=np.float32))
    assert single.vertices.dtype == np.float32 and single.joints.dtype == np.float32
    np.testing.assert_allclose(single.vertices, exact.vertices, atol=2e-6)


@pytest.mark.parametrize("field", ["betas", "root_rotvec", "joint_rotvec", "t_camera_root"])
def test_central_differences_converge_in_float64(toy, field):
    """The error of a central difference falls with the square of the step, so digits are not lost to float32 on the way."""
    params, rng = random_params(1), np.random.default_rng(3)
    value = getattr(params, field)
    direction = rng.normal(size=value.shape)
    direction /= np.linalg.norm(direction)

    def moved(step: float) -> np.ndarray:
        return pose(toy, dataclasses.replace(params, **{field: value + step * direction})).vertices

    rate = [(moved(h) - moved(-h)) / (2 * h) for h in (4e-3, 2e-3, 1e-3)]
    assert np.abs(rate[2]).max() > 0.01
    first, second = np.linalg.norm(rate[0] - rate[1]), np.linalg.norm(rate[1] - rate[2])
    assert second < 1e-9 or abs(first / second - 4) < 0.02


def test_poseblendshapes_follow_the_formula(toy):
    params = random_params(1)
    plain = pose(dataclasses.replace(toy, posedirs=None), params)
    feature = (so3.exp(params.joint_rotvec[0]) - np.eye(3)).reshape(-1)
    offset = (feature @ toy.posedirs).reshape(-1, 3)
    rotmat = np.broadcast_to(np.eye(3), (24, 3, 3)).copy()
    rotmat[0] = so3.exp(params.root_rotvec[0])
    for j in range(1, 24):
        rotmat[j] = rotmat[SMPL_PARENTS[j]] @ so3.exp(params.joint_rotvec[0, j - 1])
    turned = np.einsum("vk,vkab,vb->va", toy.skin_weight, rotmat[toy.skin_joint], offset)
    np.testing.assert_allclose(pose(toy, params).vertices[0], plain.vertices[0] + turned, atol=1e-7)
    np.testing.assert_array_equal(pose(toy, params).joints, plain.joints)


def test_shapes_are_checked(body):
    good = random_params(2)
    for field, bad in (("betas", (2, 9)), ("root_rotvec", (1, 3)), ("joint_rotvec", (2, 24, 3)), ("t_camera_root", (2, 4))):
        with pytest.raises(ShapeError, match=field):
            pose(body, dataclasses.replace(good, **{field: np.zeros(bad)}))
    with pytest.raises(ShapeError, match="betas"):
        rest_joints(body, np.zeros(10))
    assert pose(body, BodyParams.rest(0)).vertices.shape == (0, 6890, 3)


def test_skinner_equals_the_reference(either):
    skinner = Skinner(either, max_persons=5)
    for persons in (1, 5, 2, 0, 3):
        params = random_params(persons, seed=persons, dtype=np.float32, angle=1.0)
        got, expected = skinner.pose(params), pose(either, params)
        np.testing.assert_allclose(got.vertices, expected.vertices, atol=1e-5)
        np.testing.assert_allclose(got.joints, expected.joints, atol=1e-5)


def test_skinner_hands_out_own_arrays_and_checks(body):
    skinner = Skinner(body, max_persons=2)
    first = skinner.pose(random_params(1, seed=1))
    kept = first.vertices.copy()
    skinner.pose(random_params(2, seed=2))
    np.testing.assert_array_equal(first.vertices, kept)
    with pytest.raises(ShapeError, match="max_persons"):
        skinner.pose(random_params(3))
    with pytest.raises(ShapeError):
        Skinner(body, max_persons=0)
    with pytest.raises(BackendUnavailable, match="cuda:99"):
        Skinner(body, device="cuda:99")


def test_skinner_takes_small_angles(body):
    params = random_params(1, dtype=np.float32)
    for angle in (0.0, 1e-8, 1e-5, 1e-4, 3e-4, np.pi, 6.0):
        tiny = dataclasses.replace(params, joint_rotvec=np.full((1, 23, 3), angle / np.sqrt(3), np.float32))
        np.testing.assert_allclose(Skinner(body, max_persons=1).pose(tiny).vertices, pose(body, tiny).vertices, atol=1e-5)


def warp_sees_cuda() -> bool:
    import warp as wp

    warp_setup.init()
    return wp.is_cuda_available()


@pytest.mark.gpu
@pytest.mark.skipif(not warp_sees_cuda(), reason="needs a CUDA device")
def test_skinner_on_cuda_equals_the_reference(either):
    skinner = Skinner(either, device="cuda", max_persons=16)
    for persons in (16, 1, 7):
        params = random_params(persons, dtype=np.float32)
        np.testing.assert_allclose(skinner.pose(params).vertices, pose(either, params).vertices, atol=1e-5)
        np.testing.assert_allclose(skinner.pose(params).joints, pose(either, params).joints, atol=1e-5)


def test_smplx_agrees(either):
    torch = pytest.importorskip("torch")
    pytest.importorskip("smplx")
    params = random_params(3, dtype=np.float32)
    expected = pose(either, params)
    tensor = {k: torch.from_numpy(v) for k, v in vars(params).items()}
    out = to_smplx(either)(
        betas=tensor["betas"],
        global_orient=tensor["root_rotvec"],
        body_pose=tensor["joint_rotvec"].reshape(3, 69),
        transl=tensor["t_camera_root"],
    )
    np.testing.assert_allclose(out.vertices.detach().numpy(), expected.vertices, atol=1e-5)
    np.testing.assert_allclose(out.joints.detach().numpy()[:, :24], expected.joints, atol=1e-5)


def test_upright_person_facing_the_camera(body):
    """Optical frame: y down, z forward; the nose is nearer than the heels, the head above them, the left hand on the right."""
    params = dataclasses.replace(BodyParams.rest(1), root_rotvec=np.array([[np.pi, 0, 0]]), t_camera_root=np.array([[0, 0, 3.0]]))
    posed = pose(body, params)
    point = dict(zip(body.landmarks["openpose25"].names, landmark_positions(body.landmarks["openpose25"], posed)[0]))
    assert point["nose"][2] < point["left_heel"][2] < 3.2 and point["nose"][1] < point["mid_hip"][1] < point["left_heel"][1]
    assert point["left_wrist"][0] > 0.5 and point["right_wrist"][0] < -0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nobody_is_posed_into_nothing(body, toy, dtype):
    nobody = BodyParams(*(a.astype(dtype) for a in vars(BodyParams.rest(0)).values()))
    for each in (body, toy):
        posed = pose(each, nobody)
        assert posed.vertices.shape == (0, each.num_vertices, 3) and posed.joints.shape == (0, 24, 3)
        assert posed.vertices.dtype == posed.joints.dtype == dtype
        assert rest_joints(each, nobody.betas).shape == (0, 24, 3)
        for points in each.landmarks.values():
            assert landmark_positions(points, posed).shape == (0, len(points), 3)
        skinned = Skinner(each, max_persons=1).pose(nobody)
        assert skinned.vertices.shape == (0, each.num_vertices, 3) and skinned.joints.shape == (0, 24, 3)
    assert len(BodyParams.stack([])) == 0 and len(BodyParams.stack([nobody, nobody])) == 0


def test_vertex_colors_name_places(body, toy):
    for each in (body, toy):
        color = vertex_colors(each)
        assert color.dtype == np.float32 and color.min() >= 0.1 - 1e-6 and color.max() <= 1.0
    color = vertex_colors(body)
    top, left = np.argmax(body.v_template[:, 1]), np.argmax(body.v_template[:, 0])
    assert color[top, 1] > 0.999 and color[left, 0] > 0.999
    assert len(np.unique(np.round(color * 1e5), axis=0)) == body.num_vertices


def test_joint_tables():
    assert len(SMPL_JOINTS) == len(set(SMPL_JOINTS)) == 24
    assert all(parent < child for child, parent in enumerate(SMPL_PARENTS))
    assert [SMPL_JOINTS[i] for i in SMPL_FLIP][1:3] == ["right_hip", "left_hip"]
    for names in KEYPOINT_SETS.values():
        flip = np.array(flip_map(names))
        np.testing.assert_array_equal(flip[flip], np.arange(len(names)))
    assert [len(KEYPOINT_SETS[n]) for n in ("smpl24", "openpose25", "coco17", "mediapipe33")] == [24, 25, 17, 33]
    # As the programs number their points: OpenPose's BODY_25, COCO, MediaPipe's pose landmarks.
    body25 = (
        "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle LHip LKnee LAnkle REye LEye REar "
        "LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel"
    ).split()
    words = (re.sub("^(R|L)(?=[A-Z])", lambda m: {"R": "Right", "L": "Left"}[m[1]], n) for n in body25)
    assert KEYPOINT_SETS["openpose25"] == tuple(re.sub("(?<=[a-z])(?=[A-Z])", "_", w).lower() for w in words)
    pairs = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    assert COCO17 == ("nose", *(f"{side}_{part}" for part in pairs for side in ("left", "right")))
    face = "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear".split()
    limbs = "shoulder elbow wrist pinky index thumb hip knee ankle heel foot_index".split()
    rest = (f"{side}_{part}" for part in limbs for side in ("left", "right"))
    assert KEYPOINT_SETS["mediapipe33"] == (*face, "mouth_left", "mouth_right", *rest)
