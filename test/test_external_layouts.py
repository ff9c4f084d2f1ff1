"""Files of other regressors: bodies land where their source projects them."""

from __future__ import annotations

import collections
import functools
import json
import os
import pickle

import joblib
import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.body.unpickle_joblib import restricted_load_joblib
from densefit_ros.errors import AssetError
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import project
from densefit_ros.regress.external import by_picture, in_camera, read_people, source_camera
from densefit_ros.types import BodyParams, Camera

W, H = 1280, 720
N = 3
PICTURES = ("a.jpg", "b.jpg", "c.jpg")


@functools.lru_cache(maxsize=1)
def _body():
    return load_body()


@functools.lru_cache(maxsize=1)
def _source():
    """Poses, shapes and crop cameras as a regressor predicts them, and the joints without any translation."""
    rng = np.random.default_rng(4)
    root = so3.log(so3.exp(np.array([np.pi, 0, 0])) @ so3.exp(0.4 * rng.normal(size=(N, 3))))
    local = 0.3 * rng.normal(size=(N, 23, 3))
    betas = rng.normal(size=(N, 10))
    joints = pose(_body(), BodyParams(betas, root, local, np.zeros((N, 3)))).joints
    weak = np.column_stack([rng.uniform(0.6, 1.1, N), rng.uniform(-0.1, 0.1, (N, 2))])
    centre = np.column_stack([rng.uniform(200, 1000, N), rng.uniform(200, 500, N)])
    side = rng.uniform(180, 420, N)
    return root, local, betas, joints, weak, centre, side


def _matrices():
    root, local = _source()[:2]
    return so3.exp(root)[:, None], so3.exp(local)


def _crop_to_full(focal):
    """The step as the sources write it, spelt out for one person at a time."""
    _, _, _, _, weak, centre, side = _source()
    out = []
    for (s, tx, ty), (u, v), b, f in zip(weak, centre, side, np.broadcast_to(focal, N)):
        bs = b * s
        out.append([tx + 2 * (u - W / 2) / bs, ty + 2 * (v - H / 2) / bs, 2 * f / bs])
    return np.array(out)


def _projected(t, focal, cx=W / 2, cy=H / 2):
    """The source's own projection of its joints, (N,24,2) px."""
    x = _source()[3] + np.asarray(t)[:, None]
    return np.stack(
        [np.reshape(focal, (-1, 1)) * x[..., 0] / x[..., 2] + cx, np.reshape(focal, (-1, 1)) * x[..., 1] / x[..., 2] + cy], -1
    )


def _hmr2(folder):
    root, local = _matrices()
    _, _, betas, _, weak, centre, side = _source()
    tree = {
        "pred_smpl_params": {"global_orient": root.astype("f4"), "body_pose": local.astype("f4"), "betas": betas.astype("f4")},
        "pred_cam": weak, "box_center": centre, "box_size": side, "img_size": np.tile([float(W), H], (N, 1)),
        "imgname": [f"/data/{p}" for p in PICTURES],
    }  # fmt: skip
    (folder / "out.pkl").write_bytes(pickle.dumps(tree))
    focal = 5000 / 256 * W
    return folder / "out.pkl", _projected(_crop_to_full(focal), focal)


def _phalp(folder, compress=0):
    """Tracks: the camera is that of the padded picture shrunk to 256 px."""
    root, local = _matrices()
    _, _, betas, joints, weak, centre, side = _source()
    ratio, left, top = 256 / max(W, H), (max(W, H) - W) // 2, (max(W, H) - H) // 2
    tree, expected = {}, []
    for i, name in enumerate(PICTURES):
        bs = side[i] * ratio * weak[i, 0]
        small = (centre[i] + [left, top]) * ratio
        t = np.array([weak[i, 1] + 2 * (small[0] - 128) / bs, weak[i, 2] + 2 * (small[1] - 128) / bs, 2 * 5000 / bs])
        x = joints[i] + t
        expected.append((5000 * x[:, :2] / x[:, 2:] + 128) / ratio - [left, top])
        person = {"global_orient": root[i], "body_pose": local[i], "betas": betas[i]}
        tree[f"_DEMO/img/{name}"] = {
            "time": i, "shot": 0, "tid": [np.int64(7), 8], "tracked_time": [0, 2], "smpl": [person, person],
            "camera": [t.astype("f4"), t], "size": [[H, W], [H, W]], "conf": [np.float32(0.9), 0.5], "bbox": [np.zeros(4)] * 2,
        }  # fmt: skip
    joblib.dump(tree, folder / "demo.pkl", compress=compress)
    return folder / "demo.pkl", np.array(expected)


def _cliff(folder):
    root, local, betas, _, _, _, _ = _source()
    focal = np.full(N, np.hypot(W, H))
    t = _crop_to_full(focal)
    detections = np.column_stack([[0, 1, 2], np.zeros((N, 6))])
    np.savez(folder / "x_cliff_hr48.npz", imgname=list(PICTURES), pose=np.concatenate([root[:, None], local], 1).reshape(N, 72),
             shape=betas, global_t=t, pred_joints=np.zeros((N, 45, 3)), focal_l=focal, detection_all=detections)  # fmt: skip
    return folder / "x_cliff_hr48.npz", _projected(t, focal)


def _bedlam(folder):
    root, local = _matrices()
    _, _, betas, _, weak, centre, side = _source()
    focal = np.hypot(W, H)
    tree = {
        "pred_pose": np.concatenate([root, local], 1), "pred_shape": np.column_stack([betas, np.ones(N)]), "pred_cam": weak,
        "bbox_center": centre, "bbox_scale": side / 200, "imgname": np.array(PICTURES),
    }  # fmt: skip
    np.savez(folder / "bedlam.npz", **tree)
    return folder / "bedlam.npz", _projected(_crop_to_full(focal), focal)


def _tokenhmr(folder):
    return _hmr2(folder)


def _wham(folder):
    root, local, betas, _, _, _, _ = _source()
    focal = np.hypot(W, H)
    t = _crop_to_full(focal)
    results = collections.defaultdict(dict)
    full = np.concatenate([root[:, None], local], 1).reshape(N, 72)
    for who, rows in ((np.int64(3), [0, 2]), (5, [1])):
        results[who] = {
            "pose": full[rows], "trans": t[rows], "pose_world": full[rows], "trans_world": t[rows], "betas": betas[rows],
            "verts": np.zeros((len(rows), 6890, 3), np.float32), "frame_ids": np.array(rows),
        }  # fmt: skip
    joblib.dump(results, folder / "wham_output.pkl")
    return folder / "wham_output.pkl", _projected(t, focal)


def _camerahmr(folder):
    root, local = _matrices()
    _, _, betas, _, weak, centre, side = _source()
    focal = np.array([900.0, 1100, 1300])
    k = np.tile(np.eye(3), (N, 1, 1))
    k[:, 0, 0] = k[:, 1, 1] = focal
    k[:, 0, 2], k[:, 1, 2] = W / 2, H / 2
    for i, name in enumerate(PICTURES):  # one file per picture
        np.savez(folder / f"{name[0]}_0.npz", global_orient=root[i : i + 1], body_pose=local[i : i + 1], betas=betas[i : i + 1],
                 pred_cam=weak[i : i + 1], box_center=centre[i : i + 1], box_size=side[i : i + 1], img_size=[[H, W]],
                 cam_int=k[i : i + 1])  # fmt: skip
    return folder, _projected(_crop_to_full(focal), focal)


def _sam3d(folder):
    root, local, betas, _, _, _, _ = _source()
    focal = np.array([850.0, 1000, 1250])
    t = _crop_to_full(focal)
    people = [
        {"image": PICTURES[i], "global_orient": root[i].tolist(), "body_pose": local[i].reshape(69).tolist(),
         "betas": betas[i].tolist(), "transl": t[i].tolist(), "focal_length": focal[i]}
        for i in range(N)
    ]  # fmt: skip
    (folder / "converted.json").write_text(json.dumps(people))
    return folder / "converted.json", _projected(t, focal)


def _sizes(name, frame):
    return W, H


LAYOUTS = {
    "hmr2": _hmr2, "hmr2-tracks": _phalp, "cliff": _cliff, "cliff-bedlam": _bedlam, "tokenhmr": _tokenhmr, "wham": _wham,
    "camerahmr": _camerahmr, "sam3d": _sam3d,
}  # fmt: skip


@pytest.mark.parametrize("guessed", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_joints_lie_where_the_source_projects_them(tmp_path, name, guessed):
    path, expected = LAYOUTS[name](tmp_path)
    people = by_picture(read_people(path, _sizes, "auto" if guessed else name.split("-")[0]), PICTURES)
    assert [len(p) for p in people] == [1, 1, 1]
    for i, (person,) in enumerate(people):
        assert person.params.betas[0] == pytest.approx(_source()[2][i], abs=1e-5)
        joints = pose(_body(), person.params).joints[0]
        uv = project(source_camera(person, W, H), joints)
        assert np.abs(uv - expected[i]).max() < 0.5  # px; the bound that is promised
        assert np.abs(uv - expected[i]).max() < 0.02  # what float32 leaves


@pytest.mark.parametrize("compress", [3, ("gzip", 3)])
def test_compressed_tracks(tmp_path, compress):
    path, _ = _phalp(tmp_path, compress)
    assert len(read_people(path, _sizes)) == N  # people whom the tracker only predicts are left out


def test_people_keep_their_ids(tmp_path):
    path, _ = _wham(tmp_path)
    assert {(p.person, p.frame) for p in read_people(path, _sizes)} == {("3", 0), ("3", 2), ("5", 1)}
    path, _ = _phalp(tmp_path)
    assert {p.person for p in read_people(path, _sizes)} == {"7"}


def test_odd_pictures_of_tracks_keep_their_middle(tmp_path):
    path, _ = _phalp(tmp_path)
    tree = joblib.load(path)
    for entry in tree.values():
        entry["size"] = [[721, 1280]] * 2  # padded by 279 above and 280 below
    joblib.dump(tree, path)
    assert {p.centre_px for p in read_people(path, _sizes)} == {(640.0, 640.0 - 279)}


def test_another_camera_keeps_place_and_size():
    root, local, betas, _, _, _, _ = _source()
    params = BodyParams(*(np.asarray(a[:1], np.float32) for a in (betas, root, local, [[0.4, 0.3, 100.0]])))
    source, camera = Camera(25000, 25000, 640, 360, W, H), Camera(1000, 1000, 655, 350, W, H)
    pelvis = _body().joint_template[0] + _body().joint_shapedirs[0] @ betas[0]
    there = in_camera(params, source, camera, pelvis)
    before, after = (project(c, pose(_body(), p).joints[0]) for c, p in ((source, params), (camera, there)))
    assert after[0] == pytest.approx(before[0], abs=0.05)
    assert np.ptp(after, 0) == pytest.approx(np.ptp(before, 0), rel=0.25)  # nearer, so the perspective is another one
    assert there.t_camera_root[0, 2] + pelvis[2] == pytest.approx((100 + pelvis[2]) / 25, rel=1e-4)
    assert in_camera(params, camera, camera, pelvis) is params


def test_pictures_are_told_by_name():
    from densefit_ros.regress.external import ExternalPerson

    def person(picture, frame=-1):
        return ExternalPerson(picture, frame, "0", BodyParams.rest(1))

    names = ["img.jpg", "img_1.png", "x.jpg"]
    found = by_picture(
        [person("/a/img.jpg"), person("img_1_0.npz"), person("img_subj02.npz"), person("", 2), person("", 9)], names
    )
    assert [len(p) for p in found] == [2, 1, 1]
    with pytest.raises(AssetError, match="other.jpg"):
        by_picture([person("other.jpg")], names)


# -- damaged, foreign, hostile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"pose": np.zeros((N, 66))}, "24 rotations"),
        ({"pose": np.full((N, 72), np.nan)}, "not finite"),
        ({"shape": np.zeros((N, 3))}, "'shape'"),
        ({"global_t": np.zeros((N + 1, 3))}, "'global_t'"),
        ({"focal_l": np.zeros(N)}, "positive focal"),
        ({"detection_all": np.full((N, 2), 9.0)}, "beyond"),
        ({"focal_l": None}, "expected 'focal_l'"),
    ],
)
def test_damaged_files_are_named(tmp_path, changes, word):
    path, _ = _cliff(tmp_path)
    with np.load(path) as archive:
        tree = {**dict(archive), **changes}
    np.savez(path, **{k: v for k, v in tree.items() if v is not None})
    with pytest.raises(AssetError, match=word) as e:
        read_people(path, _sizes)
    assert path.name in str(e.value)


def test_smplx_is_said_to_be_smplx(tmp_path):
    path, _ = _sam3d(tmp_path)
    people = json.loads(path.read_text())
    for p in people:
        p["body_pose"] = [0.0] * 63
    path.write_text(json.dumps(people))
    with pytest.raises(AssetError, match="SMPL-X"):
        read_people(path, _sizes)


def test_unknown_files_are_named(tmp_path):
    with pytest.raises(AssetError, match="no estimates"):
        read_people(tmp_path, _sizes)
    np.savez(tmp_path / "other.npz", vertices=np.zeros(3))
    with pytest.raises(AssetError, match="other.npz.*none of the known"):
        read_people(tmp_path / "other.npz", _sizes)
    with pytest.raises(AssetError, match="layout among"):
        read_people(tmp_path / "other.npz", _sizes, "spin")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(AssetError, match="a.txt"):
        read_people(tmp_path / "a.txt", _sizes)


class _Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_hostile_files_run_nothing(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "wham_output.pkl"
    for write in (lambda t: joblib.dump(t, path), lambda t: path.write_bytes(pickle.dumps(t))):
        for tree in ({"a": _Hostile(f"touch {mark}")}, {"a": np.array([_Hostile(f"touch {mark}")], object)}):
            write(tree)
            with pytest.raises(AssetError, match="wham_output.pkl"):
                read_people(path, _sizes)
    assert not mark.exists()
    good, _ = _wham(tmp_path)
    data = good.read_bytes()
    for cut in (10, len(data) // 3, len(data) - 5):
        path.write_bytes(data[:cut])
        with pytest.raises(AssetError, match="wham_output.pkl"):
            read_people(path, _sizes)


def test_joblib_files_are_read_as_joblib_reads_them(tmp_path):
    rng = np.random.default_rng(0)
    tree = {"c": rng.normal(size=(3, 4)), "f": np.asfortranarray(rng.normal(size=(5, 2)).astype("f4")), "text": ["a"],
            "none": np.zeros((0, 3)), "n": np.float32(2.5),
            "objects": np.array([np.arange(2), np.arange(3)], object)}  # fmt: skip
    for protocol in (2, 3, 4, 5):
        joblib.dump(tree, tmp_path / "x.joblib", protocol=protocol)
        got = restricted_load_joblib(tmp_path / "x.joblib")
        for name in ("c", "f", "none"):
            assert np.array_equal(got[name], tree[name]) and got[name].dtype == tree[name].dtype
        assert [v.tolist() for v in got["objects"]] == [[0, 1], [0, 1, 2]] and got["n"] == 2.5
