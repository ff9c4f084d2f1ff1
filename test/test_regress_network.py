"""The regressor network and the meaning of its outputs."""

from __future__ import annotations

import numpy as np
import pytest

from densefit_ros.body.joints import SMPL_PARENTS
from densefit_ros.errors import ShapeError
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import project
from densefit_ros.regress.contract import REGRESSOR_CONTRACT
from densefit_ros.regress.decode import CONFIDENT_SIGMA, crop_intrinsics, decode, pelvis_position, ray_rotation
from densefit_ros.regress.network_regressor import NetworkRegressor
from densefit_ros.runtime.picture import IMAGE_FEATURES, SIZE_PX
from densefit_ros.steps.find import take_estimate
from densefit_ros.types import Camera, Crop

torch = pytest.importorskip("torch")

from densefit_ros.regress.network import OwnHeads, RegressorNet, mean_pose_rot6d_rows  # noqa: E402
from densefit_ros.train.losses import project_joints  # noqa: E402
from densefit_ros.train.torch_body import JointChain, rotmat_from_rot6d_rows  # noqa: E402

CAMERA = Camera(600.0, 600.0, 320.0, 240.0, 640, 480)


class StickBody:
    """Joints in a plane, some of which move with the shape."""

    rng = np.random.default_rng(3)
    joint_template = rng.normal(0, 0.3, (24, 3)).astype(np.float32)
    joint_shapedirs = rng.normal(0, 0.02, (24, 3, 10)).astype(np.float32)
    parents = np.array([-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21], np.int32)


def affines(*squares):
    return np.array([[[s / 192, 0, x], [0, s / 192, y]] for x, y, s in squares], np.float32)


def test_ray_rotation_golden_values():
    """A crop on the axis: identity.  45 degrees to the right: a quarter of a half turn about +y.  Below: about -x."""
    rotation = ray_rotation(np.array([[1.0, 1.0, 0.5, 0.5], [1.0, 1.0, -0.5, 0.5], [1.0, 1.0, 0.5, -0.5]]))
    np.testing.assert_allclose(rotation[0], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation[1], so3.exp(np.array([0, np.pi / 4, 0])), atol=1e-12)
    np.testing.assert_allclose(rotation[2], so3.exp(np.array([-np.pi / 4, 0, 0])), atol=1e-12)


def test_ray_rotation_takes_z_to_the_ray_by_the_smallest_turn():
    rng = np.random.default_rng(0)
    intrinsics = np.stack([rng.uniform(0.5, 5, 50), rng.uniform(0.5, 5, 50), rng.normal(0.5, 2, 50), rng.normal(0.5, 2, 50)], -1)
    rotation = ray_rotation(intrinsics)
    np.testing.assert_allclose(rotation @ np.swapaxes(rotation, 1, 2), np.tile(np.eye(3), (50, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-12)
    ray = np.stack([(0.5 - intrinsics[:, 2]) / intrinsics[:, 0], (0.5 - intrinsics[:, 3]) / intrinsics[:, 1], np.ones(50)], -1)
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    np.testing.assert_allclose(rotation[:, :, 2], ray, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(so3.log(rotation), axis=1), np.arccos(ray[:, 2]), atol=1e-7)


def test_crop_intrinsics_are_those_of_the_crop():
    got = crop_intrinsics(CAMERA, affines((320 - 96, 240 - 96, 192), (0, 0, 384)), 192)
    np.testing.assert_allclose(got[0], [600 / 192, 600 / 192, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(got[1], [600 / 384, 600 / 384, 320 / 384, 240 / 384], rtol=1e-6)


def fake_outputs(persons):
    rng = np.random.default_rng(1)
    return {
        "rot6d_rows": np.tile(np.float32([1, 0, 0, 0, 1, 0]), (persons, 24, 1)),
        "betas": rng.normal(0, 1, (persons, 10)).astype(np.float32),
        "cam": np.tile(np.float32([0.1, -0.05, np.log(0.45)]), (persons, 1)),
        "rot_log_var": np.full((persons, 24), 2 * np.log(0.2), np.float32),
        "confidence": np.full(persons, 0.8, np.float32),
        "feature": np.zeros((persons, 4), np.float32),
        "joints_uv": np.zeros((persons, 24, 2), np.float32),
        "joints_log_var": np.full((persons, 24), 2 * np.log(0.024), np.float32),
    }


def test_decoded_pelvis_projects_where_the_camera_head_says():
    a = affines((300, 100, 250), (20, 40, 192))
    outputs = fake_outputs(2)
    estimate = decode(outputs, StickBody, CAMERA, a, 192)
    rest = StickBody.joint_template[0] + estimate.params.betas @ StickBody.joint_shapedirs[0].T
    uv = project(CAMERA, (estimate.params.t_camera_root + rest)[:, None].astype(np.float64))[:, 0]
    expected = a[:, :, 2] + a[:, 0, :1] * 192 * (outputs["cam"][:, :2] + 0.5)
    np.testing.assert_allclose(uv, expected, atol=0.01)
    # One metre there is 0.45 of the crop's side.
    z = (estimate.params.t_camera_root + rest)[:, 2]
    np.testing.assert_allclose(600 / z, 0.45 * a[:, 0, 0] * 192, rtol=1e-5)


def test_decoded_root_turns_with_the_ray_and_the_rest_does_not():
    a = affines((320 - 96, 240 - 96, 192), (600, 200, 192))
    estimate = decode(fake_outputs(2), StickBody, CAMERA, a, 192)
    np.testing.assert_allclose(estimate.params.root_rotvec[0], 0, atol=1e-6)
    ray = ray_rotation(crop_intrinsics(CAMERA, a, 192).astype(np.float64))[1]
    np.testing.assert_allclose(so3.exp(estimate.params.root_rotvec[1].astype(np.float64)), ray, atol=1e-6)
    assert not estimate.params.joint_rotvec.any()
    np.testing.assert_allclose(estimate.rot_sigma_rad, 0.2, rtol=1e-5)


def test_keypoints_are_full_image_pixels_and_halve_in_confidence_with_twice_the_sigma():
    estimate = decode(fake_outputs(1), StickBody, CAMERA, affines((100, 50, 384)), 192)
    assert estimate.keypoints.set_name == "smpl24"
    np.testing.assert_allclose(estimate.keypoints.uv[0], np.tile([292.0, 242.0], (24, 1)), atol=1e-3)
    np.testing.assert_allclose(estimate.keypoints.confidence, CONFIDENT_SIGMA / 0.024, rtol=1e-5)  # fake_outputs claims 0.024


def test_losses_and_decoding_agree_on_the_camera():
    """The projection that training descends is the one that the tracker decodes."""
    rng = np.random.default_rng(5)
    a = affines((380, 60, 220))
    intrinsics = crop_intrinsics(CAMERA, a, 192)
    outputs = fake_outputs(1)
    outputs["rot6d_rows"] = rng.normal(0, 1, (1, 24, 6)).astype(np.float32)
    chain = JointChain(StickBody.joint_template, StickBody.joint_shapedirs, StickBody.parents)
    rot = rotmat_from_rot6d_rows(torch.from_numpy(outputs["rot6d_rows"]))
    joints = chain.joints(rot, torch.from_numpy(outputs["betas"]))
    ray = ray_rotation(intrinsics.astype(np.float64))
    uv = project_joints(
        joints, torch.from_numpy(outputs["cam"]), torch.from_numpy(intrinsics), torch.from_numpy(ray.astype(np.float32))
    ).numpy()
    pelvis = pelvis_position(outputs["cam"].astype(np.float64), intrinsics.astype(np.float64))
    points = joints.numpy() @ np.swapaxes(ray, 1, 2) + pelvis[:, None]
    full = project(CAMERA, points)
    expected = (full - a[:, None, :, 2]) / (a[0, 0, 0] * 192) - 0.5
    np.testing.assert_allclose(uv, expected, atol=1e-4)
    root = so3.exp(decode(outputs, StickBody, CAMERA, a, 192).params.root_rotvec.astype(np.float64))
    np.testing.assert_allclose(root, ray @ rot.numpy()[:, 0], atol=1e-5)


def test_a_fresh_network_answers_with_a_person_standing_in_front():
    net = RegressorNet().eval()
    with torch.inference_mode():
        out = dict(zip(net.OUTPUTS, net(torch.zeros((1, 128, 128, 3), dtype=torch.uint8), torch.tensor([[3.0, 3.0, 0.5, 0.5]]))))
    rot = so3.from_rot6d_rows(out["rot6d_rows"].numpy())
    np.testing.assert_allclose(rot[0, 0] @ [0, 1, 0], [0, -1, 0], atol=0.1)  # SMPL's up is the camera's -y
    np.testing.assert_allclose(rot[0, 0] @ [0, 0, 1], [0, 0, -1], atol=0.1)  # facing the camera
    assert abs(np.linalg.norm(so3.log(rot[0, 16:18]), axis=1) - 1.0).max() < 0.1
    z = 3.0 / float(torch.exp(out["cam"][0, 2]))
    assert 5 < z < 8


def test_hanging_arms_point_down():
    rot = so3.from_rot6d_rows(mean_pose_rot6d_rows().numpy().astype(np.float64))
    left = rot[0] @ rot[16] @ [1.0, 0, 0]  # in SMPL's rest pose the left arm points along +x, up is +y
    right = rot[0] @ rot[17] @ [-1.0, 0, 0]
    assert left[1] > 0.8 and right[1] > 0.8  # +y is down in the camera
    np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-6)


def test_torch_and_numpy_read_the_same_rows():
    six = np.random.default_rng(2).normal(size=(5, 24, 6))
    np.testing.assert_allclose(rotmat_from_rot6d_rows(torch.from_numpy(six)).numpy(), so3.from_rot6d_rows(six), atol=1e-12)


def test_sizes_are_within_the_budget():
    parameters = sum(p.numel() for p in RegressorNet().parameters())
    assert parameters < 10.5e6  # 21 MB of half precision; all files together at most 30


class FakeRuntime:
    name, path, concurrent = "fake", "fake.onnx", False
    inputs, outputs = REGRESSOR_CONTRACT.inputs, REGRESSOR_CONTRACT.outputs

    def __call__(self, inputs):
        assert inputs["image"].dtype == np.uint8 and inputs["intrinsics"].dtype == np.float32
        count = len(inputs["image"])
        seen = {n: np.arange(count, dtype=np.float32).repeat(8).reshape(count, 2, 2, 2) for n in IMAGE_FEATURES}
        return fake_outputs(count) | seen


def test_network_regressor_answers_every_crop():
    a = affines((0, 0, 192), (100, 100, 300))
    crop = Crop(np.zeros((2, SIZE_PX, SIZE_PX, 3), np.uint8), np.ones((2, SIZE_PX, SIZE_PX), bool), a, SIZE_PX)
    estimate = NetworkRegressor(StickBody, FakeRuntime()).estimate(crop, CAMERA)
    assert len(estimate.params) == 2 and estimate.source == "network" and estimate.rot_sigma_rad.shape == (2, 24)
    assert NetworkRegressor(StickBody, FakeRuntime(), keypoints=False).estimate(crop, CAMERA).keypoints is None
    with pytest.raises(ShapeError, match=str(SIZE_PX)):
        NetworkRegressor(StickBody, FakeRuntime()).estimate(Crop(crop.rgb[:, :96, :96], crop.inside, a, 96), CAMERA)


def test_what_the_trunk_sees_stays_with_its_person():
    a = affines((0, 0, 192), (100, 100, 300), (50, 50, 100))
    crop = Crop(np.zeros((3, SIZE_PX, SIZE_PX, 3), np.uint8), np.ones((3, SIZE_PX, SIZE_PX), bool), a, SIZE_PX)
    kept = take_estimate(NetworkRegressor(StickBody, FakeRuntime()).estimate(crop, CAMERA), [2, 0])
    assert kept.seen.s4[:, 0, 0, 0].tolist() == [2, 0] and kept.seen.s8[:, 0, 0, 0].tolist() == [2, 0]


def test_the_network_sees_the_middle_columns_of_a_square_and_measures_in_the_square():
    torch.manual_seed(0)
    net = RegressorNet((8, 8, 16, 16, 16), (1, 1, 1, 1), 8, 32).eval()
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    other = image.clone()
    other[:, :, :16] = other[:, :, 48:] = 0
    intrinsics = torch.tensor([[3.0, 3.0, 0.5, 0.5]] * 2)
    with torch.inference_mode():
        answers = [net(i, intrinsics) for i in (image, other, image[:, :, 16:48])]
        for whole, masked, cut in zip(*answers):
            torch.testing.assert_close(whole, masked)
            torch.testing.assert_close(whole, cut)
        # All attention on the cell in row 2, column 3 of 8 x 4 cells, which is column 5 of the square's 8.
        maps = torch.full((1, 48, 8, 4), -50.0)
        maps[:, :24, 2, 3] = 50.0
        uv = net.read_out(maps, torch.zeros(1, 8, 8, 4), torch.zeros(1, 16, 2, 1), intrinsics[:1])[6]
    np.testing.assert_allclose(uv[0], np.tile([5.5 / 8 - 0.5, 2.5 / 8 - 0.5], (24, 1)), atol=1e-6)


def test_a_joint_s_own_head_reads_its_neighbours_and_nobody_else():
    own = OwnHeads(neck=4, hidden=6, width=5).eval()
    torch.nn.init.normal_(own.last, std=0.5)
    rng = torch.Generator().manual_seed(0)
    gathered, uv, z, spread, feature = (torch.rand(s, generator=rng) for s in ((1, 24, 4), (1, 24, 2), (1, 24), (1, 24), (1, 6)))
    with torch.inference_mode():
        before = own(gathered, uv, z, spread, feature)
        for joint in (18, 20):  # left elbow, left wrist
            moved = uv.clone()
            moved[0, joint] += 0.1
            changed = (own(gathered, moved, z, spread, feature) - before).abs().sum((0, 2)) > 1e-6
            neighbours = {joint, SMPL_PARENTS[joint], *(k for k, p in enumerate(SMPL_PARENTS) if p == joint)}
            assert set(changed.nonzero()[:, 0].tolist()) == neighbours
        everybody = own(gathered, uv + 0.3, z, spread, feature)
        torch.testing.assert_close(everybody, before, msg="places count relative to one another")
