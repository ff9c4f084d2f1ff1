"""One tracker for one camera, one for several, or one for each; lists are separated by commas.

ros2 launch densefit_ros densefit.launch.py image_topic:=/camera/image_raw rviz:=true
ros2 launch densefit_ros densefit.launch.py cameras:=left,right image_topic:=/left/image_raw,/right/image_raw
ros2 launch densefit_ros densefit.launch.py namespace:=left,right image_topic:=/left/image_raw,/right/image_raw
"""

import os

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare

from densefit_ros.errors import ConfigError
from densefit_ros.ros.launching import (
    flag,
    has_substitutions,
    image_profile,
    misspelt,
    namespaces,
    parameter_file,
    plan,
    read_parameters,
    shown_topics,
)
from launch import LaunchDescription

SHARE = FindPackageShare("densefit_ros")
RESPAWN_DELAY_S = 2.0


def generate_launch_description():
    """Arguments first; the node depends on their values."""

    names = []

    def arg(name, default, description):
        names.append(name)
        return DeclareLaunchArgument(name, default_value=default, description=description)

    return LaunchDescription(
        [
            arg(
                "image_topic",
                "/camera/image_raw",
                "image to track people in, or a list; with image_transport compressed, without /compressed",
            ),
            arg("cameras", "", "names of the cameras in image_topic, when one process serves them all"),
            arg("camera_info_topic", "", "calibration, or a list; empty: camera_info beside the image topic"),
            arg("depth_topic", "", "depth aligned to the image, or a list; empty: no depth"),
            arg(
                "detections_topic",
                "",
                "boxes of people (vision_msgs/Detection2DArray; yolo_ros: params_file:=yolo), or a list; empty: our own finder",
            ),
            arg("keypoints_topic", "", "keypoints (densefit_ros/KeypointsArray), or a list; empty: none"),
            arg("densepose_topic", "", "DensePose maps (Image: part, u, v), or a list; empty: none"),
            arg("initial_topic", "", "first estimates (densefit_ros/SmplBodyArray), or a list; empty: our own"),
            arg("image_transport", "", "raw or compressed; empty: as in params_file (raw by default)"),
            arg("depth_transport", "", "raw or compressedDepth; empty: as in params_file (raw by default)"),
            arg(
                "params_file",
                PathJoinSubstitution([SHARE, "config", "default.yaml"]),
                "YAML file of parameters, with $(env NAME) and the like, or the name of one that ships (realsense, ...)",
            ),
            arg("namespace", "", "namespace of the node; a list, as long as image_topic: a process for each camera"),
            arg("node_name", "densefit", "name of the node"),
            arg("use_sim_time", "", "true: take the time from /clock; empty: as in params_file (false by default)"),
            arg("autostart", "true", "configure and activate at start; a node that cannot ends"),
            arg("respawn", "false", "true: start a node again, 2 s after it ended, whatever the cause"),
            arg("rviz", "false", "show image, meshes and TF in rviz2"),
            arg(
                "fixed_frame",
                "",
                "rviz: frame_id of the images, or a frame that TF connects with it; empty: a RealSense's, as in densefit.rviz",
            ),
            arg("image_profile", "true", "use the Fast DDS profile for large images in the processes started here"),
            arg("log_level", "info", "debug, info, warn or error"),
            OpaqueFunction(function=start, args=[names]),
        ]
    )


def start(context, names):
    """Nodes and rviz; ``names`` are those of all arguments."""
    for warning in misspelt(context.argv, names):
        get_logger("densefit.launch").warning(warning)

    def value(name):
        return LaunchConfiguration(name).perform(context)

    pushed = context.launch_configurations.get("ros_namespace", "")
    path = parameter_file(value("params_file"), os.path.join(SHARE.perform(context), "config"))
    params_file = ParameterFile(path, allow_substs=has_substitutions(read_parameters(path, path)))
    try:
        evaluated = params_file.evaluate(context)
    except Exception as e:  # launch has no class for what can be wrong there, and does not name the file
        raise ConfigError(f"params_file: {path}: {' '.join(str(e).split())}") from e
    document = read_parameters(str(evaluated), path)
    optional = {n: value(f"{n}_topic") for n in ("depth", "detections", "keypoints", "densepose", "initial")}
    plans = plan(
        value("image_topic"),
        value("camera_info_topic"),
        optional,
        value("cameras"),
        namespaces(value("namespace"), pushed),
    )
    # Only what was asked for: these come after the file, and would hide what it says.
    clock, transport = {}, {}
    if value("use_sim_time"):
        clock["use_sim_time"] = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    for name in ("image_transport", "depth_transport"):
        if value(name):
            transport[f"ros.{name}"] = value(name)
    common = {
        **clock,
        **transport,
        # By the node itself, not by events of launch: those bring it up again after every configure by hand, and wait
        # for a node that has ended.
        "ros.autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
    }
    env = {}  # of these processes: what is set for all is set for whatever a bring-up starts after them as well
    if flag("image_profile", value("image_profile")) and (profile := image_profile(os.environ)):
        env = {profile[0]: PathJoinSubstitution([SHARE, "config", profile[1]])}
    actions = []
    for p in plans:
        node = Node(
            package="densefit_ros",
            executable="densefit_node",
            name=value("node_name"),
            namespace=p.namespace,
            parameters=[params_file, {**common, **p.over(document, value("node_name"), pushed)}],
            remappings=list(p.remappings),
            arguments=["--ros-args", "--log-level", value("log_level")],
            output="screen",
            respawn=flag("respawn", value("respawn")),
            respawn_delay=RESPAWN_DELAY_S,
            additional_env=env,
        )
        actions.append(node)
    frame = ["-f", value("fixed_frame")] if value("fixed_frame") else []
    actions.append(
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", PathJoinSubstitution([SHARE, "rviz", "densefit.rviz"]), *frame],
            parameters=[clock],
            # The first camera; displays of the others are added by hand.
            remappings=list(shown_topics(plans[0], value("node_name"), pushed)),
            condition=IfCondition(LaunchConfiguration("rviz")),
            additional_env=env,
        )
    )
    return actions
