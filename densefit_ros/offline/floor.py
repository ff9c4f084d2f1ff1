"""``--camera-height`` and ``--camera-pitch``: the floor, of a camera that no TF speaks of."""

from __future__ import annotations

import argparse
import math

import numpy as np

from ..errors import ConfigError
from ..evidence.ground import ground_below


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two options."""
    about = "of the camera above the floor on which people stand: fixes their distance and size"
    parser.add_argument("--camera-height", type=float, metavar="M", help=about)
    parser.add_argument("--camera-pitch", type=float, metavar="DEG", help="how far it looks down (default: 0)")


def from_arguments(args: argparse.Namespace) -> np.ndarray | None:
    """The floor as Frame has it; None when nothing was said.  Raises ConfigError."""
    height_m, pitch_deg = args.camera_height, args.camera_pitch
    if height_m is None:
        if pitch_deg is not None:
            raise ConfigError("--camera-pitch says nothing without --camera-height")
        return None
    pitch_deg = 0.0 if pitch_deg is None else pitch_deg
    if not 0.05 <= height_m <= 100:
        raise ConfigError(f"--camera-height: expected 0.05 to 100 m above the floor, got {height_m:g}")
    if not -90 <= pitch_deg <= 90:
        raise ConfigError(f"--camera-pitch: expected -90 to 90 degrees, positive downwards, got {pitch_deg:g}")
    return ground_below(height_m, math.radians(pitch_deg))
