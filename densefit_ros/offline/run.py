"""``densefit run``: the pipeline over pictures or a video, with overlays and results.jsonl."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ..body.model import BodyModel
from ..config import ADMIT_EVERYBODY, Config
from ..errors import AssetError
from ..evidence.densepose import OWN_CHART
from ..evidence.keypoint_files import KeypointFiles
from ..evidence.keypoints import projected
from ..models import Models
from ..pipeline import TrackerState, initial_state, load_models, process
from ..regress.external import OTHER_SHAPES
from ..render.warp_renderer import WarpRenderer
from ..settings import settings, with_overrides
from ..types import BodyParams, Camera, Frame, FrameResult, Keypoints, PosedBody
from ..viz import overlay
from ..viz.video import VideoWriter
from . import given
from .cameras import ASSUMED_FOV_DEG, Calibrated, CameraChoice
from .given import GivenFiles, InitialEstimates
from .results import CONVENTION, ResultsFile, person_record, read_boxes
from .sources import Item, Source, check_apart, open_source

log = logging.getLogger("densefit")
OUTPUTS = ("results.jsonl", "run.json", "overlay.mp4", "overlays")
OVERLAY_JPEG_QUALITY = 92
_FRAMES_OF_UNKNOWN = 200_000  # of a video that does not say how many it has: two hours
MAX_PANEL_PX = 1600  # a photograph of 12 megapixels would take a gigabyte to render whole


@dataclass(frozen=True)
class RunOptions:
    """What to run on, and what to write."""

    source: Path
    out: Path
    boxes: Path | None = None
    keypoints: Path | None = None  # folder of OpenPose files, or a JSON file in COCO's manner
    camera: CameraChoice = field(default_factory=CameraChoice)
    independent: bool = False
    config: Config = field(default_factory=Config)
    given: GivenFiles = field(default_factory=GivenFiles)
    ground: np.ndarray | None = None  # the floor, as Frame has it
    overrides: tuple[str, ...] = ()  # names of the settings that the user set: these are not adapted to the input
    progress: bool = True


@dataclass(frozen=True)
class RunSummary:
    """What came out."""

    frames: int
    people: int  # lines of results.jsonl
    frames_without_people: int
    damaged: tuple[str, ...]
    stage_ms: dict[str, float]  # medians
    frame_ms: float  # median wall time of the pipeline per frame
    fps: float  # of the input, on average
    results: Path
    overlay: Path


def run(options: RunOptions, load: Callable[[Config], Models] = load_models) -> RunSummary:
    """Run and write.  Raises DensefitError when the input, the output folder or a setting is unusable.

    A damaged picture among good ones is skipped with a warning.  Where nobody is found there is no line.
    """
    source = open_source(options.source)
    pictures = getattr(source, "files", ())
    read = (options.source, *pictures, options.boxes, options.keypoints, options.given.init, options.given.densepose)
    check_apart(read, (options.out / name for name in OUTPUTS))
    names = {source.path.name} if source.is_video else {f.name for f in pictures}
    boxes = read_boxes(options.boxes, names) if options.boxes else None
    if boxes and not names.issuperset(boxes):
        log.warning("%s: holds boxes of pictures that are not in the input: %s", options.boxes, _some(sorted(set(boxes) - names)))
    keypoints = _read_keypoints(options, names, source) if options.keypoints else None
    given.check(options.given, source)
    initial = InitialEstimates(options.given, source) if options.given.init else None
    config = adapted(options.config, boxes, keypoints, options.overrides)
    if initial:
        config = with_overrides(config, given.overrides_for(config, initial.most, options.overrides))
    models = load(config)  # first: where that fails, the results of before stay
    if initial and not models.body.is_smpl:
        log.warning("%s: %s", options.given.init, OTHER_SHAPES)
    if options.given.densepose and not config.body.densepose_chart:
        log.warning("%s: %s", options.given.densepose, OWN_CHART)
    results = ResultsFile(options.out)
    log.info("running: %s", ", ".join(f"{k} {v}" for k, v in models.backends.items()))
    with results, _Overlays(options.out, source, models.body) as overlays:
        loop = _Loop(models, options, boxes, keypoints, initial, source)
        for item in _progress(source, options.progress):
            answer = loop.step(item)
            if answer is None:
                continue
            calibrated, rgb, result, first = answer
            results.begin()
            for i, person in enumerate(result.people):
                record = person_record(item.file, item.index, person, first.joints[i], calibrated)
                if initial:
                    record["id"] = initial.id_of(item, person)
                results.write(record)
            overlays.write(item, rgb, result, first.vertices, calibrated)
    if not loop.frame_ms:
        raise AssetError(f"{options.source}: nothing could be read: {loop.damaged[0] if loop.damaged else 'it is empty'}")
    summary = loop.summary(results.path, overlays.path)
    _write_summary(options, models, source, summary)
    return summary


def adapted(
    config: Config, boxes: dict[str, np.ndarray] | None, keypoints: KeypointFiles | None, overrides: tuple[str, ...]
) -> Config:
    """Settings that follow from what is given: room for as many people, and no search where keypoints say who is there."""
    changes: dict[str, object] = {}
    most = max((len(b) for b in boxes.values()), default=1) if boxes is not None else 1
    most = max(most, keypoints.most_people if keypoints is not None else 1)
    if "track.max_people" not in overrides:
        changes["track.max_people"] = given.room_for(most, config)
    if keypoints is not None and boxes is None and "detect.backend" not in overrides:
        changes["detect.backend"] = "none"
    return with_overrides(config, changes)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read_keypoints(options: RunOptions, names: set[str], source: Source) -> KeypointFiles:
    """Raises AssetError when the files are of other pictures."""
    found = KeypointFiles(options.keypoints)
    frames = range(source.count or _FRAMES_OF_UNKNOWN) if source.is_video else (0,)
    if not any(found.of(name, frame, source.is_video) for name in names for frame in frames):
        raise AssetError(f"{options.keypoints}: no keypoints of {sorted(names)[0]} or any other picture of the input")
    return found


class _Loop:
    """State from one image to the next."""

    def __init__(
        self,
        models: Models,
        options: RunOptions,
        boxes: dict[str, np.ndarray] | None,
        keypoints: KeypointFiles | None,
        initial: InitialEstimates | None,
        source: Source,
    ) -> None:
        self._models, self._options, self._boxes, self._keypoints = models, options, boxes, keypoints
        # Whoever has a box is answered; for whom the finder finds beside them nobody vouches.
        admit = {name: value for name, value in ADMIT_EVERYBODY.items() if name not in options.overrides}
        self._admitting = dataclasses.replace(models, config=with_overrides(models.config, admit))
        self._initial, self._is_video, self._fps = initial, source.is_video, source.fps
        self._state = initial_state()
        self._size: tuple[int, int] | None = None
        self._given: set[str] = set()
        self.damaged: list[str] = []
        self.frame_ms: list[float] = []
        self._stages: dict[str, list[float]] = {}
        self._people = self._empty = self._last_ns = 0

    def step(self, item: Item) -> tuple[Calibrated, np.ndarray, FrameResult, PosedBody] | None:
        """Camera, rectified image, answer, and the posed first estimates; None for a damaged image."""
        if item.rgb is None:
            self.damaged.append(item.problem)
            log.warning("%s", item.problem)
            return None
        height, width = item.rgb.shape[:2]
        calibrated = self._options.camera.for_size(width, height)
        if self._initial and not self._options.camera.given:
            # Where nobody says otherwise, the picture has the camera that its estimates were made with.
            calibrated = Calibrated(self._initial.camera(item) or calibrated.camera, None, False)
        if calibrated.assumed and self._size is None:
            log.warning(
                "no camera given: a diagonal field of view of %g degrees is assumed (see --camera, --fov)", ASSUMED_FOV_DEG
            )
        if self._options.independent or (self._size is not None and self._size != (width, height)):
            self._state = TrackerState(born=self._state.born)  # no name is given twice
        self._size, self._last_ns = (width, height), item.stamp_ns
        rgb = calibrated.rectify(item.rgb)
        frame = Frame(
            rgb,
            item.stamp_ns,
            calibrated.camera,
            keypoints=self._keypoints_of(item, calibrated),
            iuv=given.iuv_of(self._options.given, item, calibrated),
            ground=self._options.ground,
        )
        estimates = self._initial.estimate(item, calibrated, self._models.body) if self._initial else None
        boxes = self._boxes_of(item, calibrated)
        models = self._models if boxes is None else self._admitting
        begin = time.perf_counter()
        self._state, result = process(models, self._state, frame, boxes, estimates)
        self.frame_ms.append((time.perf_counter() - begin) * 1e3)
        for stage, ms in result.stage_ms.items():
            self._stages.setdefault(stage, []).append(ms)
        self._people += len(result.people)
        self._empty += not result.people
        if not result.people:
            return calibrated, rgb, result, PosedBody(np.zeros((0, 0, 3)), np.zeros((0, 24, 3)))
        first = self._models.skinner.pose(BodyParams.stack([p.first_estimate for p in result.people]))
        return calibrated, rgb, result, first

    def _keypoints_of(self, item: Item, calibrated: Calibrated) -> Keypoints | None:
        if self._keypoints is None:
            return None
        found = self._keypoints.of(item.file, item.index, self._is_video)
        if found is None:
            log.warning("%s: no keypoints of %s, frame %d: nobody is measured in it", self._keypoints.path, item.file, item.index)
            return Keypoints("openpose25", np.zeros((0, 25, 2), np.float32), np.zeros((0, 25), np.float32))
        uv = calibrated.from_picture(found.uv)
        # Not seen, instead of known in 3D alone, are points that the lens cannot have put there.
        lost = np.isfinite(found.uv).all(-1) & ~np.isfinite(uv).all(-1)
        seen = np.where(lost, 0, found.confidence).astype(np.float32)
        found = dataclasses.replace(found, uv=np.where(lost[..., None], 0, uv).astype(np.float32), confidence=seen)
        return projected(found, calibrated.camera)

    def _boxes_of(self, item: Item, camera: Calibrated) -> np.ndarray | None:
        # The boxes of a video are those of its first frame; from there on the tracks know better.
        if self._boxes is None or item.file not in self._boxes or item.file in self._given:
            return None
        self._given.add(item.file)
        return camera.boxes_from_picture(self._boxes[item.file])

    def summary(self, results: Path, overlay_path: Path) -> RunSummary:
        stages = {k: float(np.median(v)) for k, v in self._stages.items()}
        median, frames = float(np.median(self.frame_ms)), len(self.frame_ms)
        fps = (frames - 1) / (self._last_ns * 1e-9) if self._last_ns else self._fps
        return RunSummary(frames, self._people, self._empty, tuple(self.damaged), stages, median, fps, results, overlay_path)


class _Overlays:
    """First estimate beside refined mesh: a picture per picture, or one video."""

    def __init__(self, out: Path, source: Source, body: BodyModel) -> None:
        self._body, self._renderer = body, WarpRenderer(body)
        self._out, self._begun = out, False
        self._video = VideoWriter(out / "overlay.mp4", source.fps) if source.is_video else None
        self.path = self._video.path if self._video else out / "overlays"
        self._taken: set[str] = set()
        self._colors: dict[str, np.ndarray] = {}  # by track, in order of appearance: neighbours never share one

    def __enter__(self) -> _Overlays:
        return self

    def __exit__(self, *_: object) -> None:
        if self._video:
            self._video.close()

    def write(self, item: Item, rgb: np.ndarray, result: FrameResult, first_vertices: np.ndarray, camera: Calibrated) -> None:
        for person in result.people:
            self._colors.setdefault(person.track_id, overlay.PALETTE[len(self._colors) % len(overlay.PALETTE)])
        if not self._begun:  # a former run's would look like this one's
            self._begun = True
            for former in (self._out / "overlay.mp4", *(self._out / "overlays").glob("*.jpg")):
                former.unlink(missing_ok=True)
        colors = np.array([self._colors[p.track_id] for p in result.people], np.uint8).reshape(-1, 3)
        picture = draw_result(rgb, self._body, result, first_vertices, colors, self._renderer)
        if self._video:
            self._video.write(picture, item.stamp_ns * 1e-9)
            return
        self.path.mkdir(exist_ok=True)
        stem = Path(item.file).stem
        # a.jpg and a.png in one folder must not overwrite one another.
        name = f"{stem}.jpg" if f"{stem}.jpg" not in self._taken else f"{item.file}.jpg"
        self._taken.add(name)
        ok, data = cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, OVERLAY_JPEG_QUALITY))
        if not ok:
            raise AssetError(f"cannot encode the overlay of {item.file}")
        (self.path / name).write_bytes(data.tobytes())


def draw_result(
    rgb: np.ndarray,
    body: BodyModel,
    result: FrameResult,
    first_vertices: np.ndarray,
    colors: np.ndarray,
    renderer: WarpRenderer,
) -> np.ndarray:
    """Two panels: first estimates (P,V,3) m, and the refined meshes with their ids; large pictures are drawn smaller."""
    people, camera = result.people, result.camera
    scale = min(1.0, MAX_PANEL_PX / max(rgb.shape[:2]))
    if scale < 1.0:
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = rgb.shape[:2]
        sx, sy = width / camera.width, height / camera.height
        camera = Camera(camera.fx * sx, camera.fy * sy, camera.cx * sx, camera.cy * sy, width, height)
    refined = np.stack([p.vertices for p in people]) if people else first_vertices
    left = overlay.draw_mesh(rgb, body, first_vertices, camera, colors, renderer=renderer)
    right = overlay.draw_mesh(rgb, body, refined, camera, colors, renderer=renderer)
    size = max(11.0, rgb.shape[0] / 45)
    for person, color in zip(people, colors):
        text = f"{person.track_id} {person.status.name.lower()}"
        x, y = np.asarray(person.box_xywh[:2]) * scale
        right = overlay.draw_text(right, text, (max(float(x), 2.0), max(float(y) - 4, 4.4 * size)), size, color)
    source = people[0].source if people else ""
    labels = [f"first estimate ({source})" if source else "nobody found", "refined" if people else ""]
    return overlay.side_by_side([left, right], labels)


def _progress(source: Source, shown: bool):
    from tqdm import tqdm

    return tqdm(source, total=source.count or None, unit="frame", disable=not shown, desc=source.path.name, dynamic_ncols=True)


def _write_summary(options: RunOptions, models: Models, source: Source, summary: RunSummary) -> None:
    camera = options.camera
    described = camera.name or f"diagonal field of view {camera.fov_deg or ASSUMED_FOV_DEG:g} degrees"
    if options.given.init and not camera.given:
        described = "of the given estimates"
    record = {
        "input": str(options.source),
        "frames": summary.frames,
        "lines": summary.people,
        "frames_without_people": summary.frames_without_people,
        "damaged": list(summary.damaged),
        "camera": described,
        "camera_assumed": not camera.given and options.given.init is None,
        "ground": None if options.ground is None else [round(float(x), 6) for x in options.ground],  # as Frame.ground
        "given_estimates": str(options.given.init) if options.given.init else None,
        "given": _given_files(options),
        "coordinates": CONVENTION,
        "independent": options.independent,
        "backends": models.backends,
        "settings": {s.name: s.value for s in settings(models.config)},
        "frame_ms_median": round(summary.frame_ms, 3),
        "stage_ms_median": {k: round(v, 3) for k, v in summary.stage_ms.items()},
        "fps_of_input": round(summary.fps, 3) if source.is_video else None,
    }
    (options.out / "run.json").write_text(json.dumps(record, indent=2) + "\n")


def _given_files(options: RunOptions) -> dict[str, str | float | None]:
    """What else was read, and how; null: nothing."""
    files = {"boxes": options.boxes, "keypoints": options.keypoints, "densepose": options.given.densepose}
    given: dict[str, str | float | None] = {name: str(path) if path else None for name, path in files.items()}
    estimates = options.given.init is not None
    given["format"] = options.given.init_format if estimates else None
    given["sigma_deg"] = options.given.init_sigma_deg if estimates else None
    return given
