"""``densefit watch SOURCE``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config import load_config
from ..errors import ConfigError
from ..offline import floor
from ..offline.cameras import CameraChoice, read_camera
from ..offline.watch import WatchOptions, watch
from ..settings import parse_overrides
from . import add_config_arguments


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="densefit watch",
        description="Show a live camera, or a video at its own pace, in a browser: the refined meshes of the newest image.",
        epilog="The page is for this machine alone; --host 0.0.0.0 shows it to the network, without a password.  Beside it are "
        "stream, the pictures one after the other (MJPEG), and people.json, the newest answer as in results.jsonl.",
    )
    parser.add_argument("source", help="/dev/videoN, the number N, or a video file")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0: any free one (default: %(default)s)")
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument("--camera", type=Path, metavar="FILE.yaml", help="calibration as ROS writes it (camera_info)")
    lens.add_argument("--fov", type=float, metavar="DEG", help="diagonal field of view; without either 60 degrees are assumed")
    floor.add_arguments(parser)
    add_config_arguments(parser)
    args = parser.parse_args(arguments)
    if args.fov is not None and not 1 < args.fov < 179:
        raise ConfigError(f"--fov: expected 1 to 179 degrees, got {args.fov:g}")
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port: expected 0 to 65535, got {args.port}")
    camera = read_camera(args.camera) if args.camera else CameraChoice(fov_deg=args.fov)
    config = load_config(args.config, parse_overrides(args.set))
    options = WatchOptions(args.source, camera, config, args.host, args.port, ground=floor.from_arguments(args))
    answered = watch(options, started=_say)
    print(f"{answered} images answered")
    return 0


def _say(url: str) -> None:
    print(f"open {url} in a browser; ctrl-C ends", flush=True)
