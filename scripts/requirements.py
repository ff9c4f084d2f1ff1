"""Print requirements of pyproject.toml, one word each: ``requirements.py project.dependencies`` or an extra's name.

setup.sh installs them before the package itself exists, with a standard library that may lack tomllib (Python 3.10), so
the two tables are read by their fixed layout.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path


def requirements(text: str, name: str) -> list[str]:
    """Requirement strings of ``[project] dependencies`` (name "project.dependencies") or of an optional extra."""
    key = "dependencies" if name == "project.dependencies" else re.escape(name)
    found = re.search(rf"^{key} = (\[.*?\])$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"pyproject.toml has no requirements named {name!r}")
    return [r.replace(" ", "") for r in ast.literal_eval(found[1])]


if __name__ == "__main__":
    print("\n".join(requirements((Path(__file__).parent.parent / "pyproject.toml").read_text(), sys.argv[1])))
