"""``densefit refine``, and DensePose and OpenPose files as evidence, on renderings whose truth is known."""

from __future__ import annotations

import dataclasses
import functools
import json

import cv2
import numpy as np
import pytest
from smpl_like import smpl_file

from densefit_ros import cli
from densefit_ros.body.assets import load_body
from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.eval.evidence import KEYPOINT_MISSING, KEYPOINT_NOISE, noisy_iuv
from densefit_ros.evidence import densepose
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import project
from densefit_ros.render.protocol import Appearance
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.synth.poses import sample_poses
from densefit_ros.types import BodyParams, Camera

W, H = 480, 360
FOCAL = 600.0  # CLIFF's own is the diagonal, which is 600 here
CAMERA = Camera(FOCAL, FOCAL, W / 2, H / 2, W, H)
# Nothing but the evidence at hand moves these bodies, so that its effect can be seen.
ALONE = ["--set", "displace.enabled=false", "--set", "device=cpu", "--set", f"body.model_path={smpl_file()}", "--quiet"]


@functools.lru_cache(maxsize=1)
def _body():
    return load_body(smpl_file())


def _people(count, seed=0, degrees=10.0):
    """True bodies side by side, and estimates with joint errors: two BodyParams of ``count`` persons."""
    rng = np.random.default_rng(seed)
    root = so3.log(so3.exp(np.array([np.pi, 0, 0])) @ so3.exp(np.array([0, 0.4, 0])))
    joints = sample_poses(rng, count).astype(np.float64)
    place = np.column_stack([0.9 * (np.arange(count) - (count - 1) / 2), np.full(count, 0.15), np.full(count, 3.6)])
    true = [np.zeros((count, 10)), np.tile(root, (count, 1)), joints, place]
    off = np.radians(degrees) * rng.normal(size=(count, 23, 3)) / np.sqrt(3)
    near = [true[0], true[1], so3.log(so3.exp(joints) @ so3.exp(off)), place + 0.02 * rng.normal(size=(count, 3))]
    return tuple(BodyParams(*(np.asarray(a, np.float32) for a in p)) for p in (true, near))


def _write(folder, bodies, names, path):
    """Pictures of the true bodies, and the estimates as CLIFF writes them."""
    true, near = bodies
    folder.mkdir()
    renderer = WarpRenderer(_body())
    scene = renderer.render_window(pose(_body(), true).vertices, [Appearance()] * len(true), CAMERA)
    grey = np.where(scene.face_id[0] >= 0, 160, 60).astype(np.uint8)
    for name in names:
        cv2.imwrite(str(folder / name), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    per = len(near)
    rows = {"pose": near.rotvec.reshape(per, 72), "shape": near.betas,
            "global_t": near.t_camera_root, "focal_l": np.full(per, FOCAL)}  # fmt: skip
    detections = np.repeat(np.arange(len(names)), per)[:, None].astype(float)
    np.savez(path, imgname=names, detection_all=detections, **{k: np.concatenate([v] * len(names)) for k, v in rows.items()})
    return scene


def _arguments(folder):
    """Of the command, for what ``_write`` writes there."""
    return ["refine", "--images", str(folder / "in"), "--init", str(folder / "cliff.npz"), "--out", str(folder / "out")]


def _refined(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def _pve(record, which, true):
    r = record[which]
    params = BodyParams(*(np.array([r[k]]) for k in ("betas", "root_rotvec", "joint_rotvec", "t_camera_root")))
    ours, theirs = pose(_body(), params), pose(_body(), true)
    gap = (ours.vertices[0] - ours.joints[0, 0]) - (theirs.vertices[0] - theirs.joints[0, 0])
    return 1e3 * np.linalg.norm(gap, axis=1).mean()


def test_densepose_maps_refine_everybody(tmp_path, caplog):
    true, near = _people(2)
    scene = _write(tmp_path / "in", (true, near), ["a.png", "b.png"], tmp_path / "cliff.npz")
    iuv = densepose.body_chart(_body()).encode(scene.face_id[0], scene.bary[0])
    maps = tmp_path / "maps"
    maps.mkdir()
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        noisy = noisy_iuv(rng, iuv)
        cv2.imwrite(str(maps / f"{name}_IUV.png"), noisy)
    arguments = _arguments(tmp_path)
    with caplog.at_level("WARNING", logger="densefit"):
        assert cli.main([*arguments, "--densepose", str(maps), *ALONE, "--set", "displace.independent_share=0.1"]) == 0
    assert "body.densepose_chart" in caplog.text, "maps of the DensePose project would be misread"
    records = _refined(tmp_path / "out")
    assert [(r["file"], r["id"]) for r in records] == [("a.png", "0"), ("a.png", "1"), ("b.png", "2"), ("b.png", "3")]
    first, refined = (
        np.mean([_pve(r, w, true.person(i % 2)) for i, r in enumerate(records)]) for w in ("first_estimate", "refined")
    )
    assert refined < 0.75 * first
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["camera"] == "of the given estimates" and not about["camera_assumed"]
    assert sorted(p.name for p in (tmp_path / "out" / "overlays").iterdir()) == ["a.jpg", "b.jpg"]


def test_estimates_stay_where_their_source_had_them(tmp_path):
    true, near = _people(1)
    _write(tmp_path / "in", (true, near), ["a.png"], tmp_path / "cliff.npz")
    arguments = ["refine", "--images", str(tmp_path / "in"), "--init", str(tmp_path / "cliff.npz"), "--out"]
    assert cli.main([*arguments, str(tmp_path / "out"), *ALONE]) == 0
    (record,) = _refined(tmp_path / "out")
    expected = project(CAMERA, pose(_body(), near).joints[0])
    assert np.abs(np.array(record["first_estimate"]["joints_px"]) - expected).max() < 0.5
    # Another camera by hand: same pelvis pixel, same size.
    assert cli.main([*arguments, str(tmp_path / "out2"), "--fov", "40", *ALONE]) == 0
    (record,) = _refined(tmp_path / "out2")
    moved = np.array(record["first_estimate"]["joints_px"])
    assert moved[0] == pytest.approx(expected[0], abs=0.5) and np.abs(moved - expected).max() < 12
    assert record["first_estimate"]["joints_m"][0][2] > 1.3 * 3.6


def test_the_free_body_takes_poses_and_places_but_not_shapes_of_smpl(tmp_path, caplog):
    true, near = _people(1)
    near = dataclasses.replace(near, betas=np.full((1, 10), 1.5, np.float32))
    _write(tmp_path / "in", (true, near), ["a.png"], tmp_path / "cliff.npz")
    arguments = _arguments(tmp_path)
    with caplog.at_level("WARNING", logger="densefit"):
        assert cli.main([*arguments, "--set", "displace.enabled=false", "--set", "device=cpu", "--quiet"]) == 0
    assert "set body.model_path" in caplog.text
    first = _refined(tmp_path / "out")[0]["first_estimate"]
    assert np.abs(first["betas"]).max() == 0.0
    assert first["joint_rotvec"] == pytest.approx(near.joint_rotvec[0], abs=1e-4)
    assert first["joints_m"][0] == pytest.approx(near.t_camera_root[0] + [-0.0018, -0.2233, 0.0282], abs=1e-3)


def test_sizes_that_a_file_does_not_say_are_those_of_its_pictures(tmp_path):
    """BEDLAM's crop camera, one file per picture that names nothing: focal length and place follow from the picture's size."""
    true, near = _people(1)
    _write(tmp_path / "in", (true, near), ["walk.png"], tmp_path / "unused.npz")
    side, middle = 250.0, np.array([260.0, 190.0])
    t = near.t_camera_root[0].astype(float)
    s = 2 * FOCAL / (side * t[2])
    weak = [s, *(t[:2] - 2 * (middle - [W / 2, H / 2]) / (side * s))]
    folder = tmp_path / "bedlam"
    folder.mkdir()
    rotvec = near.rotvec
    np.savez(folder / "walk_0.npz", pred_pose=so3.exp(rotvec), pred_shape=np.zeros((1, 11)), pred_cam=[weak],
             bbox_center=[middle], bbox_scale=[side / 200])  # fmt: skip
    arguments = ["refine", "--images", str(tmp_path / "in"), "--init", str(folder), "--out", str(tmp_path / "out"), *ALONE]
    assert cli.main(arguments) == 0
    (record,) = _refined(tmp_path / "out")
    assert record["first_estimate"]["t_camera_root"] == pytest.approx(t, abs=1e-3)

    # The folder speaks of a picture that is not in the input, too.
    (folder / "other_0.npz").write_bytes((folder / "walk_0.npz").read_bytes())
    assert cli.main(arguments) == 0
    assert [r["file"] for r in _refined(tmp_path / "out")] == ["walk.png"]


def test_estimates_of_a_picture_of_another_size_are_refused(tmp_path, capsys):
    true, near = _people(1)
    _write(tmp_path / "in", (true, near), ["a.png"], tmp_path / "cliff.npz")
    for size, word in (((2 * W, 2 * H), f"of {2 * W}x{2 * H} px, here it has {W}x{H}"), ((H, W), "--format camerahmr")):
        rotmat = so3.exp(near.rotvec)
        crop = {"pred_cam": [[0.9, 0, 0]], "box_center": [[200.0, 200.0]], "box_size": [300.0], "img_size": [size]}
        body = {"global_orient": rotmat[:, :1], "body_pose": rotmat[:, 1:], "betas": np.zeros((1, 10))}
        np.savez(tmp_path / "hmr2.npz", imgname=["a.png"], **crop, **body)
        arguments = ["refine", "--images", str(tmp_path / "in"), "--init", str(tmp_path / "hmr2.npz")]
        assert cli.main([*arguments, "--out", str(tmp_path / "out"), *ALONE]) == cli.EXIT_ERROR
        assert word in capsys.readouterr().err


def test_openpose_files_refine_too(tmp_path):
    true, near = _people(1, seed=3)
    _write(tmp_path / "in", (true, near), ["a.png"], tmp_path / "cliff.npz")
    uv = project(CAMERA, landmark_positions(_body().landmarks["openpose25"], pose(_body(), true)))[0]
    rng = np.random.default_rng(0)
    size = np.ptp(uv, axis=0).max()
    seen = rng.random(25) > KEYPOINT_MISSING
    points = np.column_stack([uv + KEYPOINT_NOISE * size * rng.normal(size=uv.shape) - 0.5, seen]) * seen[:, None]
    folder = tmp_path / "points"
    folder.mkdir()
    (folder / "a_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": points.ravel().tolist()}]}))
    arguments = _arguments(tmp_path)
    assert cli.main([*arguments, "--keypoints", str(folder), *ALONE]) == 0
    (record,) = _refined(tmp_path / "out")
    joints = project(CAMERA, pose(_body(), true).joints[0])
    before, after = (
        np.linalg.norm(np.array(record[w]["joints_px"]) - joints, axis=1).mean() for w in ("first_estimate", "refined")
    )
    assert after < 0.8 * before


def test_what_does_not_belong_together_is_said(tmp_path, capsys):
    true, near = _people(1)
    _write(tmp_path / "in", (true, near), ["a.png"], tmp_path / "cliff.npz")
    good = [*_arguments(tmp_path), *ALONE]
    (tmp_path / "empty").mkdir()
    for extra, word in (
        (["--densepose", str(tmp_path / "empty")], "_IUV.png"),
        (["--densepose", str(tmp_path / "none")], "no such folder"),
        (["--sigma", "0"], "degrees"),
        (["--init", str(tmp_path / "none.npz")], "none.npz"),
    ):
        assert cli.main([*good, *extra]) == cli.EXIT_ERROR
        assert word in capsys.readouterr().err
    maps = tmp_path / "maps"
    maps.mkdir()
    cv2.imwrite(str(maps / "a_IUV.png"), np.zeros((10, 10, 3), np.uint8))
    assert cli.main([*good, "--densepose", str(maps)]) == cli.EXIT_ERROR
    assert "10x10" in capsys.readouterr().err
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / "z.png")
    assert cli.main(good) == cli.EXIT_ERROR
    assert "no estimate belongs to a picture" in capsys.readouterr().err
