"""The example of docs/ROS.md runs as printed."""

import re
from pathlib import Path

import numpy as np
import pytest
import rclpy
from densefit_ros.msg import SmplBody, SmplBodyArray

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.ros
def test_the_nearest_hand_is_that_of_somebody_seen():
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "ROS.md").read_text(), re.S).group(1)
    names: dict = {"__name__": "example"}
    exec(compile(example, "docs/ROS.md", "exec"), names)
    rclpy.init()
    try:
        node, said = names["NearestHand"](), []
        node.get_logger = lambda: type("Log", (), {"info": said.append})
        bodies = []
        for name, x, state, sigma in (
            ("aaaaa", 2.0, 1, 0.05),
            ("bbbbb", 1.0, 2, 0.05),
            ("ccccc", 0.5, 1, 0.9),
            ("ddddd", 3.0, 0, 0.05),
        ):
            body = SmplBody(id=name, tracking_state=state)
            body.joints = np.repeat(np.float32([[x, 0, 0]]), 24, 0).reshape(-1)
            body.joint_covariance = np.repeat(np.float32([np.eye(3) * sigma**2]), 24, 0).reshape(-1)
            bodies.append(body)
        node.on_bodies(SmplBodyArray(bodies=bodies))
        assert said == ["2.00 m to the right hand of aaaaa"]
        node.destroy_node()
    finally:
        rclpy.shutdown()
