"""The mesh tools behind the free body: closest points, holes, symmetric decimation, UV transfer, sparse regressors."""

from __future__ import annotations

import numpy as np
import pytest

from densefit_ros.body import convert_anny
from densefit_ros.body.convert_mesh import (
    ClosestPoint,
    boundary_loops,
    close_holes,
    decimate_symmetric,
    face_normals,
    transfer_uv,
    vertex_areas,
    vertex_normals,
)
from densefit_ros.body.convert_regress import mean_error, sparse_regressor
from densefit_ros.body.convert_source import joint_centres, smooth_weights, to_t_pose
from densefit_ros.body.joints import JOINT_INDEX, SMPL_FLIP, SMPL_PARENTS
from densefit_ros.errors import AssetError


def ball(rings: int = 24, around: int = 48):
    """A sphere with a ring of vertices in the plane x = 0, UVs cut along one meridian: vertices, faces, uv, uv_faces."""
    polar = np.pi * np.arange(1, rings) / rings
    angle = 2 * np.pi * np.arange(around) / around
    grid = np.stack(
        [
            np.outer(np.sin(polar), np.sin(angle)),
            np.outer(np.cos(polar), np.ones(around)),
            np.outer(np.sin(polar), np.cos(angle)),
        ],
        -1,
    )
    grid[np.abs(grid) < 1e-12] = 0.0
    vertices = np.concatenate([grid.reshape(-1, 3), [[0, 1, 0], [0, -1, 0]]])
    faces, corners = [], []
    uv = [(a / around, (r + 1) / rings) for r in range(rings - 1) for a in range(around + 1)]
    for r in range(rings - 2):
        for a in range(around):
            i, j, u = r * around + a, r * around + (a + 1) % around, r * (around + 1) + a
            # The diagonal turns over at x = 0, as on a mirrored body.
            if a < around // 2:
                faces += [[i, i + around, j + around], [i, j + around, j]]
                corners += [[u, u + around + 1, u + around + 2], [u, u + around + 2, u + 1]]
            else:
                faces += [[i, i + around, j], [i + around, j + around, j]]
                corners += [[u, u + around + 1, u + 1], [u + around + 1, u + around + 2, u + 1]]
    top, bottom, last = len(vertices) - 2, len(vertices) - 1, (rings - 2) * around
    for a in range(around):
        b = (a + 1) % around
        faces.append([top, a, b])
        corners.append([len(uv) + a, a, a + 1])
        faces.append([bottom, last + b, last + a])
        u = (rings - 2) * (around + 1) + a
        corners.append([len(uv) + around + a, u + 1, u])
    uv += [((a + 0.5) / around, 0.0) for a in range(around)] + [((a + 0.5) / around, 1.0) for a in range(around)]
    return vertices, np.array(faces), np.array(uv), np.array(corners)


def test_the_ball_is_a_ball():
    vertices, faces, uv, corners = ball()
    assert (
        boundary_loops(faces) == [] and (np.einsum("fc,fc->f", face_normals(vertices, faces), vertices[faces].mean(1)) > 0).all()
    )
    np.testing.assert_allclose(vertex_areas(vertices, faces).sum(), 4 * np.pi, rtol=0.01)
    np.testing.assert_allclose(vertex_normals(vertices, faces), vertices, atol=0.05)


def test_closest_points_match_a_dense_search():
    rng = np.random.default_rng(0)
    vertices, faces, _, _ = ball(8, 12)
    points = rng.normal(size=(40, 3))
    face, bary, distance = ClosestPoint(vertices, faces)(points, None, candidates=len(faces))
    assert bary.min() >= -1e-12
    np.testing.assert_allclose(bary.sum(1), 1)
    closest = np.einsum("nk,nkc->nc", bary, vertices[faces[face]])
    np.testing.assert_allclose(np.linalg.norm(closest - points, axis=1), distance)
    samples = rng.dirichlet(np.ones(3), 400)
    dense = np.einsum("sk,fkc->fsc", samples, vertices[faces]).reshape(-1, 3)
    brute = np.linalg.norm(dense[None] - points[:, None], axis=-1).min(1)
    assert (distance <= brute + 1e-9).all() and np.abs(distance - brute).max() < 0.05


def test_closest_point_prefers_skin_that_looks_the_same_way():
    sheet = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    vertices = np.concatenate([sheet, sheet + [0, 0, 0.01]])
    faces = np.array([[0, 2, 1], [3, 4, 5]])  # two leaves, looking away from each other
    point = np.array([[0.2, 0.2, 0.002]])
    assert ClosestPoint(vertices, faces)(point, np.array([[0.0, 0, 1]]))[0][0] == 1
    assert ClosestPoint(vertices, faces)(point, None)[0][0] == 0


def test_decimation_is_closed_symmetric_and_close():
    vertices, faces, _, _ = ball()
    new, triangles, mirror = decimate_symmetric(vertices, faces, 1200)
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(new)))
    np.testing.assert_array_equal(new[mirror] * [-1, 1, 1], new)
    assert boundary_loops(triangles) == [] and abs(len(triangles) - 1200) < 60
    assert len(new) - 3 * len(triangles) // 2 + len(triangles) == 2
    assert np.abs(np.linalg.norm(new, axis=1) - 1).max() < 0.02
    with pytest.raises(AssetError, match="middle"):
        decimate_symmetric(vertices + [0.3, 0, 0], faces, 1200)


def test_uv_transfer_stops_at_the_cut():
    vertices, faces, uv, corners = ball()
    new, triangles, _ = decimate_symmetric(vertices, faces, 1200)
    out, out_faces = transfer_uv((vertices, faces, uv, corners), new, triangles)
    tri = out[out_faces]
    assert np.ptp(tri[..., 0], axis=1).max() < 0.4, "a face that wrapped round would span the whole map"
    away = np.abs(new[triangles][..., 1]).max(1) < 0.8  # near the poles the longitude means nothing
    angle = np.arctan2(new[triangles][..., 0], new[triangles][..., 2]) / (2 * np.pi)
    error = np.abs((tri[..., 0] - angle + 0.5) % 1.0 - 0.5)
    assert error[away].max() < 0.02
    assert len(out) > len(new), "vertices on the cut have two texture corners"


def test_holes_are_closed_with_matching_uv():
    """Two eyes and a mouth in a sheet, as anny's head has once its cavities are gone."""
    step = np.linspace(-0.06, 0.06, 25)
    x, y = np.meshgrid(step, step)
    vertices = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3)
    index = np.arange(625).reshape(25, 25)
    left_eye, mouth = (slice(15, 18), slice(18, 21)), (slice(5, 6), slice(8, 16))
    quads = np.ones((24, 24), bool)
    quads[left_eye] = quads[left_eye[0], 3:6] = quads[mouth] = False
    r, c = np.nonzero(quads)
    a, b, d, e = index[r, c], index[r, c + 1], index[r + 1, c], index[r + 1, c + 1]
    faces = np.concatenate([np.stack([a, b, e], 1), np.stack([a, e, d], 1)])
    back = np.array([[0, 0, -0.1], [0.0375, 0.0225, 0.01], [-0.0375, 0.0225, 0.01]])  # behind the head; two eyeballs' tips
    vertices = np.concatenate([vertices, back])
    border = max(boundary_loops(faces), key=len)
    faces = np.concatenate([faces, [[625, b, a] for a, b in zip(border, np.roll(border, -1))]])
    uv = vertices[:626, :2] + 0.5
    new_faces, new_uv, new_uv_faces = close_holes(vertices, faces, uv, faces, (np.array([626]), np.array([627])))
    assert len(boundary_loops(faces)) == 3 and boundary_loops(new_faces) == []
    added = slice(len(faces), None)
    assert (face_normals(vertices, new_faces[added])[:, 2] > 0).all()
    np.testing.assert_allclose(new_uv[new_uv_faces] - 0.5, vertices[new_faces][..., :2], atol=1e-9)
    centre = vertices[new_faces[added]].mean(1)[:, 0]
    np.testing.assert_allclose(np.sort(centre), np.sort(-centre), atol=1e-9)


def test_sparse_regressor_finds_a_convex_mixture():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 40, 3))
    truth = rng.dirichlet(np.ones(6))
    target = np.einsum("nmc,m->nc", points[:, 10:16], truth)
    ids, weights = sparse_regressor(points, target, np.arange(40), 12)
    np.testing.assert_allclose(weights.sum(), 1)
    assert set(ids) == set(range(10, 16)) and mean_error(points, target, ids, weights) < 1e-6
    ids, weights = sparse_regressor(points, target, np.arange(40), 4)
    assert len(ids) <= 4 and weights.min() > 0
    np.testing.assert_allclose(weights.sum(), 1)


def test_t_pose_undoes_the_pose():
    """People of three shapes in an A-pose: their bones end up where a T-pose has them, and posing back gives them back."""
    rng = np.random.default_rng(0)
    joints = np.zeros((3, 24, 3))
    for j in range(1, 24):
        joints[:, j] = joints[:, SMPL_PARENTS[j]] + rng.normal(0, 0.03, (3, 3)) + [0, -0.1, 0]
    for name, child, sign in (("left_shoulder", "left_elbow", 1), ("right_shoulder", "right_elbow", -1)):
        shift = joints[:, JOINT_INDEX[name]] + [0.2 * sign, -0.2, 0.02] - joints[:, JOINT_INDEX[child]]
        joints[:, JOINT_INDEX[child]] += shift
    weights = rng.dirichlet(np.ones(24) * 0.1, 30)
    vertices = joints[:, rng.integers(0, 24, 30)] + rng.normal(0, 0.05, (3, 30, 3))
    bones = np.concatenate([joints[:, 5:6], np.full((3, 1, 1), 5.0)], -1)
    posed, target, moved = to_t_pose(vertices, joints, weights, bones)
    np.testing.assert_allclose(target[:, 0], 0)
    np.testing.assert_allclose(moved[:, 0], target[:, 5], atol=1e-12)
    arm = target[:, JOINT_INDEX["left_elbow"]] - target[:, JOINT_INDEX["left_shoulder"]]
    np.testing.assert_allclose(arm[:, 1:], 0, atol=1e-12)
    assert (arm[:, 0] > 0.2).all()
    lengths = [np.linalg.norm(x[:, 1:] - x[:, list(SMPL_PARENTS[1:])], axis=-1) for x in (joints, target)]
    np.testing.assert_allclose(*lengths)
    assert np.isfinite(posed).all() and np.abs(posed - vertices).max() > 0.05


def test_weights_stay_weights_when_smoothed_and_cut():
    vertices, faces, _, _ = ball(8, 12)
    weights = np.eye(24)[np.random.default_rng(0).integers(0, 24, len(vertices))]
    smooth = smooth_weights(weights, faces, 6)
    np.testing.assert_allclose(smooth.sum(1), 1)
    from scipy.spatial import cKDTree

    mirror = cKDTree(vertices).query(vertices * [-1, 1, 1])[1]
    four = convert_anny._top4(smooth, mirror)
    np.testing.assert_allclose(four.sum(1), 1)
    assert (four > 0).sum(1).max() <= 4
    np.testing.assert_allclose(four[mirror][:, list(SMPL_FLIP)], four)


def test_joint_centres_come_from_bones_of_both_sides():
    class Source:
        bone_labels = tuple(
            sorted({b.replace(".L", s) for e in convert_anny.source_._CENTRES.values() for b in e for s in (".L", ".R")})
        )

    heads = np.zeros((1, len(Source.bone_labels), 3))
    heads[0, :, 0] = [1.0 if b.endswith(".L") else -1.0 if b.endswith(".R") else 0.0 for b in Source.bone_labels]
    joints = joint_centres(Source, heads)[0]
    assert joints[JOINT_INDEX["left_knee"], 0] == 1 and joints[JOINT_INDEX["right_knee"], 0] == -1
    np.testing.assert_allclose(joints[list(SMPL_FLIP), 0], -joints[:, 0], atol=1e-12)


def test_missing_package_is_named(monkeypatch):
    import sys

    from densefit_ros.errors import BackendUnavailable

    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(BackendUnavailable, match="anny"):
        convert_anny.source_.load_source()
