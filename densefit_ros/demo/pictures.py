"""The demo's overlay video (input | first estimate | refined) and a picture of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..body.model import BodyModel
from ..body.skin import Skinner
from ..render.warp_renderer import WarpRenderer
from ..viz.overlay import color_of, draw_mesh, draw_text, side_by_side
from ..viz.video import VideoWriter
from .record import Answer, Image, Run
from .report import params_of
from .source import Source

PANEL = (640, 480)  # px, width and height of each of the three panels at most
PREVIEW_ROWS = 3
LABELS = ("input", "first estimate", "refined")


def write_pictures(run: Run, source: Source, body: BodyModel, out: Path) -> None:
    """overlay.mp4 with every counted image, and preview.jpg with a few of them."""
    draw = _drawer(body)
    by_index = {i.index: i for i in run.images}
    chosen = _preview_indices(run)
    rows: list[np.ndarray] = []
    panel: tuple[int, int] | None = None
    # Pictures of a folder stay on for a second each.
    with VideoWriter(out / "overlay.mp4", 1.0 if run.stills else run.fps) as video:
        for index, shot in enumerate(tqdm(source.shots(), "drawing", total=len(run.images), unit="image", mininterval=1)):
            if index not in by_index:
                if index > max(by_index, default=-1):
                    break
                continue
            image = by_index[index]
            answer = run.answers.get(image.stamp_ns)
            panels = [shot.rgb, *draw(shot.rgb, image, answer)]
            panel = panel or (PANEL if run.stills else _fit(shot.rgb.shape[1], shot.rgb.shape[0]))
            row = side_by_side([_letterbox(p, panel) for p in panels], LABELS)
            if answer is None:
                row = draw_text(row, "not answered", (panel[0] * 0.4, 0.95 * panel[1]))
            video.write(row, None if run.stills else shot.at_s)
            if index in chosen:
                rows.append(row)
    if rows:
        cv2.imwrite(
            str(out / "preview.jpg"), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
        )


def _drawer(body: BodyModel) -> Callable[[np.ndarray, Image, Answer | None], list[np.ndarray]]:
    renderer, skinner = WarpRenderer(body), Skinner(body)

    def one(rgb: np.ndarray, image: Image, messages: list) -> np.ndarray:
        if not messages:
            return rgb
        vertices = np.concatenate([np.array(skinner.pose(params_of(m)).vertices) for m in messages])
        colors = np.stack([color_of(m.id) for m in messages])
        return draw_mesh(rgb, body, vertices, image.camera, colors, renderer=renderer)

    def both(rgb: np.ndarray, image: Image, answer: Answer | None) -> list[np.ndarray]:
        if answer is None:
            return [rgb, rgb]
        return [one(rgb, image, list(answer.first_estimates.values())), one(rgb, image, answer.bodies)]

    return both


def _preview_indices(run: Run) -> set[int]:
    seen = [i.index for i in run.images if (a := run.answers.get(i.stamp_ns)) is not None and a.bodies]
    seen = seen or [i.index for i in run.images]
    if not seen:
        return set()
    places = (np.arange(PREVIEW_ROWS) + 0.5) / PREVIEW_ROWS * len(seen)
    return {seen[int(p)] for p in places}


def _fit(width: int, height: int) -> tuple[int, int]:
    scale = min(PANEL[0] / width, PANEL[1] / height, 1.0)
    return max(2, round(width * scale)), max(2, round(height * scale))


def _letterbox(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if rgb.shape[1::-1] == size:
        return rgb
    scale = min(size[0] / rgb.shape[1], size[1] / rgb.shape[0])
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[: size[1], : size[0]]
    out = np.full((size[1], size[0], 3), 24, np.uint8)
    y, x = (size[1] - small.shape[0]) // 2, (size[0] - small.shape[1]) // 2
    out[y : y + small.shape[0], x : x + small.shape[1]] = small
    return out
