"""What the name of an image topic says, by the conventions of camera drivers.  Needs no ROS."""

from __future__ import annotations

import re


def camera_info_beside(image_topic: str) -> str:
    """The neighbour of an image topic where every driver puts the calibration; of the raw images for compressed ones."""
    folder, slash, _ = image_topic.removesuffix("/compressed").rpartition("/")
    return f"{folder}{slash}camera_info"


def is_rectified_by_name(image_topic: str) -> bool:
    """Whether the images are said to be rectified: image_proc calls them image_rect and image_rect_color.

    Others say rectified; but image_unrectified and image_direct are neither.
    """
    name = image_topic.removesuffix("/compressed").rsplit("/", 1)[-1]
    return re.search(r"(^|_)rect(ified)?(_|$)", name) is not None
