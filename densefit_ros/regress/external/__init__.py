"""First estimates that other people's regressors wrote to files.  See docs/REGRESSORS.md."""

from __future__ import annotations

from .people import ExternalPerson, by_picture, in_camera, source_camera
from .read import LAYOUTS, read_people

__all__ = ["LAYOUTS", "ExternalPerson", "by_picture", "in_camera", "read_people", "source_camera"]
