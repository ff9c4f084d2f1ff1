"""Networks that ship with the package; docs/MODEL_CARD.md says how they were made."""

from __future__ import annotations

from pathlib import Path

from ..errors import AssetError


def weights_path(name: str) -> Path:
    """Path of a shipped network file, such as "regressor.onnx".  Raises AssetError when it is not there."""
    path = Path(__file__).resolve().parent / name
    if not path.is_file():
        have = ", ".join(sorted(p.name for p in path.parent.glob("*.onnx"))) or "none"
        raise AssetError(f"{path}: shipped network not found (have: {have}); reinstall, or make it with `densefit train`")
    return path
