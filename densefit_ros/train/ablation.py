"""What each input of the displacement network is worth to it: held-out numbers with one input neutralised at a time.

Neutral is the input's mean over the person's pixels, so that the outline stays and only its content goes.  The network was
trained with all of them: this measures what the shipped network leans on, not what one trained without the input would reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..displace.displacer import Displacer
from ..synth.displacement import make_pairs
from ..types import Surface
from .variants import Variants

PLANES = {"texture": "rgb", "depth": "depth_m", "normals": "normals", "vertex colours": "vertex_colors"}
VARIANTS = ("all inputs", *(f"without {name}" for name in PLANES), "without any")


def neutralised(surface: Surface, names: Sequence[str]) -> Surface:
    """``surface`` with the named inputs replaced by their mean over each person's pixels."""
    mask = surface.face_id >= 0
    count = np.maximum(mask.sum((1, 2)), 1)
    changes = {}
    for name in names:
        values = getattr(surface, PLANES[name])
        plane = values if values.ndim == 4 else values[..., None]
        mean = (plane * mask[..., None]).sum((1, 2), dtype=np.float64) / count[:, None]
        flat = np.where(mask[..., None], mean[:, None, None], 0).astype(values.dtype)
        changes[PLANES[name]] = flat.reshape(values.shape)
    return dataclasses.replace(surface, **changes)


def evaluate_ablation(displacer: Displacer, people: int, backgrounds: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Per variant the scores of :meth:`Variants.scores`, losses against all inputs."""
    variants = Variants(displacer, backgrounds)
    for rng, crops, start in variants.people(people, stream=16):
        pairs = make_pairs(rng, variants.source.engine, crops, start)
        for name in VARIANTS:
            planes = {"all inputs": (), "without any": tuple(PLANES)}.get(name, (name.removeprefix("without "),))
            variants.add(name, crops, pairs, neutralised(pairs.surface, planes), crops.rgb)
    return variants.scores(base="all inputs")
