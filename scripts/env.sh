# Sourced by the Makefile and .ci/run.  ROS 2 from wheels needs nothing; an installed ROS 2 must learn where ours is.
densefit_venv=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)/.venv
if [ -n "${ROS_DISTRO:-}" ] && [ -d "/opt/ros/$ROS_DISTRO" ]; then
  export AMENT_PREFIX_PATH="$densefit_venv:${AMENT_PREFIX_PATH:-}"
  export LD_LIBRARY_PATH="$densefit_venv/lib:${LD_LIBRARY_PATH:-}"
fi
export PATH="$densefit_venv/bin:$PATH"
export HOME="${HOME:-/tmp}"
