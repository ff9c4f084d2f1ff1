"""16 bits to 8, compressed images of every stored form, and nv24."""

import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from densefit_ros.errors import ImageError
from densefit_ros.ros import convert

RNG = np.random.default_rng(3)
BLOBS = cv2.GaussianBlur(RNG.random((240, 320, 3), np.float32), (0, 0), 12)  # RGB
BLOBS = ((BLOBS - BLOBS.min((0, 1))) / np.ptp(BLOBS, (0, 1)) * 255).astype(np.uint8)
PATTERNS = ("rggb", "bggr", "gbrg", "grbg")
DEEP = ["mono16", "16UC1", "rgb16", "bgr16", "rgba16", "bgra16", *(f"bayer_{p}16" for p in PATTERNS)]


def message(data: np.ndarray, encoding: str, height: int | None = None, step: int | None = None) -> Image:
    height, step = height or data.shape[0], step or data.nbytes // data.shape[0]
    buffer = array.array("B", np.ascontiguousarray(data).tobytes())
    return Image(height=height, width=data.shape[1], encoding=encoding, step=step, data=buffer)


def compressed(stored: np.ndarray, format_: str, extension: str = ".png") -> CompressedImage:
    """``stored`` as OpenCV orders its channels."""
    return CompressedImage(format=format_, data=array.array("B", cv2.imencode(extension, stored)[1].tobytes()))


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    raw = np.empty(rgb.shape[:2], rgb.dtype)
    for n, colour in enumerate(pattern):
        y, x = divmod(n, 2)
        raw[y::2, x::2] = rgb[y::2, x::2, "rgb".index(colour)]
    return raw


def stored_as(encoding: str, rgb: np.ndarray) -> np.ndarray:
    if encoding.startswith("bayer"):
        return mosaic(rgb, encoding[6:10])
    if encoding in ("mono16", "16UC1"):
        return rgb[..., 1].copy()
    out = rgb[..., ::-1] if encoding.startswith("bgr") else rgb
    return np.dstack([out, np.full_like(rgb[..., :1], 65535)]) if "a" in encoding else np.ascontiguousarray(out)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("encoding", DEEP)
def test_cameras_that_fill_few_of_16_bits_are_not_black(encoding, bits):
    deep = BLOBS.astype(np.uint16) << (bits - 8)
    got = convert.image_rgb(message(stored_as(encoding, deep), encoding)).astype(float)
    expected = BLOBS if "16U" not in encoding and "mono" not in encoding else np.repeat(BLOBS[..., 1:2], 3, 2)
    scale = (got * expected).sum() / (expected.astype(float) ** 2).sum()
    assert 0.75 < scale < 1.3 and got.max() > 190
    error = np.abs(got - scale * expected)[2:-2, 2:-2]  # a mosaic's border has neighbours on one side only
    assert error.max() < (12 if "bayer" in encoding else 2), "one range of all channels: the hue is kept"


def test_thermal_pictures_have_contrast():
    """Of 7300 to 7700 counts, 16 bits' upper byte shows two grey levels, the brightest pixel's share 13."""
    grey = BLOBS[..., 0] / 255.0
    got = convert.image_rgb(message((7300 + 400 * grey).astype(np.uint16), "mono16"))[..., 0].astype(float)
    assert got.max() - got.min() > 130 and np.corrcoef(got.ravel(), grey.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_rggb16"])
def test_pictures_that_use_the_range_look_as_their_upper_byte(encoding):
    deep = np.minimum(BLOBS.astype(np.uint16) * 257 + RNG.integers(0, 256, BLOBS.shape, np.uint16), 65535).astype(np.uint16)
    deep = 1500 + (deep * 0.94).astype(np.uint16)  # neither quite black nor quite white
    stored = stored_as(encoding, deep)
    upper = (stored >> 8).astype(np.uint8)
    got = convert.image_rgb(message(stored, encoding)).astype(int)
    assert np.abs(got - convert.image_rgb(message(upper, encoding.replace("16", "8")))).max() <= 4


def test_bright_scenes_keep_their_black():
    """Subtracting what is darkest in them would change the colours; only where all is far from black is it worth that."""
    wall = (14000 + 170 * BLOBS.astype(float)).astype(np.uint16)  # up to 57350
    got = convert.image_rgb(message(wall, "rgb16")).astype(float)
    scale = got.mean() / (wall / 257.0).mean()
    assert 0.95 < scale < 1.1 and np.abs(got - scale * wall / 257.0).max() <= 2


def test_broken_pixels_do_not_count():
    thermal = (7300 + 400 * (BLOBS[..., 0] / 255.0)).astype(np.uint16)
    broken, where = thermal.copy(), RNG.permutation(thermal.size)[:60]
    broken.flat[where[:30]], broken.flat[where[30:]] = 65535, 0
    clean, got = (convert.image_rgb(message(a, "16UC1"))[..., 0].astype(int) for a in (thermal, broken))
    assert (got.flat[where[:30]] == 255).all() and (got.flat[where[30:]] == 0).all(), "and the dead ones are dark"
    others = np.setdiff1d(np.arange(thermal.size), where)
    assert np.abs(got.flat[others] - clean.flat[others]).max() <= 4


@pytest.mark.parametrize("encoding", ["mono16", "rgb16"])
@pytest.mark.parametrize("value, expected", [(0, 0), (32768, 127), (65535, 255)])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (48, 64)])
def test_pictures_of_one_value(encoding, value, expected, size):
    got = convert.image_rgb(message(np.full((*size, 3) if "rgb" in encoding else size, value, np.uint16), encoding))
    assert got.shape == (*size, 3) and np.abs(got.astype(int) - expected).max() <= 1


def test_noise_of_a_closed_shutter_stays_dark():
    got = convert.image_rgb(message(RNG.integers(0, 6, (240, 320), np.uint16), "mono16"))
    assert got.max() <= 10


def test_all_colours_of_a_large_mosaic_count():
    """Samples at even steps would be of one colour, whose range is not the picture's."""
    rgb = np.broadcast_to(np.uint16([60000, 3000, 3000]), (720, 960, 3))
    for pattern in PATTERNS:
        got = convert.image_rgb(message(mosaic(rgb, pattern), f"bayer_{pattern}16"))
        assert np.abs(got[9:-9, 9:-9].astype(int) - [233, 12, 12]).max() <= 4


def test_brightness_does_not_flicker_with_noise():
    scene = 200 + BLOBS[..., 0] * 10.0
    pictures = [(scene + RNG.normal(0, 20, scene.shape)).clip(0, 4095).astype(np.uint16) for _ in range(12)]
    means = [convert.image_rgb(message(p, "mono16")).mean() for p in pictures]
    assert max(means) - min(means) < 1.5, "grey levels"


@pytest.mark.parametrize("encoding", [*DEEP, "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_a_png_is_what_the_raw_image_is(encoding):
    """image_transport writes colour as bgr without alpha, and all else as it is."""
    rgb = BLOBS if encoding.endswith("8") else BLOBS.astype(np.uint16) * 16
    stored = stored_as(encoding, rgb)
    colour = stored.ndim == 3
    file = rgb[..., ::-1] if colour else stored
    for format_ in (f"{encoding}; png compressed {'bgr16' if colour else ''}", f" {encoding.upper()};png"):
        got = convert.compressed_rgb(compressed(file, format_))
        np.testing.assert_array_equal(got, convert.image_rgb(message(stored, encoding)), format_)


def test_a_png_with_alpha():
    for bits, factor in ((8, 1), (16, 257)):
        rgb = BLOBS.astype(f"u{bits // 8}") * factor
        file = np.dstack([rgb[..., ::-1], np.full_like(rgb[..., :1], 7)])
        got = convert.compressed_rgb(compressed(file, f"bgra{bits}; png compressed bgra{bits}"))
        assert np.abs(got.astype(int) - BLOBS).max() <= 1


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize(
    "format_",
    [
        "rgb8; jpeg compressed bgr8",
        "rgb8; jpeg compressed rgb8",
        "bayer_rggb8; jpeg compressed bgr8",
        "nv12; jpeg compressed bgr8",
    ]
    + ["jpeg", "png", "", ";", "; jpeg compressed bgr8", "mono8", "image/jpeg", "bgr8;", "é"],
)
def test_colours_are_the_file_s_whatever_the_format_says(extension, format_):
    got = convert.compressed_rgb(compressed(np.ascontiguousarray(BLOBS[..., ::-1]), format_, extension))
    assert np.abs(got.astype(int) - BLOBS).mean() < 3


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize(
    "format_", ["mono8; jpeg compressed mono8", "bayer_rggb8; jpeg compressed mono8", "jpeg", "", "8UC1; png compressed "]
)
def test_grey_files_are_grey(extension, format_):
    """Of a mosaic image_transport makes grey before it writes a JPEG, and says so."""
    got = convert.compressed_rgb(compressed(BLOBS[..., 0].copy(), format_, extension)).astype(int)
    assert (got[..., 0] == got[..., 1]).all() and (got[..., 0] == got[..., 2]).all()
    assert np.abs(got[..., 0] - BLOBS[..., 0]).max() < 6


def test_a_jpeg_of_a_mosaic():
    got = convert.compressed_rgb(compressed(mosaic(BLOBS, "gbrg"), "bayer_gbrg8; jpeg compressed ", ".jpg"))
    assert np.abs(got[2:-2, 2:-2].astype(int) - BLOBS[2:-2, 2:-2]).mean() < 6


def test_an_orientation_tag_is_ignored():
    """camera_info describes the pixels as they are stored."""
    jpeg = cv2.imencode(".jpg", BLOBS[..., ::-1])[1].tobytes()
    rotate = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + bytes(4)
    tag = b"Exif\0\0" + rotate
    tagged = jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape[:2] == BLOBS.shape[1::-1], "a tag that counts"
    got = convert.compressed_rgb(CompressedImage(format="jpeg", data=array.array("B", tagged)))
    assert got.shape == BLOBS.shape and np.abs(got.astype(int) - BLOBS).mean() < 3


@pytest.mark.parametrize("format_", ["bayer_rgbg8; png compressed ", "BayerRG8; png", "bayer; jpeg"])
def test_a_mosaic_of_unknown_order_is_refused(format_):
    with pytest.raises(ImageError, match="mosaic of unknown order; expected bayer_rggb8"):
        convert.compressed_rgb(compressed(mosaic(BLOBS, "rggb"), format_))


NAMED = {(81, 90, 240): (255, 0, 0), (145, 54, 34): (0, 255, 0), (41, 240, 110): (0, 0, 255), (16, 128, 128): (0, 0, 0)}


@pytest.mark.parametrize("yuv, rgb", [*NAMED.items(), ((235, 128, 128), (255, 255, 255)), ((126, 128, 128), (128, 128, 128))])
def test_nv24_of_known_colours(yuv, rgb):
    """The standard's numbers, and the same as nv12 has them."""
    luma = np.full((4, 6), yuv[0], np.uint8)
    whole = np.tile(np.uint8(yuv[1:]), (8, 3))  # two rows of 6 bytes per row of 6 pixels
    got = convert.image_rgb(message(np.vstack([luma, whole]), "nv24", 4, 6)).astype(int)
    assert got.shape == (4, 6, 3) and np.abs(got - rgb).max() <= 3
    halved = convert.image_rgb(message(np.vstack([luma, whole[:2]]), "nv12", 4, 6)).astype(int)
    assert np.abs(got - halved).max() <= 1


def test_nv24_has_a_colour_for_each_pixel_and_may_be_padded():
    """An odd size is none of its worries.  A row of colour is two steps long, the padding at its end."""
    y, u, v = (RNG.integers(0, 256, (5, 7), np.uint8) for _ in range(3))
    y[0, 0], u[0, 0], v[0, 0] = 2, 90, 240  # darker than black, which must not darken the red
    pairs = np.stack([u, v], -1).reshape(5, 14)
    got = convert.image_rgb(message(np.vstack([y, pairs.reshape(10, 7)]), "nv24", 5, 7))
    for row, column in ((0, 0), (2, 3), (4, 6)):
        luma = np.full((2, 2), y[row, column], np.uint8)
        halved = np.vstack([luma, [[u[row, column], v[row, column]]]]).astype(np.uint8)
        one = convert.image_rgb(message(halved, "nv12", 2, 2))
        assert np.abs(got[row, column].astype(int) - one[0, 0]).max() <= 1
    padded = np.vstack([np.pad(y, ((0, 0), (0, 3))), np.pad(pairs, ((0, 0), (0, 6))).reshape(10, 10)])
    msg = message(padded, "nv24", 5, 10)
    msg.width = 7
    np.testing.assert_array_equal(convert.image_rgb(msg), got)
    msg.data = msg.data[:-20]
    with pytest.raises(ImageError, match="truncated"):
        convert.image_rgb(msg)
