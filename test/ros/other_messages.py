"""vision_msgs, yolo_msgs and hri_msgs for the tests: the installed ones, or stand-ins, built once into ./build."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).parent / "interfaces"
BUILD = ROOT / "build" / "test_interfaces"


def provide(package: str) -> None:
    """Make ``package`` importable here and in processes started from here.  Takes a minute or two the first time."""
    if importlib.util.find_spec(package) is not None:
        return
    prefix = BUILD / package / "install"
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(package, prefix)
    site = next(prefix.glob("lib/python3*/site-packages"))
    sys.path.insert(0, str(site))
    for name, path in (("PYTHONPATH", site), ("LD_LIBRARY_PATH", prefix / "lib"), ("AMENT_PREFIX_PATH", prefix)):
        os.environ[name] = os.pathsep.join(p for p in (str(path), os.environ.get(name, "")) if p)
    importlib.invalidate_caches()
    # The search path of libraries was read when this process began: what is loaded already needs no search.
    for library in sorted((prefix / "lib").glob("*.so")):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _build(package: str, prefix: Path) -> None:
    source = SOURCES / package
    text = "".join(p.read_text() for p in sorted(source.rglob("*")) if p.is_file()) + sys.version
    done, stamp = hashlib.sha256(text.encode()).hexdigest(), BUILD / package / "done"
    if stamp.is_file() and stamp.read_text() == done:
        return
    venv = sys.prefix
    old = {n: os.environ.get(n, "") for n in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "PATH")}
    env = {**os.environ, **{n: os.pathsep.join([venv, v] if v else [venv]) for n, v in old.items()}}
    env["PATH"] = os.pathsep.join([f"{venv}/bin", old["PATH"]])
    flags = [
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DCMAKE_INSTALL_RPATH={prefix}/lib",
        f"-DCMAKE_PROJECT_INCLUDE={ROOT}/scripts/cmake/wheel_prefix.cmake",
    ]
    build = BUILD / package / "build"
    for command in (
        ["cmake", "-S", str(source), "-B", str(build), *flags],
        ["cmake", "--build", str(build), "-j2"],
        ["cmake", "--install", str(build)],
    ):
        run = subprocess.run(command, env=env, capture_output=True, text=True)
        assert run.returncode == 0, f"{' '.join(command)}\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    stamp.write_text(done)
