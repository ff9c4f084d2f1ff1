"""Lenses: positions go where the picture's maps put them, and what the model cannot have put there is nowhere."""

import cv2
import numpy as np
import pytest

from densefit_ros.errors import CameraError
from densefit_ros.geometry.lens import lens_of


def matrix(f: float, width: int, height: int) -> np.ndarray:
    return np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])


WIDE = {
    "rational_polynomial": ([5.0, 3.0, 0, 0, 0.1, 5.4, 4.4, 0.7], 252.0, 512, 512),
    "plumb_bob": ([-0.25, 0.03, 0.0005, -0.0005, 0.0], 420.0, 1280, 800),
    "equidistant": ([-0.006, 0.04, -0.04, 0.007], 285.0, 848, 800),
}


STRONG = ("plumb_bob", [-0.35, 0.12, 0.0, 0.0, 0.0], 600.0, 1920, 1080)


def test_a_strong_barrel_is_inverted_over_the_whole_picture():
    """However many of OpenCV's own steps lose everything beyond 56 degrees of it."""
    model, d, f, width, height = STRONG
    lens = lens_of(model, d, matrix(f, width, height))
    pixels = np.stack(np.meshgrid(np.linspace(1, width - 1, 41), np.linspace(1, height - 1, 23)), -1).reshape(-1, 2)
    slopes = (pixels - 0.5 - lens.k[:2, 2]) / f
    plain = lens.undistort(lens.distort(slopes))
    np.testing.assert_allclose(plain, pixels, atol=0.05)
    assert lens.distort(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("model", list(WIDE))
def test_wide_lenses_are_inverted_exactly(model):
    """OpenCV's usual five steps are off by tens of pixels towards the rim of the first two."""
    d, f, width, height = WIDE[model]
    lens = lens_of(model, d, matrix(f, width, height))
    slopes = np.stack(np.meshgrid(np.linspace(-1.1, 1.1, 15), np.linspace(-0.9, 0.9, 13)), -1).reshape(-1, 2)
    taken = lens.distort(slopes)
    inside = (taken > 0).all(1) & (taken < (width, height)).all(1)
    plain = lens.undistort(taken[inside])
    expected = slopes[inside] * f + lens.k[:2, 2] + 0.5
    assert inside.sum() > 100 and np.abs(taken[inside] - expected).max() > 20, "these lenses bend"
    known = np.isfinite(plain).all(1)
    assert known.mean() > 0.97
    np.testing.assert_allclose(plain[known], expected[known], atol=0.2)


def test_what_turns_round_has_no_place():
    """Feet 1.3 m below a camera and 0.6 m before it are out of sight; the polynomial puts them back into the picture."""
    lens = lens_of("plumb_bob", [-0.36, 0.13, 0.0, 0.0, -0.02], matrix(500.0, 640, 480))
    slopes = np.array([[0.0, 0.4], [0.0, 2.2], [0.3, -0.2], [np.nan, 0.0]])
    assert 240 < lens.distort(slopes)[1, 1] < 480
    placed = lens.place(slopes)
    assert np.isnan(placed[[1, 3]]).all()
    np.testing.assert_array_equal(placed[[0, 2]], lens.distort(slopes)[[0, 2]])
    fisheye = lens_of("equidistant", [0.0, 0.0, 0.0, 0.0], matrix(285.0, 848, 800))
    steep = np.array([[0.0, 1.2], [0.0, 9.0]])  # 84 degrees: in a fisheye's picture, and in no pinhole's
    np.testing.assert_array_equal(fisheye.place(steep), fisheye.distort(steep))


@pytest.mark.parametrize("d", [WIDE["equidistant"][0], [-0.1, 0, 0, 0]])
def test_what_no_pinhole_shows_is_nowhere(d):
    """Beyond 90 degrees OpenCV flips a fisheye's point to the other side, or says -1,000,000."""
    lens = lens_of("equidistant", d, matrix(285.0, 848, 800))
    uv = np.array([[424.0, 400.0], [820.0, 400.0], [840.0, 400.0], [1400.0, 400.0], [np.nan, 4.0]])
    plain = lens.undistort(uv)
    np.testing.assert_allclose(plain[0], uv[0], atol=1e-6)
    assert np.isnan(plain[1:]).all()
    boxes = lens.undistort_boxes(np.float32([[600, 300, 240, 200], [838, 2, 8, 9], [300, 300, 100, 100]]))
    assert len(lens.undistort_boxes(np.float32([[0, 0, 848, 800]]))) == 1, "somebody near: only the middle has a picture"
    assert len(boxes) == 2 and np.isfinite(boxes).all() and (boxes[:, 2:] > 90).all() and boxes.max() < 2000
    assert lens.undistort_boxes(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_a_fisheye_of_zeros_is_no_pinhole():
    """At 60 degrees off the axis it puts a point at 1.05 f, a pinhole at 1.73 f."""
    for d in ([], [0, 0, 0, 0]):
        lens = lens_of("equidistant", d, matrix(200.0, 640, 480))
        assert lens.distort([[np.tan(np.pi / 3), 0]])[0, 0] - lens.k[0, 2] - 0.5 == pytest.approx(200 * np.pi / 3)
        assert lens_of("plumb_bob", d, matrix(200.0, 640, 480)) is None


def test_the_corner_of_k_is_one():
    k = matrix(200.0, 64, 48)
    k[2, 2] = 0.0
    lens = lens_of("plumb_bob", [-0.2, 0.05, 0, 0, 0], k)
    assert cv2.remap(np.full((48, 64, 3), 255, np.uint8), *lens.maps(64, 48), cv2.INTER_LINEAR).mean() > 200


def test_eight_numbers_are_one_model_under_both_names():
    """Orbbec's driver calls them plumb_bob."""
    d = [-0.2, 0.05, 0.001, -0.002, 0.01, 0.1, -0.02, 0.003]
    slopes = np.array([[0.3, -0.2], [0.0, 0.5]])
    both = [lens_of(model, d, matrix(500.0, 640, 480)).distort(slopes) for model in ("plumb_bob", "rational_polynomial")]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize(
    "model, same",
    [(m, "plumb_bob") for m in ("Plumb Bob", "PLUMB_BOB", "plumb-bob", "Brown Conrady", "brown_conrady", "BrownConrady", "", " ")]
    + [("Rational Polynomial", "rational_polynomial"), ("Equidistant", "equidistant"), ("FISHEYE", "equidistant")]
    + [(m, "equidistant") for m in ("kannala_brandt", "Kannala-Brandt", "Kannala Brandt4")],
)
def test_names_of_models_as_others_write_them(model, same):
    k, slopes = matrix(300.0, 640, 480), np.array([[0.3, -0.2], [0.0, 0.5]])
    for d in ([-0.05, 0.02, 0.001, -0.002], [0, 0, 0, 0]):
        lens, expected = lens_of(model, d, k), lens_of(same, d, k)
        if expected is None:
            assert lens is None
        else:
            np.testing.assert_array_equal(lens.distort(slopes), expected.distort(slopes))


@pytest.mark.parametrize("model", ["none", "None", "pinhole", "Pinhole "])
def test_a_model_without_distortion_has_none(model):
    assert lens_of(model, [], matrix(200.0, 64, 48)) is None and lens_of(model, [0] * 5, matrix(200.0, 64, 48)) is None
    for d in ([0.1, 0, 0, 0, 0], [np.nan] * 5):
        with pytest.raises(CameraError, match="with 5 numbers that are not all zero: expected zeros or none"):
            lens_of(model, d, matrix(200.0, 64, 48))


@pytest.mark.parametrize(
    "model, d",
    [("mystery", [0.1] * 5), ("plumb_bob", [0.1] * 3), ("fisheye", [np.nan, 0, 0, 0]), ("Inverse Brown Conrady", [0.1] * 5)],
)
def test_lenses_that_are_none(model, d):
    with pytest.raises(CameraError, match="distortion model .* expected plumb_bob with 4 .*brown_conrady.*kannala_brandt.*none"):
        lens_of(model, d, matrix(200.0, 64, 48))
