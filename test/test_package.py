"""What others build from: package.xml, the executable that CMake installs, and the images of docker/."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMAGES = sorted((ROOT / "docker").glob("Dockerfile.*"))

# Packages of ROS by what Python calls them; what the node does without, and says so, is nobody's dependency.
ROS = {"launch": "launch", "launch_ros": "launch_ros", "rclpy": "rclpy", "tf2_ros": "tf2_ros_py"}
OPTIONAL = {"hri_msgs", "vision_msgs", "yolo_msgs"}


def imported(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {a.name.partition(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    return names


def test_package_xml_asks_for_every_ros_package_that_is_used():
    depends = {(d.tag, d.text) for d in ElementTree.parse(ROOT / "package.xml").getroot()}
    run = {text for tag, text in depends if tag in ("depend", "exec_depend")}
    used = imported(ROOT / "densefit_ros") | imported(ROOT / "launch")
    needed = {package for module, package in ROS.items() if module in used}
    needed |= {n for n in used if n.endswith(("_msgs", "_srvs", "_interfaces"))} - OPTIONAL
    assert {"rclpy", "launch_ros", "tf2_ros_py", "sensor_msgs", "std_srvs", "builtin_interfaces"} <= needed
    started = set(re.findall(r'package="(\w+)"', (ROOT / "launch" / "densefit.launch.py").read_text())) - {"densefit_ros"}
    shown = set(re.findall(r"Class: (\w+)/", (ROOT / "rviz" / "densefit.rviz").read_text())) - {"rviz_common"}  # rviz2's own
    assert started == {"rviz2"} and shown == {"rviz_default_plugins"}
    assert needed | started | shown | {"ros2launch"} <= run


def configured(tmp_path: Path, python: Path) -> str:
    """The executable that CMakeLists.txt makes for the interpreter ``python``: its lines on that alone, without ROS."""
    lines = (ROOT / "CMakeLists.txt").read_text()
    part = lines[lines.index('set(node "') : lines.index("install(PROGRAMS")]
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "densefit_node", tmp_path / "scripts")
    head = f'cmake_minimum_required(VERSION 3.16)\nproject(part NONE)\nset(Python3_EXECUTABLE "{python}")\n'
    (tmp_path / "CMakeLists.txt").write_text(head + part)
    subprocess.run(["cmake", "-S", tmp_path, "-B", tmp_path / "build"], check=True, capture_output=True)
    made = tmp_path / "build" / "densefit_node"
    assert os.access(made, os.X_OK), "with --symlink-install its own mode counts"
    return made.read_text()


needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")


@needs_cmake
@pytest.mark.parametrize("folder", ["environment", "an environment", "e" * 130])
def test_the_node_keeps_the_virtual_environment_that_it_was_built_in(folder, tmp_path):
    environment = tmp_path / folder
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").touch()
    python = environment / "bin" / "python3"
    python.write_text(f'#!/bin/sh\necho kept\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    made = configured(tmp_path, python)
    original = (ROOT / "scripts" / "densefit_node").read_text()
    assert made.endswith(original.partition("\n")[2]), "all else is as it was"
    (tmp_path / "build" / "densefit_node").write_text(made.replace("from densefit_ros.ros.node import main", "main = int"))
    ended = subprocess.run([tmp_path / "build" / "densefit_node"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert ended.stdout == "kept\n" and ended.returncode == 0, ended.stderr


@needs_cmake
def test_built_outside_a_virtual_environment_the_node_goes_by_path(tmp_path):
    (tmp_path / "bin").mkdir()
    assert configured(tmp_path, tmp_path / "bin" / "python3") == (ROOT / "scripts" / "densefit_node").read_text()


@pytest.mark.parametrize("image", IMAGES, ids=lambda p: p.suffix)
def test_an_edited_source_downloads_nothing_anew_in_an_image(image, tmp_path):
    """Packages are installed from the few files that say which, and these suffice."""
    steps = re.sub(r"\\\n", " ", image.read_text()).splitlines()
    copies = [line.split()[2:] for line in steps if line.startswith("COPY ")]
    *first, all_of_it = copies
    assert all_of_it == [".", "src/densefit_ros"] and len(first) == 2
    sources = next(i for i, line in enumerate(steps) if line.endswith(" . src/densefit_ros"))
    assert all("--no-deps" in line for line in steps[sources:] if "pip install" in line)
    assert any("-r requirements.txt" in line for line in steps[:sources])
    for *files, folder in first:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(ROOT / file, tmp_path / folder)
    script = re.search(r"python3 (\S+requirements.py project.dependencies)", image.read_text())[1].split()
    found = subprocess.run([sys.executable, *script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "warp-lang" in found and "onnxruntime" in found


@pytest.mark.parametrize("image", IMAGES, ids=lambda p: p.suffix)
def test_an_image_keeps_kernels_in_the_folder_that_is_mounted(image):
    text = image.read_text()
    cache, kernels = (re.search(rf"{n}=(\S+)", text)[1] for n in ("DENSEFIT_CACHE", "WARP_CACHE_PATH"))
    assert Path(cache) in Path(kernels).parents and f" {cache}\n" in text, "and the folder is the user's"


def test_the_entry_point_sources_ros_and_the_workspace(tmp_path):
    script = (ROOT / "docker" / "entrypoint.sh").read_text()
    for place in ("/opt/ros/jazzy", "/workspace/install"):
        (tmp_path / place[1:]).mkdir(parents=True)
        (tmp_path / place[1:] / "setup.bash").write_text(f'export FOUND="$FOUND {place}"\n')
    moved = tmp_path / "entrypoint.sh"
    moved.write_text(script.replace('"/opt', f'"{tmp_path}/opt').replace(" /workspace", f" {tmp_path}/workspace"))
    command = ["bash", moved, "bash", "-c", 'echo $FOUND "$1"', "_", "a  b"]
    ended = subprocess.run(command, env={**os.environ, "ROS_DISTRO": "jazzy"}, capture_output=True, text=True, check=True)
    assert ended.stdout == "/opt/ros/jazzy /workspace/install a  b\n"
    assert os.access(ROOT / "docker" / "entrypoint.sh", os.X_OK)
