"""Meshes and text drawn over an image.  Images are RGB uint8 (H,W,3); inputs are never changed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from ..body.model import BodyModel
from ..errors import ShapeError
from ..render.protocol import Appearance
from ..render.warp_renderer import WarpRenderer
from ..types import Camera, FrameResult

# Light, far apart in hue, and told apart by most colour-blind people in this order (after Okabe and Ito 2008).
PALETTE = np.array(
    [[86, 180, 233], [240, 160, 40], [60, 190, 140], [214, 120, 180], [240, 228, 66], [110, 130, 230], [230, 110, 70]], np.uint8
)
AMBIENT = 0.35


def color_of(track_id: str) -> np.ndarray:
    """The palette colour (3,) uint8 of an id: the same in every run."""
    return PALETTE[zlib.crc32(track_id.encode()) % len(PALETTE)]


def draw_mesh(
    rgb: np.ndarray,
    body: BodyModel,
    vertices_m: np.ndarray,
    camera: Camera,
    colors: np.ndarray | None = None,
    alpha: float = 0.75,
    renderer: WarpRenderer | None = None,
) -> np.ndarray:
    """Shaded meshes blended over the image, the nearer person in front.

    vertices_m (P,V,3) m in the camera frame; colors (P,3) uint8, default: the palette in order; ``renderer`` is worth
    passing for many images, a new one is made otherwise.  Raises ShapeError when the camera is of another image size.
    """
    rgb = _image(rgb)
    if (camera.height, camera.width) != rgb.shape[:2]:
        raise ShapeError(f"expected an image of the camera's size {camera.width} x {camera.height}, got {rgb.shape}")
    out = rgb.copy()
    if not len(vertices_m):
        return out
    renderer = renderer or WarpRenderer(body)
    scene = renderer.render_window(vertices_m, [Appearance()] * len(vertices_m), camera)
    person, normals = scene.person_id[0], scene.normals[0]
    mask = person >= 0
    palette = PALETTE[np.arange(len(vertices_m)) % len(PALETTE)] if colors is None else np.asarray(colors, np.uint8)
    # A lamp at the camera: what faces us is bright, the outline dark, so that the shape is read without shadows.
    light = AMBIENT + (1 - AMBIENT) * np.clip(-normals[mask][:, 2], 0, 1)
    shaded = palette[person[mask]].astype(np.float32) * light[:, None]
    out[mask] = np.clip((1 - alpha) * rgb[mask] + alpha * shaded + 0.5, 0, 255).astype(np.uint8)
    return out


def draw_people(rgb: np.ndarray, body: BodyModel, result: FrameResult, renderer: WarpRenderer | None = None) -> np.ndarray:
    """The meshes of an answer over its image, each in the colour of its track.  Raises ShapeError as :func:`draw_mesh`."""
    people = result.people
    vertices_m = np.stack([p.vertices for p in people]) if people else np.empty((0, 0, 3), np.float32)
    colors = np.stack([color_of(p.track_id) for p in people]) if people else None
    return draw_mesh(rgb, body, vertices_m, result.camera, colors, renderer=renderer)


def draw_box(rgb: np.ndarray, box_xywh: np.ndarray, color: np.ndarray | Sequence[int]) -> np.ndarray:
    """The outline of a box."""
    out = _image(rgb).copy()
    x, y, w, h = (round(float(v)) for v in box_xywh)
    cv2.rectangle(out, (x, y), (x + w, y + h), tuple(int(c) for c in color), max(1, round(min(rgb.shape[:2]) / 300)))
    return out


def draw_text(
    rgb: np.ndarray, text: str, origin_px: tuple[float, float], height_px: float = 14.0, color: Sequence[int] = (255, 255, 255)
) -> np.ndarray:
    """One line of text on a dark outline, readable on any ground; ``origin_px`` is its lower left corner."""
    out = _image(rgb).copy()
    scale, at = height_px / 22.0, (round(origin_px[0]), round(origin_px[1]))
    thick = max(1, round(scale * 1.6))
    for ink, width in (((0, 0, 0), thick + 2), (tuple(int(c) for c in color), thick)):
        cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, width, cv2.LINE_AA)
    return out


def side_by_side(images: Sequence[np.ndarray], labels: Sequence[str] = (), gap_px: int = 4) -> np.ndarray:
    """Panels of one height in a row, each with its label in the upper left corner.  Raises ShapeError on none."""
    if not images:
        raise ShapeError("expected at least one panel, got none")
    height = images[0].shape[0]
    row: list[np.ndarray] = []
    for i, image in enumerate(images):
        image = _image(image)
        if image.shape[0] != height:
            width = max(1, round(image.shape[1] * height / image.shape[0]))
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        if i < len(labels) and labels[i]:
            size = _fitting_height(labels[i], max(12.0, height / 26), image.shape[1])
            image = draw_text(image, labels[i], (0.5 * size, 1.5 * size), size)
        if row:
            row.append(np.full((height, gap_px, 3), 255, np.uint8))
        row.append(image)
    return np.concatenate(row, 1)


def _fitting_height(text: str, height_px: float, width_px: int) -> float:
    """``height_px``, or less where the text would leave a panel of this width."""
    (needed, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, height_px / 22.0, 1)
    return height_px * min(1.0, 0.92 * width_px / max(needed, 1))


def _image(rgb: np.ndarray) -> np.ndarray:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ShapeError(f"expected an (H,W,3) uint8 image, got {rgb.shape} {rgb.dtype}")
    return np.ascontiguousarray(rgb)
