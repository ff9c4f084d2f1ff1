"""``densefit COMMAND``: every command imports what it needs when it runs, so that help and ``doctor`` work anywhere."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..errors import ConfigError, DensefitError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
TRAINING_PACKAGES = ("torch", "smplx", "anny", "onnx", "sklearn", "matplotlib")  # modules that the extra "train" installs
RESULTS_NOTE = (
    "Results count pixels of the input picture with pixel centres at half-integers, and metres in the camera's optical frame "
    "(x right, y down, z forward).  A line of results.jsonl is one person in one picture."
)

# Commands with an own parser live in their rooms, in "module" or "module:function"; one is listed where its module is installed.
ROOMS: dict[str, tuple[str, str]] = {
    "demo": ("densefit_ros.demo.main", "camera, node and recorder as three ROS 2 processes; overlay video and a summary"),
    "eval": ("densefit_ros.eval.main", "measure on a dataset: per-sample rows, summary, Markdown table"),
    "results": ("densefit_ros.bench.results", "run what docs/results/runs.yaml lists, and write docs/RESULTS.md"),
    "bench": (
        "densefit_ros.bench.main",
        "fit: times; tracked: what refinement gains; covariance: are covariances right?",
    ),
    "watch": ("densefit_ros.cli.watch", "a live camera or a video in a browser, without ROS"),
    "train": ("densefit_ros.train.main", "train the networks on synthetic people"),
    "export": ("densefit_ros.train.commands:export", "write a trained network as ONNX"),
    "build-engine": ("densefit_ros.cli.build_engine", "build TensorRT engines for this machine"),
    "ros-policy": ("densefit_ros.ros.policy", "write an SROS 2 policy from the node's real topics and services"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``densefit`` command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = available_commands()
    if arguments and arguments[0] in commands:
        command, rest = commands[arguments[0]], arguments[1:]
    else:
        parser = _parser(commands)
        parser.parse_args(arguments)  # --help, --version and unknown commands end here
        parser.print_help()
        return EXIT_ERROR
    logging.basicConfig(level=logging.INFO, format="[densefit] %(message)s", stream=sys.stderr)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a video gets its index, a bag its end
    try:
        return int(command(rest) or 0)
    except DensefitError as e:
        print(f"densefit {arguments[0]}: error: {e}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print(f"densefit {arguments[0]}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; a traceback would only reach the next reader
        return EXIT_ERROR
    except OSError as e:
        reason = f"{e.filename}: {e.strerror}" if e.filename is not None and e.strerror else str(e)
        print(f"densefit {arguments[0]}: error: {reason}", file=sys.stderr)
        return EXIT_ERROR
    except ModuleNotFoundError as e:
        package = (e.name or "").partition(".")[0]
        if package not in TRAINING_PACKAGES:
            raise
        print(f'densefit {arguments[0]}: error: needs {package}, which is not installed: pip install ".[train]"', file=sys.stderr)
        return EXIT_ERROR


def available_commands() -> dict[str, Callable[[list[str]], int | None]]:
    """Every command that can run from this installation."""
    commands: dict[str, Callable[[list[str]], int | None]] = {
        "run": run_command,
        "refine": refine_command,
        "doctor": doctor_command,
    }
    for name, (module, _) in ROOMS.items():
        if _exists(module.partition(":")[0]):
            commands[name] = _delegate(module)
    return commands


def run_command(arguments: list[str]) -> int:
    """``densefit run INPUT --out DIR``, or ``densefit run --bag IN --out OUT``, which has options of its own."""
    if any(a == "--bag" or a.startswith("--bag=") for a in arguments):
        from ..ros.bag.run import main as run_bag

        return run_bag(arguments)
    parser = argparse.ArgumentParser(
        prog="densefit run",
        description="Track people in a video, a picture or a folder of pictures, without ROS.  A rosbag2: densefit run --bag IN "
        "--out OUT (its options: densefit run --bag IN --help).",
        epilog=RESULTS_NOTE,
    )
    parser.add_argument("input", type=Path, help="video file, picture, or folder of pictures")
    parser.add_argument("--boxes", type=Path, metavar="FILE.json", help="people to fit: {file name: [[x, y, w, h], ...]}, px")
    parser.add_argument("--independent", action="store_true", help="every picture stands alone: no tracking from one to the next")
    _add_run_arguments(parser, "without either 60 degrees are assumed")
    args = parser.parse_args(arguments)
    return _run(args, args.input, args.boxes, args.independent)


def refine_command(arguments: list[str]) -> int:
    """``densefit refine --images DIR --init FILE --out DIR``."""
    from ..regress.external import LAYOUTS

    parser = argparse.ArgumentParser(
        prog="densefit refine",
        description="Refine what another regressor said of these pictures: 4D-Humans, CLIFF or BEDLAM, TokenHMR, WHAM, "
        "CameraHMR, SAM 3D Body converted to SMPL.  docs/REGRESSORS.md describes the files.",
        epilog=RESULTS_NOTE + "  Its id is the file's own.",
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of pictures, or a video")
    parser.add_argument("--init", type=Path, required=True, metavar="FILE", help="the estimates: a file, or a folder of files")
    parser.add_argument(
        "--format", choices=("auto", *LAYOUTS), default="auto", help="layout of the file (default: by its entries)"
    )
    parser.add_argument("--sigma", type=float, metavar="DEG", help="how far its joints may be off, per axis (default: 11.5)")
    _add_run_arguments(parser, "without either each picture has the camera of its estimates")
    args = parser.parse_args(arguments)
    return _run(args, args.images, None, True)


def _add_run_arguments(parser: argparse.ArgumentParser, without_camera: str) -> None:
    from ..offline import floor

    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for results.jsonl, run.json and overlays")
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument("--camera", type=Path, metavar="FILE.yaml", help="calibration as ROS writes it (camera_info)")
    lens.add_argument("--fov", type=float, metavar="DEG", help=f"diagonal field of view; {without_camera}")
    floor.add_arguments(parser)
    parser.add_argument(
        "--keypoints",
        type=Path,
        metavar="DIR|FILE",
        help="keypoints: a folder of OpenPose *_keypoints.json, or COCO-style JSON (docs/KEYPOINTS.md)",
    )
    parser.add_argument("--densepose", type=Path, metavar="DIR", help="DensePose maps <picture>_IUV.png")
    add_config_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _run(args: argparse.Namespace, source: Path, boxes: Path | None, independent: bool) -> int:
    from ..config import Config, load_config, read_settings
    from ..offline import floor
    from ..offline.cameras import CameraChoice, read_camera
    from ..offline.given import NOMINAL_SIGMA_DEG, GivenFiles
    from ..offline.run import RunOptions, run
    from ..settings import parse_overrides, settings

    overrides = parse_overrides(args.set)
    if args.fov is not None and not 1 < args.fov < 179:
        raise ConfigError(f"--fov: expected 1 to 179 degrees, got {args.fov:g}")
    sigma = getattr(args, "sigma", None)
    if sigma is not None and not 0.1 <= sigma <= 180:
        raise ConfigError(f"--sigma: expected 0.1 to 180 degrees, got {sigma:g}")
    ground = floor.from_arguments(args)
    # A copy of config/default.yaml names everything: what it leaves as it was is not the user's wish.
    usual = {s.name: s.value for s in settings(Config())}
    changed = [n for n, v in (read_settings(args.config) if args.config else {}).items() if n in usual and v != usual[n]]
    summary = run(
        RunOptions(
            source=source,
            out=args.out,
            boxes=boxes,
            keypoints=args.keypoints,
            camera=read_camera(args.camera) if args.camera else CameraChoice(fov_deg=args.fov),
            independent=independent,
            ground=ground,
            config=load_config(args.config, overrides),
            given=GivenFiles(
                getattr(args, "init", None),
                getattr(args, "format", "auto"),
                NOMINAL_SIGMA_DEG if sigma is None else sigma,
                args.densepose,
            ),
            overrides=(*changed, *overrides),
            progress=not args.quiet,
        )
    )
    stages = ", ".join(f"{k} {v:.1f}" for k, v in summary.stage_ms.items())
    print(f"{summary.frames} frames, {summary.people} results, {summary.frames_without_people} frames without people")
    print(f"pipeline median {summary.frame_ms:.1f} ms a frame ({stages})")
    if summary.damaged:
        print(f"{len(summary.damaged)} damaged: {summary.damaged[0]}")
    print(f"{summary.results}\n{summary.overlay}")
    return 0


def doctor_command(arguments: list[str]) -> int:
    """``densefit doctor``."""
    parser = argparse.ArgumentParser(prog="densefit doctor", description="Print what is available here, and what is missing.")
    parser.parse_args(arguments)
    from .doctor import findings, table

    found = findings()
    print(table(found))
    return 0 if all(f.ok for f in found if f.needed) else 1


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config FILE`` and ``--set name=value``."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML, like config/default.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, e.g. fit.iterations=6")


def _parser(commands: dict[str, Callable[[list[str]], int | None]]) -> argparse.ArgumentParser:
    about = {
        "run": "track people in a video, a picture or a folder of pictures, without ROS",
        "refine": "refine another regressor's estimates of pictures or of a video",
        "doctor": "print what is available here: backends, weights, ROS, GPU",
    }
    about |= {name: text for name, (_, text) in ROOMS.items()}
    parser = argparse.ArgumentParser(
        prog="densefit",
        description="Real-time human mesh tracker for robots.",
        epilog="densefit COMMAND --help tells more.",
    )
    parser.add_argument("--version", action="version", version=f"densefit {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in commands:
        subparsers.add_parser(name, help=about[name], add_help=False)
    return parser


def _delegate(target: str) -> Callable[[list[str]], int | None]:
    module, _, function = target.partition(":")
    return lambda arguments: getattr(importlib.import_module(module), function or "main")(arguments)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
