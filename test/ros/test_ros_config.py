"""Parameter files: complete, valid, and the same as the settings tree that they are written from."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml

from densefit_ros.config import Config
from densefit_ros.ros import params

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "config").glob("*.yaml"))


def flatten(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_holds_known_parameters_in_range(path):
    values = dict(flatten(yaml.safe_load(path.read_text())["/**"]["ros__parameters"]))
    config, ros = params.merged(Config(), params.RosConfig(), values)
    got = {s.name: s.value for s in params.all_settings(config, ros)}
    assert all(got[k] == v and type(got[k]) is type(v) for k, v in values.items())


def test_default_file_is_up_to_date():
    spec = importlib.util.spec_from_file_location("write_default_config", ROOT / "scripts" / "write_default_config.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert (ROOT / "config" / "default.yaml").read_text() == writer.text(), "run: python scripts/write_default_config.py"


def test_every_parameter_is_described_and_numbers_are_ranged():
    for setting in params.all_settings(Config(), params.RosConfig()):
        d = params.descriptor(setting)
        assert d.description, setting.name
        if isinstance(setting.value, (int, float)) and not isinstance(setting.value, bool):
            assert d.integer_range or d.floating_point_range, setting.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_is_what_command_line_and_node_take_it_for(path):
    """Read as ``--config`` of the command line, and as the parameter file of a real node."""
    import rclpy

    from densefit_ros.config import load_config
    from densefit_ros.ros.node import DensefitNode
    from densefit_ros.settings import settings

    values = dict(flatten(yaml.safe_load(path.read_text())["/**"]["ros__parameters"]))
    core = {s.name: s.value for s in settings(load_config(path))}
    assert all(core[n] == v for n, v in values.items() if not n.startswith(("ros.", "hri.")))
    context = rclpy.Context()
    # A domain of its own: services of a node that has gone answer for a while, and clients of the next test would ask them.
    rclpy.init(args=["densefit", "--ros-args", "--params-file", str(path)], context=context, domain_id=101)
    node = DensefitNode(context=context)
    try:
        config, ros = params.read(node)
        got = {s.name: s.value for s in params.all_settings(config, ros)}
        assert all(got[n] == v for n, v in values.items()) and {n: got[n] for n in core} == core
    finally:
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_there_is_a_file_for_every_usual_machine_camera_and_detector():
    assert {p.stem for p in FILES} == {"default", "cpu", "gpu", "jetson", "webcam", "realsense", "zed", "yolo"}


# What a number means: its unit, or that it has none.
UNITS = ("no unit", "m,", "m^2", "rad,", "px", "ms,", "s,", "m.", "(s, ns)", "units as in", "in [0, 1]")


def test_message_files_say_unit_and_frame_of_every_field():
    for path in (ROOT / "msg").glob("*.msg"):
        for line in path.read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            field, _, comment = line.partition("#")
            assert comment, f"{path.name}: {line}"
            if "=" not in field:
                assert any(u in comment + "," for u in UNITS), f"{path.name}, unit: {line}"
            if any(u in comment for u in (" m,", " m^2,", " rad,")):
                assert "frame" in comment, f"{path.name}, frame: {line}"


def test_mesh_marker_is_what_ros_would_have_serialised():
    from builtin_interfaces.msg import Time
    from geometry_msgs.msg import Point
    from rclpy.serialization import deserialize_message, serialize_message
    from visualization_msgs.msg import MarkerArray

    from densefit_ros.ros.cdr import MeshMarker

    rng = np.random.default_rng(0)
    for frame_id in ("", "a", "ab", "abc", "abcd", "camera_color_optical_frame"):  # every alignment
        vertices = rng.normal(size=(7, 3)).astype(np.float32)
        faces = rng.integers(0, 7, (5, 3))
        data = MeshMarker(faces, frame_id, 0.25, "mesh").render(vertices, 12_000_000_034, 9, (0.25, 0.5, 0.75, 1.0))
        message = deserialize_message(data, MarkerArray)
        marker = message.markers[0]
        assert (marker.header.frame_id, marker.id, marker.header.stamp) == (frame_id, 9, Time(sec=12, nanosec=34))
        assert (marker.color.r, marker.color.a, marker.lifetime.nanosec) == (0.25, 1.0, 250_000_000)
        expected = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in vertices[faces.reshape(-1)]]
        assert marker.points == expected
        marker.points = expected
        # Not byte by byte: ROS leaves padding between members uninitialised.
        assert len(serialize_message(message)) == len(data)


def test_words_that_yaml_takes_for_booleans_and_names_that_are_nearly_known():
    import rclpy

    given = ["ros.rectified:=no", "runtime.device_frame:=off", "ros.fov_deg:=60", "ros.dept:=true", "someone.elses:=1"]
    context = rclpy.Context()
    rclpy.init(args=["densefit", "--ros-args", *(w for g in given for w in ("-p", g))], context=context, domain_id=101)
    node = rclpy.create_node("densefit", context=context)
    try:
        params.declare(node)
        config, ros = params.read(node)
        assert (ros.rectified, config.runtime.device_frame, ros.fov_deg) == ("no", "off", 60.0)
        (line,) = params.misspelt(node)
        assert "ros.dept " in line and line.endswith("is ros.depth meant?")
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.ros
def test_arguments_that_ros_does_not_know_are_one_line(capsys):
    from densefit_ros.ros import node

    assert node.main(["densefit_node", "--ros-args", "--foo"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("[densefit] error:") and "--foo" in line


def test_names_are_remapped_once():
    """A head that is mounted upside down has left and right exchanged; remapped twice each camera got the other's images back."""
    import rclpy

    from densefit_ros.ros.diagnostics import Faults
    from densefit_ros.ros.inputs import Inputs, is_rectified
    from densefit_ros.ros.sync import StampBuffer

    rules = [w for a, b in (("left", "right"), ("right", "left")) for w in ("-r", f"{a}/image:=/{b}/image_rect")]
    rules += ["-r", "/right/image_rect:=/left/image_rect", "-r", "/left/image_rect:=/right/image_rect"]
    context = rclpy.Context()
    rclpy.init(args=["densefit", "--ros-args", *rules], context=context, domain_id=101)
    node = rclpy.create_node("densefit", context=context)
    try:
        ros = params.RosConfig(rectified="auto")
        companions = {"depth": StampBuffer(lambda: None)}
        inputs = Inputs(node, "left", ros, lambda job: None, companions, Faults(print, lambda: 0.0), lambda: True)
        assert inputs.image == "/right/image_rect" and is_rectified(node, ros, "left")
        assert inputs.topics.startswith(
            "image /right/image_rect (best_effort), camera_info /right/camera_info, depth /left/depth"
        )
        assert [s.topic_name for s in node.subscriptions if s.topic_name == inputs.image]
        inputs.destroy()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
