"""Dense matches that err together count with their independent share, and keypoints do not shrink with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import face_parts, pose
from densefit_ros.fit.options import Anchor
from densefit_ros.fit.solver import FitOptions, Fitter
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.types import BodyParams, Correspondences, DepthPoints, Keypoints

CAMERA = camera_from_fov(640, 480, 60)
START = BodyParams(
    np.zeros((1, 10), np.float32),
    np.array([[3.0, 0.1, 0.2]], np.float32),
    np.full((1, 23, 3), 0.1, np.float32),
    np.array([[0, 0, 4]], np.float32),
)


@pytest.fixture(scope="module")
def body():
    return load_body()


def matches_of(body, count=300):
    rng = np.random.default_rng(0)
    face = rng.integers(len(body.faces), size=count).astype(np.int32)
    bary = rng.dirichlet(np.ones(3), count).astype(np.float32)
    corners = pose(body, START).vertices[0][body.faces[face]]
    uv = project(CAMERA, np.einsum("nk,nkc->nc", bary, corners)) + rng.normal(size=(count, 2)) * 2
    return Correspondences(np.zeros(count, np.int32), face, bary, uv.astype(np.float32), np.ones(count, np.float32))


def equations_of(body, options, **evidence):
    fitter = Fitter(body, max_persons=1, options=FitOptions(dtype="float64", **options))
    evidence = {"matches": Correspondences.empty(), **evidence}
    return fitter.normal_equations(START, CAMERA, evidence.pop("matches"), **evidence)


def test_share_scales_dense_evidence_and_nothing_else(body):
    matches = matches_of(body)
    joints = project(CAMERA, pose(body, START).joints) + 3.0
    keypoints = Keypoints("smpl24", joints.astype(np.float32), np.ones((1, 24), np.float32))

    def equations(share, **evidence):
        return equations_of(body, {"independent_share": share}, **evidence)

    none = equations(1.0, keypoints=keypoints)
    whole = equations(1.0, matches=matches, keypoints=keypoints)
    part = equations(0.1, matches=matches, keypoints=keypoints)
    for w, p, n in zip(whole, part, none):
        np.testing.assert_allclose(p - n, 0.1 * (w - n), rtol=1e-8, atol=1e-6 * np.abs(w).max())


def test_points_of_one_part_count_once_where_they_err_together(body):
    """The normal matrix is the sum over parts of what the part's points say, each times n share / (1 + (n - 1) rho) / n."""
    matches, share, rho = matches_of(body), 0.4, 0.8
    part = face_parts(body)[matches.face]
    whole = equations_of(body, {"independent_share": share, "part_correlation": rho}, matches=matches)
    none = equations_of(body, {})
    total = [np.array(n) for n in none]
    for k in np.unique(part):
        names = ("person", "face", "bary", "target_uv", "sqrt_weight")
        own = dataclasses.replace(matches, **{n: getattr(matches, n)[part == k] for n in names})
        factor = share / (1 + (len(own) - 1) * rho)
        for t, o, n in zip(total, equations_of(body, {}, matches=own), none):
            t += factor * (o - n)
    for t, w in zip(total, whole):
        np.testing.assert_allclose(t, w, rtol=1e-8, atol=1e-6 * np.abs(w).max())


def test_a_depth_camera_does_not_err_with_the_displacements(body):
    m = matches_of(body, 60)
    far = np.tile(np.float32([0, 0, 4]), (60, 1))
    normal = np.tile(np.float32([0, 0, 1]), (60, 1))
    depth = DepthPoints(m.person, m.face, m.bary, far, normal, np.full(60, 20.0), np.ones(60), np.ones(60, bool))
    shared = equations_of(body, {"independent_share": 0.4, "part_correlation": 0.8}, depth=depth)
    plain = equations_of(body, {}, depth=depth)
    for a, b in zip(shared, plain):
        np.testing.assert_array_equal(a, b)


def test_planes_that_share_count_as_what_they_share(body):
    m = matches_of(body, 60)
    normal = np.tile(np.float32([0, 0, 1]), (60, 1))

    def equations(share):
        target = np.tile(np.float32([0, 0, 4]), (60, 1))
        shares = np.full(60, share)
        depth = DepthPoints(m.person, m.face, m.bary, target, normal, np.full(60, 20.0), shares, np.ones(60, bool))
        return equations_of(body, {}, depth=depth)

    none = equations_of(body, {})
    for whole, part, without in zip(equations(1.0), equations(0.2), none):
        np.testing.assert_allclose(part - without, 0.2 * (whole - without), rtol=1e-4, atol=1e-5 * np.abs(whole).max())


def planes_of(body, matches):
    """The matches' surface points on planes 2 cm before them, facing the camera; they weigh about as much as two to 4 cm."""
    corners = pose(body, START).vertices[0][body.faces[matches.face]]
    xyz = np.einsum("nk,nkc->nc", matches.bary, corners)
    normal = -xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    ones = np.ones(len(xyz))
    return DepthPoints(matches.person, matches.face, matches.bary, xyz + 0.02 * normal, normal, 2.2 * ones, ones, ones == 0)


def test_a_plane_whose_errors_do_not_last_counts_in_full_in_the_covariance(body):
    """Displacements and a depth camera's samples are discounted because neighbouring frames err alike; the floor is not."""
    matches, depth = matches_of(body), planes_of(body, matches_of(body))
    anchors = [Anchor(START, 0.2, 1.0, 0.3)]

    def variance_along_z(evidence, planes, share):
        fitter = Fitter(body, max_persons=1, options=FitOptions(covariance_share=share, guard=False))
        return fitter.solve(START, CAMERA, evidence, depth=planes, anchors=anchors).joint_covariance[0, :, 2, 2]

    none = Correspondences.empty()
    exact, counted, blind = (variance_along_z(none, *a) for a in ((depth, 1.0), (depth, 0.05), (None, 0.05)))
    assert (counted < 0.8 * blind).all() and counted[0] < 0.1 * blind[0]
    np.testing.assert_allclose(counted, exact, rtol=0.2)  # a joint stands for the points that it carries
    lasting = dataclasses.replace(depth, lasting=np.ones(len(depth), bool))
    discounted = variance_along_z(none, lasting, 0.05)
    assert (counted < discounted).all() and (discounted < blind).all() and discounted[0] > 5 * counted[0]
    # Beside displacements they take away what these leave open, the distance.
    assert (variance_along_z(matches, depth, 0.05) < 0.5 * variance_along_z(matches, None, 0.05)).all()
    # Far from every plane they are outliers, and say nothing.
    far = dataclasses.replace(depth, xyz_m=depth.xyz_m + 100.0 * depth.normal)
    np.testing.assert_allclose(variance_along_z(none, far, 0.05), blind, rtol=0.02)
