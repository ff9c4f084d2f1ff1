"""Image messages to arrays.  Duck-typed: rclpy messages and rosbags messages both work, and no ROS import is needed.

Whatever a camera may send, the outcome is an array or a DensefitError of one line; a message is never trusted.
``rgb8`` without row padding is not copied at all; the result then shares memory with the message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..errors import ImageError

MAX_SIDE_PX = 16384  # a larger side is a damaged header, not a camera


@dataclass(frozen=True)
class _Encoding:
    dtype: type[np.generic]  # of one stored number
    channels: int  # numbers per pixel as stored
    to_rgb: Callable[[np.ndarray], np.ndarray]  # (H,W[,C]) -> (H,W,3) uint8
    rows: tuple[int, int] = (1, 1)  # stored rows per image row, as a fraction (planar 4:2:0 has 3/2)


def _cv(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: cv2.cvtColor(image, code)


def _from_16(to_rgb: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: to_rgb((image >> 8).astype(np.uint8))


def _same(image: np.ndarray) -> np.ndarray:
    return image


def _stretched(image: np.ndarray) -> np.ndarray:
    """16-bit mono cameras often deliver 10 or 12 bits: stretch to the brightest pixel."""
    top = max(int(image.max()), 1)
    return cv2.cvtColor(cv2.convertScaleAbs(image, alpha=255.0 / top), cv2.COLOR_GRAY2RGB)


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
    "mono16": _Encoding(np.uint16, 1, _stretched),
    "16UC1": _Encoding(np.uint16, 1, _stretched),
    "rgb16": _Encoding(np.uint16, 3, _from_16(_same)),
    "bgr16": _Encoding(np.uint16, 3, _from_16(_cv(cv2.COLOR_BGR2RGB))),
    "rgba16": _Encoding(np.uint16, 4, _from_16(_cv(cv2.COLOR_RGBA2RGB))),
    "bgra16": _Encoding(np.uint16, 4, _from_16(_cv(cv2.COLOR_BGRA2RGB))),
    "yuv422": _Encoding(np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": _Encoding(np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": _Encoding(np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_YUY2)),
    "yuyv": _Encoding(np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_YUY2)),
    "nv12": _Encoding(np.uint8, 1, _cv(cv2.COLOR_YUV2RGB_NV12), (3, 2)),
    "nv21": _Encoding(np.uint8, 1, _cv(cv2.COLOR_YUV2RGB_NV21), (3, 2)),
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
    if encoding.channels == 2 and stored.shape[1] % 2 or encoding.rows != (1, 1) and (stored.shape[1] % 2 or msg.height % 2):
        raise ImageError(f"expected an even size for encoding {msg.encoding}, got {msg.width}x{msg.height}")
    return _guarded(encoding.to_rgb, stored, f"{msg.encoding} {msg.width}x{msg.height}")


def compressed_rgb(msg: Any) -> np.ndarray:
    """sensor_msgs/CompressedImage, JPEG or PNG, to (H,W,3) uint8 RGB.  Raises ImageError.

    An orientation tag in the file is ignored: camera_info describes the stored pixels.
    """
    data = np.frombuffer(msg.data, np.uint8)
    _check_compressed(data.tobytes(), str(msg.format)[:32])
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = _guarded(lambda d: cv2.imdecode(d, flags), data, f"compressed image of {data.size} bytes")
    if image is None:
        raise ImageError(f"cannot decode compressed image of {data.size} bytes: it is damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


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
    image = data[: step * stored_rows].reshape(stored_rows, step)[:, :row_bytes]
    if item > 1:
        order = ">" if msg.is_bigendian else "<"
        image = np.ascontiguousarray(image).view(np.dtype(dtype).newbyteorder(order)).astype(dtype, copy=False)
    image = image.reshape(stored_rows, width, channels) if channels > 1 else image.reshape(stored_rows, width)
    return image if image.flags.c_contiguous else np.ascontiguousarray(image)


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
