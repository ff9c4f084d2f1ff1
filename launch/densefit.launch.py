"""One tracker for one camera, one for several, or one for each; lists are separated by commas.

ros2 launch densefit_ros densefit.launch.py image_topic:=/camera/image_raw rviz:=true
ros2 launch densefit_ros densefit.launch.py cameras:=left,right image_topic:=/left/image_raw,/right/image_raw
ros2 launch densefit_ros densefit.launch.py namespace:=left,right image_topic:=/left/image_raw,/right/image_raw
"""

import os

import lifecycle_msgs.msg
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from densefit_ros.ros.launching import plan
from launch import LaunchDescription

SHARE = FindPackageShare("densefit_ros")
Transition = lifecycle_msgs.msg.Transition


def generate_launch_description():
    """Arguments first; the node depends on their values."""

    def arg(name, default, description):
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
            arg("detections_topic", "", "boxes of people (vision_msgs/Detection2DArray), or a list; empty: our own finder"),
            arg("keypoints_topic", "", "keypoints (densefit_ros/KeypointsArray), or a list; empty: none"),
            arg("densepose_topic", "", "DensePose maps (Image: part, u, v), or a list; empty: none"),
            arg("initial_topic", "", "first estimates (densefit_ros/SmplBodyArray), or a list; empty: our own"),
            arg("image_transport", "raw", "raw or compressed"),
            arg("params_file", PathJoinSubstitution([SHARE, "config", "default.yaml"]), "YAML file of parameters"),
            arg("namespace", "", "namespace of the node; a list, as long as image_topic: a process for each camera"),
            arg("node_name", "densefit", "name of the node"),
            arg("use_sim_time", "false", "take the time from /clock"),
            arg("autostart", "true", "configure and activate at start"),
            arg("rviz", "false", "show image, meshes and TF in rviz2"),
            arg("fixed_frame", "", "rviz: the optical frame of the camera; empty: as in densefit.rviz"),
            arg("image_profile", "true", "use the Fast DDS profile for large images in the processes started here"),
            arg("log_level", "info", "debug, info, warn or error"),
            OpaqueFunction(function=start),
        ]
    )


def start(context):
    """Nodes, their way through the lifecycle, and rviz."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    optional = {n: value(f"{n}_topic") for n in ("depth", "detections", "keypoints", "densepose", "initial")}
    plans = plan(
        value("image_topic"),
        value("camera_info_topic"),
        optional,
        value("cameras"),
        value("namespace"),
        value("node_name"),
    )
    common = {
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
        "ros.image_transport": value("image_transport"),
    }
    actions = []
    for p in plans:
        node = LifecycleNode(
            package="densefit_ros",
            executable="densefit_node",
            name=value("node_name"),
            namespace=p.namespace,
            parameters=[value("params_file"), {**common, **p.parameters}],
            remappings=list(p.remappings),
            arguments=["--ros-args", "--log-level", value("log_level")],
            output="screen",
        )
        if value("autostart") == "true":
            actions += lifecycle_events(node)
        actions.append(node)
    if value("image_profile") == "true":
        # Fast DDS 3 renamed the variable; setting both makes it read the file twice and complain.
        old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
        name = "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
        actions.insert(0, SetEnvironmentVariable(name, PathJoinSubstitution([SHARE, "config", "fastdds_image.xml"])))
    frame = ["-f", value("fixed_frame")] if value("fixed_frame") else []
    actions.append(
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", PathJoinSubstitution([SHARE, "rviz", "densefit.rviz"]), *frame],
            # The first camera; displays of the others are added by hand.
            remappings=[("/camera/image_raw", plans[0].images[0]), *rviz_topics(plans[0].markers)],
            condition=IfCondition(LaunchConfiguration("rviz")),
        )
    )
    return actions


def rviz_topics(markers):
    """What densefit.rviz shows, from where the node publishes it: all beside its markers."""
    return [(f"/densefit/{n}", markers.removesuffix("markers") + n) for n in ("markers", "joint_markers", "overlay")]


def lifecycle_events(node):
    """Configure once the process runs, activate once it is configured; the node itself ends in order on SIGINT."""

    def change(transition):
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    return [
        RegisterEventHandler(OnProcessStart(target_action=node, on_start=[change(Transition.TRANSITION_CONFIGURE)])),
        RegisterEventHandler(
            # Only on the way up: a later deactivation by hand must not be undone.
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="inactive",
                entities=[change(Transition.TRANSITION_ACTIVATE)],
            )
        ),
    ]
