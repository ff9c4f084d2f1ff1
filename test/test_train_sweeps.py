"""Levels of a bad texture and of a strange light change what they say and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros.displace.contract import STRIDE_PX
from densefit_ros.train import sweeps, variants
from densefit_ros.types import DisplacementField, Surface


class Watcher:
    """A displacer that answers zero, sure of it, and remembers what it was shown."""

    def __init__(self):
        self.shown = []

    def predict(self, crop, surface):
        self.shown.append((crop.rgb, surface))
        cells = crop.size // STRIDE_PX
        return DisplacementField(
            np.zeros((len(crop.rgb), 2, cells, cells), np.float32),
            np.zeros((len(crop.rgb), 1, cells, cells), np.float32),
            STRIDE_PX,
        )


def test_noise_is_as_strong_as_it_says_and_the_same_at_every_level():
    texture = np.full((64, 64, 3), 0.5, np.float32)
    weak, strong = (sweeps.noisy(texture, s, np.random.default_rng(3)) - 0.5 for s in (0.05, 0.1))
    assert weak.std() == pytest.approx(0.05, rel=0.05) and strong == pytest.approx(2 * weak, abs=1e-6)
    assert sweeps.noisy(texture, 2.0, np.random.default_rng(3)).min() == 0.0


def test_a_shift_is_a_share_of_the_side():
    ramp = np.repeat(np.linspace(0, 1, 256, dtype=np.float32)[None], 256, 0)[..., None].repeat(3, -1)
    moved = np.concatenate([sweeps.shifted(ramp, 0.04, np.random.default_rng(i))[60:-60, 60:-60] for i in range(8)])
    assert np.std(moved - np.tile(ramp[60:-60, 60:-60], (8, 1, 1))) == pytest.approx(0.04, rel=0.3)
    assert sweeps.shifted(ramp, 0.0, np.random.default_rng(0)) == pytest.approx(ramp, abs=1e-6)


def test_a_side_light_darkens_what_faces_away():
    normals = np.random.default_rng(0).normal(size=(1, 40, 40, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    face = np.zeros((1, 40, 40), np.int32)
    face[0, :5] = -1
    rgb = np.repeat(np.where(face[..., None] >= 0, np.float32(0.3), 0), 3, -1).astype(np.float32)
    surface = Surface(face, np.zeros((1, 40, 40, 3)), np.ones((1, 40, 40)), normals, rgb, rgb, np.zeros((1, 2, 3)))
    plain, hard = (sweeps.side_lit(surface, c, np.random.default_rng(1)) for c in (0.0, 1.0))
    assert plain.rgb == pytest.approx(rgb, abs=1e-6) and (hard.rgb[face < 0] == 0).all()
    lit = hard.rgb[face >= 0]
    assert lit.min() == 0.0 and lit.max() > 0.4 and (lit == 0).all(-1).mean() == pytest.approx(0.5, abs=0.1)
    assert hard.normals is surface.normals


def test_stops_are_factors_of_two():
    picture = np.array([[[[10, 60, 200]]]], np.uint8)
    assert sweeps.exposed(picture, 1.0).tolist() == [[[[20, 120, 255]]]]
    assert sweeps.exposed(picture, -1.0).tolist() == [[[[5, 30, 100]]]]


def test_each_sweep_changes_one_thing(monkeypatch, tmp_path):
    short = {n: dataclasses.replace(s, levels=(s.levels[0], s.levels[-1])) for n, s in sweeps.SWEEPS.items()}
    monkeypatch.setattr(sweeps, "SWEEPS", short)
    monkeypatch.setattr(variants, "BATCH", 4)
    watcher = Watcher()
    result = sweeps.evaluate_sweeps(watcher, 4, backgrounds=[])
    (picture, plain), (_, bare), *rest = watcher.shown
    assert len(rest) == 2 * len(short) and bare.rgb[bare.face_id >= 0] == pytest.approx(0.5, abs=1e-3)
    for (name, level), (shown, surface) in zip([(n, v) for n, s in short.items() for v in s.levels], rest):
        assert np.array_equal(surface.face_id, plain.face_id) and np.array_equal(surface.normals, plain.normals)
        assert np.array_equal(shown, picture) == (name != "exposure"), (name, level)
        assert np.array_equal(surface.rgb, plain.rgb) == (name == "exposure"), (name, level)
    for rows in result.values():
        for row in rows.values():  # zero displacement errs by zero displacement's error, whatever is shown
            assert row["epe_ratio"] == pytest.approx(1.0, abs=0.01) and row["loss_px"] == pytest.approx(0.0, abs=1e-6)
            assert row["pve_mm"] == pytest.approx(row["start_pve_mm"], rel=0.3)
    assert sweeps.plot(result, tmp_path / "sweeps.png").stat().st_size > 5000
