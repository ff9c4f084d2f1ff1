"""The node where a Python package is missing."""

from __future__ import annotations

import os
import sys

import pytest
from harness import Client, NodeProcess
from lifecycle_msgs.msg import Transition

pytestmark = pytest.mark.ros


class RealNode(NodeProcess):
    command = (sys.executable, "-m", "densefit_ros.ros.node")


def test_a_python_package_that_is_missing_is_named_with_what_to_do(tmp_path):
    (tmp_path / "warp.py").write_text("raise ModuleNotFoundError(\"No module named 'warp'\", name='warp')\n")
    path = os.pathsep.join(p for p in (str(tmp_path), os.environ.get("PYTHONPATH", "")) if p)
    with RealNode(env={"PYTHONPATH": path}) as node, Client() as client:
        assert not client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.state() == "unconfigured"
        node.stop()
    assert f"cannot configure: needs warp, which is not installed for {sys.executable}: pip install warp-lang" in node.log
