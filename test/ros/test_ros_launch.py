"""The launch file: which nodes it starts, from lists; with stand-ins for launch where that is not installed."""

from __future__ import annotations

import logging
import runpy
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from densefit_ros.config import Config
from densefit_ros.errors import ConfigError
from densefit_ros.ros import params
from densefit_ros.ros.inputs import camera_info_topic
from densefit_ros.ros.launching import flag, has_substitutions, image_profile, misspelt, plan, said, shown_topics

ROOT = Path(__file__).resolve().parents[2]


def test_one_camera():
    (node,) = plan("/camera/image_raw", optional_topics={"depth": "/camera/depth", "initial": ""})
    assert node.remappings == (
        ("image", "/camera/image_raw"),
        ("camera_info", "/camera/camera_info"),
        ("depth", "/camera/depth"),
    )
    assert node.parameters == {"ros.depth": True} and node.namespace == ""
    assert shown_topics(node, "densefit")[1] == ("/densefit/markers", "/densefit/markers")


def test_one_process_for_several_cameras():
    (node,) = plan(
        "/l/image_raw, /r/image_raw",
        "",
        {"initial": "/l/hmr,/r/hmr", "keypoints": "/l/kp,/r/kp"},
        "left,right",
        "/robot",
    )
    assert dict(node.remappings) == {
        "left/image": "/l/image_raw",
        "left/camera_info": "/l/camera_info",
        "~/left/initial": "/l/hmr",
        "left/keypoints": "/l/kp",
        "right/image": "/r/image_raw",
        "right/camera_info": "/r/camera_info",
        "~/right/initial": "/r/hmr",
        "right/keypoints": "/r/kp",
    }
    assert node.parameters == {"ros.cameras": "left,right", "ros.initial": True, "ros.keypoints": "keypoints"}
    assert node.namespace == "/robot" and shown_topics(node, "people")[1][1] == "/robot/people/left/markers"
    assert params.camera_names(params.merged(Config(), params.RosConfig(), node.parameters)[1]) == ("left", "right")


def test_a_process_for_each_camera():
    nodes = plan("/l/image_raw,/r/image_raw", "/l/info,/r/info", namespace="left,right")
    assert [n.namespace for n in nodes] == ["left", "right"]
    assert [dict(n.remappings)["camera_info"] for n in nodes] == ["/l/info", "/r/info"]
    assert [shown_topics(n, "densefit")[1][1] for n in nodes] == ["/left/densefit/markers", "/right/densefit/markers"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(image_topic=""), "image_topic is empty"),
        (dict(image_topic="/a,/b"), "image_topic lists 2, namespace 0"),
        (dict(image_topic="/a", namespace="x,y"), "image_topic lists 1, namespace 2"),
        (dict(image_topic="/a", cameras="l,r"), "cameras names 2, image_topic 1"),
        (dict(image_topic="/a,/b", cameras="l,r", namespace="x,y"), "one namespace at most"),
        (dict(image_topic="/a,/b", cameras="l,r", camera_info_topic="/i"), "camera_info_topic lists 1, image_topic 2"),
        (dict(image_topic="/a,/b", cameras="l,r", optional_topics={"depth": "/d"}), "depth_topic lists 1, image_topic 2"),
    ],
)
def test_lists_that_do_not_go_together(arguments, words):
    with pytest.raises(ConfigError, match=words):
        plan(**arguments)


class Recorded:
    """Any class of launch: keeps what it was made with."""

    def __init__(self, *args, **kwargs) -> None:
        self.args, self.kwargs = args, kwargs


def stand_ins(values: dict[str, str]) -> dict[str, types.ModuleType]:
    """Modules with the names that the launch file imports; LaunchConfiguration answers from ``values``."""

    class LaunchConfiguration(Recorded):
        def perform(self, context) -> str:
            return values[self.args[0]]

    names = {
        "launch": ("LaunchDescription",),
        "launch.actions": ("DeclareLaunchArgument", "OpaqueFunction"),
        "launch.conditions": ("IfCondition",),
        "launch.substitutions": ("PathJoinSubstitution",),
        "launch_ros": (),
        "launch_ros.actions": ("Node",),
        "launch_ros.parameter_descriptions": ("ParameterFile", "ParameterValue"),
        "launch_ros.substitutions": ("FindPackageShare",),
    }
    modules = {}
    for module, classes in names.items():
        modules[module] = types.ModuleType(module)
        for name in classes:
            setattr(modules[module], name, type(name, (Recorded,), {}))
    modules["launch.logging"] = types.ModuleType("launch.logging")
    modules["launch.logging"].get_logger = logging.getLogger
    modules["launch.substitutions"].LaunchConfiguration = LaunchConfiguration
    modules["launch_ros.substitutions"].FindPackageShare.perform = lambda self, context: str(ROOT)
    modules["launch_ros.parameter_descriptions"].ParameterFile.evaluate = lambda self, context: self.args[0]
    return modules


def run_file(
    arguments: dict[str, str], monkeypatch, extra: Sequence[str] = (), pushed: str = ""
) -> tuple[list[Recorded], dict[str, str]]:
    """What the launch file starts with these arguments, and the values of all arguments; ``pushed``: a namespace around it."""
    values: dict[str, str] = {}
    for name, module in stand_ins(values).items():
        monkeypatch.setitem(sys.modules, name, module)
    file = runpy.run_path(str(ROOT / "launch" / "densefit.launch.py"))
    (description,) = file["generate_launch_description"]().args
    declared = [a for a in description if type(a).__name__ == "DeclareLaunchArgument"]
    defaults = {a.args[0]: a.kwargs["default_value"] for a in declared}
    assert all(a.kwargs["description"] for a in declared) and set(arguments) <= set(defaults)
    values.update({**defaults, "params_file": str(ROOT / "config" / "default.yaml"), **arguments})
    (start,) = [a.kwargs for a in description if type(a).__name__ == "OpaqueFunction"]
    around = {"ros_namespace": pushed} if pushed else {}
    context = types.SimpleNamespace(argv=[*(f"{n}:={v}" for n, v in arguments.items()), *extra], launch_configurations=around)
    return start["function"](context, *start["args"]), values


@pytest.mark.parametrize(
    "arguments, nodes",
    [
        ({}, 1),
        ({"cameras": "left,right", "image_topic": "/l/image_raw,/r/image_raw", "depth_topic": "/l/d,/r/d"}, 1),
        ({"namespace": "left,right", "image_topic": "/l/image_raw,/r/image_raw", "rviz": "true", "fixed_frame": "f"}, 2),
        ({"autostart": "false", "image_profile": "false", "respawn": "true"}, 1),
        ({"use_sim_time": "true", "image_transport": "compressed", "depth_transport": "compressedDepth"}, 1),
    ],
)
def test_the_file_itself(arguments, nodes, monkeypatch):
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    actions, values = run_file(arguments, monkeypatch)
    started = [a.kwargs for a in actions if type(a).__name__ == "Node"]
    trackers = [k for k in started if k["executable"] == "densefit_node"]
    assert len(trackers) == nodes and len(started) == nodes + 1
    # Of these processes alone: a variable of the launch process would reach whatever a bring-up starts later.
    assert {type(a).__name__ for a in actions} == {"Node"}
    assert all(bool(k["additional_env"]) == (arguments.get("image_profile") != "false") for k in started)
    for tracker in trackers:
        file, given = tracker["parameters"]
        clock = {"use_sim_time": arguments["use_sim_time"]} if "use_sim_time" in arguments else {}
        assert {n: values[v.args[0].args[0]] for n, v in given.items() if isinstance(v, Recorded)} == {
            **clock,
            "ros.autostart": arguments.get("autostart", "true"),
        }
        assert tracker["respawn"] == ("respawn" in arguments) and tracker["respawn_delay"] > 0
        for name in ("image_transport", "depth_transport"):
            assert given.get(f"ros.{name}") == arguments.get(name), "else as in the file"
        own = {k: v for k, v in given.items() if not isinstance(v, Recorded)}
        params.merged(Config(), params.RosConfig(), own)  # each is a parameter of the node, in range
        assert dict(tracker["remappings"]) and yaml.safe_load(Path(file.args[0]).read_text())


EXTRA = ("depth", "detections", "keypoints", "densepose", "initial")


def test_arguments_reach_the_nodes(monkeypatch):
    arguments = {
        **{f"{n}_topic": f"/l/{n},/r/{n}" for n in EXTRA},
        "image_topic": "/l/image_raw,/r/image_raw",
        "camera_info_topic": "/l/calibration,/r/calibration",
        "namespace": "left,right",
        "node_name": "people",
        "log_level": "debug",
        "rviz": "true",
        "fixed_frame": "optical",
    }
    actions, values = run_file(arguments, monkeypatch)
    *trackers, rviz = [a.kwargs for a in actions if type(a).__name__ == "Node"]
    assert [(t["namespace"], t["name"]) for t in trackers] == [("left", "people"), ("right", "people")]
    for tracker, side in zip(trackers, "lr"):
        private = {"initial": "~/initial"}
        topics = {private.get(n, n): f"/{side}/{n}" for n in EXTRA}
        assert dict(tracker["remappings"]) == {"image": f"/{side}/image_raw", "camera_info": f"/{side}/calibration", **topics}
        given = {n: v for n, v in tracker["parameters"][1].items() if not isinstance(v, Recorded)}
        topics = {f"ros.{n}": "keypoints" if n == "keypoints" else True for n in EXTRA}
        assert given == {**topics, "ros.camera_info": "topic"}
        assert tracker["arguments"] == ["--ros-args", "--log-level", "debug"]
    assert rviz["arguments"][-2:] == ["-f", "optical"] and values[rviz["condition"].args[0].args[0]] == "true"
    assert dict(rviz["remappings"]) == {
        "/camera/image_raw": "/l/image_raw",
        **{f"/densefit/{n}": f"/left/people/{n}" for n in ("markers", "joint_markers", "overlay")},
    }


def test_a_calibration_topic_that_is_named_is_the_one_even_if_it_has_the_node_s_own_name():
    """A remapping to the own name changes nothing that the node could see."""

    def resolved(name, only_expand=False):
        return "/left/color/image" if name == "image" and not only_expand else f"/left/{name}"

    own = types.SimpleNamespace(resolve_topic_name=resolved)
    (named,), (unnamed,) = (plan("/left/color/image", info, namespace="left") for info in ("/left/camera_info", ""))
    assert camera_info_topic(own, "", named.parameters["ros.camera_info"]) == "camera_info", (
        "to be remapped when it is subscribed to"
    )
    assert "ros.camera_info" not in unnamed.parameters and camera_info_topic(own) == "/left/color/camera_info"


def test_a_profile_of_the_robot_s_own_stays(monkeypatch):
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, "/robot/profile.xml")
    actions, _ = run_file({}, monkeypatch)
    assert not any(a.kwargs["additional_env"] for a in actions)


def test_a_parameter_file_that_is_missing(monkeypatch):
    for missing in ("mine.yaml", "config/realsense"):
        with pytest.raises(ConfigError, match=f"params_file: no file .*{missing}.* cpu, default, gpu, jetson, realsense"):
            run_file({"params_file": missing}, monkeypatch)


def test_a_shipped_parameter_file_by_its_name(monkeypatch):
    actions, _ = run_file({"params_file": "realsense"}, monkeypatch)
    (tracker,) = [a.kwargs for a in actions if type(a).__name__ == "Node" and a.kwargs["executable"] == "densefit_node"]
    assert tracker["parameters"][0].args == (str(ROOT / "config" / "realsense.yaml"),)


@pytest.mark.parametrize(
    "text, replaced",
    [
        ("/**: {ros__parameters: {body: {model_path: $(env HOME)/SMPL_NEUTRAL.pkl}}}", True),
        ("/$(var namespace)/densefit: {ros__parameters: {device: cpu}}", True),
        ("# launch would take $(ros2 pkg prefix densefit_ros) for its own\n/**: {ros__parameters: {device: cpu}}", False),
        ('/**: {ros__parameters: {body: {model_path: "C:\\\\SMPL $1.pkl"}}}', False),  # and take the backslashes out of this
        ("", False),
    ],
)
def test_a_parameter_file_is_for_launch_to_look_through_where_it_asks_for_that(text, replaced, tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert has_substitutions(yaml.safe_load(text)) is replaced
    actions, _ = run_file({"params_file": str(file)}, monkeypatch)
    assert actions[0].kwargs["parameters"][0].kwargs == {"allow_substs": replaced}


def test_a_parameter_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {device: cpu\n")
    with pytest.raises(ConfigError, match=f"params_file: {file} cannot be read as YAML: .*line"):
        run_file({"params_file": str(file)}, monkeypatch)


@pytest.mark.parametrize(
    "node, expected",
    [
        ("/densefit", {"ros.keypoints": "none", "ros.depth": True, "device": "cpu"}),
        ("/left/densefit", {"ros.keypoints": "yolo", "device": "cuda"}),
        ("/right/densefit", {"ros.keypoints": "hri", "device": "cpu"}),
        ("/right/people", {"device": "cpu"}),
    ],
)
def test_what_a_parameter_file_says_for_a_node(node, expected):
    text = """
left/densefit: {ros__parameters: {device: cuda, ros.keypoints: yolo}}
/**: {ros__parameters: {device: cpu}}
right: {"*": {ros__parameters: {}}, densefit: {ros__parameters: {ros: {keypoints: hri}}}}
densefit: {ros__parameters: {ros: {keypoints: none, depth: true}}}
"""
    assert said(yaml.safe_load(text), node) == expected


@pytest.mark.parametrize(
    "ros, boxes",
    [
        ("{keypoints: yolo, detections: false}", None),  # the keypoints of the topic without its boxes
        ("{keypoints: yolo, detections: true, detections_type: yolo_msgs}", True),
        ("{keypoints: yolo, detections_type: yolo_msgs}", True),
        ("{keypoints: none, detections: false}", True),  # as in a copy of default.yaml: the argument asks for the topic
    ],
)
def test_whether_yolo_s_boxes_are_used_beside_its_keypoints_the_file_decides(ros, boxes, tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text(f"/robot/head/people: {{ros__parameters: {{ros: {ros}}}}}")
    arguments = {"params_file": str(file), "detections_topic": "/yolo/detections", "namespace": "head", "node_name": "people"}
    actions, _ = run_file(arguments, monkeypatch, pushed="/robot")
    tracker = actions[0].kwargs
    assert tracker["parameters"][1].get("ros.detections") is boxes
    assert dict(tracker["remappings"])["detections"] == "/yolo/detections"
    actions, _ = run_file({**arguments, "node_name": "others"}, monkeypatch, pushed="/robot")
    assert actions[0].kwargs["parameters"][1]["ros.detections"] is True, "the file speaks of another node"


def test_misspelt_arguments_are_named():
    known = ["image_topic", "camera_info_topic", "rviz"]
    assert misspelt(["image_topic:=/a", "rviz:=true", "--debug", "robot_name:=r2"], known) == []
    for given, meant in (("imagetopic:=/a", "image_topic"), ("camera_info_topics:=/b", "camera_info_topic")):
        (warning,) = misspelt([given], known)
        assert f"'{given.partition(':=')[0]}': was {meant} meant" in warning


def test_arguments_of_a_launch_file_around_are_no_error(monkeypatch, caplog):
    """As in a bring-up that includes ours and is told what nav2 is told."""
    actions, _ = run_file({}, monkeypatch, extra=["use_respawn:=True", "use_namespace:=true", "camera:=front"])
    assert [a for a in actions if type(a).__name__ == "Node"]
    assert "'camera': was cameras meant" in caplog.text


@pytest.mark.parametrize(
    "text, said", [("true", True), ("True", True), ("yes", True), ("1", True), ("False", False), ("0", False)]
)
def test_arguments_that_say_yes_or_no(text, said, monkeypatch):
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    actions, _ = run_file({"image_profile": text, "respawn": text}, monkeypatch)
    assert bool(actions[0].kwargs["additional_env"]) is said
    assert next(a for a in actions if type(a).__name__ == "Node").kwargs["respawn"] is said
    with pytest.raises(ConfigError, match="respawn: expected true or false, got 'maybe'"):
        flag("respawn", "maybe")


@pytest.mark.parametrize("topic, shown", [("image_raw", "/left/image_raw"), ("/camera/image_raw", "/camera/image_raw")])
def test_rviz_shows_the_image_of_the_namespace(topic, shown, monkeypatch):
    actions, _ = run_file({"image_topic": topic, "namespace": "left", "rviz": "true"}, monkeypatch)
    (rviz,) = [a.kwargs for a in actions if type(a).__name__ == "Node" and a.kwargs["package"] == "rviz2"]
    assert dict(rviz["remappings"])["/camera/image_raw"] == shown


def test_a_namespace_around_the_launch_file_reaches_rviz(monkeypatch):
    actions, _ = run_file({"image_topic": "image_raw", "namespace": "head", "rviz": "true"}, monkeypatch, pushed="/robot1")
    tracker, rviz = (a.kwargs for a in actions)
    assert tracker["namespace"] == "head"
    assert dict(rviz["remappings"]) == {
        "/camera/image_raw": "/robot1/head/image_raw",
        **{f"/densefit/{n}": f"/robot1/head/densefit/{n}" for n in ("markers", "joint_markers", "overlay")},
    }
    actions, _ = run_file({"image_topic": "/camera/image_raw", "namespace": "/head"}, monkeypatch, pushed="/robot1")
    assert dict(actions[-1].kwargs["remappings"])["/densefit/markers"] == "/head/densefit/markers", "absolute ones stay"


@pytest.mark.parametrize(
    "namespace, pushed, own", [("robot1", "/robot1", ""), ("r/head", "/x/r/head", ""), ("robot1", "/bot1", "robot1")]
)
def test_a_namespace_that_is_pushed_already_is_not_pushed_twice(namespace, pushed, own, monkeypatch):
    """A bring-up's own argument of this name is handed down to all that it includes."""
    actions, _ = run_file({"namespace": namespace}, monkeypatch, pushed=pushed)
    assert actions[0].kwargs["namespace"] == own


@pytest.mark.parametrize(
    "environ, profile",
    [
        ({"ROS_DISTRO": "jazzy"}, ("FASTRTPS_DEFAULT_PROFILES_FILE", "fastdds_image.xml")),
        ({"ROS_DISTRO": "kilted"}, ("FASTDDS_DEFAULT_PROFILES_FILE", "fastdds_image.xml")),
        ({"ROS_DISTRO": "kilted", "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, None),
        # Its own UDP would leave the machine.
        ({"ROS_DISTRO": "humble", "ROS_LOCALHOST_ONLY": "1"}, ("FASTRTPS_DEFAULT_PROFILES_FILE", "fastdds_image_shm.xml")),
        ({"ROS_DISTRO": "jazzy", "ROS_LOCALHOST_ONLY": "1"}, ("FASTRTPS_DEFAULT_PROFILES_FILE", "fastdds_image.xml")),
    ],
)
def test_the_profile_for_images(environ, profile):
    assert image_profile(environ) == profile
    if profile:
        text = (ROOT / "config" / profile[1]).read_text()
        assert "<type>SHM</type>" in text and ("UDP" in text.partition("-->")[2]) == ("shm" not in profile[1])
