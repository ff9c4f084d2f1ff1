"""Colours of skin, hair and cloth as functions of the place on the body."""

from __future__ import annotations

import cv2
import numpy as np

from .surface import SurfacePoints, smooth_step, wave_noise

# Skin: from light to dark, linear blends between these; sRGB in [0,1].
_SKIN = np.array(
    [[0.96, 0.82, 0.73], [0.90, 0.71, 0.58], [0.78, 0.57, 0.43], [0.60, 0.41, 0.29], [0.42, 0.27, 0.19], [0.26, 0.17, 0.13]]
)
_HAIR = np.array(
    [
        [0.06, 0.05, 0.05],
        [0.16, 0.10, 0.07],
        [0.32, 0.20, 0.12],
        [0.58, 0.42, 0.24],
        [0.80, 0.68, 0.45],
        [0.62, 0.60, 0.58],
        [0.45, 0.16, 0.08],
    ]
)


def skin_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) sRGB."""
    t = rng.uniform(0, len(_SKIN) - 1.001)
    i = int(t)
    return (_SKIN[i] * (i + 1 - t) + _SKIN[i + 1] * (t - i)) * rng.uniform(0.94, 1.04, 3)


def hair_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) sRGB; now and then dyed."""
    if rng.random() < 0.05:
        return rng.uniform(0.1, 0.9, 3)
    return np.clip(_HAIR[rng.choice(len(_HAIR), p=[0.28, 0.25, 0.17, 0.11, 0.07, 0.08, 0.04])] * rng.uniform(0.75, 1.25), 0, 1)


def cloth_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) sRGB: many greys, blacks, whites, blues and muted tones, some loud ones."""
    kind = rng.random()
    if kind < 0.30:
        return np.clip(
            rng.choice([rng.uniform(0.03, 0.15), rng.uniform(0.25, 0.6), rng.uniform(0.75, 0.97)], p=[0.5, 0.2, 0.3])
            + rng.normal(0, 0.015, 3),
            0,
            1,
        )
    hue, value = rng.random(), rng.uniform(0.15, 0.95)
    saturation = rng.uniform(0.55, 0.95) if kind > 0.75 else rng.uniform(0.1, 0.5)
    if 0.30 <= kind < 0.42:
        hue, saturation, value = rng.uniform(0.56, 0.66), rng.uniform(0.25, 0.7), rng.uniform(0.15, 0.6)  # denim and navy
    pixel = np.array([[[hue * 360, saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)


def skin(rng: np.random.Generator, points: SurfacePoints, tone: np.ndarray) -> np.ndarray:
    """(N,3): blotches, redder cheeks, lips and hands, darker eyes and brows."""
    n = len(points.position)
    out = np.tile(tone, (n, 1))
    out *= 1 + 0.035 * wave_noise(rng, points.position, 0.05)[:, None] + 0.03 * wave_noise(rng, points.position, 0.25)[:, None]
    d, face = points.head_direction, (points.head > 0.6) & (points.head_direction[:, 2] > 0.2)
    warm = smooth_step(points.along_arm, 1.95, 2.3) * (points.arm > 0.5) + 0.6 * face
    out *= 1 + warm[:, None] * np.array([0.02, -0.05, -0.06])

    def spot(x: float, y: float, width: float, height: float) -> np.ndarray:
        return np.exp(-(((np.abs(d[:, 0]) - x) / width) ** 2) - ((d[:, 1] - y) / height) ** 2) * face

    up = rng.uniform(0.10, 0.16)
    for x, y, w, h, colour, amount in (
        (0.36, up - 0.12, 0.085, 0.035, (0.22, 0.17, 0.15), 0.6),  # eyes
        (0.36, up + 0.04, 0.12, 0.028, tone * 0.45, 0.4),  # brows
        (0.0, -0.52, 0.20, 0.06, tone * (0.85, 0.55, 0.55), 0.7),  # lips
        (0.0, -0.30, 0.11, 0.06, tone * 0.75, 0.35),  # under the nose
    ):
        m = (amount * spot(x, y, w, h))[:, None]
        out = out * (1 - m) + m * np.asarray(colour)
    return out


def cloth(rng: np.random.Generator, points: SurfacePoints, photo: np.ndarray | None = None) -> np.ndarray:
    """(N,3) of one fabric: plain, stripes, checks, dots, blocks, camouflage, gradient, or a photograph as print."""
    base = cloth_colour(rng)
    n = len(points.position)
    out = np.tile(base, (n, 1))
    kind = rng.choice(
        ["plain", "stripes", "checks", "dots", "blocks", "camouflage", "gradient", "photo"],
        p=[0.50, 0.14, 0.09, 0.05, 0.07, 0.04, 0.04, 0.07],
    )
    second = cloth_colour(rng)
    # Around trunk and limbs cloth is measured along its surface, so x folds over to the back where the normal turns.
    x = points.position[:, 0] + 0.5 * points.position[:, 2] * np.sign(points.position[:, 0])
    y = points.position[:, 1]
    if kind == "stripes":
        along = (y, x, 0.7 * x + 0.7 * y)[int(rng.choice(3, p=[0.6, 0.3, 0.1]))]
        period, width = rng.uniform(0.015, 0.12), rng.uniform(0.25, 0.7)
        wave = np.abs(((along / period + rng.random()) % 1) - 0.5) * 2
        m = smooth_step(wave, width - 0.12, width + 0.12)[:, None]
        out = out * (1 - m) + m * second
        if rng.random() < 0.3:
            out = np.where(((along / (3 * period)) % 1 < 0.3)[:, None], cloth_colour(rng), out)
    elif kind == "checks":
        px, py = rng.uniform(0.02, 0.09, 2)
        mx = smooth_step(np.abs((x / px % 1) - 0.5) * 2, 0.4, 0.6)[:, None]
        my = smooth_step(np.abs((y / py % 1) - 0.5) * 2, 0.4, 0.6)[:, None]
        out = out * (1 - 0.5 * mx - 0.5 * my) + second * (0.5 * mx + 0.5 * my)
        thin = ((np.abs(x / px % 1 - 0.5) < 0.06) | (np.abs(y / py % 1 - 0.5) < 0.06))[:, None]
        out = np.where(thin, cloth_colour(rng), out)
    elif kind == "dots":
        p = rng.uniform(0.025, 0.08)
        row = np.floor(y / p)
        dx, dy = ((x / p + 0.5 * (row % 2)) % 1) - 0.5, (y / p % 1) - 0.5
        m = 1 - smooth_step(np.hypot(dx, dy), rng.uniform(0.12, 0.3), 0.36)
        out = out * (1 - m[:, None]) + m[:, None] * second
    elif kind == "blocks":
        if rng.random() < 0.5:
            cut = np.quantile(y, rng.uniform(0.3, 0.7))
            m = y > cut
        else:
            m = (points.arm > 0.4) | (np.abs(x) > rng.uniform(0.08, 0.16))
        out = np.where(m[:, None], second, out)
    elif kind == "camouflage":
        field, third = wave_noise(rng, points.position, rng.uniform(0.06, 0.3)), cloth_colour(rng)
        out = np.where((field > 0.4)[:, None], second, np.where((field < -0.6)[:, None], third, out))
    elif kind == "gradient":
        t = (y - y.min()) / max(float(np.ptp(y)), 1e-3)
        out = out * t[:, None] + second * (1 - t[:, None])
    elif kind == "photo" and photo is not None:
        scale = rng.uniform(0.5, 2.5) / 0.6  # repeats per metre, mirrored
        out = _sample(photo, x * scale + rng.random(), y * scale + rng.random())
        if rng.random() < 0.5:
            out = 0.55 * out + 0.45 * base
    return _woven(rng, points, np.clip(out, 0, 1)) if kind != "photo" else out


def logo(rng: np.random.Generator, points: SurfacePoints, colours: np.ndarray, photo: np.ndarray | None) -> np.ndarray:
    """Put a print on the chest, back or breast of (N,3) colours."""
    centre = np.array([rng.choice([0.0, rng.uniform(-0.08, 0.08)]), rng.uniform(0.55, 0.80)])
    half = np.array([rng.uniform(0.03, 0.13), rng.uniform(0.03, 0.22)])
    u = (points.position[:, 0] - centre[0]) / half[0]
    v = (points.up_trunk - centre[1]) / half[1]
    inside = (points.arm < 0.5) & (points.normal[:, 2] * rng.choice([1.0, 1.0, -1.0]) > 0.2)
    shape = rng.integers(4)
    if shape == 0:
        inside &= np.hypot(u, v) < 1
    elif shape == 1:
        inside &= (np.abs(u) < 1) & (np.abs(v) < 1) & (np.sin(9 * v + rng.uniform(0, 6)) + np.sin(14 * u + rng.uniform(0, 6)) > 0)
    else:
        inside &= (np.abs(u) < 1) & (np.abs(v) < 1)
    if photo is not None and shape == 3:
        pattern = _sample(photo, 0.5 + 0.5 * u, 0.5 - 0.5 * v)
    else:
        pattern = np.tile(cloth_colour(rng), (len(u), 1))
    return np.where(inside[:, None], pattern, colours)


def hair(rng: np.random.Generator, points: SurfacePoints, colour: np.ndarray) -> np.ndarray:
    """(N,3): strands as fine streaks."""
    azimuth = np.arctan2(points.head_direction[:, 0], points.head_direction[:, 2])
    streak = np.cos(azimuth * 40 + 2 * wave_noise(rng, points.position, 0.03)) * 0.12 + 0.12 * wave_noise(
        rng, points.position, 0.04
    )
    return np.clip(colour * (1 + streak[:, None]), 0, 1)


def _woven(rng: np.random.Generator, points: SurfacePoints, colours: np.ndarray) -> np.ndarray:
    """Fold shading and grain, baked in: real cloth is never one colour."""
    strength = rng.uniform(0.02, 0.16)
    folds = wave_noise(rng, points.position * (1.0, 0.45, 1.0), rng.uniform(0.05, 0.2))
    grain = rng.normal(0, rng.uniform(0.0, 0.06), len(colours))
    worn = 0.5 * strength * wave_noise(rng, points.position, 0.35)
    return np.clip(colours * (1 + strength * np.tanh(folds) + grain + worn)[:, None], 0, 1)


def _sample(photo: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colours (N,3) of a uint8 photograph repeated in mirror images over the plane."""
    height, width = photo.shape[:2]
    fold = lambda t: 1 - np.abs(t % 2 - 1)  # noqa: E731
    i = np.minimum((fold(v) * height).astype(int), height - 1)
    j = np.minimum((fold(u) * width).astype(int), width - 1)
    return photo[i, j] / 255.0
