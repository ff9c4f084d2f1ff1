"""Keypoints that come from elsewhere: every usual set, in 2D and in 3D, from every file format, to bodies."""

from __future__ import annotations

import dataclasses
import functools
import json

import cv2
import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.joints import KEYPOINT_SETS, landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.cli import main
from densefit_ros.config import Config
from densefit_ros.errors import AssetError
from densefit_ros.eval import metrics
from densefit_ros.evidence.keypoint_files import KeypointFiles
from densefit_ros.evidence.keypoints import boxes_of_keypoints, of_boxes, projected
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.geometry.crop import square_around
from densefit_ros.geometry.lens import lens_of
from densefit_ros.models import load_models
from densefit_ros.offline.cameras import CameraChoice
from densefit_ros.pipeline import initial_state, process
from densefit_ros.regress.lifting import make_lifting
from densefit_ros.settings import with_overrides
from densefit_ros.synth.poses import sample
from densefit_ros.types import BodyParams, Frame, Keypoints, TrackingState

SETS = ("openpose25", "coco17", "mediapipe33")
CAMERA = camera_from_fov(640, 480, 60.0)


@functools.lru_cache(maxsize=1)
def _body():
    return load_body()


@functools.lru_cache(maxsize=1)
def _lifting():
    return make_lifting(_body(), 8)


@functools.lru_cache(maxsize=4)
def _people(count: int = 12, seed: int = 2) -> BodyParams:
    """Standing, walking, sitting people who face the camera within 45 degrees."""
    rng = np.random.default_rng(seed)
    drawn = sample(rng, count)
    yaw = so3.exp(np.stack([np.zeros(count), rng.uniform(-0.8, 0.8, count), np.zeros(count)], -1))
    root = so3.log(so3.exp(np.tile([np.pi, 0, 0], (count, 1))) @ yaw @ drawn.R_world_root)
    depth = rng.uniform(2.8, 4.5, count)
    t = np.stack([rng.uniform(-0.1, 0.1, count) * depth, np.zeros(count), depth], -1)
    return BodyParams(*(a.astype(np.float32) for a in (0.5 * rng.normal(size=(count, 10)), root, drawn.joint_rotvec, t)))


def _points(params: BodyParams, set_name: str):
    posed = pose(_body(), params)
    marks = _body().landmarks[set_name]
    xyz = landmark_positions(marks, posed)
    return posed, project(CAMERA, xyz), xyz, np.broadcast_to(marks.placed, xyz.shape[:2]).astype(float)


def _write(path, form: str, dimension: str, uv, xyz, seen):
    """One picture per person in one of the formats; pixel centres at integers, as both formats count them."""
    flat = np.concatenate([uv - 0.5, seen[..., None]], -1)
    deep = np.concatenate([xyz, seen[..., None]], -1)
    with_2d, with_3d = "2" in dimension, "3" in dimension
    if form == "openpose":
        path.mkdir()
        for i in range(len(uv)):
            person = {"pose_keypoints_2d": flat[i].ravel().tolist()} if with_2d else {"pose_keypoints_2d": []}
            if with_3d:
                person["pose_keypoints_3d"] = deep[i].ravel().tolist()
            (path / f"p{i}_keypoints.json").write_text(json.dumps({"version": 1.3, "people": [person]}))
        return path
    rows = []
    for i in range(len(uv)):
        row = {"image_id": f"p{i}.jpg", "score": 0.9}
        row |= {"keypoints": flat[i].ravel().tolist()} if with_2d else {}
        row |= {"keypoints_3d": deep[i].ravel().tolist()} if with_3d else {}
        rows.append(row)
    path = path.with_suffix(".json")
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("form", ["openpose", "coco"])
@pytest.mark.parametrize("dimension", ["2", "3", "2+3"])
@pytest.mark.parametrize("set_name", SETS)
def test_every_set_from_every_file(tmp_path, set_name, dimension, form):
    params = _people()
    posed, uv, xyz, seen = _points(params, set_name)
    files = KeypointFiles(_write(tmp_path / "k", form, dimension, uv, xyz, seen))
    found = [projected(files.of(f"p{i}.jpg", i), CAMERA) for i in range(len(uv))]
    got = Keypoints(
        found[0].set_name,
        np.concatenate([k.uv for k in found]),
        np.concatenate([k.confidence for k in found]),
        np.concatenate([k.direction_xyz for k in found]) if "3" in dimension else None,
    )
    assert got.set_name == set_name and files.most_people == 1
    good = seen > 0
    assert got.uv[good] == pytest.approx(uv[good], abs=1e-3)
    estimate = _lifting().lift(got, CAMERA)
    lifted = pose(_body(), estimate.params)
    placed = project(CAMERA, landmark_positions(_body().landmarks[set_name], lifted))
    error = np.linalg.norm(placed - uv, axis=-1)[good] / np.ptp(uv[..., 1][good])
    assert np.median(error) < 0.01 and (estimate.confidence > 0.8).all()
    pa = metrics.pa_mpjpe_mm(lifted.joints, posed.joints)
    # Depth is a guess from 2D alone; with 3D it is measured.  COCO's set has neither hands nor feet.
    assert np.median(pa) < (15 if "3" in dimension else 90)


def test_coco_annotations_name_pictures_and_flag_hidden_points(tmp_path):
    _, uv, _, _ = _points(_people(), "coco17")
    flags = np.tile([2, 1, 0, 2], 5)[:17]
    rows = [np.concatenate([uv[i], flags[:, None]], 1).ravel().tolist() for i in (0, 1)]
    tree = {
        "images": [{"id": 7, "file_name": "sub/a.jpg"}, {"id": 8, "file_name": "b.png"}, {"id": 9, "file_name": "empty.jpg"}],
        "annotations": [{"image_id": 7, "keypoints": rows[0]}, {"image_id": 7, "keypoints": rows[1]}, {"image_id": 8}],
        "categories": [{"id": 1, "keypoints": list(KEYPOINT_SETS["coco17"])}],
    }
    path = tmp_path / "person.json"
    path.write_text(json.dumps(tree))
    files = KeypointFiles(path)
    found = files.of("a.jpg", 0)
    assert found.uv.shape == (2, 17, 2) and found.uv[0] == pytest.approx(uv[0] + 0.5, abs=1e-3)
    assert found.confidence[0] == pytest.approx(np.where(flags == 2, 1.0, 0.5 * flags))
    assert len(files.of("empty.jpg", 2).uv) == 0 and files.of("c.jpg", 3) is None
    assert files.most_people == 2
    # Detectors write how sure they are in the place of the flags.
    sure = np.linspace(0.05, 0.95, 17)
    tree["annotations"][1]["keypoints"] = np.concatenate([uv[1], sure[:, None]], 1).ravel().tolist()
    path.write_text(json.dumps(tree))
    assert KeypointFiles(path).of("a.jpg", 0).confidence[1] == pytest.approx(sure)
    tree["annotations"][1]["keypoints"][2] = 1.7
    path.write_text(json.dumps(tree))
    with pytest.raises(AssetError, match="flags 0, 1 and 2, or confidences"):
        KeypointFiles(path)
    tree["annotations"].pop(1)
    tree["categories"][0]["keypoints"][0] = "left_eye"
    path.write_text(json.dumps(tree))
    with pytest.raises(AssetError, match="COCO's order"):
        KeypointFiles(path)


@pytest.mark.parametrize(
    "text, word",
    [
        ("{", "cannot read"),
        ('{"a": 1}', "annotations"),
        ('[{"keypoints": []}]', "image_id"),
        ('[{"image_id": 1, "keypoints": [1, 2, 3]}]', "17"),
        ('[{"image_id": 1, "keypoints": "x"}]', "entry 0"),
        ('{"annotations": [], "images": [{"id": 1}]}', "file_name"),
        (
            '{"annotations": [], "images": [{"id": 1, "file_name": "a/7.jpg"}, {"id": 2, "file_name": "b/7.jpg"}]}',
            "two pictures are called 7",
        ),
    ],
)
def test_files_that_are_none(tmp_path, text, word):
    (tmp_path / "k.json").write_text(text)
    with pytest.raises(AssetError, match=word):
        KeypointFiles(tmp_path / "k.json")
    with pytest.raises(AssetError, match="found none"):
        KeypointFiles(tmp_path)  # a folder without OpenPose files


def test_the_picture_of_zeros_is_number_zero(tmp_path):
    rows = [{"image_id": i, "keypoints": [9.0, 9.0, 1.0] * 17} for i in (0, 1, 20)]
    (tmp_path / "k.json").write_text(json.dumps(rows))
    files = KeypointFiles(tmp_path / "k.json")
    assert all(files.of(name, 0) is not None for name in ("000000.jpg", "000001.jpg", "000020.jpg"))
    assert files.of("000002.jpg", 0) is None


def test_empty_entries_are_none(tmp_path):
    (tmp_path / "k.json").write_text('{"annotations": [], "images": null, "categories": null}')
    assert KeypointFiles(tmp_path / "k.json").most_people == 0
    (tmp_path / "k.json").write_text('{"annotations": [], "categories": [{"keypoints": null}]}')
    assert KeypointFiles(tmp_path / "k.json").most_people == 0


def test_frames_of_a_video(tmp_path):
    _, uv, xyz, seen = _points(_people(), "openpose25")
    folder = _write(tmp_path / "k", "openpose", "2", uv[:2], xyz[:2], seen[:2])
    (folder / "p0_keypoints.json").rename(folder / "walk_000000000000_keypoints.json")
    (folder / "p1_keypoints.json").rename(folder / "walk_000000000001_keypoints.json")
    files = KeypointFiles(folder)
    assert files.of("walk.mp4", 1, is_video=True).uv[0, 0] == pytest.approx(uv[1, 0], abs=1e-3)
    assert files.of("walk.mp4", 2, is_video=True) is None


def test_boxes_hold_whole_people_and_find_them_again():
    params = _people()
    posed, uv, xyz, _ = _points(params, "coco17")
    keypoints = Keypoints("coco17", uv.astype(np.float32), np.ones(uv.shape[:2], np.float32), xyz.astype(np.float32))
    boxes = boxes_of_keypoints(keypoints)
    for box, vertices in zip(boxes, posed.vertices):
        pixels, window = project(CAMERA, vertices), square_around(box, 1.2)
        inside = ((pixels >= window[:2]) & (pixels <= window[:2] + window[2:])).all(1)
        assert inside.mean() > 0.97
    pair = [0, 1]
    apart = keypoints.uv[pair] + np.array([[[0, 0]], [[400, 0]]], np.float32)
    swapped = Keypoints("coco17", apart[::-1], keypoints.confidence[pair], keypoints.direction_xyz[pair][::-1])
    again = of_boxes(swapped, boxes[pair] + np.array([[0, 0, 0, 0], [400, 0, 0, 0]]))
    assert again.uv == pytest.approx(apart) and again.direction_xyz == pytest.approx(keypoints.direction_xyz[pair])
    few = np.zeros_like(keypoints.confidence)
    few[:, :3] = 1
    assert len(boxes_of_keypoints(dataclasses.replace(keypoints, confidence=few))) == 0


def test_run_lifts_the_keypoints_of_each_picture(tmp_path, capsys):
    params = _people(3, seed=4)
    _, uv, xyz, seen = _points(params, "coco17")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        cv2.imwrite(str(pictures / f"p{i}.jpg"), np.full((480, 640, 3), 120, np.uint8))
    file = _write(tmp_path / "k", "coco", "2", uv[:2], xyz[:2], seen[:2])  # none for the last picture
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--keypoints", str(file), "--independent", "--quiet", "--set", "displace.enabled=false"]
    assert main(["run", str(pictures), *arguments, "--set", "regress.backend=network", "--fov", "60"]) == 0
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["p0.jpg", "p1.jpg"] and lines[0]["source"] == "keypoints"
    true = project(CAMERA, pose(_body(), params).joints)
    for i, line in enumerate(lines):
        got = np.array(line["refined"]["joints_px"])
        assert np.median(np.linalg.norm(got - true[i], axis=-1)) < 0.03 * np.ptp(true[i, :, 1])
    assert main(["run", str(pictures), "--out", str(out), "--keypoints", str(tmp_path / "none.json")]) == 2
    (tmp_path / "other.json").write_text('[{"image_id": "elsewhere.jpg", "keypoints": ' + str([1.0] * 51) + "}]")
    assert main(["run", str(pictures), "--out", str(out), "--keypoints", str(tmp_path / "other.json")]) == 2
    assert "no keypoints of" in capsys.readouterr().err


def test_a_single_openpose_file_and_a_person_without_points(tmp_path):
    _, uv, xyz, seen = _points(_people(), "openpose25")
    folder = _write(tmp_path / "k", "openpose", "2+3", uv[:1], xyz[:1], seen[:1])
    files = KeypointFiles(folder / "p0_keypoints.json")
    assert files.of("p0.png", 0).uv[0] == pytest.approx(uv[0], abs=1e-3) and files.of("p1.png", 1) is None
    (folder / "p0_keypoints.json").write_text('{"people": [{"face_keypoints_2d": []}]}')
    with pytest.raises(AssetError, match="pose_keypoints_2d.*person 0"):
        KeypointFiles(folder)


def test_the_lens_is_taken_out_of_keypoints_as_out_of_the_picture():
    plain = CameraChoice(fov_deg=60.0).for_size(640, 480)
    c = plain.camera
    k = np.array([[c.fx, 0, c.cx - 0.5], [0, c.fy, c.cy - 0.5], [0, 0, 1]])
    bent = dataclasses.replace(plain, lens=lens_of("plumb_bob", [-0.25, 0.06, 0.001, -0.002, 0.0], k))
    xyz = np.random.default_rng(0).uniform([-0.9, -0.6, 2.5], [0.9, 0.6, 4.0], (1, 17, 3))
    taken = bent.to_picture(xyz[0])[None].astype(np.float32)
    assert np.abs(taken - project(bent.camera, xyz)).max() > 3
    assert bent.from_picture(taken) == pytest.approx(project(bent.camera, xyz), abs=0.05)
    assert plain.from_picture(taken) is taken
    taken[0, 3] = np.nan
    assert np.isnan(bent.from_picture(taken)[0, 3]).all() and np.isfinite(bent.from_picture(taken)[0, 4]).all()


def test_two_people_listed_in_any_order_keep_their_names():
    """Given keypoints alone carry a track from frame to frame: finder and, if so told, estimator are never asked."""
    config = with_overrides(Config(), {"track.max_people": 2, "displace.enabled": False, "detect.backend": "none"})
    config = with_overrides(config, {"regress.backend": "network", "regress.keypoint_prior": False})
    models = dataclasses.replace(load_models(config), estimator=None)
    state, names = initial_state(), []
    for i in range(4):
        people = [_standing(-0.7 + 0.03 * i), _standing(0.7 - 0.03 * i)]
        uv = np.concatenate([_points(p, "coco17")[1] for p in people]).astype(np.float32)
        order = [0, 1] if i % 2 else [1, 0]  # detectors list people in any order
        given = Keypoints("coco17", uv[order], np.ones((2, 17), np.float32))
        frame = Frame(np.full((480, 640, 3), 90, np.uint8), i * 33_000_000, CAMERA, keypoints=given)
        state, result = process(models, state, frame)
        names.append([p.track_id for p in sorted(result.people, key=lambda p: p.joints[0, 0])])
        true = np.stack([project(CAMERA, pose(_body(), p).joints[0]) for p in people])
        got = np.stack([project(CAMERA, p.joints) for p in sorted(result.people, key=lambda p: p.joints[0, 0])])
        assert np.median(np.linalg.norm(got - true, axis=-1)) < 6
    assert all(n == names[0] for n in names) and len(set(names[0])) == 2
    nobody = Keypoints("coco17", np.zeros((0, 17, 2), np.float32), np.zeros((0, 17), np.float32))
    blank = Frame(np.full((480, 640, 3), 90, np.uint8), 4 * 33_000_000, CAMERA, keypoints=nobody)
    state, result = process(models, state, blank)
    assert [p.tracking_state for p in result.people] == [TrackingState.PREDICTED] * 2


def _standing(x_m: float) -> BodyParams:
    upright = np.array([[np.pi, 0, 0]], np.float32)
    return dataclasses.replace(BodyParams.rest(1), root_rotvec=upright, t_camera_root=np.array([[x_m, 0.2, 4]], np.float32))
