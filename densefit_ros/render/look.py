"""The colours of a body part by part: what is left of an appearance when pose, folds and patterns are averaged out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..types import NUM_JOINTS
from .appearance import surface_samples
from .protocol import Appearance

if TYPE_CHECKING:
    from ..body.model import BodyModel

MIN_SAMPLES = 12  # texels or vertices of a part; fewer are an edge, not a part


def seen_colors(body: BodyModel, appearance: Appearance) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour (24,3) in [0,1] of the seen surface of each joint's part, and its evidence (24,), 0 where unseen."""
    colors = appearance.texture if appearance.texture is not None else appearance.vertex_rgb
    if colors is None or appearance.weight is None:
        return np.full((NUM_JOINTS, 3), 0.5, np.float32), np.zeros(NUM_JOINTS, np.float32)
    samples = surface_samples(body, len(colors) if appearance.texture is not None else 0)
    sample = samples.texel if samples.texel is not None else np.arange(len(samples.part))
    weight = appearance.weight.reshape(-1)[sample]
    there = np.flatnonzero(weight > 0)  # usually a third: everything below is on those alone
    owner, weight, rgb = samples.part[there], weight[there], colors.reshape(-1, 3)[sample[there]]
    seen = np.bincount(owner, minlength=NUM_JOINTS)
    total = np.where(seen >= MIN_SAMPLES, np.bincount(owner, weight, NUM_JOINTS), 0.0)
    mean = np.stack([np.bincount(owner, weight * rgb[:, c], NUM_JOINTS) for c in range(3)], -1)
    mean = np.where(total[:, None] > 0, mean / np.maximum(total, 1e-9)[:, None], 0.5)
    # Evidence in numbers of samples, not of frames: an old track and a single frame then weigh the parts alike.
    return mean.astype(np.float32), np.where(total > 0, seen, 0.0).astype(np.float32)
