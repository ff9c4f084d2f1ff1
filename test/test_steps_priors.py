"""Whom the pose prior holds: tracks, and estimates that no network has weighed against what poses people take."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.config import load_config
from densefit_ros.fit.priors import make_prior
from densefit_ros.render.appearance import neutral_appearance
from densefit_ros.steps import priors
from densefit_ros.track import shape
from densefit_ros.track import state as tracking
from densefit_ros.track.state import TrackerState
from densefit_ros.types import BodyParams, Estimate

FRAME_NS = 33_000_000


def two_tracks():
    """Both born at stamp 0; the second walks like the mean of one Gaussian."""
    params = BodyParams.rest(2)
    params.joint_rotvec[1] = make_prior("gmm").means[1].reshape(23, 3)
    state, tracks, body = TrackerState(), [], load_body()
    for i in range(2):
        belief = shape.ShapeBelief.prior(1.0)
        state, track = tracking.birth(state, params.person(i), belief, neutral_appearance(body), 0)
        tracks.append(track)
    return params, tracks


@pytest.mark.parametrize("sources", [("network", "network"), ("external", "network"), ("mediapipe", "track")])
def test_newcomers_of_a_network_are_left_alone(sources):
    params, tracks = two_tracks()
    prior = make_prior("gmm")
    models = SimpleNamespace(config=load_config(), fitter=SimpleNamespace(pose_prior=prior))
    estimate = dataclasses.replace(Estimate(params, np.ones(2, np.float32)), sources=sources)
    expected = prior.gaussian(params.joint_rotvec.astype(np.float64))
    newborn = priors.pose_gaussian(models, params, tracks, estimate, 0)
    for i, source in enumerate(sources):
        np.testing.assert_array_equal(newborn.precision[i], expected.precision[i] * (source in priors.UNWEIGHED))
    later = priors.pose_gaussian(models, params, tracks, estimate, FRAME_NS)
    np.testing.assert_array_equal(later.precision, expected.precision)
    np.testing.assert_array_equal(later.mean, expected.mean)


def test_a_carried_prediction_pulls_once():
    params, tracks = two_tracks()
    estimate = dataclasses.replace(Estimate(params, np.ones(2, np.float32)), sources=("track", "network"))
    prediction, opinion = priors.anchors(tracks, estimate, load_config(), FRAME_NS)
    assert np.isfinite(prediction.t_sigma_m).all()
    assert np.isinf(opinion.t_sigma_m[0]).all() and np.isinf(opinion.rot_sigma_rad[0]).all()
    assert np.isfinite(opinion.t_sigma_m[1]).all() and np.isfinite(opinion.rot_sigma_rad[1]).all()


def test_without_a_prior_there_is_none():
    params, tracks = two_tracks()
    models = SimpleNamespace(config=load_config(), fitter=SimpleNamespace(pose_prior=None))
    assert priors.pose_gaussian(models, params, tracks, Estimate(params, np.ones(2, np.float32)), FRAME_NS) is None


@pytest.mark.parametrize("z_m, sigma_m", [(1.0, 0.25), (12.0, 0.6)])
def test_a_distance_is_known_as_well_as_a_size(z_m, sigma_m):
    params = BodyParams.rest(1)
    params.t_camera_root[0] = 0.3, 0.1, z_m
    estimate = Estimate(params, np.ones(1, np.float32), source="network", rot_sigma_rad=np.full((1, 24), 0.1, np.float32))
    np.testing.assert_allclose(priors.estimate_t_sigmas_m(params), [[0.25, 0.25, sigma_m]], rtol=1e-6)
    config = load_config()
    _, track = tracking.birth(TrackerState(), params, shape.ShapeBelief.prior(), None, 0)
    _, seen = priors.anchors([track], estimate, config, 0)
    np.testing.assert_allclose(seen.t_sigma_m, [[0.25, 0.25, sigma_m]], rtol=1e-6)
    # The prediction of the frame of birth holds nothing.
    np.testing.assert_allclose(priors.translation_precision([track], estimate, config, 0), 1 / seen.t_sigma_m**2, rtol=1e-6)


def test_an_assumed_distance_says_nothing_of_size():
    """The image says how large a person looks: size over distance, two unknowns."""
    looks = np.zeros(85)
    looks[2], looks[75] = 10.0, -10.0
    information = 1e-3 * np.eye(85) + np.outer(looks, looks)
    information[2, 2] += 16.0  # the distance, held to a quarter of a metre
    information[75:, 75:] += np.eye(10)  # the belief itself
    belief, betas = shape.ShapeBelief.prior(), np.ones(10, np.float32)
    held = shape.update(belief, betas, information, 10.0)
    free = shape.update(belief, betas, shape.without_assumed_distance(information, np.array([0, 0, 16.0])), 10.0)
    assert held.precision[0] > 10 and free.precision[0] < 1.5


def test_what_holds_a_translation_is_what_the_anchors_say():
    params, tracks = two_tracks()
    estimate = dataclasses.replace(Estimate(params, np.ones(2, np.float32)), sources=("track", "network"))
    for stamp_ns in (0, FRAME_NS):
        held = sum(1.0 / np.square(a.t_sigma_m) for a in priors.anchors(tracks, estimate, load_config(), stamp_ns))
        np.testing.assert_allclose(priors.translation_precision(tracks, estimate, load_config(), stamp_ns), held, rtol=1e-5)
