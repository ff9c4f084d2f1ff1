"""What is available on this machine, looked up without starting anything heavy."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..errors import DensefitError
from ..runtime.cuda_probe import cuda_device_count
from ..runtime.openvino_backend import cpu_has_bf16


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    topic: str
    ok: bool
    detail: str
    needed: bool = False  # the core cannot run without it


def findings() -> list[Finding]:
    """Everything that decides what can run."""
    return [
        _python(),
        _package("numpy", "numpy", needed=True),
        _package("OpenCV", "cv2", needed=True),
        _package("SciPy", "scipy", needed=True),
        _package("PyYAML", "yaml", needed=True),
        _package("threadpoolctl", "threadpoolctl", needed=True),
        _package("tqdm", "tqdm", needed=True),
        _package("NVIDIA Warp", "warp", "warp-lang", needed=True),
        _asset("Warp's kernels", _kernels),
        _asset("body model", _body),
        _asset("regressor weights", lambda: _weights("regressor.onnx")),
        _asset("displacement weights", lambda: _weights("displacement.onnx")),
        _asset("person finder weights", lambda: _weights("finder.onnx")),
        _package("ONNX Runtime", "onnxruntime", needed=True),
        _package(f"OpenVINO (this CPU {'multiplies' if cpu_has_bf16() else 'does not multiply'} bfloat16)", "openvino"),
        _package("rosbags (bags without ROS)", "rosbags"),
        _package("torch (training, torch runtime)", "torch"),
        _package("TensorRT", "tensorrt"),
        _package("nvdiffrast", "nvdiffrast"),
        _mediapipe(),
        _package("smplx (baselines)", "smplx"),
        _gpu(),
        _ros(),
        _messages(),
        _package("vision_msgs (ros.detections)", "vision_msgs"),
        _package("yolo_msgs (ros.detections_type, ros.keypoints: yolo)", "yolo_msgs"),
        _package("tf2_ros (ros.world_frame, ros.ground_frame)", "tf2_ros"),
        _package("hri_msgs (hri.enabled, ros.keypoints: hri)", "hri_msgs"),
    ]


def table(found: Sequence[Finding]) -> str:
    """Aligned text: mark, topic, detail."""
    width = max(len(f.topic) for f in found)
    mark = {(True, True): "ok", (True, False): "ok", (False, True): "MISSING", (False, False): "-"}
    return "\n".join(f"{mark[f.ok, f.needed]:<8}{f.topic:<{width + 2}}{f.detail}" for f in found)


def _python() -> Finding:
    ok = (3, 10) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()} on {platform.machine()} {platform.system()}, {os.cpu_count()} CPU cores"
    return Finding("Python", ok, detail if ok else f"{detail}: 3.10 to 3.13 are supported", needed=True)


def _package(topic: str, module: str, distribution: str | None = None, needed: bool = False) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(topic, False, "not installed", needed)
    try:
        return Finding(topic, True, metadata.version(distribution or module), needed)
    except metadata.PackageNotFoundError:
        # Wheels of one module go by several names (opencv-python, -headless, onnxruntime-gpu).
        names = metadata.packages_distributions().get(module, [])
        return Finding(topic, True, f"{names[0]} {metadata.version(names[0])}" if names else "installed", needed)


def _asset(topic: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(topic, True, look(), needed=True)
    except (DensefitError, ImportError) as e:
        return Finding(topic, False, str(e), needed=True)


def _kernels() -> str:
    import warp

    from .. import warp_setup

    warp_setup.init()
    return f"kept in {warp.config.kernel_cache_dir}"


def _body() -> str:
    from ..body.assets import load_body

    body = load_body()
    return f"{body.name}: {body.num_vertices} vertices, topology {body.topology_id}"


def _weights(name: str) -> str:
    from ..weights import weights_path

    path = weights_path(name)
    return f"{path.name}, {path.stat().st_size / 1e6:.1f} MB"


def _mediapipe() -> Finding:
    from ..regress import mediapipe_graph

    topic = "MediaPipe (person finder, keypoint lifting)"
    if importlib.util.find_spec("mediapipe") is None:
        return Finding(topic, False, f"not installed: {mediapipe_graph.INSTALL_HINT}")
    ready = mediapipe_graph.available()
    version = _package(topic, "mediapipe").detail
    return Finding(topic, ready, version if ready else f"{version} carries no pose model: set regress.mediapipe_task")


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        count = cuda_device_count()  # containers often have the driver and not the tool
        if count:
            return Finding("NVIDIA GPU", True, f"{count}, as the driver says (nvidia-smi not found)")
        return Finding("NVIDIA GPU", False, "none (no driver answers, nvidia-smi not found): everything runs on the CPU")
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as e:
        return Finding("NVIDIA GPU", False, f"nvidia-smi does not answer ({e})")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines()
        return Finding("NVIDIA GPU", False, said[0] if said else "none")
    return Finding("NVIDIA GPU", True, "; ".join(lines))


def _ros() -> Finding:
    if importlib.util.find_spec("rclpy") is None:
        return Finding("ROS 2", False, "rclpy not found: source /opt/ros/<distro>/setup.bash, or run `make setup`")
    distro = os.environ.get("ROS_DISTRO") or _wheel_distro()
    return Finding("ROS 2", True, f"{distro}, rclpy at {Path(importlib.util.find_spec('rclpy').origin).parent}")


def _wheel_distro() -> str:
    try:
        return f"wheels, rclpy {metadata.version('ros-rclpy')}"
    except metadata.PackageNotFoundError:
        return "unknown distribution"


def _messages() -> Finding:
    topic = "densefit_ros messages"
    if importlib.util.find_spec("densefit_ros.msg") is None:
        return Finding(topic, False, "not built: run `make setup` or `colcon build`, and source it")
    return Finding(topic, True, "built")
