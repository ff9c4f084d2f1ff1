"""Image messages to arrays: every encoding against a reference, and anything at all without a crash."""

import array
import struct
import time

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from densefit_ros.errors import CameraError, DensefitError, ImageError
from densefit_ros.ros import convert
from densefit_ros.ros.camera_info import calibration
from densefit_ros.ros.diagnostics import Faults, Stats
from densefit_ros.ros.handler import Handler, Job
from densefit_ros.ros.params import RosConfig
from densefit_ros.ros.sync import StampBuffer
from densefit_ros.types import FrameResult

RNG = np.random.default_rng(1)
SMOOTH = cv2.GaussianBlur(RNG.integers(0, 256, (48, 64, 3), np.uint8), (0, 0), 6)  # RGB, easy on chroma subsampling
SMOOTH = cv2.normalize(SMOOTH, None, 0, 255, cv2.NORM_MINMAX)

JPEG = cv2.imencode(".jpg", SMOOTH)[1].tobytes()


def message(data: np.ndarray, encoding: str, width: int, height: int, step: int, bigendian: int = 0) -> Image:
    buffer = array.array("B")
    buffer.frombytes(np.ascontiguousarray(data).tobytes())
    return Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=bigendian, data=buffer)


def stored(encoding: str) -> tuple[np.ndarray, float]:
    """The picture as a driver stores it, and the error that the format itself costs."""
    rgb = SMOOTH
    if encoding in ("rgb8", "rgb16"):
        out = rgb
    elif encoding in ("bgr8", "8UC3", "bgr16"):
        out = rgb[..., ::-1]
    elif encoding in ("rgba8", "rgba16"):
        out = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)
    elif encoding in ("bgra8", "8UC4", "bgra16"):
        out = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)
    else:
        raise AssertionError(encoding)
    return (out.astype(np.uint16) * 257 if "16" in encoding else out), 0.0


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "8UC4", "rgb16", "bgr16", "rgba16", "bgra16"])
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("bigendian", [0, 1])
def test_colour(encoding, padding, bigendian):
    data, _ = stored(encoding)
    if bigendian and data.dtype == np.uint16:
        data = data.astype(">u2")
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(48, -1)
    row = rows.shape[1] + padding
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    got = convert.image_rgb(message(rows, encoding, 64, 48, row, bigendian))
    np.testing.assert_array_equal(got, SMOOTH)


def test_rgb8_is_not_copied():
    msg = message(SMOOTH, "rgb8", 64, 48, 192)
    got = convert.image_rgb(msg)
    msg.data[0] = 7
    assert got[0, 0, 0] == 7


def test_last_row_without_padding():
    rows = np.pad(SMOOTH.reshape(48, -1), ((0, 0), (0, 8))).reshape(-1)[:-8]
    np.testing.assert_array_equal(convert.image_rgb(message(rows, "rgb8", 64, 48, 200)), SMOOTH)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_mono8(encoding):
    grey = SMOOTH[..., 0]
    np.testing.assert_array_equal(convert.image_rgb(message(grey, encoding, 64, 48, 64)), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("encoding, order", [("uyvy", "UYVY"), ("yuv422", "UYVY"), ("yuyv", "YUYV"), ("yuv422_yuy2", "YUYV")])
def test_yuv422(encoding, order):
    yuv = cv2.cvtColor(SMOOTH, cv2.COLOR_RGB2YUV)
    data = np.empty((48, 64, 2), np.uint8)
    luma, chroma = (1, 0) if order == "UYVY" else (0, 1)
    data[..., luma] = yuv[..., 0]
    data[:, 0::2, chroma] = yuv[:, 0::2, 1]
    data[:, 1::2, chroma] = yuv[:, 0::2, 2]
    got = convert.image_rgb(message(data, encoding, 64, 48, 128)).astype(int)
    # OpenCV writes full-range YUV and reads broadcast-range: compare colours by their correlation.
    assert all(np.corrcoef(got[..., c].ravel(), SMOOTH[..., c].ravel())[0, 1] > 0.95 for c in range(3))


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_nv(encoding):
    i420 = cv2.cvtColor(SMOOTH, cv2.COLOR_RGB2YUV_I420).reshape(-1)
    n = 48 * 64
    u, v = i420[n : n + n // 4], i420[n + n // 4 :]
    pair = (u, v) if encoding == "nv12" else (v, u)
    data = np.concatenate([i420[:n], np.stack(pair, -1).reshape(-1)])
    got = convert.image_rgb(message(data, encoding, 64, 48, 64))
    assert np.abs(got.astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer(pattern, bits):
    raw = np.empty((48, 64), np.uint8)
    for n, colour in enumerate(pattern):
        y, x = divmod(n, 2)
        raw[y::2, x::2] = SMOOTH[y::2, x::2, "rgb".index(colour)]
    data = raw if bits == 8 else raw.astype(np.uint16) * 257
    got = convert.image_rgb(message(data, f"bayer_{pattern}{bits}", 64, 48, 64 * bits // 8))
    assert np.abs(got[2:-2, 2:-2].astype(int) - SMOOTH[2:-2, 2:-2]).mean() < 4


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_compressed(extension):
    data = cv2.imencode(extension, SMOOTH[..., ::-1])[1].tobytes()
    got = convert.compressed_rgb(CompressedImage(format=extension[1:], data=array.array("B", data)))
    assert np.abs(got.astype(int) - SMOOTH).mean() < (4 if extension == ".jpg" else 0.001)
    with pytest.raises(ImageError, match="truncated"):
        convert.compressed_rgb(CompressedImage(format="jpeg", data=array.array("B", data[: len(data) // 2])))


def compressed_depth(metres: np.ndarray, encoding: str, z0: float = 100.0, most_m: float = 10.0) -> CompressedImage:
    """As compressed_depth_image_transport writes it: its quantisation of 32FC1 steps by the inverse of the depth."""
    a = z0 * (z0 + 1.0)
    b = 1.0 - a / most_m
    with np.errstate(divide="ignore"):
        numbers = np.where(metres < most_m, a / metres + b, 0) if encoding == "32FC1" else metres * 1000
    png = cv2.imencode(".png", np.nan_to_num(numbers, posinf=0).astype(np.uint16))[1].tobytes()
    data = array.array("B", struct.pack("<iff", 1, a, b) + png)
    return CompressedImage(format=f"{encoding}; compressedDepth png", data=data)


@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
def test_compressed_depth(encoding):
    metres = np.linspace(0.4, 6.0, 48 * 64).reshape(48, 64)
    metres[3, 4:9] = np.nan if encoding == "32FC1" else 0.0
    seen = np.isfinite(metres) & (metres > 0)
    whole = compressed_depth(metres, encoding)
    got = convert.compressed_depth_m(whole)
    assert got.dtype == np.float32 and np.isnan(got[~seen]).all()
    np.testing.assert_allclose(got[seen], metres[seen], atol=0.006)
    for cut in (0, 5, 12, 40, len(whole.data) - 8):
        with pytest.raises(ImageError):
            convert.compressed_depth_m(CompressedImage(format=whole.format, data=whole.data[:cut]))
    for kind in ("rgb8; jpeg compressed bgr8", "16UC1; compressedDepth rvl", ""):
        with pytest.raises(ImageError, match="expected '16UC1; compressedDepth png'"):
            convert.compressed_depth_m(CompressedImage(format=kind, data=whole.data))
    colour = array.array("B", bytes(12) + cv2.imencode(".png", SMOOTH)[1].tobytes())
    with pytest.raises(ImageError, match="one 16-bit channel"):
        convert.compressed_depth_m(CompressedImage(format=whole.format, data=colour))


def test_depth():
    mm = np.array([[0, 1500], [65535, 250]], np.uint16)
    got = convert.depth_m(message(mm, "16UC1", 2, 2, 4))
    np.testing.assert_allclose(got, [[np.nan, 1.5], [65.535, 0.25]], rtol=1e-6)
    metres = np.array([[np.inf, -1], [np.nan, 2.5]], np.float32)
    got = convert.depth_m(message(metres, "32FC1", 2, 2, 8))
    np.testing.assert_array_equal(got, [[np.nan, np.nan], [np.nan, 2.5]])
    with pytest.raises(ImageError, match="depth encoding 'rgb8'"):
        convert.depth_m(message(mm, "rgb8", 2, 2, 4))


@pytest.mark.parametrize(
    "msg, match",
    [
        (Image(), "encoding ''"),
        (Image(encoding="rgb8"), "0x0"),
        (Image(encoding="rgb8", width=64, height=48, step=192, data=b"12"), "truncated"),
        (Image(encoding="rgb8", width=64, height=48, step=10, data=b"0" * 9216), "truncated"),
        (Image(encoding="32FC1", width=2, height=2, step=8, data=b"0" * 16), "not a colour or grey image"),
        (Image(encoding="rgb8", width=2**31, height=2**31, step=1, data=b"0"), "damaged"),
        (Image(encoding="uyvy", width=3, height=2, step=6, data=b"0" * 12), "even size"),
        (Image(encoding="nv12", width=4, height=3, step=4, data=b"0" * 20), "even size"),
        (CompressedImage(), "neither JPEG nor PNG"),
        (CompressedImage(data=b"not an image"), "neither JPEG nor PNG"),
        (CompressedImage(data=b"\x89PNG\r\n\x1a\n" + b"\xff" * 16 + b"IEND"), "4294967295x4294967295"),
        (CompressedImage(data=b"\xff\xd8\xff\xd9"), "damaged"),
    ],
)
def test_bad_messages_say_what_is_wrong(msg, match):
    with pytest.raises(ImageError, match=match):
        (convert.image_rgb if isinstance(msg, Image) else convert.compressed_rgb)(msg)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    encoding=st.sampled_from([*convert.IMAGE_ENCODINGS, "", "32FC1", "jpeg", "é"]),
    width=st.integers(0, 40) | st.integers(0, 2**32 - 1),
    height=st.integers(0, 40) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 400) | st.integers(0, 2**32 - 1),
    bigendian=st.integers(0, 1),
    data=st.binary(max_size=6000),
)
def test_fuzz_raw(encoding, width, height, step, bigendian, data):
    msg = Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=bigendian, data=array.array("B", data))
    for function in (convert.image_rgb, convert.depth_m):
        try:
            out = function(msg)
        except DensefitError as e:
            assert 10 < len(str(e)) < 800 and "\n" not in str(e)
        else:
            assert out.shape[:2] == (height, width)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    head=st.sampled_from([b"", JPEG[:2], JPEG[:300], b"\x89PNG\r\n\x1a\n", b"RIFF....WEBP", b"BM", b"GIF89a"]),
    data=st.binary(max_size=400),
    tail=st.sampled_from([b"", b"\xff\xd9", b"IEND"]),
    format_=st.text(max_size=40) | st.sampled_from(["jpeg", "bayer_rggb8; png compressed ", "bayer\n;"]),
)
def test_fuzz_compressed(head, data, tail, format_):
    try:
        out = convert.compressed_rgb(CompressedImage(format=format_, data=array.array("B", head + data + tail)))
    except DensefitError as e:
        assert "\n" not in str(e)
    else:
        assert out.ndim == 3 and out.dtype == np.uint8


def info(width=64, height=48, **more) -> CameraInfo:
    return CameraInfo(width=width, height=height, k=[60.0, 0.0, 31.5, 0.0, 61.0, 23.5, 0.0, 0.0, 1.0], **more)


def test_camera_info():
    camera = calibration(info(), 64, 48, False).camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (60, 61, 32, 24)
    p = [50.0, 0.0, 30.5, 0.0, 0.0, 50.0, 22.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    rectified = calibration(info(p=p, d=[0.1] * 5, distortion_model="plumb_bob"), 64, 48, True)
    assert rectified.camera.fx == 50 and rectified.maps is None and rectified.state == "rectified"


def test_camera_info_of_a_binned_region():
    msg = info(width=128, height=96, binning_x=2, binning_y=2)
    camera = calibration(msg, 64, 48, False).camera
    assert (camera.fx, camera.cx, camera.cy) == (30, 16, 12)
    msg = info(width=128, height=96)
    msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height = 10, 20, 64, 48
    camera = calibration(msg, 64, 48, False).camera
    assert (camera.cx, camera.cy) == (22, 4)


@pytest.mark.parametrize(
    "msg, match",
    [
        (CameraInfo(width=64, height=48), "all zero"),
        (info(width=128, height=96), "different streams"),
        (info(d=[0.1] * 3, distortion_model="plumb_bob"), "with 3 numbers is unknown"),
        (info(d=[0.1] * 5, distortion_model="mystery"), "'mystery'"),
        (info(d=[float("nan")] * 5, distortion_model="plumb_bob"), "unknown"),
    ],
)
def test_bad_camera_info(msg, match):
    with pytest.raises(CameraError, match=match):
        calibration(msg, 64, 48, False)


@pytest.mark.parametrize(
    "model, d",
    [
        ("plumb_bob", [-0.2, 0.05, 0.001, -0.002, 0.0]),
        ("rational_polynomial", [-0.2, 0.05, 0.001, -0.002, 0.0, 0.1, 0.01, 0.0]),
        ("equidistant", [-0.05, 0.01, 0.0, 0.0]),
    ],
)
def test_undistort_puts_points_where_the_pinhole_sees_them(model, d):
    msg = CameraInfo(width=320, height=240, distortion_model=model, d=d, k=[200.0, 0.0, 159.5, 0.0, 200.0, 119.5, 0.0, 0.0, 1.0])
    calib = calibration(msg, 320, 240, False)
    k, xyz = np.asarray(msg.k).reshape(3, 3), np.array([[[0.25, -0.18, 1.0]]])
    if model == "equidistant":
        uv = cv2.fisheye.projectPoints(xyz, np.zeros(3), np.zeros(3), k, np.array(d))[0]
    else:
        uv = cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), k, np.array(d))[0]
    image = np.zeros((240, 320, 3), np.uint8)
    cv2.circle(image, tuple(int(round(v * 16)) for v in uv.ravel()), 6 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    weight = calib.undistort(image)[..., 0].astype(float)
    centres = np.stack(np.meshgrid(np.arange(320) + 0.5, np.arange(240) + 0.5), -1)
    seen = (centres * weight[..., None]).sum((0, 1)) / weight.sum()
    expected = [200 * 0.25 + calib.camera.cx, -200 * 0.18 + calib.camera.cy]
    np.testing.assert_allclose(seen, expected, atol=0.25)
    depth = np.ones((240, 320), np.float32)
    values = calib.undistort(depth)
    assert set(np.unique(values[~np.isnan(values)])) == {1.0}


NUMBER = st.floats() | st.sampled_from([0.0, 60.0, 31.5, 1e308, -1.0])
NUMBER_32 = st.floats(width=32) | st.sampled_from([0.0, 3.0, float("nan")])
MOSTLY_3 = st.sampled_from([3.0, 3.0, 3.0]) | NUMBER_32
SIZE = st.sampled_from([0, 1, 48, 64, 128]) | st.integers(0, 2**32 - 1)


def any_info(draw) -> CameraInfo:
    good = [60.0, 0.0, 31.5, 0.0, 61.0, 23.5, 0.0, 0.0, 1.0]
    k = [draw(NUMBER) if draw(st.integers(0, 4)) == 0 else v for v in good]
    msg = CameraInfo(width=draw(SIZE), height=draw(SIZE), k=k, binning_x=draw(SIZE), binning_y=draw(SIZE))
    msg.d = draw(st.lists(NUMBER | st.floats(-0.2, 0.2), max_size=14))
    msg.p = draw(st.lists(NUMBER, min_size=12, max_size=12))
    msg.distortion_model = draw(st.sampled_from(["", "plumb_bob", "rational_polynomial", "equidistant", "x\ny"]))
    roi = msg.roi
    roi.x_offset, roi.y_offset, roi.width, roi.height = (draw(SIZE) for _ in range(4))
    return msg


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), rectified=st.booleans())
def test_fuzz_camera_info(data, rectified):
    msg = any_info(data.draw)
    try:
        calib = calibration(msg, 64, 48, rectified)
    except DensefitError as e:
        assert 10 < len(str(e)) < 800 and "\n" not in str(e)
        return
    camera = calib.camera
    assert camera.fx > 0 and camera.fy > 0 and np.isfinite([camera.fx, camera.fy, camera.cx, camera.cy]).all()
    assert calib.undistort(SMOOTH).shape == SMOOTH.shape
    assert calib.undistort_points(np.array([[3.5, 4.5]])).shape == (1, 2)


class AnyEngine:
    """Answers nothing; notes that it was asked."""

    def __init__(self) -> None:
        from densefit_ros.body.assets import load_body

        self.body, self.frames = load_body(), []

    def process(self, frame, boxes_xywh=None, estimates=None, camera=""):
        self.frames.append(frame)
        return FrameResult(frame.stamp_ns, frame.camera, (), {})

    def reset(self, camera=None) -> None:
        pass


ENGINE = AnyEngine()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fuzz_the_whole_callback(data):
    """Images, calibration, depth, estimates and keypoints of any kind: one line per fault, never an exception."""
    from densefit_ros.msg import Keypoints, KeypointsArray, SmplBody, SmplBodyArray

    draw, said, ENGINE.frames = data.draw, [], []
    ros = RosConfig(fov_deg=draw(st.sampled_from([0.0, 70.0])))
    faults = Faults(said.append, lambda: 0.0)
    companions = {name: StampBuffer() for name in ("depth", "initial", "keypoints")}
    published = []
    handler = Handler(
        ENGINE, lambda: ros, lambda *a: published.append(a), faults, Stats(), draw(st.booleans()), companions, "left"
    )
    for _ in range(draw(st.integers(1, 3))):
        stamp = Time(sec=draw(st.sampled_from([0, 5, 6, -(2**31), 2**31 - 1])), nanosec=draw(st.sampled_from([0, 7, 2**32 - 1])))
        header = Header(stamp=stamp, frame_id=draw(st.sampled_from(["", "optical", "\n"])))
        encoding = draw(st.sampled_from(["rgb8", "mono8", "nv12", "32FC1", "?\n"]))
        pixels = array.array("B", draw(st.sampled_from([bytes(48 * 64 * 4), b"", b"123", bytes(48 * 64)])))
        image = Image(header=header, height=draw(SIZE), width=draw(SIZE), encoding=encoding, step=draw(SIZE), data=pixels)
        if draw(st.integers(0, 3)):
            image.height, image.width, image.step, image.encoding = 48, 64, 192, "rgb8"
        if draw(st.integers(0, 5)) == 0:
            image = CompressedImage(
                header=header, format="jpeg", data=array.array("B", draw(st.sampled_from([JPEG, JPEG[:99], b""])))
            )
        depth = Image(header=header, height=48, width=64, encoding="32FC1", step=256, data=pixels)
        companions["depth"].add(depth)
        body = SmplBody(transl=[draw(NUMBER_32), 0.0, draw(MOSTLY_3)], confidence=draw(MOSTLY_3))
        companions["initial"].add(SmplBodyArray(header=header, bodies=[body]))
        person = Keypoints(uv=[draw(NUMBER_32)] * 34, confidence=[draw(NUMBER_32)] * 17)
        companions["keypoints"].add(KeypointsArray(header=header, set_name="coco17", people=[person]))
        known = draw(st.sampled_from(["good", "good", "none", "any"]))
        calibrated = any_info(draw) if known == "any" else info() if known == "good" else None
        job = Job(image, calibrated, time.monotonic())
        assert handler.patience(job) <= max(ros.depth_wait_s, ros.external_wait_s)
        before = len(said)
        handler(job)
        assert len(published) == len(ENGINE.frames)
        assert published and published[-1][1] is header or len(said) > before, "answered, or said why not"
    assert all("\n" not in line for line in said)
