"""A live camera, or a video at its own pace, in a browser: the refined meshes, as fast as this machine makes them.

Without ROS.  The newest image is answered and older ones are dropped, as in the node.  Pictures are drawn only while
somebody looks.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from ..config import Config
from ..errors import AssetError
from ..models import Models, load_models
from ..pipeline import TrackerState, initial_state, process
from ..render.warp_renderer import WarpRenderer
from ..types import BodyParams, Frame, FrameResult
from ..viz import overlay
from .cameras import Calibrated, CameraChoice
from .results import person_record
from .sources import FrameClock

log = logging.getLogger("densefit")
WAIT_S = 5.0  # a camera that shows nothing for so long is gone
JPEG_QUALITY = 80
PAGE = b"""<!doctype html><meta charset="utf-8"><title>densefit</title>
<style>body{margin:0;background:#111}img{display:block;margin:auto;max-width:100vw;max-height:100vh}</style>
<img src="stream" alt="waiting for the first picture">"""


@dataclass(frozen=True, eq=False)
class WatchOptions:
    """What to watch, and where to show it."""

    source: str  # /dev/videoN, the number N, or a video file
    camera: CameraChoice
    config: Config
    host: str = "127.0.0.1"  # this machine alone
    port: int = 8080  # 0: any free one
    ground: np.ndarray | None = None  # the floor, as Frame has it


class Slot:
    """The newest of something; who waits for it never gets an older one, or the same twice."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Any = None
        self.number = 0  # of the newest
        self.closed = False

    def put(self, item: Any) -> None:
        with self._changed:
            self._item, self.number = item, self.number + 1
            self._changed.notify_all()

    def close(self) -> None:
        """Whoever waits gets None."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def after(self, number: int, timeout_s: float) -> tuple[int, Any]:
        """Number and item that came after ``number``; the item is None after ``timeout_s`` or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self.number > number or self.closed, timeout_s)
            return self.number, self._item if self.number > number else None


def watch(
    options: WatchOptions,
    load: Callable[[Config], Models] = load_models,
    started: Callable[[str], None] = lambda url: None,
    stop: threading.Event | None = None,
) -> int:
    """Serve until the source ends or ``stop`` is set; ``started`` is told the page's address.  Returns images answered.

    Raises AssetError when the source cannot be opened or shows nothing, and when the port is taken.
    """
    stop, images, pictures, looks = stop or threading.Event(), Slot(), Slot(), _Looks()
    capture = _open(options.source)
    try:
        server = ThreadingHTTPServer((options.host, options.port), _handler(pictures, looks))
    except OSError as e:
        raise AssetError(f"cannot serve on {options.host}:{options.port}: {e.strerror}; another --port?") from e
    with server:
        models = load(options.config)
        drawing = _Drawing(models)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reader = threading.Thread(target=_read, args=(capture, images, stop), daemon=True)
        reader.start()
        try:
            started(f"http://{options.host}:{server.server_address[1]}/")
            return _answer(options, models, drawing, images, pictures, looks, stop)
        finally:
            stop.set()
            pictures.close()
            server.shutdown()
            reader.join(WAIT_S)  # one that hangs in its camera ends with the program


def _open(source: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise AssetError(f"cannot open {source}: expected a camera (/dev/videoN, or its number) or a video file")
    return capture


def _read(capture: cv2.VideoCapture, images: Slot, stop: threading.Event) -> None:
    """Hand images on as they come; those of a file at its pace."""
    clock, begin = FrameClock(capture), time.monotonic()
    try:
        while not stop.is_set():
            readable, bgr = capture.read()
            if not readable:
                break
            if clock.duration_s:
                stop.wait(max(0.0, begin + clock.read() * 1e-9 - time.monotonic()))
            images.put((time.monotonic_ns(), np.ascontiguousarray(bgr[..., ::-1])))
    finally:
        capture.release()  # here: under a read of this thread it would crash
        images.close()


def _answer(
    options: WatchOptions, models: Models, drawing: _Drawing, images: Slot, pictures: Slot, looks: _Looks, stop: threading.Event
) -> int:
    state, number, answered, size, calibrated = initial_state(), 0, 0, None, None
    rate_hz, before_s = 0.0, time.monotonic()
    while not stop.is_set():
        number, item = images.after(number, WAIT_S)
        if item is None:
            if images.closed or stop.is_set():
                break
            raise AssetError(f"{options.source}: no image for {WAIT_S:g} s: unplugged, or another program holds the camera?")
        stamp_ns, taken = item
        if size != taken.shape:
            size, state = taken.shape, TrackerState(born=state.born)  # names of before are not given again
            calibrated = options.camera.for_size(size[1], size[0])
        rgb = calibrated.rectify(taken)
        state, result = process(models, state, Frame(rgb, stamp_ns, calibrated.camera, ground=options.ground))
        answered += 1
        now_s = time.monotonic()
        rate_hz += 0.1 * (1.0 / max(now_s - before_s, 1e-3) - rate_hz)
        before_s = now_s
        if looks.any():
            text = f"{rate_hz:.0f} Hz   {sum(result.stage_ms.values()):.0f} ms"
            pictures.put((drawing.jpeg(rgb, result, text), drawing.people(result, calibrated, answered)))
    if not answered:
        raise AssetError(f"{options.source}: not a single image came: damaged, or another program holds the camera")
    return answered


class _Drawing:
    def __init__(self, models: Models) -> None:
        self._models, self._renderer = models, WarpRenderer(models.body)

    def jpeg(self, rgb: np.ndarray, result: FrameResult, text: str) -> bytes:
        picture = overlay.draw_people(rgb, self._models.body, result, self._renderer)
        height_px = max(11.0, rgb.shape[0] / 40)
        for p in result.people:
            at = (max(float(p.box_xywh[0]), 2.0), max(float(p.box_xywh[1]) - 4, 2 * height_px))
            name = f"{p.track_id}  {np.linalg.norm(p.joints[0]):.1f} m"
            picture = overlay.draw_text(picture, name, at, height_px, overlay.color_of(p.track_id))
        picture = overlay.draw_text(picture, text, (0.5 * height_px, 1.5 * height_px), height_px)
        return cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()

    def people(self, result: FrameResult, calibrated: Calibrated, number: int) -> bytes:
        if not result.people:
            return b"[]"
        first = self._models.skinner.pose(BodyParams.stack([p.first_estimate for p in result.people])).joints
        return json.dumps([person_record("", number, p, j, calibrated) for p, j in zip(result.people, first)]).encode()


class _Looks:
    """How many look, and whether somebody asked a moment ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1

    def any(self) -> bool:
        return self._count > 0


def _handler(pictures: Slot, looks: _Looks) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 2 * WAIT_S  # of a viewer who takes nothing any more

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            try:
                if path == "/":
                    self._send("text/html", PAGE)
                elif path == "/stream":
                    self._stream()
                elif path == "/people.json":
                    with looks:
                        _, item = pictures.after(pictures.number, WAIT_S)
                    self._send("application/json", item[1]) if item else self.send_error(503, "no image came")
                else:
                    self.send_error(404, "here are /, /stream and /people.json")
            except ConnectionError:
                pass  # whoever looked has gone

        def _send(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            number = 0
            with looks:
                while not pictures.closed:
                    number, item = pictures.after(number, WAIT_S)
                    if item:
                        self.wfile.write(b"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(item[0]))
                        self.wfile.write(item[0] + b"\r\n")

        def log_message(self, *_: Any) -> None:
            pass  # a line per picture says nothing

    return Handler
