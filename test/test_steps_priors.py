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
