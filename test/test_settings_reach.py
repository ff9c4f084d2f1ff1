"""Settings reach what they are named after."""

from __future__ import annotations

import inspect

import pytest

from densefit_ros import models
from densefit_ros.config import Config
from densefit_ros.errors import AssetError, BackendUnavailable
from densefit_ros.models import fit_options, load_models
from densefit_ros.runtime import factory
from densefit_ros.settings import with_overrides


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("fit.iterations", 7, "iterations"),
        ("fit.robust_scale", 7.0, "robust_scale"),
        ("fit.robust_scale", 7.0, "robust_start"),
        ("fit.keypoint_sigma_share", 0.07, "keypoint_sigma_share"),
        ("fit.covariance_share", 0.07, "covariance_share"),
        ("displace.independent_share", 0.07, "independent_share"),
        ("displace.part_correlation", 0.07, "part_correlation"),
    ],
)
def test_settings_of_the_fit_reach_the_fitter(name, value, option):
    assert getattr(fit_options(with_overrides(Config(), {name: value})), option) == value
    assert getattr(fit_options(Config()), option) != value


def test_a_chart_that_is_not_there_is_named(tmp_path):
    least = {"device": "cpu", "regress.backend": "external", "detect.backend": "none", "displace.enabled": False}
    with pytest.raises(AssetError, match="none.mat"):
        load_models(with_overrides(Config(), {**least, "body.densepose_chart": str(tmp_path / "none.mat")}))


def test_threads_reach_every_network(monkeypatch):
    signature, asked = inspect.signature(factory.make_runtime), []

    def make_runtime(*args, **kwargs):
        asked.append(signature.bind(*args, **kwargs).arguments.get("threads"))
        raise BackendUnavailable("no network here")

    monkeypatch.setattr(factory, "make_runtime", make_runtime)
    config = with_overrides(Config(), {"runtime.threads": 7, "detect.backend": "network"})
    for make in (lambda: models._runtime(config, "x.onnx", "cpu"), lambda: models._make_finder(config, "cpu")):
        with pytest.raises(BackendUnavailable, match="no network here"):
            make()
    assert asked == [7, 7]
