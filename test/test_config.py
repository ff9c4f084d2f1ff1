"""The settings tree: every leaf described, nothing unknown accepted, ranges held."""

from __future__ import annotations

import math

import pytest

from densefit_ros.config import Config, load_config
from densefit_ros.errors import ConfigError
from densefit_ros.settings import settings, with_overrides


def test_every_setting_is_described_and_its_default_is_legal():
    for s in settings(Config()):
        assert s.description
        assert with_overrides(Config(), {s.name: s.value}) == Config()


def test_yaml_tree_and_ros_parameter_file_give_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text("fit:\n  iterations: 7\ntrack: {lost_after_s: 2}\n")
    (tmp_path / "b.yaml").write_text(
        "densefit:\n  ros__parameters:\n    fit.iterations: 7\n"
        "    track:\n      lost_after_s: 2.0\n    ros:\n      reliable: true\n"
    )
    a, b = load_config(tmp_path / "a.yaml"), load_config(tmp_path / "b.yaml")
    assert a == b and a.fit.iterations == 7 and a.track.lost_after_s == 2.0


def test_overrides_come_last_and_read_text():
    assert load_config(None, {"fit.iterations": "9", "displace.enabled": "false"}).fit.iterations == 9


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("fit.iteration", 3, "fit.iterations"),
        ("fit.iterations", 0, "1 to 100"),
        ("fit.iterations", 2.5, "int"),
        ("fit.iterations", True, "int"),
        ("fit.robust_scale", math.nan, "0.5"),
        ("render.backend", "opengl", "warp"),
        ("displace.enabled", 1, "bool"),
    ],
)
def test_illegal_values_name_what_was_expected(name, value, word):
    with pytest.raises(ConfigError, match=name.split(".")[1]) as e:
        with_overrides(Config(), {name: value})
    assert word in str(e.value)


def test_words_and_numbers_that_yaml_reads_its_own_way(tmp_path):
    p = tmp_path / "x.yaml"
    p.write_text("runtime: {device_frame: off}\nfit: {prediction_t_sigma_m: 1e-3}")
    assert load_config(p).runtime.device_frame == "off"
    assert (
        load_config(p).fit.prediction_t_sigma_m
        == load_config(None, {"fit.prediction_t_sigma_m": "1e-3"}).fit.prediction_t_sigma_m
    )
    with pytest.raises(ConfigError, match="fit.iterations: expected int"):
        load_config(None, {"fit.iterations": "[4"})


@pytest.mark.parametrize("text", ["/**: {ros__parameters: 5}", "/**: {ros__parameters: {}}\nfit: {iterations: 7}"])
def test_a_parameter_file_that_would_be_read_in_part(tmp_path, text):
    p = tmp_path / "x.yaml"
    p.write_text(text)
    with pytest.raises(ConfigError, match="under each ros__parameters"):
        load_config(p)


def test_broken_yaml_is_one_line(tmp_path):
    p = tmp_path / "x.yaml"
    p.write_text("a: [1, 2")
    with pytest.raises(ConfigError) as e:
        load_config(p)
    assert "\n" not in str(e.value) and str(p) in str(e.value)
