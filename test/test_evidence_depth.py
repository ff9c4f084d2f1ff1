"""A depth image as evidence: how far away people are, and which samples of it pull on their surface."""

from __future__ import annotations

import numpy as np
import pytest

from densefit_ros.evidence.depth import DepthOptions, depth_points, distance_ratio
from densefit_ros.geometry.camera import camera_from_fov
from densefit_ros.types import Surface

CAMERA = camera_from_fov(96, 72, 60.0)
AFFINE = np.float32([[[0.5, 0, 20], [0, 0.5, 10]]])  # crops of 60 x 60 px
OPTIONS = DepthOptions()
AT_M = 2.0


def wall(people: int = 1) -> Surface:
    """Everybody's rendering: AT_M away all over the crop, facing the camera."""
    shape = (people, 60, 60)
    bary, normals = np.zeros((*shape, 3)), np.zeros((*shape, 3))
    bary[..., 0], normals[..., 2] = 1.0, -1.0
    face_id = np.broadcast_to(np.arange(people, dtype=np.int32)[:, None, None], shape)
    colors = np.zeros((*shape, 3))
    return Surface(face_id, bary, np.full(shape, AT_M), normals, colors, colors, np.repeat(AFFINE, people, 0))


def measured(value_m: float = AT_M) -> np.ndarray:
    return np.full((72, 96), value_m, np.float32)


def ratio(depth_m: np.ndarray) -> float:
    surface = wall()
    return distance_ratio(depth_m, surface.face_id, surface.depth_m, surface.image_from_crop)[0]


def test_points_lie_where_their_pixels_measured_them():
    depth = measured() + np.linspace(0, 0.1, 96, dtype=np.float32)
    points = depth_points(depth, wall(), CAMERA, np.ones(1, bool))
    assert len(points) == (60 // OPTIONS.stride) ** 2
    u, v, z = points.xyz_m[:, 0], points.xyz_m[:, 1], points.xyz_m[:, 2]
    u, v = u / z * CAMERA.fx + CAMERA.cx, v / z * CAMERA.fy + CAMERA.cy
    assert (u.min(), u.max(), v.min(), v.max()) == pytest.approx((21.75, 48.75, 11.75, 38.75), abs=1e-3)
    np.testing.assert_allclose(z, depth[v.astype(int), u.astype(int)])
    assert (points.normal == [0, 0, -1]).all() and (points.bary == [1, 0, 0]).all()


def test_people_whose_depth_is_not_trusted_have_no_points():
    points = depth_points(measured(), wall(3), CAMERA, np.array([True, False, True]))
    assert set(points.person) == set(points.face) == {0, 2}
    assert len(depth_points(measured(), wall(3), CAMERA, np.zeros(3, bool))) == 0


@pytest.mark.parametrize("off_m", [-0.25, -0.15, 0.15, 0.25])
def test_points_far_from_the_rendered_surface_are_of_something_else(off_m):
    depth = measured()
    depth[:, :30] += off_m
    points = depth_points(depth, wall(), CAMERA, np.ones(1, bool))
    assert (np.abs(points.xyz_m[:, 2] - AT_M) > 0.1).any() == (abs(off_m) < OPTIONS.gate_m)
    assert (points.xyz_m[:, 2] == AT_M).any()


def test_many_points_of_a_person_count_as_a_few():
    """As ``independent`` of them, because they err together, and the nearer the surer each."""
    for at_m in (AT_M, 1.9):
        for seen in (1, 6, 10):  # rows of samples
            depth = measured(at_m)
            depth[10 + 3 * seen :] = np.nan
            points = depth_points(depth, wall(), CAMERA, np.ones(1, bool))
            assert len(points) == 10 * seen and points.lasting.all()
            assert points.share.sum() == pytest.approx(min(10 * seen, OPTIONS.independent), rel=1e-4)
            one_m = OPTIONS.sigma_m + OPTIONS.sigma_per_m2 * at_m**2
            np.testing.assert_allclose(points.sqrt_weight, 1 / one_m, rtol=1e-5)


def test_the_distance_is_that_of_the_middle_sample():
    depth = measured(2.6)
    depth[:14] = 9.0
    assert ratio(depth) == pytest.approx(1.3)


@pytest.mark.parametrize("unknown", [np.nan, 0.0, -1.0])
def test_a_distance_of_which_too_little_is_measured_is_unknown(unknown):
    for rows, known in ((4, True), (2, False)):  # of ten rows of samples
        depth = measured(2.6)
        depth[10 + 3 * rows :] = unknown
        assert np.isfinite(ratio(depth)) == known


def test_what_hides_most_of_a_person_does_not_move_the_rest():
    depth = measured(2.05)
    depth[22:] = 1.2
    assert ratio(depth) == pytest.approx(2.05 / AT_M)
    depth[16:] = 1.2  # too little is left of the person
    assert ratio(depth) == pytest.approx(0.6)
