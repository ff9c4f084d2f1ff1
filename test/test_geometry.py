"""Rotations, cameras and crops against scipy, closed forms and analytic images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from densefit_ros.errors import CameraError, ShapeError
from densefit_ros.geometry import camera, crop, so3
from densefit_ros.types import Camera


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_exp_and_log_agree_with_scipy(rng):
    v = rng.normal(size=(500, 3)) * 3
    np.testing.assert_allclose(so3.exp(v), Rotation.from_rotvec(v).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(so3.log(so3.exp(v)), Rotation.from_rotvec(v).as_rotvec(), atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 1e-3, np.pi - 1e-3, np.pi - 1e-6, np.pi])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_inverts_exp_near_zero_and_pi(angle, dtype, rng):
    axis = rng.normal(size=(50, 3))
    v = (axis / np.linalg.norm(axis, axis=1, keepdims=True) * angle).astype(dtype)
    again = so3.exp(so3.log(so3.exp(v)))
    assert again.dtype == dtype
    np.testing.assert_allclose(again, so3.exp(v), atol=1e-6 if dtype == np.float32 else 1e-12)


def test_worked_numbers():
    np.testing.assert_allclose(so3.exp(np.array([0, 0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(so3.to_quat_xyzw(so3.exp(np.array([np.pi / 2, 0, 0]))), [np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
    np.testing.assert_allclose(so3.hat(np.array([1.0, 2, 3])) @ [4, 5, 6], np.cross([1, 2, 3], [4, 5, 6]))


def test_rot6d_layouts_are_transposes(rng):
    m = so3.exp(rng.normal(size=(20, 3)))
    np.testing.assert_allclose(so3.from_rot6d_rows(m[:, :2].reshape(20, 6)), m, atol=1e-12)
    np.testing.assert_allclose(so3.from_rot6d_columns(np.swapaxes(m, 1, 2)[:, :2].reshape(20, 6)), m, atol=1e-12)
    with pytest.raises(ShapeError):
        so3.from_rot6d_rows(np.zeros(5))


def test_project_returns_the_nearest_rotation(rng):
    m = so3.exp(rng.normal(size=(20, 3)))
    p = so3.project(m + rng.normal(size=m.shape) * 1e-3)
    np.testing.assert_allclose(np.linalg.det(p), 1, atol=1e-12)
    assert so3.angle_between(p, m).max() < 5e-3


def test_ros_intrinsics_shift_by_half_a_pixel():
    c = camera.camera_from_k([500, 0, 319.5, 0, 501, 239.5, 0, 0, 1], 640, 480)
    assert c == Camera(500, 501, 320, 240, 640, 480)


@pytest.mark.parametrize("k", [np.zeros(9), np.full(9, np.nan), [-1, 0, 0, 0, 1, 0, 0, 0, 1], [1, 2, 3]])
def test_impossible_intrinsics_are_refused(k):
    with pytest.raises(CameraError):
        camera.camera_from_k(k, 640, 480)


def test_field_of_view_is_diagonal():
    c = camera.camera_from_fov(600, 800, 90.0)
    assert c.fx == pytest.approx(500) and (c.cx, c.cy) == (300, 400)
    with pytest.raises(CameraError):
        camera.camera_from_fov(600, 800, 180)


def test_points_behind_the_camera_project_to_nan():
    uv = camera.project(Camera(1, 1, 0, 0, 2, 2), np.array([[0, 0, 1.0], [0, 0, 0], [0, 0, -1]]))
    assert np.isfinite(uv[0]).all() and np.isnan(uv[1:]).all()


def test_crop_camera_sees_what_the_image_sees(rng):
    c = camera.camera_from_fov(640, 480, 60)
    a = crop.image_from_crop(crop.square_around(np.array([100, 50, 80, 200]), 1.2), 192)
    xyz = rng.normal(size=(20, 3)) + [0, 0, 6]
    uv_crop = camera.project(camera.crop_camera(c, a, 192), xyz)
    np.testing.assert_allclose(uv_crop @ a[:, :2].T + a[:, 2], camera.project(c, xyz), atol=1e-3)


@pytest.mark.parametrize("side", [100.0, 192.0, 450.0, 900.0])
def test_crop_samples_a_ramp_where_it_says(side, rng):
    """On a linear ramp a resampled pixel has the value of its own position, at every zoom, shrinking included."""
    w = 1000
    slope = 0.2371  # levels per pixel; a round number would meet the rounding of 4 x 4 averages at one phase only
    ramp = np.broadcast_to((np.arange(w) + 0.5) * slope, (w, w))
    rgb = np.floor(ramp + rng.random((w, w)))[..., None].repeat(3, 2).astype(np.uint8)  # dithered: unbiased by rounding
    out = crop.extract(rgb, np.array([[37.3, 41.0, side, side]]), 96)
    u = out.image_from_crop[0, 0, 0] * (np.arange(96) + 0.5) + out.image_from_crop[0, 0, 2]
    err = out.rgb[0, :, :, 0].mean(0) - u * slope
    assert abs(err.mean()) < 0.06  # levels; a shift by half an image pixel is 0.12


def test_crop_outside_the_image_is_marked():
    out = crop.extract(np.full((50, 50, 3), 7, np.uint8), np.array([[-50, 0, 100, 100]]), 64)
    assert not out.inside[0, :, :32].any() and out.inside[0, :32, 32:].all() and not out.inside[0, 32:].any()
    assert (out.rgb == 7).all()


def test_crop_refuses_other_images():
    with pytest.raises(ShapeError):
        crop.extract(np.zeros((5, 5), np.uint8), np.array([[0, 0, 5, 5]]), 8)


@pytest.mark.parametrize(("box", "side"), [([100, 50, 80, 200], 200), ([100, 50, 200, 80], 350), ([0, 0, 0, 0], 2)])
def test_a_box_fits_the_columns_that_networks_see(box, side):
    square = crop.square_around(np.array(box), 1.1)
    assert square[2] == square[3] == pytest.approx(1.1 * side)
    np.testing.assert_allclose(square[:2] + square[2:] / 2, np.array(box[:2]) + np.array(box[2:]) / 2, rtol=1e-6)
    assert crop.square_around(np.array(box), 1.1, aspect=1.0)[2] == pytest.approx(1.1 * max(*box[2:], 2))


@pytest.mark.parametrize("size", [32, 64, 96, 128, 160, 192, 224])
def test_columns_seen_are_in_the_middle_and_fit_the_coarsest_features(size):
    columns = crop.columns_seen(size)
    assert columns.start + columns.stop == size
    assert (columns.stop - columns.start) % 32 == 0 and columns.start % 8 == 0
    assert abs((columns.stop - columns.start) - size * crop.ASPECT) <= 16
