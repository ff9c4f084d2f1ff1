"""What synthetic people look like: long hair, things in their hands, and from where they are seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.synth.backgrounds import load_backgrounds
from densefit_ros.synth.cameras import sample_view
from densefit_ros.synth.clothing import Wardrobe
from densefit_ros.synth.outfit import coverage, sample_outfit
from densefit_ros.synth.scenery import draw_carried


@pytest.fixture(scope="module")
def wardrobe():
    return Wardrobe(load_body())


@pytest.fixture(scope="module")
def photographs():
    return load_backgrounds("train", [])


def test_long_hair_fills_the_neck_and_leaves_the_face_free(wardrobe):
    points = wardrobe.points
    short = replace(sample_outfit(np.random.default_rng(0)), hair=0.2, hair_volume=0.01, long_hair=0.0, jacket=0.0, backpack=0.0)
    long = replace(short, long_hair=0.4, fall_volume=0.03, fall_front=-0.1)
    offsets = [
        np.linalg.norm(wardrobe.make(np.random.default_rng(1), o).offset_m.astype(np.float32), axis=1) for o in (short, long)
    ]
    nape = (
        (points.up_trunk > 1.0) & (points.up_trunk < 1.25) & (points.normal[:, 2] < -0.5) & (np.abs(points.position[:, 0]) < 0.04)
    )
    face = (points.head > 0.9) & (points.head_direction[:, 2] > 0.6) & (np.abs(points.head_direction[:, 1]) < 0.3)
    assert nape.sum() > 10 and face.sum() > 50
    assert offsets[1][nape].mean() > offsets[0][nape].mean() + 0.02
    assert offsets[1][face].max() < 0.012
    in_front = replace(long, fall_front=0.6)
    front, back = (coverage(o, points).hair for o in (in_front, long))
    assert front.sum() > back.sum() and coverage(short, points).fall.max() == 0


@pytest.mark.parametrize("seed", range(8))
def test_what_a_hidden_hand_carries_is_behind_the_person(photographs, seed):
    own = np.zeros((120, 120), bool)
    own[20:110, 40:80] = True
    for hand, seen in (((60.0, 70.0), True), ((95.0, 70.0), False), ((-30.0, 400.0), False)):
        image = np.full((120, 120, 3), 0.5, np.float32)
        covered = draw_carried(np.random.default_rng(seed), image, photographs, np.array(hand), 60.0, own)
        assert (image[~covered] == 0.5).all()
        assert seen or not (covered & own).any()
        if seen:
            assert covered.any() and covered[62:80, 52:68].any()  # at the hand, or hanging from it


def test_things_are_as_large_as_the_person_is_near(photographs):
    own = np.zeros((200, 200), bool)
    sizes = {m: 0 for m in (20.0, 80.0)}
    for metre_px in sizes:
        for seed in range(20):
            image = np.zeros((200, 200, 3), np.float32)
            rng, hand = np.random.default_rng(seed), np.array([100.0, 100.0])
            sizes[metre_px] += draw_carried(rng, image, photographs, hand, metre_px, own).sum()
    assert sizes[80.0] > 4 * sizes[20.0] > 0


def test_backs_are_seen_nearly_as_often_as_fronts():
    ahead = sample_view(np.random.default_rng(0), 4000)[:, 2, 2]  # along the camera's axis: negative faces it
    back = (ahead > 0.5).mean()
    front = (ahead < -0.5).mean()
    assert 0.28 < back < front < 0.6
