"""Keypoints and displacements in one fit are never worse than the better of the two; the measuring of confidence."""

from __future__ import annotations

import numpy as np
import pytest

from densefit_ros.body.model import face_parts
from densefit_ros.config import Config
from densefit_ros.fit.solver import Fitter
from densefit_ros.models import fit_options
from densefit_ros.synth.displacement import make_pairs
from densefit_ros.train.ablation import PLANES, neutralised
from densefit_ros.train.reliability import Pool, calibration_error, plot
from densefit_ros.train.together import BAD, BATCH, GOOD, SEED, USUAL, WAYS, FlowNoise, case, excess, refine, true_keypoints
from densefit_ros.types import Keypoints, Surface


@pytest.fixture(scope="module")
def source():
    from densefit_ros.train.sources import People

    return People(SEED, BATCH, held_out=True, subjects=6, backgrounds=[])


@pytest.fixture(scope="module")
def fitter(source):
    config = Config()
    return Fitter(source.body, max_persons=BATCH, max_points=config.fit.max_points, options=fit_options(config))


@pytest.mark.parametrize(
    "keypoints, flow",
    [(USUAL, FlowNoise(1.0)), (GOOD, FlowNoise(3.8)), (BAD, FlowNoise(1.0))],
    ids=["usual", "good keypoints", "bad keypoints"],
)
def test_both_are_never_worse_than_either(source, fitter, keypoints, flow):
    config = Config()
    cases = [case(source, i, "disturbed", keypoints, flow, config) for i in range(2)]
    errors = {w: np.concatenate([refine(fitter, source.body, c, w, config)[c.labelled] for c in cases]) for w in WAYS}
    mean = {w: e.mean() for w, e in errors.items()}
    assert mean["both"] <= 1.01 * min(mean["keypoints"], mean["displacements"])
    assert mean["both"] < 0.8 * mean["start"] and mean["keypoints"] < mean["start"] and mean["displacements"] < mean["start"]
    assert excess(errors)["excess_low_mm"] <= excess(errors)["excess_mm"] <= excess(errors)["excess_high_mm"]


def test_from_lifted_keypoints_a_true_field_still_helps(source, fitter):
    import dataclasses

    config = Config()
    c = case(source, 0, "lifted", dataclasses.replace(USUAL, hint_m=0.06), FlowNoise(1.0), config)
    mean = {w: refine(fitter, source.body, c, w, config)[c.labelled].mean() for w in WAYS}
    assert mean["both"] < 0.98 * mean["start"] and mean["both"] <= 1.03 * mean["displacements"]


def test_the_noise_of_keypoints_is_what_it_says(source):
    exact = true_keypoints(source.body, source.crops(0))
    many = Keypoints(exact.set_name, *(np.repeat(a, 40, 0) for a in (exact.uv, exact.confidence, exact.direction_xyz)))
    noisy = USUAL.draw(np.random.default_rng(0), many)
    assert noisy.direction_xyz is None
    shown = many.confidence > 0
    assert 1 - (noisy.confidence[shown] > 0).mean() == pytest.approx(USUAL.missing, abs=0.01)
    sizes = [np.linalg.norm(np.ptp(uv[c > 0], axis=0)) if c.any() else 1.0 for uv, c in zip(many.uv, many.confidence)]
    z = (noisy.uv - many.uv) / np.array(sizes)[:, None, None] * noisy.confidence[..., None] / USUAL.sigma_share
    # Most points err as their confidence says; the wrong ones are the tail.
    assert np.median(np.abs(z[noisy.confidence > 0.2])) == pytest.approx(0.6745, abs=0.04)


def test_errors_of_displacements_are_correlated_as_said(source):
    crops = source.crops(0)
    pairs = make_pairs(np.random.default_rng(0), source.engine, crops, crops.params)
    part = face_parts(source.body)
    face = pairs.surface.face_id[:, 2::4, 2::4]
    rng = np.random.default_rng(1)
    draws = np.stack([FlowNoise(2.0).draw(rng, pairs, part).flow - pairs.flow for _ in range(400)])
    person = int(np.argmax((face >= 0).sum((1, 2))))
    rows, columns = np.nonzero(face[person] >= 0)
    z, kin = draws[:, person, 0][:, rows, columns], part[face[person][rows, columns]]
    correlation, same = np.corrcoef(z.T), kin[:, None] == kin[None]
    other = ~np.eye(len(kin), dtype=bool)
    assert z.std() == pytest.approx(2.0, rel=0.05)
    assert correlation[same & other].mean() == pytest.approx(0.85, abs=0.05)
    assert correlation[~same].mean() == pytest.approx(0.22, abs=0.06)


def test_reliability_of_a_calibrated_and_of_a_boasting_source(tmp_path):
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.normal(size=40_000))
    honest, boasting = Pool(), Pool()
    for part in np.split(sigma, 4):
        error = part * rng.normal(size=len(part))
        honest.add(part, error)
        boasting.add(part / 2, error)
    a, b = honest.errors(), boasting.errors()
    assert sum(a["count"]) == len(sigma) and np.all(np.diff(a["stated"]) > 0)
    assert calibration_error(a, relative=True) < 0.05
    assert calibration_error(b, relative=True) == pytest.approx(np.log(2), abs=0.05)
    told = Pool()
    told.add(np.array([0.1, 0.9] * 50), np.array([False, True] * 50))
    share = told.shares(bins=2)
    assert share["stated"] == pytest.approx([0.1, 0.9]) and share["measured"] == [0, 1]
    assert calibration_error(share, relative=False) == pytest.approx(0.1)
    assert (
        plot({"displacement": {"honest": a, "boasting": b}, "confidence": {"x": share}}, tmp_path / "r.png").stat().st_size > 5000
    )


def test_a_neutral_input_keeps_the_outline_and_the_mean():
    rng = np.random.default_rng(0)
    face = np.where(rng.random((2, 6, 5)) < 0.6, 1, -1)
    mask = (face >= 0)[..., None]
    planes = [(rng.random((2, 6, 5, 3)) * mask).astype(np.float32) for _ in range(3)]
    depth = ((2 + rng.random((2, 6, 5))) * mask[..., 0]).astype(np.float32)
    surface = Surface(face, np.zeros((2, 6, 5, 3)), depth, *planes, np.zeros((2, 2, 3)))
    flat = neutralised(surface, ("texture", "depth"))
    assert flat.normals is surface.normals and (flat.rgb[~mask[..., 0]] == 0).all()
    for i in range(2):
        own = mask[i, ..., 0]
        assert flat.rgb[i][own] == pytest.approx(np.tile(surface.rgb[i][own].mean(0), (own.sum(), 1)), abs=1e-6)
        assert flat.depth_m[i][own] == pytest.approx(surface.depth_m[i][own].mean(), abs=1e-6)
    assert set(PLANES) == {"texture", "depth", "normals", "vertex colours"}
