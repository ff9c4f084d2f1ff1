"""Labelled whole pictures with nobody to four dressed people in them, at the small size that a person finder works at.

The people, their clothes, light, occluders and the sensor are those of the crops (:mod:`.crops`): a scene is a crop of the
whole picture.  Everything is made on a square canvas whose middle rows are the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..geometry.camera import crop_camera
from ..geometry.crop import image_from_crop as crop_affine
from ..render.protocol import SceneSurface
from ..types import Camera
from .cameras import place, sample_camera
from .crops import People, compose, draw_people, inside_axis, middle_of
from .engine import SynthEngine

MAX_PEOPLE = 4
EMPTY, PERSON, UNASKED = 0, 1, 2  # values of SceneBatch.kind
_COUNT_SHARES = (0.16, 0.38, 0.24, 0.13, 0.09)  # of scenes with 0, 1, ... people
_SMALLEST, _LARGEST = 0.12, 1.3  # a person's extent over the image's height
_GROUP_SHARE = 0.5  # of scenes with several people: all about as far away
_APART_M = 0.55
_MIN_SHARE, _MIN_WIDTH_PX, _MIN_HEIGHT_PX = 0.2, 4, 12
_STRIDE = 7


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """N pictures of W x H px (letterboxed) and the people that they show."""

    rgb: np.ndarray  # (N,H,W,3) uint8
    fine: np.ndarray  # (N,F*H,F*W,3) uint8: before they were reduced by F (``finer``)
    boxes_xywh: np.ndarray  # (N,4,4) float32 px: the visible part of each person, zeros where there is none
    kind: np.ndarray  # (N,4) int8: EMPTY, PERSON, or UNASKED: a person of whom too little is seen to demand or forbid a find
    owner: np.ndarray  # (N,H,W) int8: slot of the person seen at the pixel, -1 nobody

    def __len__(self) -> int:
        return len(self.rgb)


@dataclass(frozen=True, eq=False)
class _Placed:
    """All persons of all scenes, in the order in which they are rendered."""

    body: np.ndarray  # (K,) index into the drawn people
    scene: np.ndarray  # (K,) int32
    slot: np.ndarray  # (K,) within the scene
    shift: np.ndarray  # (K,3) m


def make_scenes(
    rng: np.random.Generator,
    engine: SynthEngine,
    count: int,
    width: int = 256,
    height: int = 192,
    pad: int = 115,
    finer: int = 1,
) -> SceneBatch:
    """``count`` pictures; the same generator state and engine give the same pictures.

    Pictures of other proportions than width : height are centred, and ``pad`` fills what they leave.  Each body that is
    drawn stands in two or three of the scenes, at other places and sizes.  ``finer``: the camera has so many pixels for each of
    the picture, which is reduced as finders reduce images: edges, cloth, noise and JPEG are those of a larger image.
    """
    size = max(width, height)
    cameras = [sample_camera(rng) for _ in range(count)]
    affine = np.stack([_whole_image(c, width, height, size) for c in cameras])
    canvas = [crop_camera(c, a, size) for c, a in zip(cameras, affine)]
    fine_size = size * finer
    fine = [crop_camera(c, _whole_image(c, width * finer, height * finer, fine_size), fine_size) for c in cameras]
    people = draw_people(rng, engine, max(count * 3 // 5, 2))
    placed = _place_all(rng, people, cameras, engine.options.near_share)
    surface = _render(engine, people, placed, fine, fine_size)
    rows, columns = (slice((size - n) // 2, (size - n) // 2 + n) for n in (height, width))
    fine_rows, fine_columns = (slice(s.start * finer, s.stop * finer) for s in (rows, columns))
    rgb = np.full((count, height, width, 3), pad, np.uint8)
    large = np.full((count, height * finer, width * finer, 3), pad, np.uint8)
    owner = np.full((count, height, width), -1, np.int8)
    slot_of = np.append(placed.slot, -1).astype(np.int8)  # person_id -1 (background) reads the last entry
    for i in range(count):
        inside_u = inside_axis(affine[i : i + 1, 0], np.array([cameras[i].width]), size)[0]
        inside_v = inside_axis(affine[i : i + 1, 1], np.array([cameras[i].height]), size)[0]
        inside = (inside_v[:, None] & inside_u[None, :])[rows, columns]
        crisp = engine.options.crisp_share > 0 and rng.random() < engine.options.crisp_share
        image, _, occluded = compose(rng, engine, surface, i, fine[i], surface.person_id[i] >= 0, crisp=crisp)
        seen = slot_of[surface.person_id[i]]
        if occluded is not None:
            seen[occluded] = -1
        exposed = engine.sensor.expose(rng, image, crisp=crisp)
        inside_large = inside.repeat(finer, 0).repeat(finer, 1)
        large[i][inside_large] = exposed[fine_rows, fine_columns][inside_large]
        rgb[i][inside] = cv2.resize(exposed, (size, size), interpolation=cv2.INTER_AREA)[rows, columns][inside]
        owner[i] = np.where(inside, seen[finer // 2 :: finer, finer // 2 :: finer][rows, columns], -1)
    boxes, kind = _label(people, placed, canvas, owner, np.array([columns.start, rows.start]))
    return SceneBatch(rgb, large, boxes, kind, owner)


def _whole_image(camera: Camera, width: int, height: int, size: int) -> np.ndarray:
    """image_from_crop (2,3) of the canvas in whose middle ``width`` x ``height`` px the whole picture fits."""
    side = size / min(width / camera.width, height / camera.height)
    corner = 0.5 * np.array([camera.width - side, camera.height - side])
    return crop_affine(np.array([*corner, side, side], np.float32), size)


def _place_all(rng: np.random.Generator, people: People, cameras: list[Camera], near_share: float) -> _Placed:
    body, scene, slot, shift = [], [], [], []
    for i, camera in enumerate(cameras):
        base = _share(rng)
        group = rng.random() < _GROUP_SHARE
        stood: list[np.ndarray] = []
        for _ in range(int(rng.choice(len(_COUNT_SHARES), p=_COUNT_SHARES))):
            j = int(rng.integers(len(people.vertices)))
            share = base * float(np.exp(rng.normal(0, 0.15))) if group else _share(rng)
            vertices = people.vertices[j]
            near = bool(near_share) and rng.random() < near_share
            for _ in range(4):  # tries to stand beside the others, not in them
                position = place(rng, camera, np.ptp(vertices[::_STRIDE], 0), share, near)
                if all(np.linalg.norm(position - other) > _APART_M for other in stood):
                    body.append(j)
                    scene.append(i)
                    slot.append(len(stood))
                    shift.append(position - middle_of(vertices))
                    stood.append(position)
                    break
    return _Placed(
        np.array(body, np.int64), np.array(scene, np.int32), np.array(slot, np.int64),
        np.array(shift, np.float32).reshape(-1, 3),
    )  # fmt: skip


def _share(rng: np.random.Generator) -> float:
    """Every size is as likely as its double; half of the people are about as large as a robot meets them."""
    if rng.random() < 0.5:
        return float(np.clip(np.exp(rng.normal(np.log(0.55), 0.4)), _SMALLEST, _LARGEST))
    return float(np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))))


def _render(engine: SynthEngine, people: People, placed: _Placed, cameras: list[Camera], size: int) -> SceneSurface:
    vertices = people.vertices[placed.body] + placed.shift[:, None]
    looks = [people.appearances[j] for j in placed.body]
    return engine.renderer.render_window(vertices, looks, cameras, size, size, placed.scene)


def _label(
    people: People, placed: _Placed, cameras: list[Camera], owner: np.ndarray, corner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N,4,4) px and kinds (N,4) from the masks; ``corner`` is the scene's first pixel on the canvas."""
    count, height, width = owner.shape
    boxes = np.zeros((count, MAX_PEOPLE, 4), np.float32)
    kind = np.zeros((count, MAX_PEOPLE), np.int8)
    for j, i, slot, shift in zip(placed.body, placed.scene, placed.slot, placed.shift):
        mask = owner[i] == slot
        if not mask.any():
            continue
        v, u = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[i, slot] = u[0], v[0], u[-1] + 1 - u[0], v[-1] + 1 - v[0]
        points = people.vertices[j, ::_STRIDE] + shift
        c, z = cameras[i], np.maximum(points[:, 2], 0.05)
        uv = np.stack([c.fx * points[:, 0] / z + c.cx, c.fy * points[:, 1] / z + c.cy], -1) - corner
        at = np.floor(uv).astype(np.int64)
        ok = ((at >= 0) & (at < (width, height))).all(-1)
        share = mask[at[ok, 1], at[ok, 0]].sum() / len(points)
        large = boxes[i, slot, 2] >= _MIN_WIDTH_PX and boxes[i, slot, 3] >= _MIN_HEIGHT_PX
        kind[i, slot] = PERSON if large and share >= _MIN_SHARE else UNASKED
    return boxes, kind
