"""The SROS 2 policy allows what the running node does: no more, no less."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import pytest
from harness import WAIT_S, Client, NodeProcess

from densefit_ros.ros.policy import Interface, interface_of, policy_xml

pytestmark = pytest.mark.ros
VARIANTS = {
    "plain": (),
    "robot": ("-r", "__ns:=/robot", "-r", "image:=/camera/image_raw", "-p", "ros.depth:=true", "-p", "use_sim_time:=true"),
    "cameras": (
        "-r",
        "__node:=people",
        "-p",
        "ros.cameras:=left,right",
        "-p",
        "ros.initial:=true",
        "-p",
        "ros.keypoints:=keypoints",
    ),
}
NAMES = {"plain": ("densefit", "/"), "robot": ("densefit", "/robot"), "cameras": ("people", "/")}


def allowed(xml: str) -> dict[str, set[str]]:
    """{"topics publish": {...}, ...}, and the enclave and profile that they are for."""
    root = ElementTree.fromstring(xml)
    (profile,) = root.iter("profile")
    rules = {f"{e.tag} {kind}": {c.text for c in e} for e in profile for kind, verdict in e.items() if verdict == "ALLOW"}
    return {**rules, "who": {profile.get("ns"), profile.get("node"), next(root.iter("enclave")).get("path")}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_policy_is_the_graph_of_the_running_node(variant, tmp_path):
    args, (name, namespace) = VARIANTS[variant], NAMES[variant]
    full = f"{namespace.rstrip('/')}/{name}"
    out = tmp_path / "policy.xml"
    command = [sys.executable, "-m", "densefit_ros.cli", "ros-policy", "--out", str(out), "--", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * WAIT_S)
    assert done.returncode == 0, done.stderr[-1500:]
    rules = allowed(out.read_text())
    assert rules["who"] == {namespace, name, full}

    with NodeProcess(*args) as node, Client(node=full) as client:
        client.start()
        found: list[Interface] = []

        def same() -> bool:
            found.append(interface_of(client.node, name, namespace))
            return allowed(policy_xml(found[-1])) == rules

        assert client.until(same), {
            k: rules.get(k, set()) ^ allowed(policy_xml(found[-1])).get(k, set())
            for k in ("topics publish", "topics subscribe", "services reply")
        }
        assert node.stop() == 0, node.log
    assert f"{full}/bodies" in rules["topics publish"] or f"{full}/left/bodies" in rules["topics publish"]
    assert f"{full}/reset_tracks" in rules["services reply"]


def test_bodies_of_rep_155_are_allowed_by_pattern():
    class Graph:
        """A node without anything."""

        def __getattr__(self, name):
            return lambda *_: []

    rules = allowed(policy_xml(interface_of(Graph(), "n", "/", (True, True)), enclave="/mine"))
    assert rules["topics publish"] == rules["topics subscribe"] == {"/humans/bodies/*"}
    assert "/mine" in rules["who"] and "services reply" not in rules


@pytest.mark.parametrize("args", [("-p", "ros.markers_rate_hz:=-1.0"), ("-p", "ros.depth:=7"), ("--params-file", "nosuch.yaml")])
def test_arguments_that_ros_refuses(args):
    command = [sys.executable, "-m", "densefit_ros.cli", "ros-policy", "--", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * WAIT_S)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not done.stdout
    assert args[1].partition(":=")[0] in done.stderr


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out, code in ((tmp_path / "new" / "p.xml", 0), (tmp_path / "file" / "p.xml", 2)):
        command = [sys.executable, "-m", "densefit_ros.cli", "ros-policy", "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=6 * WAIT_S)
        assert done.returncode == code and "Traceback" not in done.stderr
    assert (tmp_path / "new" / "p.xml").stat().st_size > 100 and "cannot write" in done.stderr


def test_arguments_that_the_node_refuses():
    command = [sys.executable, "-m", "densefit_ros.cli", "ros-policy", "--", "-p", "ros.cameras:=a,a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * WAIT_S)
    assert done.returncode == 2 and "cannot be activated with these arguments" in done.stderr and not done.stdout
    assert "expected different names" in done.stderr
