"""Whole pictures with labelled people."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.synth.backgrounds import load_backgrounds
from densefit_ros.synth.clutter import ClutteredBackgrounds
from densefit_ros.synth.engine import SynthEngine
from densefit_ros.synth.scenes import EMPTY, PERSON, make_scenes


@pytest.fixture(scope="module")
def engine():
    body = load_body()
    return SynthEngine(body, WarpRenderer(body), load_backgrounds("train", []), subjects=3, cache=8, texture_size=64)


@pytest.fixture(scope="module")
def scenes(engine):
    return make_scenes(np.random.default_rng(5), engine, 16)


def test_shapes_and_types(scenes):
    assert len(scenes) == 16
    assert scenes.rgb.shape == (16, 192, 256, 3) and scenes.rgb.dtype == np.uint8
    assert scenes.boxes_xywh.shape == (16, 4, 4) and scenes.kind.shape == (16, 4)
    assert scenes.owner.shape == (16, 192, 256)


def test_the_same_seed_gives_the_same_pictures(engine, scenes):
    again = make_scenes(np.random.default_rng(5), engine, 16)
    np.testing.assert_array_equal(again.rgb, scenes.rgb)
    np.testing.assert_array_equal(again.boxes_xywh, scenes.boxes_xywh)
    assert (make_scenes(np.random.default_rng(6), engine, 16).rgb != scenes.rgb).any()


def test_boxes_bound_the_visible_pixels_of_their_person(scenes):
    for i, slot in zip(*np.nonzero(scenes.kind)):
        mask = scenes.owner[i] == slot
        x, y, w, h = scenes.boxes_xywh[i, slot].astype(int)
        assert mask[y : y + h, x : x + w].sum() == mask.sum() > 0
        assert mask[y].any() and mask[y + h - 1].any() and mask[:, x].any() and mask[:, x + w - 1].any()


def test_nobody_means_no_pixel_and_no_box(scenes):
    for i, slot in zip(*np.nonzero(scenes.kind == EMPTY)):
        assert not (scenes.owner[i] == slot).any() and not scenes.boxes_xywh[i, slot].any()


def test_scenes_differ_in_number_and_size(scenes):
    count = (scenes.kind == PERSON).sum(1)
    assert count.min() == 0 and count.max() >= 2
    height = scenes.boxes_xywh[scenes.kind == PERSON][:, 3]
    assert height.min() < 60 and height.max() > 120


def test_pictures_of_other_proportions_are_centred_in_grey(engine):
    scenes = make_scenes(np.random.default_rng(1), engine, 24, pad=115)
    grey = (scenes.rgb == 115).all(-1)
    rows, columns = grey.all(2), grey.all(1)  # whole lines of padding
    assert (scenes.owner[rows] < 0).all() and (scenes.owner.transpose(0, 2, 1)[columns] < 0).all()
    assert (rows.any(1) | columns.any(1)).any() and not (rows.any(1) & columns.any(1)).any()
    for i in np.flatnonzero(rows.any(1)):
        assert abs(int(rows[i, :96].sum()) - int(rows[i, 96:].sum())) <= 1
    for i in np.flatnonzero(columns.any(1)):
        assert abs(int(columns[i, :128].sum()) - int(columns[i, 128:].sum())) <= 1


def test_finer_pictures_show_the_same_people_with_more_detail(engine):
    quiet = dataclasses.replace(engine.options, occluder_share=0.0)
    plain, engine.options = engine.options, quiet
    try:
        coarse, fine = (make_scenes(np.random.default_rng(5), engine, 16, finer=n) for n in (1, 2))
        engine.options = dataclasses.replace(quiet, crisp_share=1.0)
        crisp = make_scenes(np.random.default_rng(5), engine, 16, finer=2)
    finally:
        engine.options = plain
    assert fine.rgb.shape == coarse.rgb.shape
    both = (coarse.kind == PERSON) & (fine.kind == PERSON)
    assert both.sum() > 15 and (coarse.kind != fine.kind).sum() <= 1
    assert np.abs(coarse.boxes_xywh - fine.boxes_xywh)[both].max() < 2.5
    assert (coarse.owner != fine.owner).mean() < 0.01

    def detail(scenes):
        return np.median([cv2.Laplacian(image, cv2.CV_32F).std() for image in scenes.rgb])

    assert detail(crisp) > 1.3 * detail(fine)


def test_clutter_is_busy_deterministic_and_leaves_some_pictures_alone():
    plain = load_backgrounds("train", [])
    busy = ClutteredBackgrounds(plain)
    first = [busy.scene(np.random.default_rng(k), 128) for k in range(24)]
    again = [busy.scene(np.random.default_rng(k), 128) for k in range(24)]
    untouched = [plain.scene(np.random.default_rng(k), 128) for k in range(24)]
    assert all((a == b).all() for a, b in zip(first, again))
    same = sum(bool((a == b).all()) for a, b in zip(first, untouched))
    assert 1 <= same <= 15 and first[0].shape == (128, 128, 3) and first[0].dtype == np.uint8
