"""Every test talks to nobody but its own processes: loopback only, a domain of its own."""

import importlib.util
import os
import random
import sys
from pathlib import Path

# A checkout without ROS still runs all other tests.
collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("rclpy") is None else []

ROOT = Path(__file__).resolve().parents[2]
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the other
    os.environ["ROS_LOCALHOST_ONLY"] = "1"
else:
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"] = str(
    ROOT / "config" / "fastdds_image.xml"
)
sys.path.insert(0, str(Path(__file__).parent))
