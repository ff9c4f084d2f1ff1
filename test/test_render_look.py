"""Part colours of a body: means by joint, silence about what was not seen."""

from __future__ import annotations

import numpy as np

from densefit_ros.body.assets import load_body
from densefit_ros.render.appearance import neutral_appearance, surface_samples
from densefit_ros.render.look import MIN_SAMPLES, seen_colors
from densefit_ros.render.protocol import Appearance


def test_means_by_joint_for_texture_and_vertices():
    body, rng = load_body(), np.random.default_rng(0)
    hues = rng.uniform(0, 1, (24, 3)).astype(np.float32)
    for size in (0, 128):
        samples = surface_samples(body, size)
        rgb, weight = hues[samples.part], rng.uniform(1, 5, len(samples.part)).astype(np.float32)
        weight[samples.part == 20] = 0.0
        hidden = np.flatnonzero(samples.part == 21)
        weight[hidden[MIN_SAMPLES - 1 :]] = 0.0
        if size:
            texture, confidence = np.zeros((size * size, 3), np.float32), np.zeros(size * size, np.float32)
            texture[samples.texel], confidence[samples.texel] = rgb, weight
            look = Appearance(texture=texture.reshape(size, size, 3), weight=confidence.reshape(size, size))
        else:
            look = Appearance(vertex_rgb=rgb, weight=weight)
        got, evidence = seen_colors(body, look)
        assert evidence[20] == 0 and evidence[21] == 0, "unseen, and seen in too few samples"
        rest = [j for j in range(24) if evidence[j]]
        assert len(rest) >= 20
        np.testing.assert_allclose(got[rest], hues[rest], atol=1e-5)
        counts = np.bincount(samples.part[weight > 0], minlength=24)
        np.testing.assert_array_equal(evidence[rest], counts[rest])


def test_a_neutral_appearance_has_no_evidence():
    body = load_body()
    for look in (neutral_appearance(body), Appearance()):
        rgb, evidence = seen_colors(body, look)
        assert not evidence.any() and np.all(rgb == 0.5)
