"""Which nodes the launch file starts, from its arguments; lists are separated by commas.  Needs neither ROS nor launch."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

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


def read_parameters(path: str, named: str) -> Any:
    """What is written in the parameter file at ``path``, which the user knows as ``named``.  Raises ConfigError."""
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"params_file: {named} cannot be read as YAML: {' '.join(str(e).split())}") from e


def has_substitutions(document: Any) -> bool:
    """Whether some name or value asks launch for $(env ...), $(find-pkg-share ...) or the like.

    Others are not for launch to look through: it takes the backslashes out of what it reads, and up to Kilted falls over a
    shell's $(...) in a comment.
    """
    if isinstance(document, Mapping):
        return any(has_substitutions(part) for item in document.items() for part in item)
    if isinstance(document, Sequence) and not isinstance(document, str):
        return any(has_substitutions(part) for part in document)
    return isinstance(document, str) and "$(" in document


def said(document: Any, node: str) -> dict[str, Any]:
    """The parameters that a parameter file has for ``node``, a full name; a name itself wins over one with stars, as in ROS."""
    sections = sorted(_sections(document), key=lambda section: "*" not in section[0])
    return {n: v for name, values in sections if _is_for(name, node) for n, v in _flat(values)}


def _sections(document: Any, space: str = "") -> Iterator[tuple[str, Any]]:
    """(name of nodes, what is under ros__parameters); namespaces may be keys around names of nodes."""
    for key, value in document.items() if isinstance(document, Mapping) else ():
        if key == "ros__parameters":
            yield space, value
        else:
            yield from _sections(value, f"{space}/{str(key).strip('/')}")


def _is_for(name: str, node: str) -> bool:
    parts = {"*": "/[^/]+", "**": "(/[^/]+)*"}
    return re.fullmatch("".join(parts.get(p, "/" + re.escape(p)) for p in name.split("/")[1:]), node) is not None


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def image_profile(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Environment variable and file, in config/, of the Fast DDS profile for images; None where the robot has said its own.

    Fast DDS 3 renamed the variable; both at once make it read the file twice and complain.  On Humble ROS_LOCALHOST_ONLY adds a
    transport on loopback to those of the profile, whose UDP would reach the network all the same.
    """
    if environ.get("FASTDDS_BUILTIN_TRANSPORTS"):
        return None
    old = environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    name = "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
    if environ.get(name):  # a robot's own profile knows its network better
        return None
    alone = environ.get("ROS_LOCALHOST_ONLY") == "1" and environ.get("ROS_DISTRO") == "humble"
    return name, "fastdds_image_shm.xml" if alone else "fastdds_image.xml"


def namespaces(text: str, pushed: str) -> str:
    """The argument ``namespace`` where a launch file around this one has pushed the namespace ``pushed``.

    An argument of the same name is handed down unasked (nav2's bring-up has one): pushed already, it is not pushed twice.
    """
    own = text.strip("/")
    return "" if own and f"/{pushed.strip('/')}".endswith(f"/{own}") else text


def in_namespace(pushed: str, namespace: str) -> str:
    """Where launch puts a node of ``namespace``: below what was pushed, unless it is absolute."""
    return namespace if namespace.startswith("/") else "/".join(p for p in (pushed.rstrip("/"), namespace.strip("/")) if p)


@dataclass(frozen=True)
class NodePlan:
    """One process."""

    namespace: str
    remappings: tuple[tuple[str, str], ...]
    parameters: dict[str, Any]
    images: tuple[str, ...]  # as they were given: relative ones are in the namespace
    camera: str  # name of the first, where they have names

    def over(self, document: Any, node_name: str, pushed: str = "") -> dict[str, Any]:
        """The parameters to set over a parameter file, which decides what the topics leave open.

        That of yolo_ros has boxes and keypoints: who asks for the keypoints in the file and not for the boxes gets no boxes.
        """
        file = said(document, _topic(in_namespace(pushed, self.namespace), node_name))
        alone = file.get("ros.keypoints") == "yolo" and file.get("ros.detections") is False
        return {n: v for n, v in self.parameters.items() if not (alone and n == "ros.detections")}


def plan(
    image_topic: str,
    camera_info_topic: str = "",
    optional_topics: Mapping[str, str] | None = None,
    cameras: str = "",
    namespace: str = "",
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
        return [NodePlan(space, remappings, parameters, images, names[0])]
    spaces = namespaces or ("",)
    if len(spaces) != len(images):
        raise ConfigError(
            f"image_topic lists {len(images)}, namespace {len(namespaces)}: expected a namespace per topic for a process each, "
            "or names in cameras for one process"
        )
    return [
        NodePlan(space, _remappings("", topics), parameters, (topics["image"],), "") for space, topics in zip(spaces, by_camera)
    ]


def _remappings(prefix: str, topics: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    private = {"initial": "~/"}
    return tuple((f"{private.get(name, '')}{prefix}{name}", topic) for name, topic in topics.items())


def _list_for(images: tuple[str, ...], text: str, what: str) -> tuple[str, ...]:
    topics = words(text)
    if len(topics) != len(images):
        raise ConfigError(f"{what} lists {len(topics)}, image_topic {len(images)}: expected one per image topic, or none")
    return topics


def shown_topics(plan: NodePlan, node_name: str, pushed: str = "") -> tuple[tuple[str, str], ...]:
    """What densefit.rviz shows, and where the first camera has it: rviz' own names are absolute."""
    space = in_namespace(pushed, plan.namespace)
    image = plan.images[0]
    image = image if image.startswith("/") else _topic(space, image)
    own = ((f"/densefit/{n}", _topic(space, node_name, plan.camera, n)) for n in ("markers", "joint_markers", "overlay"))
    return ("/camera/image_raw", image), *own


def _topic(*parts: str) -> str:
    return "/" + "/".join(p.strip("/") for p in parts if p.strip("/"))
