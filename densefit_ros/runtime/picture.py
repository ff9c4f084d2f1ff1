"""What the two networks share: the size of crops, and the image features that one makes and both read.

The regressor's file holds the image trunk; the displacement network takes the trunk's features as inputs.  Files that were
not trained together would run, and answer nonsense: each carries the mark of its trunk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import AssetError
from ..geometry.crop import columns_seen
from .protocol import TensorSpec

SIZE_PX = 224  # side of the crops
SEEN = columns_seen(SIZE_PX)  # the networks cut these columns out by themselves
# Outputs of the regressor, inputs of the displacement network: features at a quarter and an eighth of the resolution.
IMAGE_FEATURES = {
    "s4": TensorSpec((None, 32, SIZE_PX // 4, (SEEN.stop - SEEN.start) // 4), "float32"),
    "s8": TensorSpec((None, 96, SIZE_PX // 8, (SEEN.stop - SEEN.start) // 8), "float32"),
}
_MARK = re.compile(rb"densefit-trunk:([0-9a-f]{16})")


def trunk_mark(weights: Mapping[str, np.ndarray]) -> str:
    """The mark of a trunk: a digest of its weights, which the exporter writes into the files of both networks."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + np.ascontiguousarray(weights[name], np.float32).tobytes())
    return f"densefit-trunk:{digest.hexdigest()[:16]}"


def check_pair(regressor: str | Path, displacement: str | Path) -> None:
    """Raise AssetError unless the two files were exported with the same trunk.

    The mark is found in the file's bytes: not every runtime hands out a file's metadata.
    """
    marks = []
    for path in (regressor, displacement):
        try:
            found = _MARK.search(Path(path).read_bytes())
        except OSError as e:
            raise AssetError(f"{path}: the network file cannot be read ({e.strerror})") from e
        if found is None:
            raise AssetError(f"{path}: carries no mark of its image trunk (a network of another version, or of others?)")
        marks.append(found.group(1))
    if marks[0] != marks[1]:
        raise AssetError(
            f"{displacement} reads the image features of another trunk than {regressor} has: set regress.onnx and displace.onnx "
            "to files of one training run (densefit export CHECKPOINT --out FOLDER writes both)"
        )
