"""The loaders, on small folders in the datasets' own formats whose truth is known."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
import shutil
import struct

import cv2
import numpy as np
import pytest
from smpl_like import smpl_file

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import joint_transforms, pose
from densefit_ros.errors import AssetError
from densefit_ros.eval import rich
from densefit_ros.eval.emdb import Emdb
from densefit_ros.eval.rich import Rich
from densefit_ros.eval.sample import H36M_TO_14, VIEW, score
from densefit_ros.eval.threedpw import ThreeDPW
from densefit_ros.geometry import so3
from densefit_ros.types import BodyParams

FRAMES = 4
K = np.array([[500.0, 0, 160], [0, 500, 120], [0, 0, 1]])


class _Python2(pickle._Pickler):
    """Writes str and bytes as Python 2 wrote its strings: the form in which the datasets are published."""

    dispatch = dict(pickle._Pickler.dispatch)

    def _save_string(self, value):
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _save_string


def _dump(path, tree):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    _Python2(buffer, protocol=2).dump(tree)
    path.write_bytes(buffer.getvalue())
    return path


@functools.lru_cache(maxsize=1)
def _body():
    return load_body()


@functools.lru_cache(maxsize=1)
def _regressor():
    rng = np.random.default_rng(0)
    matrix = np.zeros((17, _body().num_vertices))
    for row in matrix:
        row[rng.choice(len(row), 6, replace=False)] = 1 / 6
    return matrix


def _bodies(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("MALE", "FEMALE", "NEUTRAL"):
        shutil.copy(smpl_file(), folder / f"SMPL_{name}.npz")
    np.save(folder / "J_regressor_h36m.npy", _regressor())
    return folder


def _world(seed=0):
    """A person in the world, and cameras that see it: poses (N,72), trans (N,3), betas (10,), T_camera_world (N,4,4)."""
    rng = np.random.default_rng(seed)
    poses = 0.2 * rng.normal(size=(FRAMES, 72))
    trans = rng.normal(size=(FRAMES, 3)) * 0.2
    betas = 0.5 * rng.normal(size=10)
    cameras = np.tile(np.eye(4), (FRAMES, 1, 1))
    for i in range(FRAMES):
        cameras[i, :3, :3] = so3.exp(np.array([np.pi, 0, 0])) @ so3.exp(0.2 * rng.normal(size=3))
        cameras[i, :3, 3] = [0.1, 0.2, 4.0 + 0.3 * i]
    return poses, trans, betas, cameras


def _true_vertices(poses, trans, betas, camera):
    """Posed in the world by the model, then moved by the camera: the definition, without the loaders' shortcut."""
    world = pose(_body(), BodyParams(betas[None], poses[None, :3], poses[3:].reshape(1, 23, 3), trans[None]))
    move = lambda x: x @ camera[:3, :3].T + camera[:3, 3]  # noqa: E731
    return move(world.vertices[0]), move(world.joints[0])


def _threedpw(tmp_path, **changes):
    poses, trans, betas, cameras = _world()
    valid = np.array([1, 0, 1, 1])
    other = np.zeros(FRAMES)
    tree = {
        "sequence": "street_00",
        "poses": [poses, poses],
        "betas": [np.concatenate([betas, np.full(290, 9.0)]), betas],
        "trans": [trans, trans],
        "genders": ["m", "f"],
        "campose_valid": [valid, other],
        "cam_poses": cameras,
        "cam_intrinsics": K,
        "img_frame_ids": np.arange(FRAMES) * 2,
        "poses2d": [np.zeros((FRAMES, 3, 18))] * 2,
        # What the files carry besides, and nobody reads.
        "texture_maps": [np.zeros((32, 32, 3), np.uint8)] * 2,
        "v_template_clothed": [np.zeros((20, 3))] * 2,
        "jointPositions": [np.zeros((FRAMES, 72))] * 2,
        "poses_60Hz": [np.zeros((2 * FRAMES, 72))] * 2,
    }
    _dump(tmp_path / "sequenceFiles" / "test" / "street_00.pkl", {**tree, **changes})
    folder = tmp_path / "imageFiles" / "street_00"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(FRAMES):
        cv2.imwrite(str(folder / f"image_{i:05d}.jpg"), np.full((240, 320, 3), 40 + i, np.uint8))
    return tmp_path, _bodies(tmp_path / "smpl")


def _emdb(tmp_path, **changes):
    poses, trans, betas, cameras = _world(1)
    tree = {
        "name": "P0_00_walk", "gender": "female", "emdb1": True, "emdb2": False, "n_frames": FRAMES,
        "good_frames_mask": np.array([True, True, False, True]),
        "camera": {"intrinsics": K, "extrinsics": cameras, "width": 320, "height": 240},
        "smpl": {"poses_root": poses[:, :3], "poses_body": poses[:, 3:], "trans": trans, "betas": betas},
    }  # fmt: skip
    folder = tmp_path / "P0" / "00_walk"
    _dump(folder / "P0_00_walk_data.pkl", {**tree, **changes})
    (folder / "images").mkdir(exist_ok=True)
    for i in range(FRAMES):
        cv2.imwrite(str(folder / "images" / f"{i:05d}.jpg"), np.full((240, 320, 3), 10, np.uint8))
    return tmp_path, _bodies(tmp_path / "smpl")


def _rich(tmp_path, size=(514, 376), **changes):
    poses, trans, betas, cameras = _world(2)
    root = tmp_path
    _rich_model(root / "smplx")
    for i in range(2):
        tree = {
            "global_orient": poses[i, None, :3], "body_pose": poses[i, None, 3:66], "transl": trans[i, None],
            "betas": betas[None], "left_hand_pose": np.zeros((1, 12)), "expression": np.zeros((1, 10)),
        }  # fmt: skip
        _dump(root / "bodies" / "test" / "Gym_003_squat" / f"{7 + i:05d}" / "003.pkl", {**tree, **changes})
        for camera in (0, 4):
            picture = root / "images" / "test" / "Gym_003_squat" / f"cam_{camera:02d}" / f"{7 + i:05d}_{camera:02d}.jpeg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(picture), np.full((size[1], size[0], 3), 60, np.uint8))
    for camera in (0, 4):
        path = root / "scan_calibration" / "Gym" / "calibration" / f"{camera:03d}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        storage.write("CameraMatrix", cameras[camera // 4][:3])
        storage.write("Intrinsics", np.array([[4000.0, 0, 2055.5], [0, 4000, 1503.5], [0, 0, 1]]))
        storage.release()
    (root / "resource").mkdir(exist_ok=True)
    (root / "resource" / "gender.json").write_text('{"0": "female", "3": "male"}')  # as the toolkit's: numbers without zeros
    return root, root / "smplx"


def _rich_model(folder):
    """A file of SMPL-X's layout: the free body's joints plus hands and face that are not compared."""
    body = _body()
    folder.mkdir(parents=True, exist_ok=True)
    regressor = np.zeros((55, body.num_vertices))
    regressor[:24] = body.j_regressor.toarray()
    kintree = np.zeros((2, 55), np.int64)
    kintree[0, :24], kintree[1] = body.parents, np.arange(55)
    kintree[0, 0] = 4294967295
    shapedirs = np.concatenate([body.shapedirs, np.ones((body.num_vertices, 3, 10))], 2)
    np.savez(
        folder / "SMPLX_MALE.npz",
        v_template=body.v_template,
        shapedirs=shapedirs,
        J_regressor=regressor,
        kintree_table=kintree,
        joint2num=np.array({"Pelvis": 0}, object),  # the released files have these, and nobody needs them
        part2num=np.array({"Head": 15}, object),
    )


# -- perfect predictions score 0, known offsets their value -------------------------------------------------------------


@pytest.mark.parametrize("make, loader", [(_threedpw, ThreeDPW), (_emdb, Emdb)])
def test_truth_scores_zero_and_an_offset_its_size(tmp_path, make, loader):
    root, bodies = make(tmp_path)
    dataset = loader(root, bodies)
    assert len(dataset) == 3
    for sample in dataset:
        vertices = sample.truth.vertices_m
        joints = _body().j_regressor @ vertices if loader is not Emdb else sample.truth.points_m
        perfect = score(dataset.protocol, sample, vertices, joints)
        assert dataclasses.astuple(perfect) == pytest.approx((0, 0, 0, 0, 0, 1, 1), abs=1e-6)
        # 100 mm to the right: absolute error only, and what it makes in the picture.
        shift = np.array([0.1, 0, 0])
        moved = score(dataset.protocol, sample, vertices + shift, joints + shift)
        assert (moved.mpjpe_mm, moved.pa_mpjpe_mm, moved.pve_mm) == pytest.approx((0, 0, 0), abs=1e-6)
        assert moved.absolute_mpjpe_mm == pytest.approx(100)
        assert moved.reproj_px == pytest.approx(np.mean(0.1 * 500 / sample.truth.points_m[:, 2]), rel=1e-6)
        # 5 % too large about the root.
        grown = sample.truth.root_m + 1.05 * (vertices - sample.truth.root_m)
        grown_joints = sample.truth.root_m + 1.05 * (joints - sample.truth.root_m)
        big = score(dataset.protocol, sample, grown, grown_joints)
        spread = np.linalg.norm(sample.truth.points_m - sample.truth.root_m, axis=1).mean()
        assert big.mpjpe_mm == pytest.approx(50 * spread) and big.pa_mpjpe_mm == pytest.approx(0, abs=1e-6)
        assert big.pve_mm == pytest.approx(50 * np.linalg.norm(vertices - sample.truth.root_m, axis=1).mean())
        # Aside by 7 % of the box at the middle depth: as many points are right as lie nearer or farther than that.
        z, side = sample.truth.points_m[:, 2], max(sample.box_xywh[2:])
        aside = 0.07 * side / 500 * np.median(z)
        shifted = score(dataset.protocol, sample, vertices + [aside, 0, 0], joints + [aside, 0, 0])
        expected = [np.mean(500 * aside / z <= share * side) for share in (0.05, 0.1)]
        assert (shifted.pck_05, shifted.pck_10) == pytest.approx(expected) and expected[0] < expected[1]


def test_rich_scores(tmp_path):
    dataset = Rich(*_rich(tmp_path))
    assert len(dataset) == 4  # two frames, two cameras
    poses, trans, betas, cameras = _world(2)
    for sample in dataset:
        frame, camera = sample.frame - 7, int(sample.sequence.split(VIEW)[1].split("/")[0]) // 4
        joints = _true_vertices(poses[frame], trans[frame], betas, cameras[camera])[1]
        # Hands do not move the 22 joints.
        assert sample.truth.points_m == pytest.approx(joints[:22], abs=1e-6)
        perfect = score(dataset.protocol, sample, np.zeros((5, 3)), joints)
        assert (perfect.mpjpe_mm, perfect.reproj_px, perfect.pck_05) == pytest.approx((0, 0, 1), abs=1e-4)
        assert np.isnan(perfect.pve_mm)
        moved = score(dataset.protocol, sample, np.zeros((5, 3)), joints + [0.1, 0, 0])
        assert (moved.mpjpe_mm, moved.pa_mpjpe_mm, moved.absolute_mpjpe_mm) == pytest.approx((0, 0, 100), abs=1e-3)
        assert moved.reproj_px == pytest.approx(np.mean(0.1 * sample.camera.fx / joints[:22, 2]), rel=1e-4)
        hand = joints.copy()
        hand[20] += [0, 0.066, 0]  # one of 22 joints, the hands' own joints are not compared
        hand[23] += 1.0
        one = score(dataset.protocol, sample, np.zeros((5, 3)), hand)
        assert (
            one.mpjpe_mm == pytest.approx(3)
            and one.absolute_mpjpe_mm == pytest.approx(3)
            and 0 < one.pa_mpjpe_mm < 66 / np.sqrt(22)
        )
        assert sample.camera.fx == pytest.approx(4000 * 514 / 4112) and sample.camera.cx == pytest.approx(257)


# -- loaders ------------------------------------------------------------------------------------------------------------


def test_the_14_joints_of_3dpw_tables():
    """Of Human3.6M's 17, as SPIN and all who compare with it take them."""
    assert H36M_TO_14 == (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)


def test_3dpw_truth_is_the_model_moved_by_the_camera(tmp_path):
    dataset = ThreeDPW(*_threedpw(tmp_path))
    poses, trans, betas, cameras = _world()
    assert [s.frame for s in dataset] == [0, 2, 3]  # the frame without a valid camera is left out, and the second person
    for sample in dataset:
        i = sample.frame
        vertices, _ = _true_vertices(poses[i], trans[i], betas, cameras[i])
        assert sample.truth.vertices_m == pytest.approx(vertices, abs=1e-6)
        found = _regressor() @ vertices
        assert sample.truth.points_m == pytest.approx(found[list(H36M_TO_14)], abs=1e-6)
        assert sample.truth.root_m == pytest.approx(found[0], abs=1e-6)
        assert sample.image().mean() == pytest.approx(40 + i, abs=2)  # its own picture
        assert (sample.camera.width, sample.camera.height, sample.camera.cx) == (320, 240, 160.5)


def test_emdb_truth_is_the_model_moved_by_the_camera(tmp_path):
    root, bodies = _emdb(tmp_path)
    poses, trans, betas, cameras = _world(1)
    for sample in Emdb(root, bodies):
        i = sample.frame
        vertices, joints = _true_vertices(poses[i], trans[i], betas, cameras[i])
        assert sample.truth.vertices_m == pytest.approx(vertices, abs=1e-6)
        assert sample.truth.points_m == pytest.approx(joints, abs=1e-6)
        x, y, w, h = sample.box_xywh
        uv = vertices[:, :2] / vertices[:, 2:] * 500 + [160.5, 120.5]
        assert (x, y, x + w, y + h) == pytest.approx((*uv.min(0), *uv.max(0)), abs=0.01)
    with pytest.raises(AssetError, match="emdb2"):
        Emdb(root, bodies, split="emdb2")


def test_emdb_aligns_the_middle_of_the_hips(tmp_path):
    """As its own evaluation does: a pelvis that is off alone moves nothing else."""
    dataset = Emdb(*_emdb(tmp_path))
    sample = next(iter(dataset))
    joints = np.array(sample.truth.points_m)
    joints[0] += [0, 0.024, 0]
    assert score(dataset.protocol, sample, sample.truth.vertices_m, joints).mpjpe_mm == pytest.approx(1.0, abs=1e-6)
    assert sample.picture == "P0/00_walk/images/00000.jpg"


@pytest.mark.parametrize("genders, words", [(None, "gender.json: missing"), ('{"4": "male"}', "does not know subject '003'")])
def test_rich_bodies_without_a_gender_are_refused(tmp_path, genders, words):
    """Shapes are those of a gendered model: another one would be another body."""
    root, bodies = _rich(tmp_path)
    path = root / "resource" / "gender.json"
    path.unlink() if genders is None else path.write_text(genders)
    with pytest.raises(AssetError, match=words):
        next(iter(Rich(root, bodies)))


def test_smplx_joints_are_those_of_the_same_tree():
    rng = np.random.default_rng(3)
    betas, rotvec, trans = rng.normal(size=10), 0.4 * rng.normal(size=(24, 3)), rng.normal(size=3)
    body = _body()
    params = BodyParams(betas[None], rotvec[None, 0], rotvec[None, 1:], trans[None])
    _, joints, _ = joint_transforms(body, params)
    got = rich.smplx_body_joints(
        body.joint_template[:22].astype(float), body.joint_shapedirs[:22].astype(float), body.parents, betas, rotvec[:22], trans
    )
    assert got == pytest.approx(joints[0, :22], abs=1e-5)


def test_stride_keeps_every_camera_and_person_of_the_frames_it_keeps(tmp_path):
    paths = _rich(tmp_path)
    everything = Rich(*paths).keys
    frames = sorted({k.rpartition("/")[2] for k in everything})
    for stride in (2, 3):
        kept = [k for k in everything if k.rpartition("/")[2] in frames[::stride]]
        assert list(Rich(*paths, stride=stride).keys) == kept


def test_stride_thins_the_frames(tmp_path):
    assert len(ThreeDPW(*_threedpw(tmp_path), stride=2)) == 2
