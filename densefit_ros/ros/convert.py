"""Image messages to arrays.  Duck-typed: rclpy messages and rosbags messages both work, and no ROS import is needed.

Whatever a camera may send, the outcome is an array or a DensefitError of one line; a message is never trusted.
``rgb8`` without row padding is not copied at all; the result then shares memory with the message.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..errors import ImageError

MAX_SIDE_PX = 16384  # a larger side is a damaged header, not a camera
_ROWS_420, _ROWS_444 = (3, 2), (3, 1)  # stored rows per image row where a plane of U and V follows that of Y
# Of 16-bit numbers, see _to_8.
_SAMPLES = 1 << 15
_TAILS_PERCENT = (0.2, 99.8)
_ROOM_BELOW, _ROOM_ABOVE = 0.5, 0.25  # of what lies between the tails
_BROADCAST_BLACK = 16
# BT.601 in broadcast range, with which OpenCV reads nv12, nv21 and yuv422: columns Y, U, V, 1.
_YUV_TO_RGB = np.array([[1.164, 0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0]])
_YUV_TO_RGB = np.c_[_YUV_TO_RGB, -_YUV_TO_RGB @ [_BROADCAST_BLACK, 128, 128]]


@dataclass(frozen=True)
class _Encoding:
    dtype: type[np.generic]  # of one stored number
    channels: int  # numbers per pixel as stored
    to_rgb: Callable[[np.ndarray], np.ndarray]  # (H,W[,C]) -> (H,W,3) uint8
    rows: tuple[int, int] = (1, 1)  # stored rows per image row, as a fraction


def _cv(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: cv2.cvtColor(image, code)


def _from_16(to_rgb: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: to_rgb(_to_8(image))


def _same(image: np.ndarray) -> np.ndarray:
    return image


def _to_8(image: np.ndarray) -> np.ndarray:
    """16-bit numbers (H,W[,C]) to 8 bits.

    A message does not say how many of its 16 bits a camera fills, nor where a thermal camera's temperatures begin.  So the range
    is taken from the picture: between the tails, which hot pixels and lamps may have, and some room.  With that above a picture
    that uses its range keeps it, and somebody warmer than all else is no white patch; with that below black stays black where the
    darkest is under a third of the brightest, as with visible light it mostly is.

    A function of this picture alone: an answer must not depend on which images were dropped before, and after a cut nothing has
    to settle.  So the range changes from image to image, but little: noise does not move a percentile of thousands of samples,
    and who walks in moves it as an automatic exposure would.  The networks see one image at a time; kept between images are
    only people's colours, whose brightness counts half.  All channels have one range, or the hue would change.
    """
    # An odd step, or all samples of a mosaic were of one colour.
    step = int(math.sqrt(image.size / _SAMPLES)) | 1
    samples = image[::step, ::step]
    low, high = np.percentile(samples[..., :3] if image.ndim == 3 else samples, _TAILS_PERCENT)  # not of alpha
    # At most two grey levels per count: what is finer is noise, and of one value alone there is no range.
    width = high - low
    least = (255 - width) / 2
    low, high = max(low - max(_ROOM_BELOW * width, least), 0), min(high + max(_ROOM_ABOVE * width, least), 65535)
    scale = 255.0 / (high - low)
    if low == 0:
        return cv2.convertScaleAbs(image, alpha=scale)
    # Not the other with a beta, though faster: of what is darker than low it takes the absolute value.
    return cv2.addWeighted(image, scale, image, 0.0, -low * scale, dtype=cv2.CV_8U)


def _nv24(image: np.ndarray) -> np.ndarray:
    """Rows of Y, then twice as many of U and V in turns: OpenCV has no code for it."""
    height, width = image.shape[0] // 3, image.shape[1]
    u, v = cv2.split(image[height:].reshape(height, width, 2))
    y = np.maximum(image[:height], np.uint8(_BROADCAST_BLACK))  # as OpenCV does for nv12
    return cv2.transform(cv2.merge([y, u, v]), _YUV_TO_RGB)


# OpenCV names a Bayer pattern by its second row and column, ROS by its first: rggb in ROS is OpenCV's "BayerBG".
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}

_ENCODINGS: dict[str, _Encoding] = {
    "rgb8": _Encoding(np.uint8, 3, _same),
    "bgr8": _Encoding(np.uint8, 3, _cv(cv2.COLOR_BGR2RGB)),
    "8UC3": _Encoding(np.uint8, 3, _cv(cv2.COLOR_BGR2RGB)),
    "rgba8": _Encoding(np.uint8, 4, _cv(cv2.COLOR_RGBA2RGB)),
    "bgra8": _Encoding(np.uint8, 4, _cv(cv2.COLOR_BGRA2RGB)),
    "8UC4": _Encoding(np.uint8, 4, _cv(cv2.COLOR_BGRA2RGB)),
    "mono8": _Encoding(np.uint8, 1, _cv(cv2.COLOR_GRAY2RGB)),
    "8UC1": _Encoding(np.uint8, 1, _cv(cv2.COLOR_GRAY2RGB)),
    "mono16": _Encoding(np.uint16, 1, _from_16(_cv(cv2.COLOR_GRAY2RGB))),
    "16UC1": _Encoding(np.uint16, 1, _from_16(_cv(cv2.COLOR_GRAY2RGB))),
    "rgb16": _Encoding(np.uint16, 3, _from_16(_same)),
    "bgr16": _Encoding(np.uint16, 3, _from_16(_cv(cv2.COLOR_BGR2RGB))),
    "rgba16": _Encoding(np.uint16, 4, _from_16(_cv(cv2.COLOR_RGBA2RGB))),
    "bgra16": _Encoding(np.uint16, 4, _from_16(_cv(cv2.COLOR_BGRA2RGB))),
    "yuv422": _Encoding(np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": _Encoding(np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": _Encoding(np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_YUY2)),
    "yuyv": _Encoding(np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_YUY2)),
    "nv12": _Encoding(np.uint8, 1, _cv(cv2.COLOR_YUV2RGB_NV12), _ROWS_420),
    "nv21": _Encoding(np.uint8, 1, _cv(cv2.COLOR_YUV2RGB_NV21), _ROWS_420),
    "nv24": _Encoding(np.uint8, 1, _nv24, _ROWS_444),
    **{f"bayer_{k}8": _Encoding(np.uint8, 1, _cv(c)) for k, c in _BAYER.items()},
    **{f"bayer_{k}16": _Encoding(np.uint16, 1, _from_16(_cv(c))) for k, c in _BAYER.items()},
}
IMAGE_ENCODINGS = tuple(_ENCODINGS)
_DEPTH_HEADER = struct.Struct("<iff")  # of the transport compressedDepth
_DEPTH = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}


def image_rgb(msg: Any) -> np.ndarray:
    """sensor_msgs/Image to (H,W,3) uint8 RGB.  Raises ImageError."""
    encoding = _ENCODINGS.get(msg.encoding)
    if encoding is None:
        known = ", ".join(IMAGE_ENCODINGS)
        raise ImageError(f"image encoding {str(msg.encoding)[:32]!r} is not a colour or grey image; expected one of {known}")
    stored = _pixels(msg, encoding.dtype, encoding.channels, encoding.rows)
    if encoding.channels == 2 and stored.shape[1] % 2 or encoding.rows == _ROWS_420 and (stored.shape[1] % 2 or msg.height % 2):
        raise ImageError(f"expected an even size for encoding {msg.encoding}, got {msg.width}x{msg.height}")
    return _guarded(encoding.to_rgb, stored, f"{msg.encoding} {msg.width}x{msg.height}")


def compressed_rgb(msg: Any) -> np.ndarray:
    """sensor_msgs/CompressedImage, JPEG or PNG, to (H,W,3) uint8 RGB.  Raises ImageError.

    An orientation tag in the file is ignored: camera_info describes the stored pixels.
    """
    data = np.frombuffer(msg.data, np.uint8)
    _check_compressed(data.tobytes(), str(msg.format)[:32])
    what = f"compressed image of {data.size} bytes"
    image = _guarded(lambda d: cv2.imdecode(d, cv2.IMREAD_UNCHANGED), data, what)  # ignores the orientation
    if image is None:
        raise ImageError(f"cannot decode {what}: it is damaged")
    name = _encoding_of_file(image, str(msg.format))
    if name == "bgr8":  # nearly all: no second picture is allocated for it
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return _guarded(_ENCODINGS[name].to_rgb, image, f"{what} as {name}")


def depth_m(msg: Any) -> np.ndarray:
    """sensor_msgs/Image 16UC1 (mm) or 32FC1 (m) to (H,W) float32 metres, NaN where the sensor saw nothing.

    Raises ImageError.
    """
    dtype = _DEPTH.get(msg.encoding)
    if dtype is None:
        raise ImageError(f"depth encoding {str(msg.encoding)[:32]!r} is unknown; expected {', '.join(_DEPTH)}")
    stored = _pixels(msg, dtype, 1, (1, 1))
    depth = stored.astype(np.float32)  # a copy: the message's memory is not ours to mark
    if dtype is np.uint16:
        depth *= np.float32(1e-3)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def compressed_depth_m(msg: Any) -> np.ndarray:
    """sensor_msgs/CompressedImage of the transport compressedDepth, as PNG, to (H,W) float32 metres, NaN where nothing was seen.

    The bytes before the PNG are an int32 and two float32, with which 32FC1 was quantised by its inverse
    (ros-perception/image_transport_plugins at 0b0e019, codec.cpp).  Raises ImageError.
    """
    encoding, _, coding = str(msg.format).partition(";")
    if encoding not in _DEPTH or "compressedDepth" not in coding or "rvl" in coding:
        raise ImageError(f"depth of format {str(msg.format)[:48]!r}: expected '16UC1; compressedDepth png' or 32FC1 of the same")
    data = bytes(msg.data)
    _check_compressed(data[_DEPTH_HEADER.size :], str(msg.format)[:32])
    _, a, b = _DEPTH_HEADER.unpack_from(data)
    png = np.frombuffer(data, np.uint8, offset=_DEPTH_HEADER.size)
    stored = _guarded(lambda d: cv2.imdecode(d, cv2.IMREAD_UNCHANGED), png, f"compressed depth of {len(data)} bytes")
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise ImageError(f"compressed depth of {len(data)} bytes is damaged, or no picture of one 16-bit channel")
    if _DEPTH[encoding] is np.uint16:
        depth = stored * np.float32(1e-3)
    else:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            depth = np.float32(a) / (stored.astype(np.float32) - np.float32(b))
    depth[(stored == 0) | ~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def iuv(msg: Any) -> np.ndarray:
    """sensor_msgs/Image of a DensePose map to (H,W,3) uint8: part, u, v.  Raises ImageError.

    The bytes of a pixel are taken in the order in which they lie, whatever the encoding calls them: publishers send the
    array as it is under any name of three bytes.
    """
    if msg.encoding not in ("8UC3", "bgr8", "rgb8"):
        raise ImageError(f"encoding {str(msg.encoding)[:32]!r} is no DensePose map: expected 8UC3, bgr8 or rgb8")
    return _pixels(msg, np.uint8, 3, (1, 1))


def stamp_ns(msg: Any) -> int:
    """The header's stamp in nanoseconds."""
    stamp = msg.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _pixels(msg: Any, dtype: type[np.generic], channels: int, rows: tuple[int, int]) -> np.ndarray:
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX):
        raise ImageError(f"image is {width}x{height}: empty, or its header is damaged")
    item = np.dtype(dtype).itemsize
    row_bytes, stored_rows = width * channels * item, height * rows[0] // rows[1]
    step = step or row_bytes
    data = np.frombuffer(msg.data, np.uint8)
    if step < row_bytes or data.size < step * (stored_rows - 1) + row_bytes:
        raise ImageError(
            f"image is truncated: {msg.encoding} {width}x{height} with step {step} needs "
            f"{max(step, row_bytes) * stored_rows} bytes, got {data.size}"
        )
    if data.size < step * stored_rows:  # some drivers leave out the padding of the last row
        data = np.concatenate([data, np.zeros(step * stored_rows - data.size, np.uint8)])
    image = data[: step * stored_rows].reshape(stored_rows, step)
    if rows == _ROWS_444 and step > row_bytes:  # a row of U and V is two rows here, whose padding follows the second
        colour = image[height:].reshape(height, 2 * step)[:, : 2 * row_bytes].reshape(2 * height, row_bytes)
        image = np.concatenate([image[:height, :row_bytes], colour])
    image = image[:, :row_bytes]
    if item > 1:
        order = ">" if msg.is_bigendian else "<"
        image = np.ascontiguousarray(image).view(np.dtype(dtype).newbyteorder(order)).astype(dtype, copy=False)
    image = image.reshape(stored_rows, width, channels) if channels > 1 else image.reshape(stored_rows, width)
    return image if image.flags.c_contiguous else np.ascontiguousarray(image)


def _encoding_of_file(image: np.ndarray, format_: str) -> str:
    """The encoding of a decoded file as OpenCV gives it, whose message says e.g. "bayer_rggb8; png compressed ".

    Depth and channels are the file's, and so are colours: many programs write "rgb8; jpeg compressed rgb8" or "jpeg" or nothing
    beside an ordinary file.  What a file cannot say is that its grey is a mosaic.  It is one unless the codec was given "mono8":
    image_transport makes that of a mosaic before it writes a JPEG, and writes a PNG of the mosaic itself.
    """
    bits = 8 * image.itemsize
    if image.ndim == 3:
        return f"bgr{bits}" if image.shape[2] == 3 else f"bgra{bits}"
    encoding, _, coding = format_.lower().partition(";")
    encoding = encoding.strip()
    if not encoding.startswith("bayer") or "mono" in coding:
        return f"mono{bits}"
    name = f"{encoding.rstrip('0123456789')}{bits}"
    if name not in _ENCODINGS:
        known = ", ".join(f"bayer_{k}8" for k in _BAYER)
        raise ImageError(f"compressed image of format {format_[:48]!r} is a mosaic of unknown order; expected {known} or ...16")
    return name


def _check_compressed(data: bytes, name: str) -> None:
    """Kind, size and end of a compressed image before a decoder sees it.

    Decoders paint the missing part of a truncated file grey and call it a success, and take any size at its word.
    """
    if data.startswith(b"\x89PNG"):
        size, end = (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")), b"IEND"
    elif data.startswith(b"\xff\xd8"):
        size, end = _jpeg_size(data), b"\xff\xd9"
    else:
        raise ImageError(f"compressed image of {len(data)} bytes, format {name!r}, is neither JPEG nor PNG")
    if data[-65536:].rfind(end) < 0:
        raise ImageError(f"compressed image of {len(data)} bytes is truncated: its end marker is missing")
    if not (0 < size[0] <= MAX_SIDE_PX and 0 < size[1] <= MAX_SIDE_PX):
        raise ImageError(f"compressed image says it is {size[0]}x{size[1]} px: it is damaged")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame, of any coding
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0


def _guarded(convert: Callable[[np.ndarray], np.ndarray], image: np.ndarray, what: str) -> np.ndarray:
    try:
        return convert(image)
    except cv2.error as e:
        raise ImageError(f"OpenCV cannot convert {what}: {str(e.err).strip() or 'unknown reason'}") from e
