"""The shipped free body: its mesh, its texture map, its people and its keypoints."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from body_helpers import random_params, toy_arrays
from smpl_like import smpl_file

from densefit_ros.body.assets import DEFAULT_BODY, load_body
from densefit_ros.body.joints import JOINT_INDEX, KEYPOINT_SETS, SMPL_FLIP, flip_map, landmark_positions
from densefit_ros.body.model import FREE_TOPOLOGY, pose, rest_joints, rest_vertices, vertex_colors
from densefit_ros.types import BodyParams


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def mirror(body):
    """For each vertex the one on the other side."""
    from scipy.spatial import cKDTree

    distance, index = cKDTree(body.v_template).query(body.v_template * [-1, 1, 1])
    assert distance.max() < 1e-5
    return index


def edges_of(faces):
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def volume(vertices, faces):
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float(np.einsum("fc,fc->", np.cross(a, b), c) / 6)


def test_surface_is_closed_and_of_one_piece(body):
    edges = edges_of(body.faces)
    key = np.unique(edges, axis=0)
    assert len(key) == len(edges), "an edge is used twice in one direction"
    assert set(map(tuple, key)) == set(map(tuple, key[:, ::-1])), "an open edge"
    assert body.num_vertices - len(edges) // 2 + body.num_faces == 2, "one closed piece without handles has Euler number 2"
    assert len(np.unique(body.faces)) == body.num_vertices


def test_faces_look_outwards_and_none_is_degenerate(body):
    corners = body.v_template[body.faces].astype(np.float64)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1) / 2
    assert area.min() > 1e-9 and 1.4 < area.sum() < 2.2  # m^2
    longest = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1).max(1)
    assert np.percentile(2 * area / longest**2, 1) > 0.05, "slivers"
    assert 0.05 < volume(body.v_template.astype(np.float64), body.faces) < 0.1  # m^3: 50 to 100 litres
    top = np.argmax(body.v_template[:, 1])
    assert normal[(body.faces == top).any(1), 1].min() > 0


def test_left_and_right_are_mirror_images(body, mirror):
    np.testing.assert_array_equal(mirror[mirror], np.arange(body.num_vertices))
    np.testing.assert_allclose(body.shapedirs[mirror] * np.array([-1, 1, 1])[:, None], body.shapedirs, atol=1e-4)
    faces = {tuple(np.roll(f, -np.argmin(f))) for f in body.faces}
    flipped = mirror[body.faces][:, ::-1]
    assert {tuple(np.roll(f, -np.argmin(f))) for f in flipped} == faces
    dense = np.zeros((body.num_vertices, 24))
    np.put_along_axis(dense, body.skin_joint, body.skin_weight, 1)
    np.testing.assert_allclose(dense[mirror][:, list(SMPL_FLIP)], dense, atol=2e-3)


def test_a_mirrored_pose_gives_the_mirrored_body(body, mirror):
    params = random_params(1)
    params = dataclasses.replace(params, t_camera_root=np.zeros((1, 3)))
    rotvec = params.rotvec[:, list(SMPL_FLIP)] * [1, -1, -1]
    other = dataclasses.replace(params, root_rotvec=rotvec[:, 0], joint_rotvec=rotvec[:, 1:])
    difference = pose(body, other).vertices[:, mirror] * [-1, 1, 1] - pose(body, params).vertices
    assert np.linalg.norm(difference, axis=-1).max() < 1.5e-3


def test_t_pose(body):
    joint = dict(zip(JOINT_INDEX, body.joint_template))
    assert np.abs(joint["pelvis"]).max() < 0.01, "the pelvis is the origin"
    for side, sign in (("left", 1), ("right", -1)):
        chain = np.stack([joint[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist", "hand")])
        assert (np.diff(chain[:, 0]) * sign > 0.08).all() and np.ptp(chain[:, 1:], axis=0).max() < 0.02
        assert joint[f"{side}_hip"][1] > joint[f"{side}_knee"][1] + 0.3 > joint[f"{side}_ankle"][1] + 0.6
        assert joint[f"{side}_foot"][2] > joint[f"{side}_ankle"][2] + 0.1, "toes point forward"
    np.testing.assert_allclose(body.joint_template[list(SMPL_FLIP)] * [-1, 1, 1], body.joint_template, atol=1e-4)


def test_people_have_the_heights_and_weights_of_adults(body):
    betas = np.random.default_rng(0).normal(size=(400, 10))
    vertices = rest_vertices(body, betas)
    height = np.ptp(vertices[..., 1], axis=1)
    assert abs(height.mean() - 1.70) < 0.02 and 0.08 < height.std() < 0.11
    assert np.mean((height > 1.45) & (height < 2.05)) > 0.98
    bmi = np.array([985 * volume(v, body.faces) for v in vertices]) / height**2
    assert 23 < bmi.mean() < 26 and 2.5 < bmi.std() < 5.5
    tall = rest_vertices(body, np.eye(10)[:1] * 2)
    assert np.ptp(tall[0, :, 1]) > height.mean() + 0.1, "the first direction makes taller"
    assert np.linalg.norm(rest_joints(body, betas)[:, 0], axis=-1).max() < 0.02, "the pelvis stays at the origin"
    corners = body.v_template[body.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    of_vertex = np.bincount(body.faces.reshape(-1), np.repeat(area, 3))
    energy = np.einsum("v,vcb->b", of_vertex, body.shapedirs.astype(np.float64) ** 2)
    assert (np.diff(energy) < 1e-6).all(), "sorted by the surface's variance"


def test_texture_map_is_valid(body):
    assert body.uv.min() >= 0 and body.uv.max() <= 1 and body.uv_faces.shape == body.faces.shape
    corners = body.uv[body.uv_faces].astype(np.float64)
    side = corners[:, 1:] - corners[:, :1]
    area = (side[:, 0, 0] * side[:, 1, 1] - side[:, 0, 1] * side[:, 1, 0]) / 2
    assert np.mean(area < 0) > 0.999, "all faces wind the same way: v points down, so counter-clockwise is negative"
    assert np.abs(area[area > 0]).sum() < 1e-4 * np.abs(area).sum()
    assert 0.5 < np.abs(area).sum() < 0.7, "share of the atlas in use"
    assert np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1).max() < 0.08, "no face reaches across a cut"
    owner = np.full(len(body.uv), -1)
    owner[body.uv_faces.reshape(-1)] = body.faces.reshape(-1)
    np.testing.assert_array_equal(owner[body.uv_faces], body.faces)  # a texture corner belongs to one vertex


def test_texture_map_does_not_overlap(body):
    size = 256
    count = np.zeros((size, size), int)
    for q in body.uv[body.uv_faces].astype(np.float64) * size:
        low, high = np.floor(q.min(0)).astype(int), np.ceil(q.max(0)).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        (a, b), (c, d) = (q[1:] - q[0]).T
        det = a * d - b * c
        s, t = (d * (x - q[0, 0]) - b * (y - q[0, 1])) / det, (a * (y - q[0, 1]) - c * (x - q[0, 0])) / det
        count[low[1] : high[1], low[0] : high[0]] += (s > 1e-6) & (t > 1e-6) & (s + t < 1 - 1e-6)
    assert (count > 1).sum() <= 0.0005 * (count > 0).sum() and (count > 0).mean() > 0.5


def test_every_keypoint_is_placed_where_it_belongs(body):
    posed = pose(body, BodyParams.rest(1))
    for name, names in KEYPOINT_SETS.items():
        marks = body.landmarks[name]
        assert marks.names == names and marks.placed.all()
        total = marks.joint_weights.sum(1) + marks.vertex_weight.sum(1)
        np.testing.assert_allclose(total, 1, atol=1e-3)
        xyz = landmark_positions(marks, posed)[0]
        np.testing.assert_allclose(xyz[list(flip_map(names))] * [-1, 1, 1], xyz, atol=1e-4)
    point = dict(zip(KEYPOINT_SETS["mediapipe33"], landmark_positions(body.landmarks["mediapipe33"], posed)[0]))
    point |= dict(zip(KEYPOINT_SETS["openpose25"], landmark_positions(body.landmarks["openpose25"], posed)[0]))
    joint = dict(zip(JOINT_INDEX, posed.joints[0]))
    for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        assert np.linalg.norm(point[f"left_{part}"] - joint[f"left_{part}"]) < 0.05
    assert point["left_hip"][0] > joint["left_hip"][0], "annotated hips are wider than the joints"
    assert point["left_eye_inner"][0] < point["left_eye"][0] < point["left_eye_outer"][0] < point["left_ear"][0]
    assert point["nose"][2] > point["left_eye"][2] > point["left_ear"][2] and point["nose"][1] < point["left_eye"][1]
    assert point["mouth_left"][1] < point["nose"][1] and 0.01 < point["mouth_left"][0] < 0.04
    assert point["left_big_toe"][2] > point["left_ankle"][2] > point["left_heel"][2]
    assert point["left_small_toe"][0] > point["left_big_toe"][0]
    assert point["left_thumb"][2] > point["left_index"][2] > point["left_pinky"][2], "palms down: thumbs forward"
    np.testing.assert_allclose(point["neck"], (point["left_shoulder"] + point["right_shoulder"]) / 2, atol=1e-6)
    np.testing.assert_allclose(point["mid_hip"], (point["left_hip"] + point["right_hip"]) / 2, atol=1e-6)


def test_keypoints_move_rigidly_with_the_body(body):
    params = random_params(2)
    moved = dataclasses.replace(params, t_camera_root=params.t_camera_root + [0.3, -0.2, 0.5])
    for marks in body.landmarks.values():
        shift = landmark_positions(marks, pose(body, moved)) - landmark_positions(marks, pose(body, params))
        np.testing.assert_allclose(shift, np.broadcast_to([0.3, -0.2, 0.5], shift.shape), atol=1e-3)


def test_a_body_without_a_table_uses_what_is_known_of_its_mesh(tmp_path, body):
    np.savez(tmp_path / "toy.npz", **toy_arrays())
    marks = load_body(tmp_path / "toy.npz").landmarks
    assert marks["coco17"].placed.tolist() == [False] * 5 + [True] * 12
    assert marks["smpl24"].placed.all() and not marks["mediapipe33"].placed[:11].any()
    # A file of SMPL's own size and no table: the published vertex numbers.
    with np.load(DEFAULT_BODY) as data:
        np.savez(tmp_path / "smpl.npz", **{k: data[k] for k in data.files if not k.startswith("landmark")})
    marks = load_body(tmp_path / "smpl.npz").landmarks
    nose = marks["openpose25"].names.index("nose")
    assert marks["openpose25"].placed.all() and marks["openpose25"].vertex_index[nose, 0] == 332
    published = {  # smplx, vertex_ids.py, of SMPL's mesh
        "right_eye": 6260, "left_eye": 2800, "right_ear": 4071, "left_ear": 583, "left_big_toe": 3216, "left_small_toe": 3226,
        "left_heel": 3387, "right_big_toe": 6617, "right_small_toe": 6624, "right_heel": 6787,
    }  # fmt: skip
    names, index = marks["openpose25"].names, marks["openpose25"].vertex_index[:, 0]
    assert {n: index[names.index(n)] for n in published} == published
    hip = marks["coco17"].names.index("left_hip")
    assert marks["coco17"].joint_weights[hip, JOINT_INDEX["left_hip"]] == 1
    unplaced = {n for n, p in zip(marks["mediapipe33"].names, marks["mediapipe33"].placed) if not p}
    assert unplaced == {"mouth_left", "mouth_right", *(f"{s}_eye_{c}" for s in ("left", "right") for c in ("inner", "outer"))}


def test_vertex_colors_do_not_depend_on_resolution(body):
    """The same place of a coarser mesh of the same person has the same colour."""
    keep = np.unique(np.concatenate([np.arange(0, body.num_vertices, 3), body.v_template.argmin(0), body.v_template.argmax(0)]))
    coarse = dataclasses.replace(body, v_template=body.v_template[keep])
    np.testing.assert_allclose(vertex_colors(coarse), vertex_colors(body)[keep], atol=1e-6)


def test_only_the_body_that_ships_has_shapes_of_its_own():
    assert load_body().topology_id == FREE_TOPOLOGY and not load_body().is_smpl
    assert load_body(smpl_file()).is_smpl
