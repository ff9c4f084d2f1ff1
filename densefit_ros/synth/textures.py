"""The colours of a whole subject, painted on texels or vertices from its outfit."""

from __future__ import annotations

import numpy as np

from . import fabric
from .outfit import Outfit, coverage
from .surface import Atlas, SurfacePoints, fill_texture, smooth_step


def paint(
    rng: np.random.Generator, outfit: Outfit, points: SurfacePoints, photos: list[np.ndarray], edge: float = 0.02
) -> np.ndarray:
    """Colours (N,3) float32 in [0,1] of every surface point; ``photos`` (uint8) may be printed on cloth."""
    cover = coverage(outfit, points, edge)

    def photo() -> np.ndarray | None:
        return photos[int(rng.integers(len(photos)))] if photos else None

    tone, hair_tone = fabric.skin_colour(rng), fabric.hair_colour(rng)
    out = fabric.skin(rng, points, tone)

    def lay(mask: np.ndarray, colours: np.ndarray) -> None:
        nonlocal out
        out += mask[:, None] * (colours - out)

    lay(0.85 * cover.beard, fabric.hair(rng, points, hair_tone))
    trousers = fabric.cloth(rng, points, photo())
    top = fabric.cloth(rng, points, photo())
    if rng.random() < 0.35:
        top = fabric.logo(rng, points, top, photo())
    if rng.random() < 0.25:  # side seams
        trousers = np.where(
            ((points.normal[:, 0] * points.side > 0.93) & (points.leg > 0.4))[:, None], fabric.cloth_colour(rng), trousers
        )
    whole = rng.random() < (0.6 if outfit.skirt > 0 and not outfit.coat else 0.08)  # a dress or an overall: one fabric
    lay(np.maximum(cover.bottom, 0.0), top if whole else trousers)
    tucked = rng.random() < 0.3
    if tucked:
        lay(cover.top * (points.up_trunk > 0.12), top)
        belt = np.abs(points.up_trunk - 0.13) < 0.025
        lay((cover.top > 0.5) * belt * 1.0, np.tile(fabric.cloth_colour(rng), (len(out), 1)))
    else:
        lay(cover.top, top)
    if outfit.skirt > 0 and not outfit.coat:
        lay(cover.skirt, top if whole else trousers)
    outer = fabric.cloth(rng, points, None if rng.random() < 0.7 else photo())
    lay(np.maximum(cover.jacket, cover.skirt) if outfit.coat else cover.jacket, outer)
    shoe = np.tile(fabric.cloth_colour(rng), (len(out), 1))
    sole = smooth_step(-points.normal[:, 1], 0.2, 0.7)[:, None] * (rng.random() < 0.7)
    shoe = shoe * (1 - sole) + sole * fabric.cloth_colour(rng)
    if rng.random() < 0.45:  # socks above the shoes
        socks = (
            smooth_step(points.along_leg, outfit.shoe_height - rng.uniform(0.05, 0.35), outfit.shoe_height)
            * (points.leg > 0.6)
            * (cover.bottom < 0.5)
        )
        lay(socks, np.tile(fabric.cloth_colour(rng), (len(out), 1)))
    lay(cover.shoes, shoe)
    lay(cover.gloves, np.tile(fabric.cloth_colour(rng), (len(out), 1)))
    lay(cover.hair, fabric.hair(rng, points, hair_tone))
    lay(cover.hat, np.tile(fabric.cloth_colour(rng), (len(out), 1)))
    pack = fabric.cloth(rng, points, None)
    lay(cover.backpack, pack)
    if outfit.backpack > 0:  # its straps
        straps = (np.abs(np.abs(points.position[:, 0]) - 0.11) < 0.022) & (points.normal[:, 2] > 0) & (points.arm < 0.4)
        lay(straps * (points.up_trunk > 0.45) * (points.up_trunk < 1.0) * 1.0, pack)
    return np.clip(out, 0, 1).astype(np.float32)


def paint_texture(rng: np.random.Generator, outfit: Outfit, grid: Atlas, photos: list[np.ndarray]) -> np.ndarray:
    """(size,size,3) float32 texture of one subject."""
    return fill_texture(grid, paint(rng, outfit, grid.points, photos, edge=0.015))
