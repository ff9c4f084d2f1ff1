"""ROS parameters, generated from the settings tree: one description and range, read by YAML, command line and ROS."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import ConfigError
from ..settings import Setting, option, settings, with_overrides

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor

PREFIX = "ros."
HRI_PREFIX = "hri."


@dataclass(frozen=True)
class HriConfig:
    """REP-155, the conventions of ROS for human-robot interaction; parameter names start with ``hri.``."""

    enabled: bool = option(
        False, "publish /humans/bodies/tracked and of each body roi, skeleton2d and joint_states; needs the package hri_msgs"
    )


@dataclass(frozen=True)
class RosConfig:
    """Settings of the node itself; their parameter names start with ``ros.``."""

    autostart: bool = option(False, "configure and activate without being asked to, or end; the launch file sets it")
    cameras: str = option(
        "",
        "names of the cameras that this process serves, separated by commas; each has topics <camera>/image, "
        "<camera>/camera_info, ~/<camera>/bodies, ...; empty: one camera, with image, camera_info, ~/bodies, ...",
    )
    image_transport: str = option("raw", "how images come: <image> or <image>/compressed", choices=("raw", "compressed"))
    image_reliability: str = option(
        "best_effort", "QoS of the image subscriptions; best_effort matches every publisher", choices=("best_effort", "reliable")
    )
    image_depth: int = option(1, "QoS queue depth of the image subscriptions; the newest image is the one processed", 1, 100)
    camera_info: str = option(
        "auto",
        "where calibration comes from; auto: camera_info if that is remapped, else beside the image topic; topic: camera_info as "
        "it is, which the launch file sets where camera_info_topic is given",
        choices=("auto", "topic"),
    )
    rectified: str = option(
        "auto",
        "images are rectified already (camera_info P holds); auto: when their topic name says rect",
        choices=("auto", "yes", "no"),
    )
    fov_deg: float = option(
        0.0, "diagonal field of view to assume without a calibration, degrees; 0: wait for camera_info", 0.0, 170.0, live=True
    )
    depth: bool = option(False, "use the aligned depth image of topic 'depth' for metric scale")
    depth_transport: str = option(
        "raw", "how depth comes: <depth> or <depth>/compressedDepth (PNG, not RVL)", choices=("raw", "compressedDepth")
    )
    depth_slop_s: float = option(
        0.02, "depth belongs to an image when their stamps differ by less than this, s", 0.0, 1.0, live=True
    )
    depth_wait_s: float = option(0.02, "wait this long for the depth of an image, then go on without, s", 0.0, 1.0, live=True)
    initial: bool = option(
        False, "refine the first estimates of topic ~/initial (SmplBodyArray, any regressor) instead of the built-in ones"
    )
    initial_sigma_rad: float = option(0.2, "how far a joint of ~/initial may be off, rad", 0.001, 3.0, live=True)
    detections: bool = option(
        False, "take people from topic 'detections' (of ros.detections_type) instead of the built-in finder"
    )
    detections_type: str = option(
        "vision_msgs",
        "package of the messages of topic 'detections': vision_msgs/Detection2DArray or yolo_ros's yolo_msgs/DetectionArray",
        choices=("vision_msgs", "yolo_msgs"),
    )
    detection_classes: str = option(
        "person", "class ids of detections that are people, separated by commas; empty: all", live=True
    )
    detection_min_score: float = option(0.5, "detections below this score are dropped", 0.0, 1.0, live=True)
    keypoints: str = option(
        "none",
        "fit people to the keypoints of another program: topic 'keypoints' (KeypointsArray), hri: the skeleton2d "
        "(hri_msgs/Skeleton2D) of every body in /humans/bodies/tracked, or yolo: those in topic 'detections' of a pose model "
        "of yolo_ros (yolo_msgs/DetectionArray)",
        choices=("none", "keypoints", "hri", "yolo"),
    )
    densepose: bool = option(
        False, "use the DensePose map of topic 'densepose' (Image of three bytes a pixel: part, u, v) as evidence"
    )
    world_frame: str = option(
        "",
        "frame that stands still and never jumps (odom), where the camera moves: TF then takes the camera's motion out of "
        "predictions, re-identification and velocities; needs tf2_ros; empty: the camera stands",
    )
    ground_frame: str = option(
        "",
        "frame that lies on the floor, z up (base_footprint): people stand on its x-y plane, which fixes their distance and "
        "size; needs tf2_ros; empty: the floor is unknown",
    )
    external_slop_s: float = option(
        0.001,
        "what other programs say of an image must carry its stamp, to within this, s (depth has its own)",
        0.0,
        1.0,
        live=True,
    )
    external_wait_s: float = option(
        0.2, "an image waits this long for what other programs say of it, then goes on without, s", 0.0, 5.0, live=True
    )
    output_reliability: str = option("reliable", "QoS of the published topics", choices=("best_effort", "reliable"))
    output_depth: int = option(10, "QoS queue depth of the published topics", 1, 1000)
    tf: bool = option(True, "publish body_<id> on /tf", live=True)
    tf_links: bool = option(True, "publish the REP-155 links (head_<id>, l_elbow_<id>, ...) on /tf", live=True)
    tf_smpl_joints: bool = option(False, "publish the 24 SMPL joints (smpl_<joint>_<id>) on /tf as well", live=True)
    markers_rate_hz: float = option(
        10.0, "mesh markers at most this often, Hz; they are only made while somebody subscribes", 0.1, 120.0, live=True
    )
    marker_lifetime_s: float = option(0.5, "markers vanish after this long without an update, s", 0.0, 60.0, live=True)
    marker_alpha: float = option(0.9, "opacity of the mesh markers", 0.0, 1.0, live=True)
    marker_faces: int = option(
        0, "triangles of a mesh marker at most; a few thousand look well and are drawn faster; 0: all of the body", 0, 1000000
    )
    joint_marker_probability: float = option(
        0.95,
        "the true joint lies in its ellipsoid of ~/joint_markers with this probability, if the fit is right",
        0.1,
        0.999,
        live=True,
    )
    overlay_rate_hz: float = option(
        10.0, "overlay images at most this often, Hz; they are only made while somebody subscribes", 0.1, 120.0, live=True
    )
    diagnostics_period_s: float = option(1.0, "period of /diagnostics, s", 0.1, 60.0)
    log_period_s: float = option(10.0, "the same fault is logged at most this often, s", 0.0, 3600.0, live=True)
    hri: HriConfig = field(default_factory=HriConfig)


def words(text: str) -> tuple[str, ...]:
    """The words of a setting that holds several, separated by commas."""
    return tuple(w.strip() for w in text.split(",") if w.strip())


def check_sources(config: Config, ros: RosConfig) -> None:
    """Raises ConfigError when the node would listen to itself, or nobody could ever tell it of a person."""
    if config.regress.backend == "external" and not ros.initial and ros.keypoints == "none":
        raise ConfigError("regress.backend external needs somebody else's estimates: set ros.initial or ros.keypoints")
    if ros.keypoints == "yolo" and ros.detections and ros.detections_type != "yolo_msgs":
        raise ConfigError(
            "ros.keypoints 'yolo' and ros.detections listen to one topic: "
            "set ros.detections_type yolo_msgs, or ros.detections false"
        )
    if ros.hri.enabled and ros.keypoints == "hri":
        raise ConfigError("hri.enabled and ros.keypoints 'hri' exclude one another: the node would track its own bodies")


def camera_names(ros: RosConfig) -> tuple[str, ...]:
    """Names of the cameras; one without a name when none is given.  Raises ConfigError."""
    names = words(ros.cameras)
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or names.count(name) > 1:
            raise ConfigError(f"ros.cameras: expected different names of letters, digits and _, got '{ros.cameras}'")
    return names or ("",)


def all_settings(config: Config, ros: RosConfig) -> list[Setting]:
    """Every parameter of the node, with its present value."""
    own = [dataclasses.replace(s, name=s.name.removeprefix(PREFIX)) if _is_hri(s) else s for s in settings(ros, PREFIX)]
    return [*settings(config), *own]


def _is_hri(setting: Setting) -> bool:
    return setting.name.startswith(PREFIX + HRI_PREFIX)


def descriptor(setting: Setting) -> ParameterDescriptor:
    """What ``ros2 param describe`` shows."""
    # Here, because the settings serve bags on machines without ROS as well.
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    # Numbers without a point, and words that YAML takes for booleans, are other types to ROS: merged() sees to them.
    loose = isinstance(setting.value, float) or {"on", "yes"} & set(setting.choices)
    d = ParameterDescriptor(description=setting.description, dynamic_typing=bool(loose))
    choices = [f"one of: {', '.join(setting.choices)}"] if setting.choices else []
    d.additional_constraints = "; ".join([*choices, f"takes effect {'at once' if setting.live else 'in configure'}"])
    if setting.lo is not None and setting.hi is not None:
        if isinstance(setting.value, bool):
            return d
        if isinstance(setting.value, int):
            d.integer_range = [IntegerRange(from_value=int(setting.lo), to_value=int(setting.hi), step=1)]
        else:
            d.floating_point_range = [FloatingPointRange(from_value=float(setting.lo), to_value=float(setting.hi), step=0.0)]
    return d


def declare(node: Any) -> None:
    """Declare every parameter on a node; values from the command line and parameter files win over the defaults.

    Raises ConfigError, and what rclpy raises of other types and ranges.
    """
    for setting in all_settings(Config(), RosConfig()):
        node.declare_parameter(setting.name, setting.value, descriptor(setting))
    read(node)  # what ROS leaves to us is said now as well, not in configure


def misspelt(node: Any) -> list[str]:
    """A line for each parameter that was given and that no setting is called, but nearly; files may hold other nodes', too."""
    known = {s.name for s in all_settings(Config(), RosConfig())}
    given = getattr(node, "_parameter_overrides", {})  # rclpy does not tell otherwise
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.8) for name in given if name not in known}
    return [f"parameter {name} is not known and ignored: is {match[0]} meant?" for name, match in near.items() if match]


def read(node: Any) -> tuple[Config, RosConfig]:
    """Settings from the node's parameters.  Raises ConfigError."""
    names = [s.name for s in all_settings(Config(), RosConfig())]
    return merged(Config(), RosConfig(), {n: node.get_parameter(n).value for n in names})


def merged(config: Config, ros: RosConfig, changes: dict[str, Any]) -> tuple[Config, RosConfig]:
    """Settings with some of them changed, each checked.  Raises ConfigError."""
    own = {n.removeprefix(PREFIX): v for n, v in changes.items() if n.startswith((PREFIX, HRI_PREFIX))}
    core = {n: v for n, v in changes.items() if not n.startswith((PREFIX, HRI_PREFIX))}
    return with_overrides(config, core), with_overrides(ros, own, PREFIX)
