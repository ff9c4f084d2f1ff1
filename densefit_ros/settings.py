"""Trees of frozen dataclasses as settings: each leaf has a dotted name, a description, a range, and is checked when it is set.

Unknown names, wrong types and values out of range raise ConfigError; nothing is ignored in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from .errors import ConfigError


def option(
    default: Any,
    description: str,
    lo: float | None = None,
    hi: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A field of a settings tree; its arguments are those of :class:`Setting`."""
    return field(default=default, metadata={"description": description, "lo": lo, "hi": hi, "choices": choices, "live": live})


@dataclass(frozen=True)
class Setting:
    """One setting with all that a parameter server or a help page needs."""

    name: str  # dotted
    value: Any
    description: str
    lo: float | None
    hi: float | None
    choices: tuple[str, ...]
    live: bool  # read in every frame; all others shape buffers, networks, topics or timers when those are made


def settings(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Every leaf of the tree, depth first, in the order of definition."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{prefix}{f.name}.")
        else:
            m = f.metadata
            yield Setting(prefix + f.name, value, m["description"], m["lo"], m["hi"], m["choices"], m["live"])


def with_overrides(config: Any, overrides: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy with dotted names, without ``prefix``, replaced, each checked.  Raises ConfigError, with the prefix."""
    known = {s.name.removeprefix(prefix): s for s in settings(config, prefix)}
    for name, value in overrides.items():
        if name not in known:
            raise ConfigError(f"unknown setting '{name}'; near: {', '.join(_near(name, known)) or 'none'}")
        config = _replace(config, name.split("."), _checked(known[name], value))
    return config


def parse_overrides(pairs: Sequence[str]) -> dict[str, str]:
    """``["fit.iterations=6"]`` -> {"fit.iterations": "6"}.  Raises ConfigError on a missing "="."""
    out = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set: expected NAME=VALUE, got '{pair}'")
        out[name.strip()] = value.strip()
    return out


def _replace(node: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replace(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: value})


def _checked(setting: Setting, value: Any) -> Any:
    kind = type(setting.value)
    if kind is str and isinstance(value, bool):  # YAML's idea of these words
        pairs = (("off", "on"), ("no", "yes"))
        value = next((pair[value] for pair in pairs if set(pair) <= set(setting.choices)), value)
    if isinstance(value, str) and kind is not str:
        # Command-line overrides arrive as text, and YAML takes 1e-3 for one.
        try:
            value = float(value) if kind is float else yaml.safe_load(value)
        except (ValueError, yaml.YAMLError):
            pass  # named below
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{setting.name}: expected {kind.__name__}, got {value!r}")
    if setting.choices and value not in setting.choices:
        raise ConfigError(f"{setting.name}: expected one of {', '.join(setting.choices)}, got {value!r}")
    if kind in (int, float) and not (
        (setting.lo is None or value >= setting.lo) and (setting.hi is None or value <= setting.hi)
    ):  # written so that NaN fails
        raise ConfigError(f"{setting.name}: expected {setting.lo} to {setting.hi}, got {value}")
    return value


def _near(name: str, known: Mapping[str, Setting]) -> list[str]:
    return difflib.get_close_matches(name, known, n=3)
