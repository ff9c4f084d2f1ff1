"""Synthetic fitting problems with known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..body.model import BodyModel, pose
from ..fit.options import Anchor
from ..geometry import so3
from ..geometry.camera import camera_from_fov, project
from ..synth.poses import sample
from ..types import BodyParams, Camera, Correspondences

CAMERA = camera_from_fov(640, 480, 60.0)
NOISE_PX = 1.0
ROT_SIGMA_RAD, BETAS_SIGMA, T_SIGMA_M = 0.08, 0.3, 0.03


@dataclass(frozen=True)
class Problem:
    """People, where a tracker would have predicted them, and noisy matches of surface points."""

    truth: BodyParams
    start: BodyParams
    camera: Camera
    matches: Correspondences
    anchor: Anchor  # the prediction with its own uncertainty


def people(rng: np.random.Generator, count: int) -> BodyParams:
    """Synthetic poses at any heading, 2.5 to 4 m away."""
    drawn = sample(rng, count)
    heading = np.stack([np.zeros(count), rng.uniform(-np.pi, np.pi, count), np.zeros(count)], 1)
    root = so3.log(so3.exp(np.array([np.pi, 0.0, 0.0])) @ so3.exp(heading) @ drawn.R_world_root)
    t = np.stack([rng.uniform(-0.4, 0.4, count), rng.uniform(-0.2, 0.2, count), rng.uniform(2.5, 4.0, count)], 1)
    values = (rng.normal(size=(count, 10)) * 0.7, root, drawn.joint_rotvec, t)
    return BodyParams(*(v.astype(np.float32) for v in values))


def drawn_around(rng: np.random.Generator, p: BodyParams, rot: float, betas: float, t: float) -> BodyParams:
    """A draw from a Gaussian around the parameters, rotations on their tangent space."""

    def turn(rotvec):
        return so3.log(so3.exp(rotvec.astype(np.float64)) @ so3.exp(rot * rng.normal(size=rotvec.shape))).astype(np.float32)

    return BodyParams(
        (p.betas + betas * rng.normal(size=p.betas.shape)).astype(np.float32), turn(p.root_rotvec), turn(p.joint_rotvec),
        (p.t_camera_root + t * rng.normal(size=p.t_camera_root.shape)).astype(np.float32),
    )  # fmt: skip


def problem(body: BodyModel, persons: int, points: int | None, seed: int, noise_px: float = NOISE_PX) -> Problem:
    """``points`` random surface points a person, or every vertex (None)."""
    rng = np.random.default_rng(seed)
    truth = people(rng, persons)
    start = drawn_around(rng, truth, ROT_SIGMA_RAD, BETAS_SIGMA, T_SIGMA_M)
    if points is None:
        vertex, where = np.unique(body.faces.reshape(-1), return_index=True)
        face = np.tile((where // 3).astype(np.int32), persons)
        bary = np.tile(np.eye(3, dtype=np.float32)[where % 3], (persons, 1))
        per = len(vertex)
    else:
        per = points
        face = rng.integers(0, len(body.faces), persons * per).astype(np.int32)
        bary = rng.dirichlet([1.0, 1.0, 1.0], persons * per).astype(np.float32)
    person = np.repeat(np.arange(persons, dtype=np.int32), per)
    corners = pose(body, truth).vertices[person[:, None], body.faces[face]]
    uv = project(CAMERA, np.einsum("nc,ncd->nd", bary, corners)) + noise_px * rng.normal(size=(len(person), 2))
    weight = np.full(len(person), 1.0 / noise_px, np.float32)
    anchor = Anchor(start, ROT_SIGMA_RAD, BETAS_SIGMA, T_SIGMA_M)
    return Problem(truth, start, CAMERA, Correspondences(person, face, bary, uv.astype(np.float32), weight), anchor)


def vertex_error_mm(body: BodyModel, a: BodyParams, b: BodyParams) -> float:
    """Mean distance of vertices over all persons, camera frame, not aligned."""
    return float(1e3 * np.linalg.norm(pose(body, a).vertices - pose(body, b).vertices, axis=-1).mean())
