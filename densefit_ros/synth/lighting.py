"""Light on people and what a camera makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_BRIGHTEST = 1.4  # colours above are cut off before the camera's own curve
_COARSEST = 0.35  # pixels of the coarsest pictures a side, over those of the others


@dataclass(frozen=True, eq=False)
class Lights:
    """L directional lights and ambient light from above and below, camera frame (y down)."""

    direction: np.ndarray  # (L,3) unit, towards the light
    colour: np.ndarray  # (L,3)
    sky: np.ndarray  # (3,) ambient from above
    ground: np.ndarray  # (3,) ambient from below
    gloss: float  # strength of the highlight
    stripes: float  # contrast of cast shadows on the person
    occlusion: float  # strength of the darkening of hollows


def sample_lights(rng: np.random.Generator, ambient: np.ndarray | None = None) -> Lights:
    """Sun, lamps or an overcast sky; ``ambient`` (3,) in [0,1] tints the whole like the place it stands in."""
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.33, 0.17]))
    direction = rng.normal(size=(count, 3))
    direction[:, 1] = -np.abs(direction[:, 1]) - 0.3 * (rng.random(count) < 0.8)
    direction[:, 2] = np.where(rng.random(count) < 0.75, -np.abs(direction[:, 2]), direction[:, 2])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    key = rng.uniform(0.0, 0.9)
    colour = (key / np.sqrt(count)) * (1 + rng.normal(0, 0.07, (count, 3))) * rng.uniform(0.4, 1.3, (count, 1))
    base = rng.uniform(0.35, 0.95)
    tint = np.ones(3)
    if ambient is not None:
        tint = 1 + 0.45 * rng.random() * (ambient / max(float(ambient.mean()), 0.05) - 1)
    sky = base * tint * (1 + rng.normal(0, 0.04, 3))
    return Lights(
        direction.astype(np.float32),
        colour.astype(np.float32),
        sky.astype(np.float32),
        (sky * rng.uniform(0.35, 0.95)).astype(np.float32),
        float(rng.choice([0.0, rng.uniform(0.0, 0.35)])),
        float(rng.choice([0.0, rng.uniform(0.2, 0.7)], p=[0.8, 0.2])),
        float(rng.uniform(0.2, 1.0)),
    )


def shade(
    lights: Lights, albedo: np.ndarray, normals: np.ndarray, position_m: np.ndarray | None = None, phase: float = 0.0
) -> np.ndarray:
    """Colours (N,3) of surface points under the lights: albedo (N,3), unit normals (N,3) in the camera frame.

    ``position_m`` (N,3) places striped shadows; ``phase`` moves them.
    """
    up = 0.5 - 0.5 * normals[:, 1:2]
    light = lights.ground + up * (lights.sky - lights.ground)
    lambert = np.maximum(normals @ lights.direction.T, 0)
    if lights.stripes > 0 and position_m is not None:
        field = np.sin(position_m @ np.float32([7.0, 5.0, 3.0]) + phase) + np.sin(
            position_m @ np.float32([-4.0, 9.0, 2.0]) + 2 * phase
        )
        lambert = lambert * (1 - lights.stripes * np.clip(2 * field, 0, 1))[:, None]
    out = albedo * (light + lambert @ lights.colour)
    if lights.gloss > 0:
        half = lights.direction[0] + np.float32([0, 0, -1])
        half /= max(float(np.linalg.norm(half)), 1e-3)
        out += lights.gloss * np.maximum(normals @ half, 0)[:, None] ** 24
    return out


def hollow(depth_m: np.ndarray, covered: np.ndarray, strength: float) -> np.ndarray:
    """(h,w) factor that darkens what lies behind its surroundings: under arms, between legs, behind hems."""
    height, width = depth_m.shape
    small = (max(width // 4, 8), max(height // 4, 8))  # hollows are soft: a quarter of the resolution shows them as well
    sigma = max(small) / 40
    weight = cv2.resize(covered.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    total = cv2.GaussianBlur(cv2.resize(depth_m, small, interpolation=cv2.INTER_AREA), (0, 0), sigma)
    near = total / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)
    near = cv2.resize(near, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(1 - strength * 4.0 * np.maximum(depth_m - near, 0), 0.35, 1).astype(np.float32)


class Sensor:
    """Blur, noise, tone curve and compression of a camera.  Noise comes from a bank: drawing it anew costs 1 ms a crop."""

    def __init__(self, seed: int = 0, side: int = 420) -> None:
        rng = np.random.default_rng(seed)
        fine = rng.normal(size=(4, side, side, 3)).astype(np.float32)
        coarse = np.stack(
            [cv2.GaussianBlur(rng.normal(size=(side, side, 3)).astype(np.float32), (0, 0), 1.1) * 3.4 for _ in range(4)]
        )
        self._bank = np.concatenate([fine, coarse])

    def expose(self, rng: np.random.Generator, image: np.ndarray, coarse_share: float = 0.13, crisp: bool = False) -> np.ndarray:
        """(S,S,3) float32 in about [0,1] -> uint8: blur, white balance, exposure, gamma, noise, JPEG.

        ``coarse_share``: of pictures that the camera takes with fewer pixels, and that are blown up afterwards, with their noise
        and their JPEG blocks: how crops of people look who are smaller in the image than a crop is.  ``crisp``: none of that,
        as of people who are larger: no blur, half of the noise, edges enhanced, other colours and contrasts.
        """
        whole = size = image.shape[0]
        if rng.random() < coarse_share and not crisp:
            size = max(int(whole * _COARSEST ** rng.random()), 8)
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        u = 1.0 if crisp else rng.random()
        if u < 0.25:
            image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.35, 1.5)))
        elif u < 0.32:
            image = cv2.filter2D(image, -1, _streak(rng))
        # Cameras meter: dark pictures are lifted and bright ones held back, most of the way.
        metered = (0.40 / max(float(np.mean(cv2.mean(image)[:3])), 0.04)) ** rng.uniform(0.2, 0.8)
        gain = min(metered, 3.0) * rng.uniform(0.75, 1.3) * (1 + rng.normal(0, 0.06, 3))
        contrast, gamma = rng.uniform(0.75, 1.25), np.exp(rng.normal(0, 0.18))
        # One table for exposure, gamma and contrast; 8 bits in are enough, noise follows.
        level = np.linspace(0, _BRIGHTEST, 256, dtype=np.float32)
        table = np.clip(level[:, None] * gain, 0, 1) ** gamma
        table = np.clip((table - 0.5) * contrast + 0.5 + rng.normal(0, 0.03), 0, 1).astype(np.float32) * 255
        out = cv2.LUT(cv2.convertScaleAbs(image, alpha=255 / _BRIGHTEST), table[:, None])
        if crisp:
            out = _developed(rng, out)
        if rng.random() < 0.06:
            out = np.repeat(out.mean(-1, keepdims=True), 3, -1)
        sigma = float(rng.choice([rng.uniform(0, 3), rng.uniform(3, 7)], p=[0.8, 0.2])) * (0.5 if crisp else 1.0)
        side = self._bank.shape[1]
        x, y = rng.integers(max(side - size, 0) + 1, size=2)
        noise = self._bank[rng.integers(len(self._bank))]
        # Pictures larger than the bank see it repeated.
        columns, rows = (x + np.arange(size)) % side, (y + np.arange(size)) % side
        out = out + sigma * (noise[y : y + size, x : x + size] if size <= side else noise[rows[:, None], columns])
        out = np.clip(out, 0, 255).astype(np.uint8)
        if rng.random() < 0.6:
            ok, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(28, 96))])
            out = cv2.imdecode(data, cv2.IMREAD_COLOR) if ok else out
        return out if size == whole else cv2.resize(out, (whole, whole), interpolation=cv2.INTER_LINEAR)


def _developed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """(S,S,3) float32 in [0,255] as cameras hand pictures out: edges enhanced, colours and contrast mostly raised."""
    amount = float(rng.uniform(0.0, 1.5))
    out = cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 1.3))), -amount, 0)
    colours = 0.0 if rng.random() < 0.06 else float(np.exp(rng.normal(0.1, 0.35)))
    grey = out.mean(-1, keepdims=True)
    contrast = float(np.exp(rng.normal(0.12, 0.25)))
    return contrast * (grey + colours * (out - grey) - 128) + 128


def _streak(rng: np.random.Generator) -> np.ndarray:
    """Kernel of a straight motion blur, up to 9 px."""
    length, angle = rng.uniform(2, 9), rng.uniform(0, np.pi)
    n = 11
    kernel = np.zeros((n, n), np.float32)
    d = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    a, b = (5 - d) * 16, (5 + d) * 16
    cv2.line(kernel, tuple(int(v) for v in a), tuple(int(v) for v in b), 1.0, 1, cv2.LINE_AA, 4)
    return kernel / max(float(kernel.sum()), 1e-6)
