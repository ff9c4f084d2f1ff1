"""Who is who on synthetic people: crossing, leaving and returning, a stranger in the same place, a full room."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros.config import TrackConfig
from densefit_ros.track import identity, motion, shape, state
from densefit_ros.track.identity import Look, Traits
from densefit_ros.types import BodyParams

RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)


def look(rgb, noise: float = 0.0, seed: int = 0) -> Look:
    rng = np.random.default_rng(seed)
    return Look(np.tile(np.float64(rgb), (24, 1)) + rng.normal(0, noise, (24, 3)), np.full(24, 50.0))


def person(x: float, z: float = 3.0, rgb=None, betas=0.0, sigma: float = 1.0, unseen_s: float = 0.0) -> Traits:
    colours = None if rgb is None else look(rgb)
    return Traits(np.array([x, 0.0, z]), np.full(10, betas), np.full(10, sigma), colours, unseen_s)


def test_costs_in_closed_form():
    a, b = person(0.0), person(2 * identity.LATERAL_SIGMA_M)
    assert identity.position_cost(a, b) == pytest.approx(4.0)
    assert identity.position_cost(a, person(0.0, 3.0 * np.exp(identity.DEPTH_SIGMA_LOG))) == pytest.approx(1.0)
    assert identity.position_cost(a, person(0.0, -1.0)) == np.inf
    assert identity.shape_cost(person(0, betas=0.0, sigma=0.6), person(0, betas=2.0, sigma=0.8)) == pytest.approx(4.0)
    # A hue counts in full, brightness by half.
    hue = identity.color_cost(person(0, rgb=(0.5, 0.5, 0.5)), person(0, rgb=(0.6, 0.4, 0.5)))
    assert hue == pytest.approx(2 / 3 * 0.01 / identity.COLOR_SIGMA**2)
    light = identity.color_cost(person(0, rgb=(0.4, 0.4, 0.4)), person(0, rgb=(0.5, 0.5, 0.5)))
    assert light == pytest.approx((identity.BRIGHTNESS_SHARE * 0.1) ** 2 / identity.COLOR_SIGMA**2)
    assert identity.color_cost(person(0, rgb=RED), person(0)) is None


def test_colours_of_too_few_parts_say_nothing():
    few = Look(np.zeros((24, 3)), np.r_[np.ones(identity.MIN_PARTS - 1), np.zeros(25 - identity.MIN_PARTS)])
    assert identity.color_cost(person(0, rgb=RED), dataclasses.replace(person(0), look=few)) is None


def test_unknown_colours_are_neither_for_nor_against():
    """A stranger whom nobody has looked at yet does not get the name of somebody who came back in the same clothes."""
    back, stranger = person(0.0, rgb=RED), person(0.0)
    assert identity.match([person(0.0, rgb=RED)], [stranger, back]) == [(0, 1)]


def test_crossing_people_are_told_apart_by_their_colours():
    """Each window shows the other person: positions alone cannot tell, colours can."""
    tracks = [person(0.05, rgb=RED), person(-0.05, rgb=BLUE)]
    swapped = [person(0.0, rgb=BLUE), person(0.02, rgb=RED)]
    assert identity.own_rows(tracks, swapped, [[0], [1]]) == [1, 0]
    plain = [dataclasses.replace(t, look=None) for t in tracks]
    assert identity.own_rows(plain, [dataclasses.replace(t, look=None) for t in swapped], [[0], [1]]) == [0, 1]


@pytest.mark.parametrize("front", [0, 1])
def test_one_who_is_hidden_gets_no_estimate(front):
    """Both windows show the person in front: the other track coasts."""
    colours = [RED, BLUE]
    tracks = [person(0.0, 3.0, RED), person(0.0, 3.3, BLUE)]
    both = [person(0.0, 3.1, colours[front]), person(0.01, 3.1, colours[front])]
    overlap = np.array([[1.0, 0.9], [0.9, 1.0]])
    groups = identity.people_in(overlap, np.array([0.8, 0.9]))
    assert groups == [[1, 0]]
    rows = identity.own_rows(tracks, both, groups)
    assert rows[front] == front and rows[1 - front] is None


def test_a_person_who_returns_is_recognised_and_a_stranger_is_not():
    known = [person(0.0, rgb=RED, sigma=0.2, unseen_s=1.0), person(1.5, rgb=BLUE, sigma=0.2, unseen_s=1.0)]
    back = [person(0.5, 3.3, RED, betas=0.3)]
    assert identity.match(known, back) == [(0, 0)]
    assert identity.match(known, [person(0.0, rgb=(0.1, 0.7, 0.1))]) == [], "another person in the same place"
    assert identity.match(known, [person(0.0, rgb=RED, betas=3.0)]) == [], "the same shirt on another body"
    assert identity.match(known, [person(0.0, 12.0, RED)]) == [], "nobody walks nine metres in a second"


def test_without_colours_place_and_shape_decide():
    assert identity.match([person(0.0, unseen_s=0.5)], [person(0.3)]) == [(0, 0)]
    assert identity.match([person(0.0, unseen_s=0.5)], [person(3.0)]) == []


def test_sixteen_people_in_any_order():
    rng = np.random.default_rng(3)
    places = [(x, z) for x in np.linspace(-3, 3, 4) for z in (2.0, 3.0, 4.5, 6.5)]
    hues = rng.uniform(0, 1, (16, 3))
    known = [person(x, z, hues[i], unseen_s=0.3) for i, (x, z) in enumerate(places)]
    order = rng.permutation(16)
    found = [
        Traits(known[k].root_m + rng.normal(0, 0.04, 3), np.zeros(10), np.ones(10), look(hues[k], 0.03, int(k))) for k in order
    ]
    assert identity.match(known, found) == [(int(k), int(np.flatnonzero(order == k)[0])) for k in range(16)]


def body_at(x: float) -> BodyParams:
    rest = BodyParams.rest(1)
    return dataclasses.replace(rest, t_camera_root=np.array([[x, 0, 3]], np.float32))


def test_coasting_frame_by_frame_goes_as_far_as_in_one_step():
    _, t = state.birth(state.TrackerState(), body_at(0.0), shape.ShapeBelief.prior(), None, 0)
    t = dataclasses.replace(t, velocity=motion.Velocity(np.zeros((24, 3), np.float32), np.array([1, 0, 0], np.float32)))
    step = t
    for i in range(1, 31):
        step = state.predicted(step, i * 33_333_333)
    once = state.predicted(t, 30 * 33_333_333)
    np.testing.assert_allclose(step.params.t_camera_root, once.params.t_camera_root, atol=1e-3)
    assert once.params.t_camera_root[0, 0] < motion.COAST_TAU_S


def test_the_lost_are_known_for_the_window_and_not_longer():
    config = TrackConfig()
    _, t = state.birth(state.TrackerState(), body_at(0.0), shape.ShapeBelief.prior(), None, 0)
    window_ns = int((config.lost_after_s + config.reidentify_s) * 1e9)
    assert state.still_known([t], window_ns, config) == (t,)
    assert state.still_known([t], window_ns + 1, config) == ()
    assert state.still_known([t], 1, dataclasses.replace(config, reidentify_s=0.0)) == ()
    many = [dataclasses.replace(t, measured_ns=i) for i in range(100)]
    assert [k.measured_ns for k in state.still_known(many, 100, config)] == list(range(100 - state.MAX_LOST, 100))


def test_who_returns_takes_name_shape_and_colours_back():
    s, old = state.birth(state.TrackerState(), body_at(0.0), shape.ShapeBelief.prior(0.3), "colours", 0)
    _, new = state.birth(s, body_at(1.0), shape.ShapeBelief.prior(), None, 10)
    again = state.returned(new, old)
    assert (again.track_id, again.appearance, again.shape) == (old.track_id, "colours", old.shape)
    assert again.params is new.params and again.stamp_ns == 10
