"""The camera process: publishes a source as a camera driver would, then says what it sent in camera.json.

It waits (bounded) for the node to subscribe, shows the first image until the node has answered it with a person (the
warm-up, not counted), then plays the source at its own rate.  Pictures stand alone: before each the tracks are reset, and
it is shown until it is answered, up to three times.
"""

from __future__ import annotations

import argparse
import array
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger
from tqdm import tqdm

from densefit_ros.msg import SmplBodyArray

from ..errors import DensefitError
from ..geometry.camera import ROS_PIXEL_SHIFT_PX
from ..ros.messages import time_message, time_ns
from ..viz.video import VideoWriter
from .recorder import READY_TOPIC
from .source import DEFAULT_FOV_DEG, LIVE_COPY, Shot, Source, open_source

FRAME_ID = "demo_camera_optical_frame"
NODE_WAIT_S = 180.0  # loading, and on the first run compiling, on a slow machine
ANSWER_WAIT_S = 8.0
WARM_UP_IMAGES = 15
RECORDER_WAIT_S = 20.0  # for node and recorder to find one another, while images are shown on and on


class DemoCamera:
    """Publishes shots and knows which were answered."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("camera", namespace="camera")
        qos = QoSProfile(depth=5)
        self._image = self.node.create_publisher(Image, "/camera/image_raw", qos)
        self._info = self.node.create_publisher(CameraInfo, "/camera/camera_info", qos)
        self._answers: dict[int, int] = {}  # stamp -> people
        self.node.create_subscription(SmplBodyArray, "/densefit/bodies", self._on_answer, 100)
        self._reset = self.node.create_client(Trigger, "/densefit/reset_tracks")
        self.sent: list[dict[str, object]] = []

    def send(self, shot: Shot, index: int, warm_up: bool = False) -> int:
        """Publish one image with its calibration, stamped now.  Returns the stamp, ns."""
        stamp_ns = self.node.get_clock().now().nanoseconds
        height, width = shot.rgb.shape[:2]
        data = array.array("B")
        data.frombytes(shot.rgb.data)
        c = shot.camera
        cx, cy = c.cx - ROS_PIXEL_SHIFT_PX, c.cy - ROS_PIXEL_SHIFT_PX
        image = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=data)
        image.header.stamp, image.header.frame_id = time_message(stamp_ns), FRAME_ID
        info = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = [c.fx, 0.0, cx, 0.0, c.fy, cy, 0.0, 0.0, 1.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [c.fx, 0.0, cx, 0.0, 0.0, c.fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        info.header = image.header
        self._info.publish(info)
        self._image.publish(image)
        intrinsics = [c.fx, c.fy, c.cx, c.cy, width, height]
        self.sent.append({"index": index, "name": shot.name, "stamp_ns": stamp_ns, "warm_up": warm_up, "camera": intrinsics})
        return stamp_ns

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Serve callbacks until the condition holds; False on timeout."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                return False
            rclpy.spin_once(self.node, timeout_sec=0.02)
        return True

    def wait_for_node(self) -> bool:
        """Until the node and the recorder listen."""
        listeners = self._image.get_subscription_count
        return self.until(
            lambda: listeners() > 0 and self.node.count_subscribers("/densefit/meshes") > 0 and self._reset.service_is_ready(),
            NODE_WAIT_S,
        )

    def answered(self, stamp_ns: int) -> bool:
        """Whether the node has answered this image."""
        return stamp_ns in self._answers

    def people(self, stamp_ns: int) -> int:
        """How many people the node saw in it."""
        return self._answers.get(stamp_ns, 0)

    def reset_tracks(self) -> None:
        """Ask the node to forget everybody."""
        future = self._reset.call_async(Trigger.Request())
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=ANSWER_WAIT_S)

    def _on_answer(self, message: SmplBodyArray) -> None:
        self._answers[time_ns(message.header.stamp)] = len(message.bodies)


def warm_up(camera: DemoCamera, shot: Shot) -> None:
    """The first image again and again until it is answered with a person and recorded, or often enough."""
    end = time.monotonic() + RECORDER_WAIT_S
    while True:
        stamp = camera.send(shot, 0, warm_up=True)
        camera.until(lambda s=stamp: camera.answered(s), ANSWER_WAIT_S)
        often = len(camera.sent) >= WARM_UP_IMAGES
        if camera.node.count_publishers(READY_TOPIC):
            if often or camera.people(stamp) and len(camera.sent) >= 5:
                return
        elif often and time.monotonic() > end:
            return
        camera.until(lambda: False, 0.03)


def play(camera: DemoCamera, source: Source, shots: list[Shot] | None, seconds: float, keep: VideoWriter | None) -> int:
    """At the source's own rate, on an absolute schedule; a device's is what it gives, not what it says.

    Returns the number of images.
    """
    start, count = time.monotonic(), 0
    for index, shot in enumerate(tqdm(shots or source.shots(), "playing", total=source.count, unit="image", mininterval=1)):
        due = start + shot.at_s
        played = time.monotonic() - start if source.kind == "device" else shot.at_s
        if played >= seconds:
            break
        while (wait := due - time.monotonic()) > 0:
            rclpy.spin_once(camera.node, timeout_sec=min(wait, 0.005))
        camera.send(shot, index)
        rclpy.spin_once(camera.node, timeout_sec=0)
        if keep is not None:
            keep.write(shot.rgb)
        count += 1
    return count


def show(camera: DemoCamera, source: Source) -> int:
    """Pictures, each on its own and until it is answered."""
    count = 0
    for index, shot in enumerate(tqdm(source.shots(), "showing", total=source.count, unit="picture")):
        for _ in range(3):
            camera.reset_tracks()
            stamp = camera.send(shot, index)
            if camera.until(lambda s=stamp: camera.answered(s), ANSWER_WAIT_S):
                break
            camera.sent[-1]["warm_up"] = True  # shown again: not counted
        else:
            camera.sent[-1]["warm_up"] = False  # counted as dropped
        count += 1
    return count


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when everything was sent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", default="")
    parser.add_argument("--fov", type=float, default=DEFAULT_FOV_DEG)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after this long; 0: the whole file, 10 s of a device")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        source = open_source(args.input, args.fov)
        # Rendering competes with the node for the processor: have the sequence ready before the clock starts.
        ready = (
            list(tqdm(source.shots(), "rendering", total=source.count, unit="image", mininterval=1))
            if source.kind == "synthetic"
            else None
        )
        first = ready[0] if ready else next(source.shots())
    except DensefitError as e:
        print(f"camera: {e}", file=sys.stderr)
        return 2
    rclpy.init(args=[])
    camera = DemoCamera()
    if not camera.wait_for_node():
        print(f"camera: the node did not become active within {NODE_WAIT_S:g} s", file=sys.stderr)
        return 3
    warm_up(camera, first)
    limit = args.seconds or (10.0 if source.kind == "device" else float("inf"))
    try:
        # A live camera cannot be read again for the report.
        with VideoWriter(args.out / LIVE_COPY, source.fps) as copy:
            keep = copy if source.kind == "device" else None
            count = show(camera, source) if source.stills else play(camera, source, ready, limit, keep)
    except DensefitError as e:
        print(f"camera: {e}", file=sys.stderr)
        return 2
    for problem in source.problems:
        print(f"camera: {problem}{'; left out' if source.stills else ''}", file=sys.stderr)
    if source.kind == "device" and count / source.fps < limit - 1:
        print(f"camera: {source.text} stopped after {count} images (unplugged?); reporting on those", file=sys.stderr)
    last = camera.sent[-1]["stamp_ns"]
    camera.until(lambda: camera.answered(last), 2.0)  # type: ignore[arg-type]
    about = {"kind": source.kind, "text": source.text, "fps": source.fps, "stills": source.stills, "images": camera.sent}
    (args.out / "camera.json").write_text(json.dumps(about))
    camera.node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
