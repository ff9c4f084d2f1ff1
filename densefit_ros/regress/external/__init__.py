"""First estimates that other people's regressors wrote to files.  See docs/REGRESSORS.md."""

from __future__ import annotations

from .people import OTHER_SHAPES, ExternalPerson, by_picture, for_body, in_camera, picture_index, source_camera
from .read import LAYOUTS, read_people

__all__ = [
    "LAYOUTS", "OTHER_SHAPES", "ExternalPerson", "by_picture", "for_body", "in_camera", "picture_index", "read_people",
    "source_camera",
]  # fmt: skip
