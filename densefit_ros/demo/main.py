"""``make demo``: camera, node and recorder as three processes over DDS on loopback; then the report.

Writes under --out: overlay.mp4, preview.jpg, bag/ (rosbag2, mcap), summary.json, and the logs of the processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ..errors import ConfigError, DensefitError
from ..offline.sources import check_apart
from ..ros.installed import share
from ..ros.launching import image_profile
from .source import DEFAULT_FOV_DEG, LIVE_COPY, open_source

STOP_WAIT_S = 20.0
LEFTOVERS = ("overlay.mp4", "preview.jpg", "summary.json", "camera.json", LIVE_COPY, "node.log", "recorder.log")
MARKS = ("camera.json", "node.log", "recorder.log")  # what no other program leaves: the rest of the folder is the demo's too
# Markers and overlay are for eyes: a few per second are recorded, the rest of the processor is the tracker's.
NODE_PARAMETERS = {
    "ros.autostart": "true",
    "ros.image_reliability": "reliable",
    "ros.markers_rate_hz": "5.0",
    "ros.overlay_rate_hz": "2.0",
}


class DemoFailed(DensefitError):
    """One of the processes ended before its time."""


def environment() -> dict[str, str]:
    """Of all three processes: a domain of their own on loopback, and shared memory that holds images."""
    env = dict(os.environ)
    env["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
    if env.get("ROS_DISTRO") == "humble":
        env["ROS_LOCALHOST_ONLY"] = "1"
    else:
        env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    for name in ("FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        env.pop(name, None)  # of the robot's own network, which these processes are not in
    variable, profile = image_profile(env)
    env[variable] = str(share(f"config/{profile}"))
    env["PYTHONUNBUFFERED"] = "1"
    return env


def run_processes(args: argparse.Namespace) -> None:
    """Start, watch, stop.  Raises DemoFailed with one line when a process dies."""
    # Keypoint lifting is the better start on real pictures and costs 20 ms more; the built-in sequence shows the network.
    choice = {} if args.input else {"regress.backend": "network"}
    parameters = [w for k, v in {**NODE_PARAMETERS, **choice, **dict(args.param)}.items() for w in ("-p", f"{k}:={v}")]
    node = shlex.split(args.node_command) if args.node_command else [sys.executable, "-m", "densefit_ros.ros.node"]
    camera = [sys.executable, "-m", "densefit_ros.demo.camera", "--out", str(args.out), "--fov", str(args.fov)]
    camera += ["--seconds", str(args.seconds), "--input", args.input]
    remap = ["-r", "image:=/camera/image_raw", "-r", "camera_info:=/camera/camera_info"]
    commands = {
        "node": [*node, "--ros-args", *parameters, *remap],
        "recorder": [sys.executable, "-m", "densefit_ros.demo.recorder", "--bag", str(args.out / "bag")],
        "camera": camera,
    }
    env, running = environment(), {}
    try:
        for name, command in commands.items():
            log = None if name == "camera" else (args.out / f"{name}.log").open("wb")  # the camera shows the progress
            running[name] = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log and subprocess.STDOUT
            )
            if log is not None:
                log.close()
        while running["camera"].poll() is None:
            for name in ("node", "recorder"):
                if (status := running[name].poll()) is not None:
                    raise DemoFailed(f"the {name} ended early with status {status}: {_last_line(args.out / f'{name}.log')}")
            time.sleep(0.2)
        if running["camera"].returncode:
            hint = _last_line(args.out / "node.log")
            raise DemoFailed(
                f"the camera ended with status {running['camera'].returncode} (see above); the node's last word: {hint}"
            )
        time.sleep(0.5)  # the last messages are on their way
    finally:
        failed = _stop(running)
    if failed:
        raise DemoFailed(f"did not end in order: {', '.join(failed)}; see the logs in {args.out}")


def make_room(out: Path) -> None:
    """An output folder without the files of the demo before.  Raises ConfigError when it holds such files of something else."""
    out.mkdir(parents=True, exist_ok=True)
    found = [name for name in ("bag", *LEFTOVERS) if (out / name).exists()]
    if found and not any((out / name).exists() for name in MARKS):
        raise ConfigError(f"--out: {out / found[0]} was not written by a demo and would be lost; choose another folder")
    shutil.rmtree(out / "bag", ignore_errors=True)
    for name in LEFTOVERS:  # the marks last
        (out / name).unlink(missing_ok=True)


def report(args: argparse.Namespace) -> dict[str, object]:
    """Numbers and pictures of what was recorded."""
    from ..body.assets import load_body
    from .pictures import write_pictures
    from .record import read_run
    from .report import summarise, table

    run = read_run(args.out)
    source = open_source(str(args.out / LIVE_COPY) if run.kind == "device" else args.input, args.fov)
    body = load_body(dict(args.param).get("body.model_path") or None)
    summary = summarise(run, source.truth, body)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if not args.no_video:
        write_pictures(run, source, body, args.out)
    print(f"\n{table(summary)}\n")
    print(f"written to {args.out}: " + ", ".join(sorted(p.name for p in args.out.iterdir())))
    return summary


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when the run completed, 1 with one line on standard error otherwise."""
    parser = argparse.ArgumentParser(
        "densefit demo", description=__doc__.replace("``", ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", default="", help="video file, picture, directory of pictures or /dev/videoN; default: built-in"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--fov", type=float, default=DEFAULT_FOV_DEG, help="diagonal field of view of --input in degrees")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after this long; 0: the whole file, 10 s of a device")
    parser.add_argument("--param", action="append", default=[], type=_pair, metavar="NAME=VALUE", help="a parameter of the node")
    parser.add_argument("--no-video", action="store_true", help="numbers only")
    parser.add_argument("--node-command", default="", help="another node to run instead of ours")
    args = parser.parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # node and recorder end with the demo
    try:
        if args.input:
            source = open_source(args.input, args.fov)  # a wrong name is said before anything starts
            check_apart(source.paths, (args.out / name for name in ("bag", *LEFTOVERS)))
        make_room(args.out)
        print("starting camera, node and recorder ...", flush=True)
        run_processes(args)
        report(args)
    except (DensefitError, OSError) as e:
        print(f"demo: error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


def _stop(running: dict[str, subprocess.Popen[bytes]]) -> list[str]:
    """End what still runs, politely first.  Returns the names of processes that did not end with status 0."""
    failed = []
    for process in running.values():
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for name, process in running.items():
        try:
            status = process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status:
            failed.append(f"{name} ({status})")
    return failed


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    errors = [line for line in lines if "ERROR" in line or "error:" in line]
    return (errors or lines or ["(it said nothing)"])[-1].strip()


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not value:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
