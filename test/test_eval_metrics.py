from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes as scipy_procrustes

from densefit_ros.errors import ShapeError
from densefit_ros.eval import metrics
from densefit_ros.geometry import so3

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])


def _rotation(seed: int) -> np.ndarray:
    return so3.exp(np.random.default_rng(seed).normal(size=3))


def test_mpjpe_by_hand():
    moved = SQUARE + [0.01, 0, 0]
    assert metrics.mpjpe_mm(moved, SQUARE, root=None) == pytest.approx(10.0)
    assert metrics.mpjpe_mm(moved, SQUARE, root=0) == pytest.approx(0.0, abs=1e-9)
    one_off = SQUARE.copy()
    one_off[2] += [0, 0.03, 0.04]
    assert metrics.mpjpe_mm(one_off, SQUARE) == pytest.approx(50.0 / 4)
    # An error of the root alone moves every other joint by the same amount.
    root_off = SQUARE.copy()
    root_off[0] += [0.02, 0, 0]
    assert metrics.mpjpe_mm(root_off, SQUARE) == pytest.approx(20.0 * 3 / 4)


def test_batched_equals_one_by_one():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 14, 3))
    for fn in (metrics.mpjpe_mm, metrics.pa_mpjpe_mm, metrics.pve_mm):
        assert fn(a, b) == pytest.approx([float(fn(x, y)) for x, y in zip(a, b)])


def test_pa_undoes_any_similarity_transform():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(14, 3))
    moved = 1.7 * truth @ _rotation(3).T + [1, -2, 3]
    assert metrics.pa_mpjpe_mm(moved, truth) == pytest.approx(0, abs=1e-9)


def test_pa_does_not_use_a_reflection():
    truth = np.random.default_rng(4).normal(size=(14, 3))
    mirrored = truth * [-1, 1, 1]
    assert metrics.pa_mpjpe_mm(mirrored, truth) > 100
    # The mirror image of a flat figure is a turn about an axis in its plane: no error there.
    assert metrics.pa_mpjpe_mm(SQUARE * [-1, 1, 1], SQUARE) == pytest.approx(0, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_pa_agrees_with_scipy_where_no_reflection_is_involved(seed):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(14, 3))
    noisy = 0.6 * (truth + 0.05 * rng.normal(size=truth.shape)) @ _rotation(seed).T + rng.normal(size=3)
    _, _, disparity = scipy_procrustes(truth, noisy)  # squared error of shapes of unit norm
    aligned = metrics.procrustes_align(noisy, truth)
    centred = truth - truth.mean(0)
    assert np.sum((aligned - truth) ** 2) / np.sum(centred**2) == pytest.approx(disparity, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_pa_is_a_minimum(seed):
    rng = np.random.default_rng(seed)
    source, truth = rng.normal(size=(2, 10, 3))
    best = metrics.procrustes_align(source, truth)
    base = np.sum((best - truth) ** 2)
    centre = best.mean(0)
    for scale, turn in ((1.01, 0.0), (0.99, 0.0), (1.0, 0.02)):
        other = scale * (best - centre) @ so3.exp(turn * rng.normal(size=3)).T + centre
        assert np.sum((other - truth) ** 2) >= base - 1e-9


def test_pa_of_a_point_cloud_without_extent_is_finite():
    assert np.isfinite(metrics.pa_mpjpe_mm(np.zeros((4, 3)), SQUARE))


def test_pve_by_hand():
    vertices = np.zeros((2, 100, 3))
    moved = vertices + [0, 0, 0.1]
    assert metrics.pve_mm(moved, vertices) == pytest.approx([100, 100])
    root = np.zeros((2, 3))
    assert metrics.pve_mm(moved, vertices, root + [0, 0, 0.1], root) == pytest.approx([0, 0], abs=1e-9)
    with pytest.raises(ShapeError, match="both roots"):
        metrics.pve_mm(moved, vertices, root)


def test_pixels_by_hand():
    truth = np.array([[0, 0], [10, 0], [0, 10], [np.nan, np.nan]])
    guess = np.array([[3, 4], [10, 0], [0, 20], [7, 7]])
    visible = [True, True, True, False]
    assert metrics.reprojection_px(guess, truth, visible) == pytest.approx(5.0)
    assert metrics.pck(guess, truth, np.float64(50), 0.1, visible) == pytest.approx(2 / 3)  # 5, 0 <= 5 < 10
    assert metrics.pck(guess, truth, np.float64(100), 0.1, visible) == pytest.approx(1.0)
    assert np.isnan(metrics.reprojection_px(guess, truth, [False] * 4))


def test_time_by_hand():
    fps = 30.0
    t = np.arange(12) / fps
    path = np.zeros((12, 2, 3))
    path[:, :, 0] = (0.5 * 3.0 * t**2)[:, None]  # 3 m/s^2 along x
    still = np.zeros_like(path)
    assert metrics.acceleration_error_m_s2(path, still, fps) == pytest.approx(np.full(10, 3.0))
    assert metrics.jitter_10m_s3(path, fps) == pytest.approx(np.zeros(9), abs=1e-6)
    path[:, :, 0] = (t**3)[:, None]  # third derivative 6 m/s^3
    assert metrics.jitter_10m_s3(path, fps) == pytest.approx(np.full(9, 0.6))
    with pytest.raises(ShapeError, match="more than 3 frames"):
        metrics.jitter_10m_s3(path[:3], fps)


def test_bone_length_variation_by_hand():
    joints = np.zeros((2, 3, 3))
    joints[:, 1, 0] = [0.30, 0.32]  # lengths 300, 320 mm: deviation 10 mm
    joints[:, 2] = joints[:, 1] + [0, 0.1, 0]
    assert metrics.bone_length_variation_mm(joints, np.array([-1, 0, 1])) == pytest.approx([10.0, 0.0])


def test_a_transposed_array_is_an_error():
    with pytest.raises(ShapeError, match=r"\(\.\.\.,K,3\)"):
        metrics.mpjpe_mm(np.zeros((3, 14)), np.zeros((3, 14)))
    with pytest.raises(ShapeError):
        metrics.mpjpe_mm(np.zeros((14, 3)), np.zeros((13, 3)))


def test_interval_holds_the_mean_and_skips_nan():
    values = np.concatenate([np.random.default_rng(0).normal(50, 5, 400), [np.nan]])
    mean, low, high = metrics.mean_interval(values)
    assert low < mean < high and high - low == pytest.approx(4 * 5 / np.sqrt(400), rel=0.3)
    assert all(np.isnan(metrics.mean_interval(np.array([np.nan]))))
    mean, *bounds = metrics.mean_interval(values, ["one"] * len(values))
    assert mean == pytest.approx(np.nanmean(values)) and np.isnan(bounds).all(), "one sequence says nothing of others"


def test_frames_of_one_sequence_are_no_independent_sample():
    rng = np.random.default_rng(0)
    offsets = rng.normal(50, 5, 10)
    values = np.repeat(offsets, 100) + 0.1 * rng.normal(size=1000)
    labels = np.repeat([f"s{i}" for i in range(10)], 100)
    mean, low, high = metrics.mean_interval(values, labels)
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(4 * offsets.std() / np.sqrt(10), rel=0.4)
    alone = metrics.mean_interval(values)
    assert high - low > 5 * (alone[2] - alone[1])
    assert metrics.mean_interval(values, [str(i) for i in range(1000)]) == pytest.approx(alone, rel=2e-3)
