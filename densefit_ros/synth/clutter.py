"""Backgrounds as busy as workshops, shelves and streets are: drawn things between the pasted patches.

Wallpaper photographs are calm.  A finder that only ever saw people in front of calm pictures takes everything detailed for
a person.
"""

from __future__ import annotations

import cv2
import numpy as np

from .backgrounds import Backgrounds

_SHARE = 0.7  # of the pictures


class ClutteredBackgrounds(Backgrounds):
    """The same photographs; :meth:`scene` puts up to forty things into most of them."""

    def __init__(self, plain: Backgrounds) -> None:
        super().__init__(plain.images)

    def scene(self, rng: np.random.Generator, size: int, crisp: bool = False) -> np.ndarray:
        """As :meth:`Backgrounds.scene`, with clutter."""
        image = super().scene(rng, size, crisp)
        if rng.random() >= _SHARE:
            return image
        palette = self.cut(rng, 8).reshape(-1, 3)
        for _ in range(int(np.exp(rng.uniform(np.log(3), np.log(40))))):
            _DRAWERS[int(rng.integers(len(_DRAWERS)))](self, rng, image, palette)
        if rng.random() < 0.3 and not crisp:
            image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6)))
        return image


def _colour(rng: np.random.Generator, palette: np.ndarray) -> tuple[int, ...]:
    base = palette[int(rng.integers(len(palette)))] if rng.random() < 0.6 else rng.integers(0, 256, 3)
    return tuple(int(v) for v in np.clip(base * rng.uniform(0.4, 1.3), 0, 255))


def _extent(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Width and height; upright things are as frequent as people are."""
    long, ratio = size * np.exp(rng.uniform(np.log(0.04), np.log(0.6))), rng.uniform(0.1, 1.0)
    w, h = (long * ratio, long) if rng.random() < 0.6 else (long, long * ratio)
    return max(int(w), 3), max(int(h), 3)


def _place(rng: np.random.Generator, size: int) -> tuple[int, int]:
    x, y = rng.integers(0, size, 2)
    return int(x), int(y)


def _patch(self: Backgrounds, rng: np.random.Generator, image: np.ndarray, palette: np.ndarray) -> None:
    """A box, a bag, a sign: a window of another photograph in a rounded outline."""
    size = len(image)
    (w, h), (x, y) = _extent(rng, size), _place(rng, size)
    part = image[y : y + h, x : x + w]
    patch = cv2.resize(self.cut(rng, 32), (w, h), interpolation=cv2.INTER_LINEAR)[: part.shape[0], : part.shape[1]]
    if rng.random() < 0.5:
        part[:] = patch
        return
    mask = np.zeros((h, w), np.uint8)
    cv2.ellipse(mask, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 255, -1)
    inside = mask[: part.shape[0], : part.shape[1]] > 0
    part[inside] = patch[inside]


def _wheel(self: Backgrounds, rng: np.random.Generator, image: np.ndarray, palette: np.ndarray) -> None:
    (w, h), centre = _extent(rng, len(image)), _place(rng, len(image))
    axes, angle, colour = (w // 2 + 1, h // 2 + 1), float(rng.uniform(0, 180)), _colour(rng, palette)
    cv2.ellipse(image, centre, axes, angle, 0, 360, colour, int(rng.integers(1, max(min(w, h) // 4, 2) + 1)), cv2.LINE_AA)
    for a in rng.uniform(0, 2 * np.pi, int(rng.choice([0, 6]))):
        end = (int(centre[0] + 0.5 * w * np.cos(a)), int(centre[1] + 0.5 * h * np.sin(a)))
        cv2.line(image, centre, end, colour, 1, cv2.LINE_AA)


def _shelf(self: Backgrounds, rng: np.random.Generator, image: np.ndarray, palette: np.ndarray) -> None:
    """Boards with things on them, or a window with bars."""
    (w, h), (x, y), colour = _extent(rng, len(image)), _place(rng, len(image)), _colour(rng, palette)
    width = int(rng.integers(1, 4))
    cv2.rectangle(image, (x, y), (x + w, y + h), colour, width if rng.random() < 0.6 else -1)
    colour = _colour(rng, palette)
    for k in range(1, int(rng.integers(1, 6))):
        if rng.random() < 0.6:
            cv2.line(image, (x, y + k * h // 5), (x + w, y + k * h // 5), colour, width)
        else:
            cv2.line(image, (x + k * w // 5, y), (x + k * w // 5, y + h), colour, width)


def _rods(self: Backgrounds, rng: np.random.Generator, image: np.ndarray, palette: np.ndarray) -> None:
    """Poles, pipes, legs of chairs: a few strokes that hang together."""
    size = len(image)
    point, colour = np.array(_place(rng, size), float), _colour(rng, palette)
    for _ in range(int(rng.integers(1, 6))):
        angle = float(rng.choice([0.0, 0.5 * np.pi, rng.uniform(0, np.pi)]))
        end = point + rng.uniform(0.03, 0.35) * size * np.array([np.cos(angle), np.sin(angle)]) * rng.choice([-1, 1])
        thick = int(np.exp(rng.uniform(0, np.log(max(0.05 * size, 2)))))
        cv2.line(image, tuple(int(v) for v in point), tuple(int(v) for v in end), colour, thick, cv2.LINE_AA)
        point = end


def _blob(self: Backgrounds, rng: np.random.Generator, image: np.ndarray, palette: np.ndarray) -> None:
    """Heads, balls, bottles, cushions: one to three lumps, often one on the other."""
    (w, h), (x, y) = _extent(rng, len(image)), _place(rng, len(image))
    for _ in range(int(rng.integers(1, 4))):
        axes = (max(int(0.5 * w * rng.uniform(0.4, 1)), 1), max(int(0.5 * h * rng.uniform(0.3, 0.8)), 1))
        cv2.ellipse(image, (x, y), axes, float(rng.normal(0, 15)), 0, 360, _colour(rng, palette), -1, cv2.LINE_AA)
        y += axes[1]


_DRAWERS = (_patch, _patch, _wheel, _shelf, _rods, _blob)
