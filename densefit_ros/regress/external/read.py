"""Reading estimates: which file, which layout, what is wrong.  Nothing in a file is executed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...body.assets import read_arrays
from ...body.unpickle_joblib import restricted_load_joblib
from ...errors import AssetError
from . import layouts
from .people import ExternalPerson

# Size (width, height) of a picture by name, or by number where the name is empty.
Sizes = Callable[[str, int], tuple[int, int]]
LAYOUTS = ("hmr2", "cliff", "tokenhmr", "wham", "camerahmr", "sam3d")
SUFFIXES = (".npz", ".pkl", ".pickle", ".joblib", ".pth", ".json")
MAX_FILES = 100_000


def read_people(path: str | Path, sizes: Sizes, layout: str = "auto") -> list[ExternalPerson]:
    """Everybody in a file, or in a folder with one file per picture or person.

    ``layout`` is one of LAYOUTS, or "auto": told by the names of the entries.  Raises AssetError, naming the file.
    """
    path = Path(path)
    if layout not in (*LAYOUTS, "auto"):
        raise AssetError(f"expected a layout among {', '.join((*LAYOUTS, 'auto'))}, got '{layout}'")
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)[:MAX_FILES]
        if not files:
            raise AssetError(f"{path}: no estimates (*{', *'.join(SUFFIXES)})")
    people = []
    for file in files:
        tree = read_tree(file)
        name = layout if layout != "auto" else layouts.guess(tree, file)
        people += layouts.READERS[name](tree, file, sizes)
    return people


def read_tree(path: Path) -> Mapping[str, Any]:
    """The dictionary in a .npz, a pickle (of pickle or joblib) or a .json file."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return read_arrays(path)
    if suffix == ".json":
        try:
            tree = json.loads(path.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
            raise AssetError(f"cannot read {path}: {str(e).splitlines()[0]}") from e
    elif suffix in SUFFIXES:
        tree = restricted_load_joblib(path)
    else:
        raise AssetError(f"{path}: expected {', '.join(SUFFIXES)}, got '{path.suffix}'")
    if isinstance(tree, (list, tuple)) and tree and all(isinstance(t, Mapping) for t in tree):
        tree = _stacked(tree, path)
    if not isinstance(tree, Mapping):
        raise AssetError(f"{path}: expected a dictionary, got {type(tree).__name__}")
    return tree


def _stacked(people: Any, path: Path) -> dict[str, Any]:
    """A list of one dictionary per person becomes one dictionary with a row per person."""
    names = set(people[0])
    if any(set(p) != names for p in people):
        raise AssetError(f"{path}: its people do not all have the same entries")
    return {n: [p[n] for p in people] for n in people[0]}
