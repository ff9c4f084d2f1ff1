"""Which nodes the launch file starts, from its arguments; lists are separated by commas.  Needs neither ROS nor launch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .params import words
from .topics import camera_info_beside

# Topics that a node listens to when asked: name in the node, and the parameter's value that asks for it.
_OPTIONAL: dict[str, Any] = {"depth": True, "detections": True, "keypoints": "keypoints", "densepose": True, "initial": True}
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def misspelt(given: Sequence[str], known: Sequence[str]) -> list[str]:
    """What to warn of: each ``name:=value`` whose name looks like a known argument and is none.

    launch takes arguments of any name without a word.  It is no error: they may be meant for a launch file around this one
    (``use_namespace``, ``camera``, ...).
    """
    names = [text.partition(":=")[0] for text in given if ":=" in text]
    near = {n: difflib.get_close_matches(n, known, n=1, cutoff=0.75) for n in names if n not in known}
    return [f"densefit has no argument '{name}': was {like[0]} meant?" for name, like in near.items() if like]


def flag(name: str, text: str) -> bool:
    """An argument that says yes or no.  Raises ConfigError for anything else."""
    word = text.strip().lower()
    if word not in _YES + _NO:
        raise ConfigError(f"{name}: expected true or false, got '{text}'")
    return word in _YES


def parameter_file(text: str, shipped: str) -> str:
    """Path of a YAML file: ``text``, or the file of that name in the folder ``shipped``.  Raises ConfigError.

    launch itself would warn of a file that is not there and start with the defaults.
    """
    if os.path.isfile(text):
        return text
    named = os.path.join(shipped, f"{text}.yaml")
    if os.path.basename(text) == text and os.path.isfile(named):
        return named
    names = ", ".join(sorted(f.removesuffix(".yaml") for f in os.listdir(shipped) if f.endswith(".yaml")))
    raise ConfigError(f"params_file: no file {os.path.abspath(text)}, and '{text}' is none of those that ship: {names}")


@dataclass(frozen=True)
class NodePlan:
    """One process."""

    namespace: str
    remappings: tuple[tuple[str, str], ...]
    parameters: dict[str, Any]
    images: tuple[str, ...]  # as they were given: relative ones are in the namespace
    markers: str  # topic of the (first camera's) meshes


def plan(
    image_topic: str,
    camera_info_topic: str = "",
    optional_topics: Mapping[str, str] | None = None,
    cameras: str = "",
    namespace: str = "",
    node_name: str = "densefit",
) -> list[NodePlan]:
    """The processes to start.  Raises ConfigError when the lists do not go together.

    ``cameras``: names, one per image topic, all served by one process.  Without names: one process per image topic, each in
    its own entry of ``namespace``.  ``optional_topics``: those of _OPTIONAL, empty ones off.
    """
    images, names, namespaces = words(image_topic), words(cameras), words(namespace)
    if not images:
        raise ConfigError("image_topic is empty")
    wanted = {"camera_info": camera_info_topic or ",".join(camera_info_beside(i) for i in images), **(optional_topics or {})}
    lists = {"image": images, **{k: _list_for(images, v, f"{k}_topic") for k, v in wanted.items() if v}}
    by_camera = [{name: topics[i] for name, topics in lists.items()} for i in range(len(images))]
    parameters = {f"ros.{name}": _OPTIONAL[name] for name in lists if name in _OPTIONAL}
    if camera_info_topic:
        parameters["ros.camera_info"] = "topic"
    if names:
        if len(names) != len(images) or len(namespaces) > 1:
            raise ConfigError(
                f"cameras names {len(names)}, image_topic {len(images)}: expected one name per topic, and one namespace at most"
            )
        space = namespaces[0] if namespaces else ""
        remappings = tuple(r for name, topics in zip(names, by_camera) for r in _remappings(f"{name}/", topics))
        parameters = {"ros.cameras": ",".join(names), **parameters}
        return [NodePlan(space, remappings, parameters, images, _markers(space, node_name, names[0]))]
    spaces = namespaces or ("",)
    if len(spaces) != len(images):
        raise ConfigError(
            f"image_topic lists {len(images)}, namespace {len(namespaces)}: expected a namespace per topic for a process each, "
            "or names in cameras for one process"
        )
    return [
        NodePlan(space, _remappings("", topics), parameters, (topics["image"],), _markers(space, node_name))
        for space, topics in zip(spaces, by_camera)
    ]


def _remappings(prefix: str, topics: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    private = {"initial": "~/"}
    return tuple((f"{private.get(name, '')}{prefix}{name}", topic) for name, topic in topics.items())


def _list_for(images: tuple[str, ...], text: str, what: str) -> tuple[str, ...]:
    topics = words(text)
    if len(topics) != len(images):
        raise ConfigError(f"{what} lists {len(topics)}, image_topic {len(images)}: expected one per image topic, or none")
    return topics


def _markers(namespace: str, node_name: str, camera: str = "") -> str:
    return "/" + "/".join(p for p in (namespace.strip("/"), node_name, camera, "markers") if p)
