#!/usr/bin/env python3
"""Look at photographs: finder, first estimate and refinement on each, as one contact sheet and a table of numbers.

    scripts/photo_sheet.py --out out/photos PICTURES...        files, folders, videos (every --every-th frame)
    scripts/photo_sheet.py --out out/photos                    the pictures that installed packages hold

Every picture stands alone (no tracking).  ``--annotations FILE.json`` (COCO's keypoint format) adds PCK@0.1: the share of
labelled points within a tenth of the longer side of their box; ``--jitter N`` scores N boxes around each labelled person as
well, so that no finder is in it.  A row of the sheet: the picture with the found boxes, first estimates, refined meshes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from densefit_ros.body.joints import COCO17, KEYPOINT_SETS, landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.config import ADMIT_EVERYBODY, load_config
from densefit_ros.evidence.keypoint_files import KeypointFiles
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.geometry.crop import extract, square_around
from densefit_ros.models import Models, load_models
from densefit_ros.offline.cameras import ASSUMED_FOV_DEG
from densefit_ros.offline.run import draw_result
from densefit_ros.offline.sources import open_source
from densefit_ros.pipeline import initial_state, process
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.runtime.picture import SIZE_PX
from densefit_ros.settings import parse_overrides
from densefit_ros.steps.find import first_estimate
from densefit_ros.types import BodyParams, Camera, Frame, FrameResult, Keypoints
from densefit_ros.viz import overlay

ROW_HEIGHT_PX = 300
MAX_SIDE_PX = 1600
# Photographs of people in packages: Python wheels by module and path, Debian packages (darknet, opencv-doc) by path.
WHEELS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/camera.png"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
DEBIAN = (
    "/usr/share/darknet/data/person.jpg", "/usr/share/darknet/data/kite.jpg", "/usr/share/darknet/data/horses.jpg",
    "/usr/share/doc/opencv-doc/examples/data/messi5.jpg", "/usr/share/doc/opencv-doc/examples/data/basketball1.png",
    "/usr/share/doc/opencv-doc/examples/data/vtest.avi",
)  # fmt: skip
# The points of COCO that every detector and annotator means alike: shoulders to ankles.
SCORED = slice(5, 17)


def main() -> int:
    args = _parser().parse_args()
    overrides = {"track.max_people": "8", **parse_overrides(args.set)}
    if args.regressor:
        overrides["regress.backend"] = args.regressor
    models = load_models(load_config(None, overrides))
    given = load_models(load_config(None, {**overrides, **ADMIT_EVERYBODY})) if args.jitter else None
    annotations = KeypointFiles(args.annotations) if args.annotations else None
    renderer, rows, records = WarpRenderer(models.body), [], []
    for name, rgb in pictures(args.pictures or installed(), args.every):
        camera = camera_from_fov(rgb.shape[1], rgb.shape[0], args.fov)
        _, result = process(models, initial_state(), Frame(rgb, 0, camera))
        record = {"picture": name, "people": [describe(p) for p in result.people], "ms": round(sum(result.stage_ms.values()), 1)}
        truth = annotations.of(name, 0) if annotations else None
        if truth is not None:
            record["pck10"] = pck(models, result, truth)
            record["points_pck10"] = points_pck(models, rgb, camera, truth)
            if given is not None:
                record["jittered_pck10"] = jittered_pck(given, rgb, camera, truth, args.jitter)
        records.append(record)
        rows.append(row(models, renderer, name, rgb, result))
        print(name, f"{len(result.people)} found", record.get("pck10", ""), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out / "sheet.jpg"), sheet(rows)[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 88))
    scores = {"bodies": mean_pck(records, "pck10"), "2D points in labelled boxes": mean_pck(records, "points_pck10")}
    if args.jitter:
        scores["bodies in jittered boxes"] = mean_pck(records, "jittered_pck10", args.jitter)
    summary = {"backends": models.backends, "pck10": scores, "pictures": records}
    (args.out / "photos.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{args.out / 'sheet.jpg'}  {scores if annotations else ''}")
    return 0


def pictures(paths: list[Path], every: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and RGB of each picture; large ones are made smaller."""
    for path in paths:
        source = open_source(path)
        for item in source:
            if item.rgb is None or (source.is_video and item.index % every):
                continue
            scale = min(1.0, MAX_SIDE_PX / max(item.rgb.shape[:2]))
            rgb = item.rgb if scale == 1.0 else cv2.resize(item.rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            yield (f"{Path(item.file).stem}_{item.index:04d}" if source.is_video else item.file), rgb


def installed() -> list[Path]:
    """The known photographs of people that this machine's packages hold."""
    from importlib.util import find_spec

    roots = [(find_spec(module), path) for module, path in WHEELS]
    found = [Path(spec.origin).parent / path for spec, path in roots if spec is not None] + [Path(p) for p in DEBIAN]
    return [p for p in found if p.is_file()]


def describe(person) -> dict[str, object]:
    """What the tracker says of one person."""
    return {
        "box_xywh": [round(float(v)) for v in person.box_xywh],
        "confidence": round(person.confidence, 2),
        "status": person.status.name,
        "source": person.source,
        "moved_px": round(float(np.nanmedian(person.fit_error_px)), 2) if np.isfinite(person.fit_error_px) else None,
    }


def pck(models: Models, result: FrameResult, truth: Keypoints) -> list[dict[str, float]]:
    """PCK@0.1 of the first and the refined body, per annotated person; people who were not found score 0."""
    marks, out = models.body.landmarks["coco17"], []
    bodies = {"first": [p.first_estimate for p in result.people], "refined": [p.params for p in result.people]}
    projected = {}
    for kind, params in bodies.items():
        points = (
            landmark_positions(marks, pose(models.body, BodyParams.stack(params)))[:, SCORED] if params else np.zeros((0, 12, 3))
        )
        projected[kind] = project(result.camera, points)
    for uv, confidence in zip(truth.uv[:, SCORED], truth.confidence[:, SCORED]):
        seen = confidence > 0
        size = float(np.ptp(uv[seen], axis=0).max())
        score = {"points": int(seen.sum()), "first": 0.0, "refined": 0.0}
        if len(result.people):
            distance = {k: np.linalg.norm(v - uv, axis=-1)[:, seen] for k, v in projected.items()}
            nearest = int(np.nanmean(distance["refined"], axis=1).argmin())
            score |= {k: float((d[nearest] < 0.1 * size).mean()) for k, d in distance.items()}
        out.append(score)
    return out


def jittered_pck(models: Models, rgb: np.ndarray, camera: Camera, truth: Keypoints, count: int) -> list[dict[str, float]]:
    """PCK@0.1 of the first and the refined body in ``count`` boxes around each labelled person, each side off by up to a tenth
    of the box."""
    rng, out = np.random.default_rng(0), []
    for i in range(len(truth.uv)):
        own = Keypoints(truth.set_name, truth.uv[i : i + 1], truth.confidence[i : i + 1])
        box = labelled_box(own.uv[0], own.confidence[0])
        for _ in range(count):
            off = rng.uniform(-0.1, 0.1, 4) * np.tile(box[2:], 2)
            corners = np.concatenate([box[:2], box[:2] + box[2:]]) + off
            jittered = np.concatenate([corners[:2], corners[2:] - corners[:2]])
            _, result = process(models, initial_state(), Frame(rgb, 0, camera), jittered[None])
            out += pck(models, result, own)
    return out


def labelled_box(uv: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """(4,) px around a person's labelled points, and the head above them."""
    seen = confidence > 0
    low, size = uv[seen].min(0), np.ptp(uv[seen], axis=0)
    return np.concatenate([low - 0.1 * size, 1.2 * size])


def points_pck(models: Models, rgb: np.ndarray, camera: Camera, truth: Keypoints) -> list[dict[str, float]]:
    """PCK@0.1 of the 2D points that the source of first estimates reads off the labelled people's own windows."""
    out = []
    for uv, confidence in zip(truth.uv, truth.confidence):
        seen, box = confidence > 0, labelled_box(uv, confidence)
        size = np.ptp(uv[seen], axis=0)
        crop = extract(rgb, square_around(box, models.config.render.crop_margin)[None], SIZE_PX)
        found = first_estimate(models, crop, box[None], Frame(rgb, 0, camera), (), None).keypoints
        score = {"points": int(seen[SCORED].sum()), "points2d": 0.0}
        if found is not None:
            index = {n: i for i, n in enumerate(KEYPOINT_SETS[found.set_name])}
            rows = [index[n] for n in COCO17[SCORED]]
            distance = np.linalg.norm(found.uv[0, rows] - uv[SCORED], axis=-1)[seen[SCORED]]
            told = found.confidence[0, rows][seen[SCORED]] > 0
            score["points2d"] = float((told & (distance < 0.1 * size.max())).mean())
        out.append(score)
    return out


def mean_pck(records: list[dict], name: str, boxes: int = 1) -> dict[str, object] | None:
    """Over all annotated points, of whom each person has ``boxes`` in a row; 95 % bootstrap intervals draw whole people.

    Points of one person are right or wrong together.
    """
    people = [p for r in records for p in r.get(name, ())]
    if not people:
        return None
    points = np.array([p["points"] for p in people], float).reshape(-1, boxes)
    out: dict[str, object] = {"people": len(people), "points": int(points.sum())}
    drawn = np.random.default_rng(0).integers(len(points), size=(2000, len(points)))
    for kind in [k for k in people[0] if k != "points"]:
        right = points * np.array([p[kind] for p in people]).reshape(-1, boxes)
        means = right[drawn].sum((1, 2)) / points[drawn].sum((1, 2))
        out[kind] = round(float(right.sum() / points.sum()), 3)
        out[f"{kind}_interval"] = [round(float(q), 3) for q in np.percentile(means, [2.5, 97.5])]
    return out


def row(models: Models, renderer: WarpRenderer, name: str, rgb: np.ndarray, result: FrameResult) -> np.ndarray:
    """Picture with boxes, first estimates, refined meshes, at ROW_HEIGHT_PX."""
    plain = rgb
    for person in result.people:
        plain = overlay.draw_box(plain, person.box_xywh, overlay.color_of(person.track_id))
    colors = np.array([overlay.color_of(p.track_id) for p in result.people], np.uint8).reshape(-1, 3)
    first = models.skinner.pose(BodyParams.stack([p.first_estimate for p in result.people])).vertices
    drawn = draw_result(rgb, models.body, result, first, colors, renderer)
    panels = [cv2.resize(p, (round(p.shape[1] * ROW_HEIGHT_PX / p.shape[0]), ROW_HEIGHT_PX), interpolation=cv2.INTER_AREA)
              for p in (plain, drawn)]  # fmt: skip
    return overlay.side_by_side(panels, [name])


def sheet(rows: list[np.ndarray]) -> np.ndarray:
    """Rows below one another, padded to one width."""
    width = max(r.shape[1] for r in rows)
    return np.concatenate([np.pad(r, ((0, 6), (0, width - r.shape[1]), (0, 0)), constant_values=30) for r in rows])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for sheet.jpg and photos.json")
    parser.add_argument("--every", type=int, default=200, help="of a video, every n-th frame (default: %(default)s)")
    parser.add_argument("--regressor", choices=("auto", "network", "mediapipe"), help="source of the first estimate")
    parser.add_argument(
        "--fov", type=float, default=ASSUMED_FOV_DEG, help="diagonal field of view, degrees (default: %(default)g)"
    )
    parser.add_argument("--annotations", type=Path, metavar="FILE.json", help="COCO keypoints of some pictures")
    parser.add_argument("--jitter", type=int, default=0, metavar="N", help="score N boxes around each labelled person as well")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting")
    return parser


if __name__ == "__main__":
    sys.exit(main())
