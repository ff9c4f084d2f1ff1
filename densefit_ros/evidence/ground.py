"""The floor as evidence: whose lowest point is in sight stands on it, which says how far away, and so how large, a person is.

A single colour image fixes a body up to scale.  A robot knows how high its camera is above the floor: of two bodies that look
the same, one stands on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry.camera import project
from ..types import Camera, DepthPoints


@dataclass(frozen=True)
class GroundOptions:
    """How the floor is read."""

    sole_m: float = 0.02  # of a bare foot above the floor: shoes
    sigma_m: float = 0.03  # soles, heels that are lifted, carpets
    sigma_rad: float = 0.01  # how far the floor may be tilted against the camera: 1 cm for each metre of distance
    # Who is farther from the floor than this share of the camera's height is not a fifth too near or too far away: somebody on
    # stairs, in the air, or with legs behind a desk that are not where they are believed to be.
    gate_share: float = 0.2


_DEFAULTS = GroundOptions()


def ground_below(height_m: float, pitch_rad: float) -> np.ndarray:
    """Frame.ground of a camera at that height that looks down by ``pitch_rad`` and does not roll."""
    return np.array([0.0, -np.cos(pitch_rad), -np.sin(pitch_rad), height_m])


def ground_points(
    vertices_m: np.ndarray, faces: np.ndarray, ground: np.ndarray, camera: Camera, options: GroundOptions = _DEFAULTS
) -> DepthPoints:
    """The lowest point of each person against the floor, of those whose lowest point lies in the image and near the floor.

    vertices_m (P,V,3) camera frame; faces (F,3); ground (4,): ``ground[:3] @ x + ground[3]`` is the height of x above the
    floor in m, the first three of length 1 -> up to P planes.
    """
    height = vertices_m @ ground[:3] + ground[3]
    vertex = height.argmin(1)
    person = np.arange(len(vertices_m))
    x = vertices_m[person, vertex]
    uv = project(camera, x)  # NaN behind the camera, which is not in the image
    seen = ((uv > 0) & (uv < (camera.width, camera.height))).all(1) & (
        np.abs(height[person, vertex]) < options.gate_share * ground[3]
    )
    person, vertex, x = person[seen], vertex[seen], x[seen]
    corner = np.stack([(faces == i).ravel().argmax() for i in vertex]) if len(vertex) else np.zeros(0, int)
    face, bary = corner // 3, np.eye(3)[corner % 3]
    target = x - (height[person, vertex] - options.sole_m)[:, None] * ground[:3]
    sigma = np.hypot(options.sigma_m, options.sigma_rad * x[:, 2])
    f = np.float32
    normal = np.broadcast_to(ground[:3], target.shape).astype(f)
    return DepthPoints(
        person.astype(np.int32), face.astype(np.int32), bary.astype(f), target.astype(f), normal, (1 / sigma).astype(f),
        np.ones(len(person), f), np.zeros(len(person), bool),
    )  # fmt: skip
