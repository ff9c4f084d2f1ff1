#!/bin/bash
# Runs a command with ROS and this workspace sourced, of which the image itself knows nothing: ros2 then finds the package and
# its messages.  docker exec does not come by here: docker exec NAME ./entrypoint.sh ros2 topic list (a bash there needs none).
set -e
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /workspace/install/setup.bash
exec "$@"
