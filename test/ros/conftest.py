"""Every test talks to nobody but its own processes: loopback only, a domain of its own."""

import fcntl
import importlib.util
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import IO

from densefit_ros.ros.launching import image_profile

# A checkout without ROS still runs all other tests.
collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("rclpy") is None else []

ROOT = Path(__file__).resolve().parents[2]


def _domain() -> tuple[int, IO]:
    """A domain that no other session of tests on this machine has, and the lock that keeps it until this process ends."""
    for number in random.SystemRandom().sample(range(1, 101), 100):
        try:
            lock = open(Path(tempfile.gettempdir()) / f"densefit_test_domain_{number}", "w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number, lock
        except OSError:  # taken, or another user's
            continue
    raise RuntimeError("a hundred sessions of tests have all ROS domains")


domain, _lock = _domain()
os.environ["ROS_DOMAIN_ID"] = str(domain)
if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the other
    os.environ["ROS_LOCALHOST_ONLY"] = "1"
else:
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
variable, profile = image_profile({n: os.environ.get(n, "") for n in ("ROS_DISTRO", "ROS_LOCALHOST_ONLY")})
os.environ[variable] = str(ROOT / "config" / profile)
sys.path.insert(0, str(Path(__file__).parent))
