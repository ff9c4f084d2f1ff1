"""``densefit ros-policy``: an SROS 2 policy that allows the node what it really does, and nothing else.

The node is brought up and activated with the given ROS arguments, without models and in a domain of its own, and asked
for its topics and services.  So remappings, namespace, cameras and parameter files are those of the robot.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..config import Config
from ..errors import AssetError, BackendUnavailable, ConfigError

DOMAIN = 101  # nobody else's, and out of the way of ephemeral ports
# Topics that come and go with people (REP-155), when the node may have them.
BODY_TOPICS = "/humans/bodies/*"


@dataclass(frozen=True)
class Interface:
    """Fully qualified names of everything that a node has in the graph."""

    name: str
    namespace: str
    publishers: tuple[str, ...]
    subscriptions: tuple[str, ...]
    services: tuple[str, ...]
    clients: tuple[str, ...]


class _NoEngine:
    """Enough of an engine for the node to be activated; nobody will ever send it an image."""

    def __init__(self, config: Config) -> None:
        from ..body.assets import load_body

        self.body, self.backends = load_body(), {}

    def process(self, *_: Any) -> Any:
        raise AssertionError("this node is only looked at")

    def reset(self, camera: str | None = None) -> None:
        """Nothing to forget."""

    def retune(self, config: Config) -> None:
        """Nothing to tune."""


def interface(ros_args: Sequence[str]) -> Interface:
    """What the node has when it is active.  Raises ConfigError when the arguments do not let it become so."""
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.impl.implementation_singleton import rclpy_implementation
    from rclpy.lifecycle import TransitionCallbackReturn

    from .node import DensefitNode

    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "OFF"  # nobody needs to see this node, Iron and newer
    context, node = rclpy.Context(), None
    try:
        rclpy.init(args=["densefit", "--ros-args", "--log-level", "warn", *ros_args], context=context, domain_id=DOMAIN)
        node = DensefitNode(_NoEngine, context=context)
        ok = TransitionCallbackReturn.SUCCESS
        if node.trigger_configure() != ok or node.trigger_activate() != ok:
            raise ConfigError("the node cannot be activated with these arguments; the lines above say why")
        return interface_of(node, node.get_name(), node.get_namespace(), _of_bodies(node))
    except (ParameterException, rclpy_implementation.RCLError, rclpy_implementation.UnknownROSArgsError) as e:
        raise ConfigError(" ".join(str(e).split())) from e
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown(context=context)


def interface_of(observer: Any, name: str, namespace: str, of_bodies: tuple[bool, bool] = (False, False)) -> Interface:
    """What the graph says of a node, as seen by ``observer``; whether it publishes and reads the topics of single bodies."""

    def names(listing: list[tuple[str, list[str]]]) -> set[str]:
        return {n for n, _ in listing}

    publishers = names(observer.get_publisher_names_and_types_by_node(name, namespace))
    subscriptions = names(observer.get_subscriber_names_and_types_by_node(name, namespace))
    return Interface(
        name,
        namespace,
        tuple(sorted(publishers | ({BODY_TOPICS} if of_bodies[0] else set()))),
        tuple(sorted(subscriptions | ({BODY_TOPICS} if of_bodies[1] else set()))),
        tuple(sorted(names(observer.get_service_names_and_types_by_node(name, namespace)))),
        tuple(sorted(names(observer.get_client_names_and_types_by_node(name, namespace)))),
    )


def policy_xml(found: Interface, enclave: str = "") -> str:
    """The policy, in the format of ``ros2 security create_permission``; the enclave is named like the node if not given."""
    root = ElementTree.Element("policy", version="0.2.0")
    path = enclave or f"{found.namespace.rstrip('/')}/{found.name}"
    profiles = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "enclaves"), "enclave", path=path), "profiles"
    )
    profile = ElementTree.SubElement(profiles, "profile", ns=found.namespace, node=found.name)
    for group, kind, names in (
        ("services", "reply", found.services),
        ("services", "request", found.clients),
        ("topics", "publish", found.publishers),
        ("topics", "subscribe", found.subscriptions),
    ):
        if names:
            element = ElementTree.SubElement(profile, group, {kind: "ALLOW"})
            for name in names:
                ElementTree.SubElement(element, group[:-1]).text = name
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the policy to a file or to standard output."""
    parser = argparse.ArgumentParser(
        prog="densefit ros-policy",
        description="Write an SROS 2 policy for the node as it is started with the given ROS arguments.",
        epilog="Example: densefit ros-policy --out policy.xml -- -r image:=/camera/image_raw -p ros.depth:=true.  "
        "Then: ros2 security create_permission KEYSTORE ENCLAVE policy.xml",
    )
    parser.add_argument("--out", type=Path, help="file to write; standard output when left out")
    parser.add_argument("--enclave", default="", help="path of the enclave; the node's full name when left out")
    parser.add_argument("ros_args", nargs="*", metavar="ROS_ARG", help="after --: what follows --ros-args on the robot")
    args = parser.parse_args(arguments)
    try:
        import rclpy  # noqa: F401
    except ImportError as e:
        raise BackendUnavailable(f"densefit ros-policy needs ROS 2 (rclpy), which is not installed here: {e}") from e
    text = policy_xml(interface([a for a in args.ros_args if a != "--ros-args"]), args.enclave)
    if args.out is None:
        sys.stdout.write(text)
    else:
        try:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text)
        except OSError as e:
            raise AssetError(f"cannot write {args.out}: {e.strerror}") from e
        print(args.out)
    return 0


def _of_bodies(node: Any) -> tuple[bool, bool]:
    """Whether the node publishes and reads topics of single bodies."""
    return node.get_parameter("hri.enabled").value, node.get_parameter("ros.keypoints").value == "hri"
