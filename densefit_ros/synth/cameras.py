"""Cameras, and where in their pictures a person stands; boxes as detectors and tracks give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import so3
from ..geometry.camera import camera_from_fov
from ..geometry.crop import ASPECT
from ..types import Camera

_SHAPES = ((640, 480), (1280, 720), (1920, 1080), (720, 1280), (640, 640), (480, 640))
# Optical axes (x right, y down, z forward) of a level camera that looks at a person facing it, in the person's world.
_LEVEL = np.diag([1.0, -1.0, -1.0]).astype(np.float32)


@dataclass(frozen=True)
class CropOptions:
    """How crops are cut from the full image.

    Tight: every pixel counts.  Networks that had learnt on 1.2 times the box, 0.85 to 1.3 times that, were 12 to 15 %
    better in tracked videos on squares of 1.05 times the box than on their own 1.2 (docs/DECISIONS.md).
    """

    aspect: float = ASPECT  # the part of a crop's columns that matters, in its middle
    margin: float = 1.05  # of the perfect portrait around the person
    centre_jitter: float = 0.07  # of the portrait's sides
    scale_low: float = 0.88
    scale_high: float = 1.22
    visible_box_share: float = 0.35  # crops around the visible part only, as a detector sees a truncated person
    negative_share: float = 0.10  # crops without a person at their centre
    crowd_share: float = 0.40  # crops with other people
    occluder_share: float = 0.30
    carried_share: float = 0.25  # crops with something in a hand
    coarse_share: float = 0.13  # crops blown up from fewer pixels, as of people far away or before a small camera
    crisp_share: float = 0.0  # crops as sharp as those from large images: all in focus, edges enhanced, half of the noise
    false_limbs_share: float = 0.0  # crops with beams and branches behind the person, where limbs could be
    rough_share: float = 0.0  # boxes twice as far off, as finders and lost tracks give them
    # People as a robot meets them: so near that their legs, or all below the chest, are out of the picture.  Views are then
    # steeper as well, of all people.
    near_share: float = 0.0


def sample_camera(rng: np.random.Generator) -> Camera:
    """A camera with a diagonal field of view of 40 to 100 degrees and its axis near the middle of the image."""
    width, height = _SHAPES[int(rng.choice(len(_SHAPES), p=[0.32, 0.26, 0.16, 0.10, 0.08, 0.08]))]
    camera = camera_from_fov(width, height, float(np.clip(rng.normal(66, 15), 40, 100)))
    shift = rng.normal(0, 0.01, 2) * width
    return Camera(camera.fx, camera.fy, camera.cx + float(shift[0]), camera.cy + float(shift[1]), width, height)


def sample_view(rng: np.random.Generator, n: int, steep: bool = False) -> np.ndarray:
    """Rotations (n,3,3) from the person's world (y up, facing +z before yaw) to the camera: pitch, roll and yaw.

    Most views are level, some look down from a ceiling or up from the floor; from the front somewhat more often than from
    behind: who follows a person, or walks along a street, sees backs.  ``steep``: more of them, and up by more, as of a
    camera at knee height before somebody near.
    """
    kind = rng.random(n)
    facing = rng.normal(0, 0.75, n) + np.where(kind < 0.35, 0.0, np.pi)
    yaw = np.where(kind < 0.55, facing, rng.uniform(-np.pi, np.pi, n))
    level, up = (0.68, -45) if steep else (0.75, -25)
    pitch = np.where(rng.random(n) < level, rng.normal(4, 8, n), rng.uniform(up, 55, n))  # positive: the camera looks down
    roll = rng.normal(0, 5 if steep else 4, n)
    about_x = _rotvec(np.radians(pitch), 0)
    return about_x @ _rotvec(np.radians(roll), 2) @ _LEVEL @ _rotvec(yaw, 1)


def _rotvec(angle: np.ndarray, axis: int) -> np.ndarray:
    v = np.zeros((len(angle), 3), np.float32)
    v[:, axis] = angle
    return so3.exp(v)


def place(
    rng: np.random.Generator, camera: Camera, extent_m: np.ndarray, share: float | None = None, near: bool = False
) -> np.ndarray:
    """Camera-frame position (3,) m of a body's middle, so that it covers a natural part of the image.

    extent_m (3,): size of the posed body along the camera axes; ``share``: the part of the image's height that it fills,
    drawn if not given; ``near``: more than all of it, with the upper end in the picture.
    """
    tall, wide = float(extent_m[1]), float(extent_m[0])
    if near:
        return _near(rng, camera, tall, float(extent_m[2]))
    if share is None:
        share = float(np.exp(rng.normal(np.log(0.60), 0.36)))  # of the image that the body fills, beyond 1 it is cut off
        share = min(max(share, 0.16), 1.9)
    z = max(camera.fy * tall / (share * camera.height), 0.6 * camera.fx * wide / (share * camera.width)) + 0.4 * float(
        extent_m[2]
    )
    z = float(np.clip(z, 0.9, 14.0))
    half_w, half_h = 0.5 * camera.fx * wide / z, 0.5 * camera.fy * tall / z
    # Usually whole in the picture if it fits, else anywhere such that a good part is left inside.
    inside = rng.random() < 0.78
    u = _position(rng, camera.width, half_w if inside else 0.35 * half_w)
    v = _position(rng, camera.height, half_h if inside else 0.35 * half_h)
    if not inside and rng.random() < 0.5:  # cut at the knees or the waist, head in the picture
        v = float(half_h * rng.uniform(0.85, 1.1) + 0.02 * camera.height) if half_h * 2 > 0.9 * camera.height else v
    return np.array([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], np.float32)


def _near(rng: np.random.Generator, camera: Camera, tall_m: float, deep_m: float) -> np.ndarray:
    share = float(np.exp(rng.uniform(np.log(1.1), np.log(3.2))))
    z = max(camera.fy * tall_m / (share * camera.height), 0.4) + 0.4 * deep_m
    u = camera.width * rng.uniform(0.2, 0.8)
    v = 0.5 * camera.fy * tall_m / z + camera.height * rng.uniform(-0.02, 0.2)
    return np.array([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], np.float32)


def _position(rng: np.random.Generator, length: int, half: float) -> float:
    if 2 * half >= length:
        return 0.5 * length + float(rng.normal(0, 0.06)) * length
    return float(np.clip(rng.normal(0.5 * length, 0.22 * length), half, length - half))


def box_of(points_px: np.ndarray) -> np.ndarray:
    """(N,2) px -> (4,) x, y, w, h of their bounding box."""
    low, high = points_px.min(0), points_px.max(0)
    return np.concatenate([low, high - low])


def crop_square(rng: np.random.Generator, box_xywh: np.ndarray, camera: Camera, options: CropOptions) -> np.ndarray:
    """(4,) square x, y, side, side as a detector's or a track's box would give it."""
    box = np.asarray(box_xywh, np.float64)
    if rng.random() < options.visible_box_share:
        low = np.clip(box[:2], 0, (camera.width, camera.height))
        high = np.clip(box[:2] + box[2:], 0, (camera.width, camera.height))
        if (high - low).min() > 8:
            box = np.concatenate([low, high - low])
    portrait = np.array([options.aspect, 1.0])
    side = max(*(box[2:] / portrait), 8.0) * options.margin
    off = 2.0 if options.rough_share and rng.random() < options.rough_share else 1.0  # no draw at 0: seeds stay
    centre = box[:2] + box[2:] / 2 + rng.uniform(-1, 1, 2) * off * options.centre_jitter * side * portrait
    side *= np.exp(off * rng.uniform(np.log(options.scale_low), np.log(options.scale_high)))
    return np.array([centre[0] - side / 2, centre[1] - side / 2, side, side], np.float32)


def wrong_square(rng: np.random.Generator, box_xywh: np.ndarray, smallest: float = 0.2, small: float = 0.36) -> np.ndarray:
    """A square that no person fills: far off, much too large, or so small a part of the body (shares of its size)."""
    box = np.asarray(box_xywh, np.float64)
    side = max(box[2], box[3], 8.0) * 1.2
    centre = box[:2] + box[2:] / 2
    kind = rng.integers(3)
    if kind == 0:
        direction = rng.normal(size=2)
        centre = centre + direction / max(float(np.linalg.norm(direction)), 1e-6) * side * rng.uniform(0.6, 1.0)
        side *= rng.uniform(0.6, 1.3)
    elif kind == 1:
        centre = centre + rng.uniform(-0.8, 0.8, 2) * side
        side *= rng.uniform(2.2, 3.5)
    else:
        centre = centre + rng.uniform(-0.4, 0.4, 2) * np.maximum(box[2:], 8)
        side *= rng.uniform(smallest, small)
    return np.array([centre[0] - side / 2, centre[1] - side / 2, side, side], np.float32)


def square_quality(square_xywh: np.ndarray, ideal_xywh: np.ndarray) -> float:
    """Overlap (intersection over union) of two squares, in [0,1]."""
    low = np.maximum(square_xywh[:2], ideal_xywh[:2])
    high = np.minimum(square_xywh[:2] + square_xywh[2:], ideal_xywh[:2] + ideal_xywh[2:])
    inter = float(np.prod(np.maximum(high - low, 0)))
    return inter / max(float(np.prod(square_xywh[2:]) + np.prod(ideal_xywh[2:])) - inter, 1e-6)
