"""One tree of settings.  The YAML files, the command line and the ROS parameters are all read from these dataclasses.

A dotted name ("fit.iterations") addresses one setting.  Unknown names, wrong types and values out of range raise
ConfigError; nothing is ignored in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError
from .settings import option, with_overrides

MAX_PEOPLE = 16  # in one frame


@dataclass(frozen=True)
class BodyConfig:
    model_path: str = option("", "SMPL model file (.pkl or .npz); empty: the free body that ships with the package")
    densepose_chart: str = option(
        "", "DensePose's UV_Processed.mat, for maps of the DensePose project on a real SMPL body; empty: a chart of our own"
    )


@dataclass(frozen=True)
class DetectConfig:
    backend: str = option(
        "auto",
        "person finder for new tracks: the built-in network, MediaPipe's (an optional extra), both, OpenCV's, or none; auto: the "
        "first of both, network and hog that runs here",
        choices=("auto", "both", "network", "mediapipe", "hog", "none"),
    )
    onnx: str = option("", "finder network (.onnx); empty: the weights that ship with the package")
    interval_s: float = option(
        1.0,
        "while fewer than track.max_people are tracked, search the image this often (twice as often while nobody is), s",
        0.0,
        3600.0,
        live=True,
    )
    min_score: float = option(0.2, "detections below this score are dropped", 0.0, 1.0, live=True)
    sure_score: float = option(
        0.8,
        "detections below this score are dropped unless the regressor is sure of them (regress.sure_confidence), or below 0.5 "
        "where it is not asked: custom, external, and keypoints lifted alone",
        0.0,
        1.0,
        live=True,
    )


@dataclass(frozen=True)
class CropNetworkConfig:
    """``regress.backend: custom``: anybody's crop regressor, whose file is ``regress.onnx``.  See docs/REGRESSORS.md."""

    image_input: str = option("", "input of the crop's pixels; empty: the only one with four dimensions")
    input_height: int = option(0, "height of the input, px; 0: the file says it", 0, 4096)
    input_width: int = option(
        0, "width of the input, px; less than the height: the middle of the crop; 0: the file says it", 0, 4096
    )
    margin: float = option(1.2, "side of the square crop over the longer side of the person's box, as in its training", 1.0, 3.0)
    layout: str = option("nchw", "order of the input's axes", choices=("nchw", "nhwc"))
    channels: str = option("rgb", "order of the colours", choices=("rgb", "bgr"))
    mean: str = option(
        "0.485 0.456 0.406", "taken off the colours in 0 to 1, in the order of the channels; not for inputs of bytes"
    )
    std: str = option("0.229 0.224 0.225", "the colours are divided by these afterwards")
    box_input: str = option("", "input for the crop's place and size over the focal length, (P,3), as CLIFF has it; empty: none")
    box_scaling: str = option(
        "plain", "of box_input: x, y, side over the focal length, or CLIFF's own scaling", choices=("plain", "cliff")
    )
    pose: str = option("pose", "output of the rotations: 24 joints, or 23 where root names an output")
    root: str = option("", "output of the root's rotation; empty: it is the first of pose")
    rotations: str = option(
        "rotmat",
        "how a rotation is written; rows, columns: the first two of the matrix; interleaved: columns as SPIN stores them",
        choices=("rotmat", "rot6d_rows", "rot6d_columns", "rot6d_interleaved", "rotvec"),
    )
    betas: str = option("betas", "output of the shape, 10 numbers or more")
    camera: str = option("camera", "output of the camera, 3 numbers")
    camera_kind: str = option(
        "weak_perspective",
        "s, tx, ty of the crop, or SMPL's translation in the full image's camera, m",
        choices=("weak_perspective", "full"),
    )
    focal_px: float = option(
        0.0, "focal length that a full camera is meant for, px; 0: that of the image's camera", 0.0, 100000.0
    )
    confidence: str = option("", "output of the confidence in 0 to 1; empty: always 1")
    rot_sigma_rad: float = option(0.2, "how far a joint of the regressor may be off, per axis, rad", 0.001, 3.0)


@dataclass(frozen=True)
class RegressConfig:
    backend: str = option(
        "auto",
        "first estimate: the built-in network, MediaPipe keypoints lifted from it (an optional extra), or external: none of "
        "our own, people come from given estimates or keypoints and are carried from one to the next by the displacements",
        choices=("auto", "network", "mediapipe", "custom", "external"),
    )
    onnx: str = option(
        "", "regressor network (.onnx), with backend custom anybody's; empty: the weights that ship with the package"
    )
    mirrored: str = option(
        "new",
        "of whom the networks see the mirrored crop as well, and the mean counts: errors smaller by 3 %, for twice the time; "
        "new: people who are not tracked yet",
        choices=("new", "always", "never"),
    )
    recrop: bool = option(
        True,
        "look at newcomers again, in a window cut around the body that the first look saw: for finders' boxes, which are rough",
    )
    keypoint_prior: bool = option(
        True,
        "lift keypoints, MediaPipe's and given ones, from what the regressor says of the same people; off: from the points alone",
    )
    mediapipe_task: str = option(
        "", "MediaPipe .task file for releases that do not carry the pose model; empty: the packaged model"
    )
    new_confidence: float = option(0.3, "a new track needs at least this confidence of its first estimate", 0.0, 1.0, live=True)
    min_confidence: float = option(
        0.3, "a tracked person counts as seen with at least this confidence of the first estimate", 0.0, 1.0, live=True
    )
    max_joint_sigma: float = option(
        0.052,
        "backend network: a new track needs the surer half of its 2D joints within this standard deviation on average, in "
        "sides of its window: animals and things have none",
        0.001,
        10.0,
        live=True,
    )
    sure_confidence: float = option(
        0.9,
        "confidence of the first estimate that a find needs of which the finder is in doubt (detect.sure_score)",
        0.0,
        1.0,
        live=True,
    )
    custom: CropNetworkConfig = field(default_factory=CropNetworkConfig)


@dataclass(frozen=True)
class RenderConfig:
    backend: str = option("auto", "rasteriser", choices=("auto", "warp", "nvdiffrast"))
    crop_margin: float = option(
        1.05,
        "the part of a window that our networks read over the person's box, whichever side is the tighter",
        1.0,
        3.0,
        live=True,
    )


@dataclass(frozen=True)
class DisplaceConfig:
    enabled: bool = option(True, "predict displacements; off: keypoints (if any) and priors alone drive the fit")
    onnx: str = option("", "displacement network (.onnx); empty: the weights that ship with the package")
    passes: int = option(1, "render and displace this many times per frame", 1, 5, live=True)
    max_sigma_px: float = option(
        14.0, "drop displacements whose predicted standard deviation exceeds this, crop px", 0.1, 100.0, live=True
    )
    sigma_scale: float = option(0.8, "factor on the predicted standard deviations", 0.01, 100.0, live=True)
    max_points: int = option(300, "displacements used per person at most, an even choice of them", 50, 20000)
    part_correlation: float = option(
        0.4, "correlation of the errors of displacements of one part of the body: n count as n / (1 + (n - 1) * this)", 0.0, 1.0
    )
    independent_share: float = option(
        1.0, "weight of displacements against keypoints and priors, after part_correlation", 0.0001, 1.0
    )


@dataclass(frozen=True)
class RuntimeConfig:
    backend: str = option(
        "auto",
        "network runtime; onnxruntime-tensorrt is ONNX Runtime with its TensorRT provider, openvino is for CPUs",
        choices=("auto", "onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt", "torch"),
    )
    precision: str = option(
        "fp16",
        "of TensorRT engines, where int8 needs densefit build-engine first; of openvino, where fp16 is bfloat16 on CPUs that "
        "multiply it and float32 on others; of onnxruntime and torch on CUDA, where fp32 is without TF32",
        choices=("fp16", "fp32", "int8"),
    )
    threads: int = option(0, "CPU threads per network; 0: 1 of openvino, 2 of the others", 0, 64)
    device_frame: str = option(
        "auto", "frames of known people in one go on the device; auto: on CUDA", choices=("auto", "on", "off")
    )


@dataclass(frozen=True)
class FitConfig:
    iterations: int = option(4, "Levenberg-Marquardt iterations per pass", 1, 100)
    max_points: int = option(1000, "matches of all sources used per person at most", 50, 20000)
    robust_scale: float = option(4.0, "Geman-McClure scale of dense residuals, in standard deviations", 0.5, 100.0)
    keypoint_sigma_share: float = option(
        0.025,
        "standard deviation of a fully confident keypoint, as a share of the diagonal of the person's keypoints",
        0.0005,
        1.0,
    )
    prediction_rot_sigma_rad: float = option(
        0.15, "how far a joint turns unforeseen within one 30 Hz frame, rad", 0.001, 10.0, live=True
    )
    prediction_t_sigma_m: float = option(
        0.2, "how far the root moves unforeseen within one 30 Hz frame, m", 0.0001, 10.0, live=True
    )
    covariance_share: float = option(
        0.05,
        "share of an image's matches and keypoints that published covariances believe; the floor counts in full, as in the fit "
        "everything does",
        0.0001,
        1.0,
    )
    estimate_sigma_scale: float = option(1.0, "factor on the regressor's own standard deviations", 0.01, 100.0, live=True)
    betas_sigma: float = option(
        1.6, "standard deviation of the shape prior, in units of the body's shape directions", 0.01, 100.0, live=True
    )
    pose_prior: str = option(
        "gmm",
        "what poses people take: eight Gaussians, VPoser's form, or nothing",
        choices=("gmm", "vposer", "none"),
    )


@dataclass(frozen=True)
class TrackConfig:
    max_people: int = option(1, "people tracked at once", 1, MAX_PEOPLE)
    lost_after_s: float = option(0.5, "a person not measured for this long is dropped, s", 0.0, 60.0, live=True)
    reidentify_s: float = option(
        3.0,
        "a dropped person who comes back within this time keeps the name, if place, shape and colours agree, s; 0: never",
        0.0,
        60.0,
        live=True,
    )
    velocity_tau_s: float = option(
        0.1, "time constant of the velocity filter, s; 0 switches prediction off", 0.0, 10.0, live=True
    )
    min_inliers: float = option(
        0.25,
        "share of displacement matches that must agree with the fit, or the frame counts as not seen, where they alone speak for "
        "the person: first estimates without keypoints (custom), or carried from one given estimate to the next",
        0.0,
        1.0,
        live=True,
    )
    appearance: bool = option(True, "learn each person's texture while tracking (personalisation)", live=True)


@dataclass(frozen=True)
class Config:
    """All settings of the core.  ROS-only settings live in densefit_ros/ros/params.py."""

    device: str = option("auto", "where kernels and networks run", choices=("auto", "cpu", "cuda"))
    body: BodyConfig = field(default_factory=BodyConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    regress: RegressConfig = field(default_factory=RegressConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    displace: DisplaceConfig = field(default_factory=DisplaceConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


# Overrides where the caller vouches for the people: all of them are admitted.
ADMIT_EVERYBODY = {"regress.new_confidence": 0.0, "regress.max_joint_sigma": 10.0}
# And whoever is admitted counts as seen, whatever the image shows: for warming up and timing.
KEEP_EVERYBODY = {**ADMIT_EVERYBODY, "regress.min_confidence": 0.0, "track.min_inliers": 0.0}


_OF_THE_NODE = ("ros.", "hri.")
_OF_ROS = ("use_sim_time", "qos_overrides.", "start_type_description_service")


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the YAML file, then the overrides.

    The file is a tree of the same names.  A ROS parameter file (a node name, then ``ros__parameters``) is accepted as
    well; its ``ros.*`` and ``hri.*`` entries belong to the node and are skipped here.
    """
    config = Config()
    if path:
        config = with_overrides(config, {n: v for n, v in read_settings(path).items() if not n.startswith(_OF_THE_NODE)})
    return with_overrides(config, overrides or {})


def read_settings(path: str | Path) -> dict[str, Any]:
    """Dotted names and values of a YAML file or a ROS parameter file, unchecked; without ROS' own (``use_sim_time``, ...).

    Raises ConfigError when it cannot be read.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read settings from {path}: {str(e).splitlines()[0]}") from e
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(tree).__name__}")
    nodes = [v for v in tree.values() if isinstance(v, dict) and "ros__parameters" in v]
    if nodes:
        blocks = [node["ros__parameters"] or {} for node in nodes]
        if len(nodes) != len(tree) or not all(isinstance(b, Mapping) for b in blocks):
            raise ConfigError(f"{path}: expected a mapping under each ros__parameters, and nothing beside the nodes' names")
        merged: dict[str, Any] = {}
        for block in blocks:
            merged.update(_flatten(block))
        return {k: v for k, v in merged.items() if not k.startswith(_OF_ROS)}
    return _flatten(tree)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out.update(_flatten(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out
