"""A bag through the tracker at full speed: every image, in order, none dropped."""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...config import Config, read_settings
from ...errors import AssetError, ConfigError
from ...offline import floor
from ...offline.cameras import CameraChoice, read_camera
from ...render.warp_renderer import WarpRenderer
from ...settings import parse_overrides
from ...types import FrameResult
from ...viz.overlay import draw_people
from ..diagnostics import Faults, Stats
from ..engine import Engine, PipelineEngine
from ..handler import Handler, Job
from ..params import RosConfig, merged
from ..sync import StampBuffer
from ..topics import is_rectified_by_name
from .sink import BagSink
from .source import BagDamaged, choose_topics, count, open_bag, shots

log = logging.getLogger("densefit")


@dataclass(frozen=True)
class BagOptions:
    """What to read, and what to write."""

    bag: Path
    out: Path
    image_topic: str | None = None
    camera_info_topic: str | None = None
    depth_topic: str | None = None
    camera: CameraChoice = field(default_factory=CameraChoice)
    config: Config = field(default_factory=Config)
    ros: RosConfig = field(default_factory=RosConfig)
    overlay: bool = False
    sqlite: bool = False
    progress: bool = True
    ground: np.ndarray | None = None  # the floor, as Frame has it


@dataclass(frozen=True)
class BagSummary:
    """What came out."""

    images: int
    answered: int
    people: int  # bodies in all answers together
    fps: float  # answered images per second of wall time
    faults: dict[str, tuple[int, str]]  # kind -> (how often, the last one)


def run(options: BagOptions, make_engine: Callable[[Config], Engine] = PipelineEngine) -> BagSummary:
    """Process a bag.  Raises DensefitError; what was answered before a damaged place is kept."""
    given = options.camera.calibration is not None or options.camera.fov_deg is not None
    with open_bag(options.bag) as reader:
        topics = choose_topics(
            reader, options.bag, options.image_topic, options.camera_info_topic, options.depth_topic, need_info=not given
        )
        total = count(reader, topics.image)
        log.info("reading %s (%d images), camera_info %s", topics.image, total, topics.camera_info or "given")
        engine = make_engine(options.config)
        log.info("running: %s", ", ".join(f"{k} {v}" for k, v in engine.backends.items()))
        with BagSink(options.out, engine.body, options.ros, options.overlay, options.sqlite) as sink:
            loop = _Loop(options, engine, sink, topics.image, StampBuffer() if topics.depth else None)
            begin = time.perf_counter()
            try:
                for shot in _progress(shots(reader, topics, loop.depths, options.ros.depth_slop_s), total, options):
                    loop.step(shot.image, shot.info, shot.time_ns)
            except BagDamaged as e:
                raise AssetError(f"{options.bag}: {e}; {loop.answered} answers of what came before are in {options.out}") from e
            finally:
                seconds = time.perf_counter() - begin
    faults = {kind: (n, last) for kind, (n, last, _) in loop.faults.snapshot().items()}
    if not loop.answered:
        if options.out.is_file():
            options.out.unlink()
        else:
            shutil.rmtree(options.out)
        why = "; ".join(f"{kind}: {last}" for kind, (_, last) in faults.items()) or "there are none"
        raise AssetError(f"{options.bag}: not one image of {topics.image} could be answered: {why}")
    return BagSummary(loop.images, loop.answered, loop.people, loop.answered / max(seconds, 1e-9), faults)


class _Loop:
    """The node's own handler of images, fed from a file."""

    def __init__(self, options: BagOptions, engine: Engine, sink: BagSink, topic: str, depths: StampBuffer | None) -> None:
        self._options, self._engine, self._sink, self.depths = options, engine, sink, depths
        self.faults = Faults(log.warning, lambda: options.ros.log_period_s)
        choice = options.ros.rectified
        rectified = is_rectified_by_name(topic) if choice == "auto" else choice == "yes"
        companions = {} if depths is None else {"depth": depths}
        self._handler = Handler(
            engine, lambda: options.ros, self._publish, self.faults, Stats(), rectified, companions, ground=options.ground
        )
        self._renderer = WarpRenderer(engine.body) if options.overlay else None
        self._now_ns = 0
        self.images = self.answered = self.people = 0

    def step(self, image: Any, info: Any | None, time_ns: int) -> None:
        """Answer one image, or count a fault."""
        self.images += 1
        self._now_ns = time_ns
        choice = self._options.camera
        if choice.calibration is not None:
            info = _as_info(choice.calibration)
        elif choice.fov_deg is not None:
            info = None
        self._handler(Job(image, info, time.monotonic()))

    def _publish(self, result: FrameResult, header: Any, rgb: Any, total_ms: float, _lens: Any) -> None:
        self.answered += 1
        self.people += len(result.people)
        picture = None
        if self._renderer is not None:
            picture = draw_people(rgb, self._engine.body, result, self._renderer)
        self._sink.write(result, header, self._now_ns, total_ms, self.answered, picture)


def _as_info(calibration: dict[str, Any]) -> SimpleNamespace:
    """A calibration file in the form of a CameraInfo message."""
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    return SimpleNamespace(**calibration, p=[0.0] * 12, binning_x=0, binning_y=0, roi=roi)


def _progress(items: Any, total: int, options: BagOptions) -> Any:
    from tqdm import tqdm

    return tqdm(items, total=total or None, unit="image", disable=not options.progress, desc=options.bag.name, dynamic_ncols=True)


def _check_sources(ros: RosConfig) -> None:
    """Raise ConfigError for a setting that asks for what other programs say: of a bag only images and depth are read."""
    offs = {"initial": False, "detections": False, "keypoints": "none", "densepose": False, "world_frame": "", "ground_frame": ""}
    for name, off in offs.items():
        value = getattr(ros, name)
        if value != off:
            said = f"ros.{name} is {value}, but a bag is read for images and depth alone"
            raise ConfigError(f"{said}: --set ros.{name}={str(off).lower()}")


def main(arguments: Sequence[str], make_engine: Callable[[Config], Engine] = PipelineEngine) -> int:
    """``densefit run --bag IN --out OUT``."""
    parser = argparse.ArgumentParser(
        prog="densefit run",
        description="Process a rosbag2 at full speed, without ROS, and write what the node would have published.",
        epilog="Stamps and frames are those of the images; messages are placed at the images' recording times, so that both "
        "bags can be played together.",
    )
    parser.add_argument("--bag", type=Path, required=True, metavar="IN", help="rosbag2: a folder, an .mcap or a .db3 file")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="NAME.mcap for one file, else a rosbag2 folder")
    parser.add_argument("--image-topic", metavar="TOPIC", help="needed only where the bag has several; raw or compressed")
    parser.add_argument("--camera-info-topic", metavar="TOPIC", help="default: camera_info beside the image topic")
    parser.add_argument("--depth-topic", metavar="TOPIC", help="depth aligned to the image; fixes distance and scale")
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument("--camera", type=Path, metavar="FILE.yaml", help="calibration as ROS writes it, instead of camera_info")
    lens.add_argument("--fov", type=float, metavar="DEG", help="diagonal field of view, instead of camera_info")
    floor.add_arguments(parser)
    parser.add_argument("--overlay", action="store_true", help="write the meshes over the images as well (as large as the bag)")
    parser.add_argument("--sqlite3", action="store_true", help="a folder of sqlite3 instead of mcap")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, e.g. track.max_people=4")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(list(arguments))
    if args.fov is not None and not 1 < args.fov <= 170:
        raise ConfigError(f"--fov: expected 1 to 170 degrees, got {args.fov:g}")
    if args.sqlite3 and args.out.suffix == ".mcap":
        raise ConfigError(f"--sqlite3 writes a folder, and --out {args.out} names an mcap file: leave one of the two out")
    changes = read_settings(args.config) if args.config else {}
    changes |= {"ros.fov_deg": args.fov} if args.fov is not None else {}
    config, ros = merged(Config(), RosConfig(), changes | parse_overrides(args.set))
    _check_sources(ros)
    summary = run(
        BagOptions(
            bag=args.bag,
            out=args.out,
            image_topic=args.image_topic,
            camera_info_topic=args.camera_info_topic,
            depth_topic=args.depth_topic,
            camera=read_camera(args.camera) if args.camera else CameraChoice(fov_deg=args.fov),
            config=config,
            ros=ros,
            overlay=args.overlay,
            sqlite=args.sqlite3,
            progress=not args.quiet,
            ground=floor.from_arguments(args),
        ),
        make_engine,
    )
    print(f"{summary.answered} of {summary.images} images answered, {summary.people} bodies, {summary.fps:.1f} images/s")
    for kind, (times, last) in summary.faults.items():
        print(f"{kind}, {times} times: {last}")
    print(args.out)
    return 0
