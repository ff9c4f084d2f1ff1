"""Write config/default.yaml from the settings tree: every parameter with its description, range and default."""

from __future__ import annotations

from pathlib import Path

import yaml

from densefit_ros.config import Config
from densefit_ros.ros.params import RosConfig, all_settings
from densefit_ros.settings import Setting

HEAD = """\
# Every parameter of the densefit node with its default.  Written by scripts/write_default_config.py; do not edit here.
# Use it as it is, or copy the lines that you change into a file of your own:
#   ros2 launch densefit_ros densefit.launch.py params_file:=mine.yaml
# Those marked (live) also change while the node runs, by ros2 param set; all others take effect in configure.
/**:
  ros__parameters:
"""


def text() -> str:
    """The file's content."""
    out, group = [HEAD], ""
    for setting in all_settings(Config(), RosConfig()):
        *path, name = setting.name.split(".")
        if path and path[0] != group:
            group = path[0]
            out.append(f"\n    {group}:\n")
        indent = "      " if path else "    "
        name = ".".join([*path[1:], name])
        out.append(f"{indent}# {_comment(setting)}\n{indent}{name}: {yaml.safe_dump(setting.value).splitlines()[0]}\n")
    return "".join(out)


def _comment(setting: Setting) -> str:
    text = setting.description
    if setting.choices:
        # Unquoted, YAML reads yes and no as booleans, and ROS refuses the parameter.
        text += f"; one of: {', '.join(repr(c) if yaml.safe_load(c) != c else c for c in setting.choices)}"
    elif isinstance(setting.value, (int, float)) and not isinstance(setting.value, bool):
        text += f" [{setting.lo:g} .. {setting.hi:g}]"
    return text + (" (live)" if setting.live else "")


if __name__ == "__main__":
    Path(__file__).parent.parent.joinpath("config", "default.yaml").write_text(text())
