"""What stands in front of people and behind them, and where pictures end."""

from __future__ import annotations

import cv2
import numpy as np

from ..body.joints import JOINT_INDEX
from .backgrounds import Backgrounds

# Where false limbs begin; arms are what photographs were mistaken for.
_SPROUT = [
    JOINT_INDEX[f"{side}_{name}"] for side in ("left", "right") for name in ("shoulder", "shoulder", "elbow", "wrist", "hip")
]


def draw_occluders(rng: np.random.Generator, image: np.ndarray, backgrounds: Backgrounds) -> np.ndarray:
    """Put one to three things in front; ``image`` (S,S,3) float32 is changed.  Returns the (S,S) bool mask they cover."""
    size = image.shape[0]
    mask = np.zeros((size, size), np.uint8)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))):
        kind = rng.integers(5)
        centre = rng.uniform(0, size, 2)
        if kind <= 1:  # a table, a wall, a car: covers from below or from a side
            w, h = rng.uniform(0.15, 0.8) * size, rng.uniform(0.08, 0.35) * size
            if rng.random() < 0.6:
                centre[1] = size * rng.uniform(0.75, 1.05)
            box = cv2.boxPoints(((float(centre[0]), float(centre[1])), (float(w), float(h)), float(rng.normal(0, 10))))
            cv2.fillConvexPoly(mask, box.astype(np.int32), 255)
        elif kind == 2:
            axes = (int(rng.uniform(0.04, 0.22) * size), int(rng.uniform(0.04, 0.22) * size))
            cv2.ellipse(mask, (int(centre[0]), int(centre[1])), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
        elif kind == 3:  # a pole, a branch, an arm
            angle, length = rng.uniform(0, np.pi), rng.uniform(0.3, 1.5) * size
            d = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
            a, b = (centre - d).astype(int), (centre + d).astype(int)
            cv2.line(mask, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), 255, int(rng.uniform(0.02, 0.10) * size) + 1)
        else:  # something ragged: plants, bags
            n = int(rng.integers(6, 14))
            angles = np.sort(rng.uniform(0, 2 * np.pi, n))
            radius = rng.uniform(0.06, 0.22) * size * rng.uniform(0.35, 1.3, n)
            points = centre + np.stack([np.cos(angles), np.sin(angles)], -1) * radius[:, None]
            cv2.fillPoly(mask, [points.astype(np.int32)], 255)
    covered = mask > 0
    image[covered] = _stuff(rng, backgrounds, size)[covered]
    return covered


def draw_carried(
    rng: np.random.Generator, image: np.ndarray, backgrounds: Backgrounds, hand_px: np.ndarray, metre_px: float, own: np.ndarray
) -> np.ndarray:
    """Put a bag, a rod or a ball into a hand; ``image`` (S,S,3) float32 is changed.  Returns the (S,S) bool mask it covers.

    hand_px (2,) crop px; metre_px: length of a metre there; own (S,S) bool: where the person is seen.  What a hidden hand
    carries is behind the person.
    """
    size = len(image)
    mask = np.zeros((size, size), np.uint8)
    w, h = metre_px * rng.uniform(0.12, 0.5), metre_px * rng.uniform(0.12, 0.5)
    x, y = (float(c) for c in hand_px)
    kind = rng.integers(4)
    if kind <= 1:  # a bag that hangs on the hand
        drop = metre_px * rng.uniform(0.0, 0.3)
        cv2.line(mask, (int(x), int(y)), (int(x), int(y + drop)), 255, max(int(0.02 * metre_px), 1))
        if kind == 0:
            box = cv2.boxPoints(((x, y + drop + 0.5 * h), (w, h), float(rng.normal(0, 8))))
            cv2.fillConvexPoly(mask, box.astype(np.int32), 255)
        else:
            cv2.ellipse(mask, (int(x), int(y + drop + 0.5 * h)), (int(0.5 * w) + 1, int(0.5 * h) + 1), 0, 0, 360, 255, -1)
    elif kind == 2:  # a rod, an umbrella, a racket
        angle, a, b = rng.uniform(0, np.pi), metre_px * rng.uniform(0, 1.2), metre_px * rng.uniform(0, 1.2)
        d = np.array([np.cos(angle), np.sin(angle)])
        ends = [tuple(int(v) for v in np.array([x, y]) + s * d) for s in (a, -b)]
        cv2.line(mask, ends[0], ends[1], 255, max(int(metre_px * rng.uniform(0.015, 0.06)), 1))
    else:
        cv2.ellipse(mask, (int(x), int(y)), (int(0.5 * w) + 1, int(0.5 * h) + 1), float(rng.uniform(0, 180)), 0, 360, 255, -1)
    at = np.floor(hand_px).astype(int)
    hand_seen = ((at >= 0) & (at < size)).all() and bool(own[at[1], at[0]])
    covered = (mask > 0) & (True if hand_seen else ~own)
    image[covered] = _stuff(rng, backgrounds, size)[covered]
    return covered


def draw_false_limbs(
    rng: np.random.Generator, image: np.ndarray, backgrounds: Backgrounds, joints_px: np.ndarray, worn: np.ndarray
) -> None:
    """Put beams, branches and edges of roofs behind a person, where limbs could be; ``image`` (S,S,3) float32 is changed.

    joints_px (24,2) crop px; worn (N,3) colours in [0,1] that the person's surface has, or none.  Some begin at a shoulder, an
    elbow, a wrist or a hip as limbs do, others pass by.
    """
    size = len(image)
    tall = float(np.clip(np.ptp(joints_px[:, 1]), 0.2 * size, 1.2 * size))
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))):
        start = joints_px[rng.choice(_SPROUT)] + rng.normal(0, 0.02 * tall, 2)
        angle, bend = rng.uniform(-np.pi, np.pi), rng.normal(0, 0.5)
        lengths = tall * rng.uniform(0.1, 0.3, 2)
        if rng.random() < 0.4:  # passes by
            angle, bend = rng.normal(0, 0.5) + rng.choice([0.0, np.pi]), rng.normal(0, 0.15)
            start = start + rng.normal(0, 0.12 * tall, 2) - tall * rng.uniform(0, 0.5) * _ray(angle)
            lengths = tall * rng.uniform(0.2, 0.6, 2)
        elbow = start + lengths[0] * _ray(angle)
        points = np.stack([start, elbow, elbow + lengths[1] * _ray(angle + bend)])
        thick = tall * np.exp(rng.uniform(np.log(0.02), np.log(0.08)))
        mask = np.zeros((size, size), np.uint8)
        for (a, b), share in zip(zip(points, points[1:]), (1.0, rng.uniform(0.6, 1.0))):
            cv2.line(mask, a.astype(int).tolist(), b.astype(int).tolist(), 255, max(int(share * thick), 1), cv2.LINE_AA)
        if rng.random() < 0.3:  # it ends in something
            cv2.circle(mask, points[2].astype(int).tolist(), max(int(thick * rng.uniform(0.5, 1.0)), 1), 255, -1, cv2.LINE_AA)
        colours = _stuff(rng, backgrounds, size)
        if len(worn) and rng.random() < 0.4:
            own = worn[int(rng.integers(len(worn)))]
            colours = (
                own * (0.6 + 0.8 * colours.mean(2, keepdims=True)) if rng.random() < 0.7 else np.broadcast_to(own, image.shape)
            )
        if rng.random() < 0.5:  # round: lighter along one side
            depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)[..., None] / max(0.5 * thick, 1)
            colours = colours * (0.6 + 0.5 * np.clip(depth, 0, 1))
        weight = mask[..., None] * np.float32(1 / 255)
        image += weight * (np.float32(colours) - image)


def _ray(angle_rad: float) -> np.ndarray:
    return np.array([np.cos(angle_rad), np.sin(angle_rad)])


def _stuff(rng: np.random.Generator, backgrounds: Backgrounds, size: int) -> np.ndarray:
    """(S,S,3) float32 colours of things: parts of photographs, now and then nearly plain."""
    colours = backgrounds.cut(rng, size).astype(np.float32) / 255 * rng.uniform(0.5, 1.3)
    if rng.random() < 0.3:
        colours = 0.25 * colours + 0.75 * rng.uniform(0.05, 0.9, 3).astype(np.float32)
    return colours


def cut_at_border(image: np.ndarray, inside_u: np.ndarray, inside_v: np.ndarray) -> np.ndarray:
    """Repeat the border pixels of the picture where the crop leaves it: (S,S,3) uint8, (S,) bool, (S,) bool -> same."""
    if inside_u.all() and inside_v.all():
        return image
    return image[_nearest_true(inside_v)][:, _nearest_true(inside_u)]


def _nearest_true(flags: np.ndarray) -> np.ndarray:
    index = np.flatnonzero(flags)
    if not len(index):
        return np.zeros(len(flags), np.int64)
    return np.clip(np.arange(len(flags)), index[0], index[-1])


def soften_edges(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blend across the outline of a mask as a lens does; ``image`` (S,S,3) float32, mask (S,S) bool or small ints."""
    border = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    at = np.flatnonzero(border)
    blurred = cv2.GaussianBlur(image, (3, 3), 0.8)
    image.reshape(-1, 3)[at] = blurred.reshape(-1, 3)[at]
    return image


def cast_shadow(rng: np.random.Generator, background: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Darken the background beside a person as their shadow on floor and wall would."""
    size = len(mask)
    shear, squash = rng.normal(0, 0.5), rng.uniform(0.15, 1.0)
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return background
    foot = float(rows[-1])
    m = 0.5 * np.float32([[2, 2 * shear, -shear * foot + rng.normal(0, 3)], [0, 2 * squash, foot * (1 - squash)]])
    small = cv2.resize(mask.astype(np.float32), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    shadow = cv2.GaussianBlur(cv2.warpAffine(small, m, small.shape), (0, 0), float(rng.uniform(0.7, 4.0)))
    shadow = cv2.resize(shadow, (size, size), interpolation=cv2.INTER_LINEAR)
    return background * (1 - np.float32(rng.uniform(0.15, 0.6)) * shadow[:, :, None])
