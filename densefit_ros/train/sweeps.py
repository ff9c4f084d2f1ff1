"""How bad a texture and how strange a light the displacement network bears: held-out numbers over levels of each disturbance.

The person's own colours are what a track would gather in the best case.  One thing at a time is then made worse, up to a
texture that nobody would use; the people, starts and pictures stay the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..displace.displacer import Displacer
from ..render.protocol import Appearance
from ..synth.crops import CropBatch
from ..synth.displacement import DisplacementPairs, make_pairs
from ..synth.lighting import Lights, shade
from ..synth.perturb import warp_texture
from ..types import Surface
from .variants import Variants

BASE = "as it is"
GREY = "no texture"
_ATLAS = 96  # texels of a side, of textures that are disturbed: a texel is then no smaller than a pixel of the crop
Numbers = dict[str, float]


@dataclass(frozen=True)
class Sweep:
    """Levels of one disturbance of the texture, of the light or of the picture; generators are the same at every level."""

    title: str
    unit: str
    levels: tuple[float, ...]
    texture: Callable[[np.ndarray, float, np.random.Generator], np.ndarray] | None = None  # (T,T,3) in [0,1] -> the same
    light: Callable[[Surface, float, np.random.Generator], Surface] | None = None
    picture: Callable[[np.ndarray, float], np.ndarray] | None = None  # (P,S,S,3) uint8 -> the same


def noisy(texture: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Independent noise of every texel and channel, standard deviation ``sigma`` of the range of colours."""
    return np.clip(texture + np.float32(sigma) * rng.standard_normal(texture.shape, np.float32), 0, 1)


def shifted(texture: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Moved by a smooth field of standard deviation ``share`` of the atlas's side, as if gathered under a wrong pose."""
    return warp_texture(rng, texture, share * len(texture))


def side_lit(surface: Surface, contrast: float, rng: np.random.Generator) -> Surface:
    """A lamp from the side baked into the colours: 0 leaves them, at 1 what faces away from the lamp is black."""
    azimuth = rng.uniform(-np.pi, np.pi)
    towards = np.array([[np.cos(azimuth), -0.4, np.sin(azimuth)]], np.float32)
    ambient = np.full(3, 1 - contrast, np.float32)
    lamp = np.full((1, 3), 1.6 * contrast, np.float32)  # about the same brightness in the mean
    lights = Lights(towards / np.linalg.norm(towards), lamp, ambient, ambient, 0.0, 0.0, 0.0)
    rgb = surface.rgb.copy()
    seen = surface.face_id >= 0
    rgb[seen] = np.clip(shade(lights, rgb[seen], surface.normals[seen]), 0, 1)
    return dataclasses.replace(surface, rgb=rgb)


def exposed(picture: np.ndarray, stops: float) -> np.ndarray:
    """The picture brighter by a factor of 2^stops, cut off at white."""
    return np.clip(picture * np.float32(2.0**stops), 0, 255).astype(np.uint8)


def _by_percent(texture: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    return shifted(texture, percent / 100, rng)


SWEEPS = {
    "noise": Sweep("noise of the texture", "standard deviation, of the range of colours", (0.05, 0.1, 0.2, 0.4), texture=noisy),
    "shift": Sweep("texture gathered in the wrong places", "shift, % of the atlas", (1, 2, 4, 8), texture=_by_percent),
    "side_light": Sweep("hard side light baked into the texture", "contrast", (0.25, 0.5, 0.75, 1.0), light=side_lit),
    "exposure": Sweep("exposure of the picture", "stops", (-3.0, -2.0, -1.0, 1.0, 2.0), picture=exposed),
}


def evaluate_sweeps(displacer: Displacer, people: int, backgrounds: Sequence[str] | None = None) -> dict[str, dict[str, Numbers]]:
    """Scores of :meth:`Variants.scores` by sweep and level; losses against the person's own colours in plain light.

    The key ``reference`` holds those colours, and no texture at all.
    """
    variants = Variants(displacer, backgrounds)
    for rng, crops, start in variants.people(people, stream=17):
        seed = int(rng.integers(1 << 31))
        colours = [_texture(a) for a in crops.appearances]

        def rendered(looks: Sequence[np.ndarray], crops: CropBatch = crops, start=start) -> DisplacementPairs:
            appearances = tuple(Appearance(texture=t) for t in looks)
            return make_pairs(np.random.default_rng(0), variants.source.engine, crops, start, appearances)

        plain = rendered(colours)
        variants.add(BASE, crops, plain, plain.surface, crops.rgb)
        bare = rendered([np.full_like(t, 0.5) for t in colours])
        variants.add(GREY, crops, bare, bare.surface, crops.rgb)
        for name, sweep in SWEEPS.items():
            for level in sweep.levels:
                pairs, picture = plain, crops.rgb
                own = np.random.default_rng(seed)  # the same noise, field and lamp at every level
                if sweep.texture is not None:
                    pairs = rendered([sweep.texture(t, level, own) for t in colours])
                surface = pairs.surface if sweep.light is None else sweep.light(pairs.surface, level, own)
                if sweep.picture is not None:
                    picture = sweep.picture(picture, level)
                variants.add(f"{name} {level:g}", crops, pairs, surface, picture)
    scores = variants.scores(base=BASE)
    out = {name: {f"{v:g}": scores[f"{name} {v:g}"] for v in sweep.levels} for name, sweep in SWEEPS.items()}
    return {"reference": {BASE: scores[BASE], GREY: scores[GREY]}, **out}


def plot(result: dict[str, dict[str, Numbers]], out: Path) -> Path:
    """Vertex error over the levels of each sweep, with the interval of its difference to undisturbed colours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    base, grey = result["reference"][BASE], result["reference"][GREY]
    shown = [name for name in SWEEPS if name in result]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.6 * len(shown), 3.4), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], shown):
        points = sorted([(0.0, base), *((float(v), row) for v, row in result[name].items())], key=lambda p: p[0])
        at, rows = [v for v, _ in points], [row for _, row in points]
        middle = [row["pve_mm"] for row in rows]
        band = [[base["pve_mm"] + row[f"loss_mm_{end}"] for row in rows] for end in ("low", "high")]
        axis.fill_between(at, *band, alpha=0.25)
        axis.plot(at, middle, marker="o", markersize=4, label="refined")
        axis.axhline(base["start_pve_mm"], color="black", linewidth=1, label="start")
        axis.axhline(grey["pve_mm"], color="0.5", linewidth=1, linestyle="--", label="refined, no texture")
        axis.set(title=SWEEPS[name].title, xlabel=SWEEPS[name].unit)
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("PVE, mm")
    axes[0][0].legend(fontsize=8, loc="center right")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)
    pyplot.close(figure)
    return out


def _texture(appearance: Appearance) -> np.ndarray:
    """The person's own colours at the size of the sweep's textures."""
    return cv2.resize(appearance.texture, (_ATLAS, _ATLAS), interpolation=cv2.INTER_AREA)
