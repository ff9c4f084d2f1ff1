"""Fields to correspondences: what a cell means, what its weight means, and which cells are left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros.displace.contract import DEPTH_LIMIT_M, DISPLACEMENT_CONTRACT
from densefit_ros.displace.decode import DecodeOptions, decode
from densefit_ros.displace.displacer import Displacer, pack_rendering
from densefit_ros.errors import AssetError, ShapeError
from densefit_ros.geometry.crop import columns_seen
from densefit_ros.runtime.picture import IMAGE_FEATURES
from densefit_ros.types import Crop, DisplacementField, Surface

SIZE, GRID = 192, 48


def scene(persons: int = 2) -> tuple[DisplacementField, Surface, Crop]:
    """A square of surface in rows and columns 40..151, face id = running pixel number, no displacement."""
    face = np.full((persons, SIZE, SIZE), -1, np.int32)
    inner = np.arange(112 * 112, dtype=np.int32).reshape(112, 112)
    face[:, 40:152, 40:152] = inner
    mask = face >= 0
    bary = np.where(mask[..., None], np.float32([0.2, 0.3, 0.5]), 0).astype(np.float32)
    vector = np.where(mask[..., None], np.float32([0, 0, -1]), 0).astype(np.float32)
    colour = np.where(mask[..., None], np.float32(0.5), 0).astype(np.float32) * np.ones(3, np.float32)
    affine = np.tile(np.float32([[2.0, 0, 100.0], [0, 2.0, 50.0]]), (persons, 1, 1))
    surface = Surface(face, bary, np.where(mask, 3.0, 0).astype(np.float32), vector, colour, colour, affine)
    crop = Crop(np.zeros((persons, SIZE, SIZE, 3), np.uint8), np.ones((persons, SIZE, SIZE), bool), affine, SIZE)
    field = DisplacementField(np.zeros((persons, 2, GRID, GRID), np.float32), np.zeros((persons, 1, GRID, GRID), np.float32), 4)
    return field, surface, crop


def test_zero_flow_points_at_the_rendered_pixel_itself():
    field, surface, crop = scene(1)
    matches = decode(field, surface, crop)
    assert len(matches) == 28 * 28
    # The first covered cell is (10, 10): pixel (42, 42), whose centre is (42.5, 42.5) in the crop.
    np.testing.assert_allclose(matches.target_uv[0], [2 * 42.5 + 100, 2 * 42.5 + 50])
    assert matches.face[0] == 2 * 112 + 2
    np.testing.assert_allclose(matches.bary[0], [0.2, 0.3, 0.5])
    # sigma is one crop pixel, which is two image pixels
    np.testing.assert_allclose(matches.sqrt_weight, 0.5)


def test_flow_is_u_then_v_in_crop_pixels():
    field, surface, crop = scene(1)
    field.flow[:, 0], field.flow[:, 1] = 3.0, -1.5
    still = decode(dataclasses.replace(field, flow=np.zeros_like(field.flow)), surface, crop)
    moved = decode(field, surface, crop)
    np.testing.assert_allclose(moved.target_uv - still.target_uv, np.tile([6.0, -3.0], (len(moved), 1)), atol=1e-4)


def test_uncertain_cells_are_dropped_and_weights_follow_sigma():
    field, surface, crop = scene(2)
    field.log_var[1] = 2 * np.log(7.0)
    field.log_var[0] = 2 * np.log(2.0)
    matches = decode(field, surface, crop, DecodeOptions(sigma_scale=1.5))
    assert set(matches.person.tolist()) == {0}
    np.testing.assert_allclose(matches.sqrt_weight, 1 / (2 * 2.0 * 1.5), rtol=1e-5)
    assert len(decode(field, surface, crop, DecodeOptions(sigma_scale=0.5))) == 2 * 28 * 28


def test_targets_outside_the_crop_or_the_image_are_dropped():
    field, surface, crop = scene(1)
    field.flow[:, 0] = 60.0  # pixel columns 42..150 go to 102.5..210.5, of which 192 and beyond leave the crop
    matches = decode(field, surface, crop)
    assert 0 < len(matches) < 28 * 28
    assert matches.target_uv[:, 0].max() < 2 * 192 + 100
    inside = crop.inside.copy()
    inside[:, :100] = False
    matches = decode(
        dataclasses.replace(field, flow=np.zeros_like(field.flow)), surface, dataclasses.replace(crop, inside=inside)
    )
    assert matches.target_uv[:, 1].min() >= 2 * 100 + 50


def test_depth_edges_are_dropped_but_the_silhouette_stays():
    field, surface, crop = scene(1)
    depth = surface.depth_m.copy()
    depth[:, 40:152, 90:152] += 0.3  # between pixel columns 89 and 90: cell column 22 reads pixel 90, whose neighbour is 89
    matches = decode(field, dataclasses.replace(surface, depth_m=depth), crop)
    assert len(matches) == 28 * 27
    assert 2 * 90.5 + 100 not in matches.target_uv[:, 0]


def test_thinning_is_even_and_deterministic():
    field, surface, crop = scene(2)
    options = DecodeOptions(max_points=100)
    matches = decode(field, surface, crop, options)
    assert [(matches.person == p).sum() for p in (0, 1)] == [100, 100]
    own = matches.target_uv[matches.person == 0]
    assert np.ptp(own[:, 1]) > 0.95 * 2 * 108
    np.testing.assert_array_equal(decode(field, surface, crop, options).target_uv, matches.target_uv)


def test_nothing_rendered_gives_no_matches():
    field, surface, crop = scene(1)
    empty = dataclasses.replace(surface, face_id=np.full_like(surface.face_id, -1))
    assert len(decode(field, empty, crop)) == 0


def test_not_a_number_is_no_match():
    field, surface, crop = scene(1)
    field.flow[0, 0, 20], field.log_var[0, 0, 25] = np.nan, np.nan
    matches = decode(field, surface, crop)
    assert len(matches) == 26 * 28 and np.isfinite(matches.target_uv).all() and np.isfinite(matches.sqrt_weight).all()


def test_a_field_of_another_size_is_refused():
    field, surface, crop = scene(1)
    with pytest.raises(ShapeError, match="stride 8"):
        decode(dataclasses.replace(field, stride=8), surface, crop)


def test_packing_is_zero_outside_and_relative_in_depth():
    _, surface, _ = scene(2)
    depth = surface.depth_m.copy()
    depth[0, 40:152, 40:96] += 1.0
    colours = surface.vertex_colors.copy()
    columns = columns_seen(SIZE)
    colours[0, 50, columns.start + 2] = 0.0  # a black vertex must not read as background
    packed = pack_rendering(dataclasses.replace(surface, depth_m=depth, vertex_colors=colours))
    assert packed.shape == (2, SIZE, columns.stop - columns.start, 11) and packed.dtype == np.float32
    mask = surface.face_id[:, :, columns] >= 0
    assert mask.any() and not mask.all() and mask.sum() < (surface.face_id >= 0).sum()
    assert not packed[~mask].any()
    np.testing.assert_array_equal(packed[..., 10], mask)
    np.testing.assert_array_equal(packed[mask][:, 0:3], surface.rgb[:, :, columns][mask])
    np.testing.assert_array_equal(packed[mask][:, 7:10], colours[:, :, columns][mask])
    np.testing.assert_allclose(packed[0][mask[0]][:, 3].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(np.unique(packed[0][mask[0]][:, 3].round(3)), [-0.5, 0.5])
    np.testing.assert_allclose(packed[1][mask[1]][:, 3], 0, atol=1e-6)


def test_packed_depth_is_within_its_limits():
    _, surface, _ = scene(1)
    depth = surface.depth_m.copy()
    depth[0, 40:60] *= 3.0
    packed = pack_rendering(dataclasses.replace(surface, depth_m=depth))
    assert packed[..., 3].max() == np.float32(DEPTH_LIMIT_M) and packed[..., 3].min() > -DEPTH_LIMIT_M


class FakeRuntime:
    """Answers with a flow that depends on the inputs, through the contract."""

    name, path = "fake", "fake.onnx"
    inputs, outputs = DISPLACEMENT_CONTRACT.inputs, DISPLACEMENT_CONTRACT.outputs

    def __call__(self, inputs):
        count = len(inputs["s8"])
        flow = np.full((count, 2, GRID, GRID), inputs["rendering"][..., 3].max(), np.float32)
        return {"flow": flow, "log_var": np.zeros((count, 1, GRID, GRID), np.float32)}


class FakeEncoder:
    """Counts how often it looks at pictures."""

    name, path = "fake", "encoder.onnx"
    outputs = IMAGE_FEATURES
    looks = 0

    def __call__(self, inputs):
        self.looks += 1
        return {n: np.zeros((len(inputs["image"]), *s.shape[1:]), np.float32) for n, s in IMAGE_FEATURES.items()}


def test_displacer_looks_at_pictures_that_nobody_looked_at_yet():
    _, surface, crop = scene(2)
    displacer = Displacer(FakeRuntime(), FakeEncoder())
    displacer.predict(crop, surface)
    assert displacer.encoder.looks == 1
    displacer.predict(crop, surface, displacer.look(crop.rgb))
    assert displacer.encoder.looks == 2


def test_displacer_checks_the_network_and_the_sizes():
    _, surface, crop = scene(2)
    field = Displacer(FakeRuntime(), FakeEncoder()).predict(crop, surface)
    assert field.stride == 4 and field.flow.shape == (2, 2, GRID, GRID)
    small = dataclasses.replace(crop, rgb=crop.rgb[:, :96, :96], size=96)
    with pytest.raises(ShapeError, match="crops' size"):
        Displacer(FakeRuntime(), FakeEncoder()).predict(small, surface)
    wrong = FakeRuntime()
    wrong.outputs = {"flow": DISPLACEMENT_CONTRACT.outputs["flow"]}
    with pytest.raises(AssetError, match="log_var"):
        Displacer(wrong, FakeEncoder())
    blind = FakeEncoder()
    blind.outputs = {"s4": IMAGE_FEATURES["s4"]}
    with pytest.raises(AssetError, match="encoder.onnx.*'s8'"):
        Displacer(FakeRuntime(), blind)
