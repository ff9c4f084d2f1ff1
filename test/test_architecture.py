"""The shape of the package: arrows point down, only ros/ and demo/ know ROS, no file grows past 400 lines."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "densefit_ros"

# Each room and the rooms it may import.  A room may always import itself.
BASE = {"types", "errors", "settings", "config", "warp_setup", "arena", "geometry"}
STAGES = {"render", "regress", "displace", "evidence", "fit", "track", "runtime", "detect", "weights"}
FRAME = BASE | STAGES | {"body", "models", "steps", "device_frame", "pipeline"}
ALLOWED = {
    "types": {"errors"},
    "errors": set(),
    "settings": {"errors"},
    "config": {"errors", "settings"},
    "warp_setup": {"errors"},
    "arena": set(),
    "geometry": {"types", "errors"},
    "body": BASE,
    **{stage: BASE | {"body"} for stage in STAGES},
    # Lifting keypoints *is* a fit: the one arrow between stages, in one file.
    "regress": BASE | {"body", "runtime", "fit", "weights"},
    "displace": BASE | {"body", "runtime", "weights"},
    "detect": BASE | {"regress", "runtime", "weights"},
    "synth": BASE | {"body", "render"},
    "models": FRAME,
    "steps": FRAME,
    "device_frame": FRAME,
    "pipeline": FRAME,
    "viz": FRAME,
    "train": FRAME | {"synth", "viz", "eval"},
    "eval": FRAME | {"synth", "viz"},
    "bench": FRAME | {"synth", "viz", "eval"},
    "offline": FRAME | {"viz"},
    "ros": FRAME | {"viz", "offline"},
    "demo": FRAME | {"synth", "viz", "eval", "ros", "offline"},
    "cli": None,  # everything, lazily
}


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a file imports, at any depth of nesting."""
    package = ("densefit_ros", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(p for p in (base, node.module) if p)
            names = [stem] if stem != "densefit_ros" else [f"{stem}.{a.name}" for a in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "densefit_ros" and len(parts) > 1 and parts[1] not in ("__version__", "msg"):
                found.add(parts[1])
    return found


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    room = room_of(path)
    assert room in ALLOWED, f"room '{room}' is not in the plan: place it in ALLOWED"
    allowed = ALLOWED[room]
    if allowed is not None:
        extra = imported_rooms(path) - allowed - {room}
        assert not extra, f"{path.relative_to(ROOT)} imports {sorted(extra)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_shell_knows_ros(path):
    if room_of(path) in ("ros", "demo"):
        return
    ros = {"rclpy", "sensor_msgs", "geometry_msgs", "std_msgs", "visualization_msgs", "diagnostic_msgs", "tf2_msgs"}
    tree = ast.parse(path.read_text())
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
    assert not names & ros


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_core_imports_without_ros_cuda_packages_or_licensed_ones():
    """The whole frame imports with every optional package blocked."""
    code = """
import importlib.abc, sys
BLOCKED = {"rclpy", "nvdiffrast", "tensorrt", "smplx", "mediapipe", "anny", "torch", "chumpy"}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import densefit_ros.pipeline, densefit_ros.cli, densefit_ros.offline
assert not BLOCKED & set(m.split(".")[0] for m in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
