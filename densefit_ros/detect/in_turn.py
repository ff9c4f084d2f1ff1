"""Two finders that see different people, asked in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..types import Detection
from .protocol import Detector, suppress


class InTurn:
    """Asks each finder for the people whom those before it left out, until ``enough`` are found.

    Of two boxes on one person the surer one counts, as within one finder.
    """

    def __init__(self, finders: Sequence[Detector]) -> None:
        self.finders = tuple(finders)
        self.name = " + ".join(f.name for f in self.finders)

    def detect(self, rgb: np.ndarray, enough: int = 1) -> list[Detection]:
        """See :class:`densefit_ros.detect.protocol.Detector`."""
        found: list[Detection] = []
        for finder in self.finders:
            found = suppress([*found, *finder.detect(rgb, enough)])
            if len(found) >= enough:
                break
        return found
