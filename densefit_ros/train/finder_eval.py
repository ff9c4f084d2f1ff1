"""``python -m densefit_ros.train.finder_eval``: the person finders side by side, on what no run trains on."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..body.assets import load_body
from ..body.model import BodyModel
from ..detect.factory import make_detector
from ..detect.protocol import Detector
from ..errors import AssetError, BackendUnavailable
from ..render.warp_renderer import WarpRenderer
from ..synth.backgrounds import packaged_pictures
from ..synth.scenes import PERSON, make_scenes
from ..synth.sequence import demo_sequence, heldout_engine
from ..track import association
from .finder_metrics import match
from .sources import EVALUATION_SUBJECT

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # picture, boxes (M,4), kind (M,)
_EVAL_SEED = 900_000_119
_EVERYBODY = 9  # more people than any picture shows: searches go to their end
# Photographs without people; some were trained on as backgrounds, by the network alone.
_EMPTY_PICTURES = ("coffee.png", "chelsea.png", "rocket.jpg", "china.jpg", "flower.jpg", "coins.png", "brick.png",
                   "grass.png", "gravel.png", "hubble_deep_field.jpg", "motorcycle_left.png")  # fmt: skip


def heldout_scenes(body: BodyModel, count: int, directories: Sequence[str] | None = None) -> Iterator[Sample]:
    """640 x 480 scenes of subjects that nothing was trained on or chosen with, on held-out photographs."""
    engine = heldout_engine(body, WarpRenderer(body), directories)
    engine.first_subject, engine.subjects = EVALUATION_SUBJECT, 150
    for start in range(0, count, 8):
        scenes = make_scenes(np.random.default_rng([_EVAL_SEED, start]), engine, min(8, count - start), 640, 480)
        yield from zip(scenes.rgb, scenes.boxes_xywh, scenes.kind)


def demo_frames(body: BodyModel, step: int = 1) -> Iterator[Sample]:
    """Every ``step``-th frame of the built-in sequence."""
    sequence = demo_sequence(body)
    for i in range(0, len(sequence), step):
        shot = sequence.render(i)
        v, u = np.flatnonzero((shot.visible_face >= 0).any(1)), np.flatnonzero((shot.visible_face >= 0).any(0))
        box = np.array([[u[0], v[0], u[-1] + 1 - u[0], v[-1] + 1 - v[0]]], np.float32)
        yield shot.rgb, box, np.array([PERSON], np.int8)


def empty_pictures() -> Iterator[tuple[str, np.ndarray]]:
    """(name, picture) of packaged photographs without people."""
    for path, _ in packaged_pictures():
        if path.name in _EMPTY_PICTURES:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is not None:
                yield path.name, np.ascontiguousarray(picture[:, :, ::-1])


def measure(detector: Detector, samples: Sequence[Sample], min_score: float = 0.5, enough: int = _EVERYBODY) -> dict[str, float]:
    """Recall and precision at ``min_score``; a box is right at IoU 0.5.  ``near``: recall at IoU 0.3.

    ``first`` is the share of pictures with people whose surest box is right: what starting one track needs.
    """
    right = wrong = people = near = first = peopled = 0
    iou: list[float] = []
    elapsed: list[float] = []
    for rgb, boxes, kind in samples:
        started = time.perf_counter()
        found = [d for d in detector.detect(rgb, enough) if d.score >= min_score]
        elapsed.append(time.perf_counter() - started)
        pair = (np.array([d.box_xywh for d in found], np.float32).reshape(-1, 4), np.array([d.score for d in found], np.float32))
        verdict, got = match(pair, boxes, kind)
        right, wrong, people = right + (verdict == 1).sum(), wrong + (verdict == 0).sum(), people + (kind == PERSON).sum()
        if (kind == PERSON).any():
            peopled += 1
            if found:
                value = association.iou(pair[0], boxes[kind == PERSON])
                near += (value.max(0) >= 0.3).sum()
                first += value[0].max() >= 0.5
                iou += list(value.max(0)[np.isfinite(got[kind == PERSON])])
    return {
        "people": int(people), "recall": right / max(people, 1), "near": near / max(people, 1),
        "precision": right / max(right + wrong, 1), "first": first / max(peopled, 1), "iou": float(np.mean(iou)) if iou else 0.0,
        "median_ms": 1000 * float(np.median(elapsed)),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one JSON object per finder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", default="", help="finder network; empty: the one that ships")
    parser.add_argument("--scenes", type=int, default=160)
    parser.add_argument("--demo-step", type=int, default=1)
    parser.add_argument("--backends", nargs="*", default=["network", "mediapipe", "both", "hog"])
    parser.add_argument("--backgrounds", nargs="*", default=None, metavar="DIR")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    body = load_body()
    scenes = list(heldout_scenes(body, args.scenes, args.backgrounds))
    frames = list(demo_frames(body, args.demo_step))
    for backend in args.backends:
        try:
            detector = make_detector(backend, onnx=Path(args.onnx) if args.onnx else "", device="cpu")
        except (BackendUnavailable, AssetError) as error:
            print(json.dumps({"backend": backend, "missing": str(error)}), flush=True)
            continue
        false = {n: [round(d.score, 2) for d in detector.detect(p, _EVERYBODY) if d.score >= 0.5] for n, p in empty_pictures()}
        record = {"backend": detector.name, "scenes": measure(detector, scenes), "demo": measure(detector, frames, enough=1)}
        print(json.dumps(record | {"false": {k: v for k, v in false.items() if v}}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
