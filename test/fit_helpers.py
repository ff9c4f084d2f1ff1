"""Problems for the tests and the benchmark's checks of the fit: bodies, poses, noiseless and noisy matches."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.types import BodyParams, Correspondences

CAMERA = camera_from_fov(640, 480, 60.0)


@lru_cache(maxsize=2)
def body(pose_blendshapes: bool = False):
    """The shipped body; optionally with made-up pose blendshapes of a few millimetres."""
    b = load_body()
    if pose_blendshapes:
        rng = np.random.default_rng(0)
        b = replace(b, posedirs=(0.002 * rng.standard_normal((207, 3 * len(b.v_template)))).astype(np.float32))
    return b


def random_params(rng, n: int, amplitude: float = 0.3, dtype=np.float64) -> BodyParams:
    """People who stand about 3 m in front of the camera in random poses."""
    upright = so3.exp(np.array([np.pi, 0.0, 0.0]))
    root = so3.log(so3.exp(rng.normal(size=(n, 3)) * 0.3) @ upright)
    t = np.stack([rng.uniform(-0.4, 0.4, n), rng.uniform(-0.2, 0.2, n), rng.uniform(2.5, 4.0, n)], 1)
    values = (rng.normal(size=(n, 10)) * 0.7, root, rng.normal(size=(n, 23, 3)) * amplitude, t)
    return BodyParams(*(v.astype(dtype) for v in values))


def perturb(rng, params: BodyParams, degrees: float, beta: float = 0.0, t: float = 0.0) -> BodyParams:
    """Every joint turned by ``degrees`` about a random axis."""

    def turn(rotvec):
        axis = rng.normal(size=rotvec.shape)
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        return so3.log(so3.exp(rotvec) @ so3.exp(axis * np.deg2rad(degrees)))

    return BodyParams(
        params.betas + beta * rng.normal(size=params.betas.shape), turn(params.root_rotvec), turn(params.joint_rotvec),
        params.t_camera_root + t * rng.normal(size=params.t_camera_root.shape),
    )  # fmt: skip


def surface_samples(rng, b, params: BodyParams, per_person: int):
    """Random surface points: person, face, bary, position."""
    n = len(params) * per_person
    person = np.repeat(np.arange(len(params)), per_person).astype(np.int32)
    face = rng.integers(0, len(b.faces), n).astype(np.int32)
    bary = rng.dirichlet([1.0, 1.0, 1.0], n)
    vertices = pose(b, params).vertices
    return person, face, bary, np.einsum("nc,ncd->nd", bary, vertices[person[:, None], b.faces[face]])


def make_matches(rng, b, params: BodyParams, per_person: int, noise_px: float = 0.0, camera=CAMERA) -> Correspondences:
    """Matches of random surface points with their true image points, plus noise; weights state one pixel or the noise."""
    person, face, bary, x = surface_samples(rng, b, params, per_person)
    uv = project(camera, x) + noise_px * rng.normal(size=(len(x), 2))
    return Correspondences(person, face, bary, uv, np.full(len(x), 1.0 / max(noise_px, 1.0)))


def vertex_error_mm(b, a: BodyParams, c: BodyParams) -> np.ndarray:
    """(P,) mean distance of vertices."""
    return 1e3 * np.linalg.norm(pose(b, a).vertices - pose(b, c).vertices, axis=-1).mean(1)


def realistic_params(rng, n: int) -> BodyParams:
    """People of the synthetic pose sampler at any heading, about 3 m away."""
    from densefit_ros.synth.poses import sample

    drawn = sample(rng, n)
    heading = np.stack([np.zeros(n), rng.uniform(-np.pi, np.pi, n), np.zeros(n)], 1)
    root = so3.log(so3.exp(np.array([np.pi, 0.0, 0.0])) @ so3.exp(heading) @ drawn.R_world_root)
    t = np.stack([rng.uniform(-0.4, 0.4, n), rng.uniform(-0.2, 0.2, n), rng.uniform(2.5, 4.0, n)], 1)
    return BodyParams(rng.normal(size=(n, 10)) * 0.7, root, drawn.joint_rotvec.astype(np.float64), t)


def draw_around(rng, params: BodyParams, rot_sigma: float, betas_sigma: float, t_sigma: float) -> BodyParams:
    """Parameters drawn from an anchor's own distribution around the given ones."""

    def turn(rotvec):
        return so3.log(so3.exp(rotvec) @ so3.exp(rot_sigma * rng.normal(size=rotvec.shape)))

    return BodyParams(
        params.betas + betas_sigma * rng.normal(size=params.betas.shape), turn(params.root_rotvec), turn(params.joint_rotvec),
        params.t_camera_root + t_sigma * rng.normal(size=params.t_camera_root.shape),
    )  # fmt: skip
