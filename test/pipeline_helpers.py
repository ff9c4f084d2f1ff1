"""The frame with both networks and the finder replaced by oracles of known error, and the world that they look at."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.body.skin import Skinner
from densefit_ros.config import Config
from densefit_ros.fit.solver import FitOptions, Fitter
from densefit_ros.geometry.camera import camera_from_fov, crop_camera, project
from densefit_ros.models import Models
from densefit_ros.pipeline import initial_state, process
from densefit_ros.regress.lifting import make_lifting
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.settings import with_overrides
from densefit_ros.types import BodyParams, Crop, Detection, DisplacementField, Estimate, Frame

CAMERA = camera_from_fov(640, 480, 60.0)
DT_NS = 33_333_333


def truth_at(i: int, x_m: float = 0.0) -> BodyParams:
    """A person who sways and waves: smooth, so that a motion model can follow."""
    joints = np.zeros((1, 23, 3), np.float32)
    joints[0, 15, 2], joints[0, 16, 2] = -1.1, 1.1 + 0.4 * np.sin(i / 6)
    joints[0, 17, 1] = -0.5 - 0.4 * np.sin(i / 5)
    root = np.array([[np.pi * 0.98, 0.0, 0.15 * np.sin(i / 10)]], np.float32)
    betas = np.zeros((1, 10), np.float32)
    betas[0, :3] = 0.8, -0.6, 0.5
    return BodyParams(betas, root, joints, np.array([[x_m + 0.01 * i, 0.1, 3.5]], np.float32))


class World:
    """The truth that the oracles look at; ``visible`` people only."""

    def __init__(self, people: int = 1) -> None:
        self.people, self.visible, self.i = people, set(range(people)), 0

    def truth(self, person: int) -> BodyParams:
        return truth_at(self.i, 1.2 * person - 0.6 * (self.people - 1))


class OracleEstimator:
    """The truth disturbed by 8 degrees a joint and 5 cm; anything that is not a visible person gets no confidence."""

    name = "oracle"
    size_px = 160  # its own: windows are cut for it
    margin = 1.5

    distance = 1.0  # estimated over true distance

    def __init__(self, world: World, body) -> None:
        self.world, self.body, self.rng = world, body, np.random.default_rng(0)

    def estimate(self, crop: Crop, camera, warm=()) -> Estimate:
        assert crop.size == self.size_px
        rows, confidence = [], []
        for affine in crop.image_from_crop:
            centre = affine[:, :2] @ [crop.size / 2, crop.size / 2] + affine[:, 2]
            person, distance = self._nearest(centre)
            true = self.world.truth(max(person, 0))
            noise = self.rng.normal(size=(1, 24, 3)).astype(np.float32) * np.float32(np.deg2rad(8))
            rows.append(
                BodyParams(
                    np.zeros((1, 10), np.float32),
                    true.root_rotvec + noise[:, 0],
                    true.joint_rotvec + noise[:, 1:],
                    self.distance * true.t_camera_root + self.rng.normal(size=(1, 3)).astype(np.float32) * np.float32(0.05),
                )
            )
            confidence.append(0.9 if distance < 80 else 0.05)
        return Estimate(
            BodyParams.stack(rows),
            np.array(confidence, np.float32),
            source="network",
            rot_sigma_rad=np.full((len(rows), 24), np.deg2rad(8), np.float32),
        )

    def _nearest(self, centre: np.ndarray) -> tuple[int, float]:
        best = (-1, np.inf)
        for k in self.world.visible:
            uv = project(CAMERA, pose(self.body, self.world.truth(k)).vertices[0]).mean(0)
            best = min(best, (k, float(np.linalg.norm(uv - centre))), key=lambda b: b[1])
        return best


class OracleDisplacer:
    """Where each rendered surface point truly is, with 1 px of noise, and it knows that."""

    class runtime:
        name = "oracle"

    def __init__(self, world: World, body) -> None:
        self.world, self.body, self.rng = world, body, np.random.default_rng(1)

    def look(self, rgb, mirrored=()):
        return None  # it knows

    def predict(self, crop: Crop, surface, seen=None) -> DisplacementField:
        count, s = len(crop.rgb), 4
        flow = np.zeros((count, 2, crop.size // s, crop.size // s), np.float32)
        for p in range(count):
            face, bary = surface.face_id[p, 2::s, 2::s], surface.bary[p, 2::s, 2::s]
            camera = crop_camera(CAMERA, crop.image_from_crop[p], crop.size)
            at = np.arange(2, crop.size, s) + 0.5
            best = None
            for k in self.world.visible:  # the person it was rendered over: the one that needs the smallest move
                v = pose(self.body, self.world.truth(k)).vertices[0]
                uv = project(camera, np.einsum("hwk,hwkc->hwc", bary, v[self.body.faces[np.maximum(face, 0)]]))
                move = np.stack([uv[..., 0] - at, uv[..., 1] - at[:, None]])
                size = np.abs(move[:, face >= 0]).mean() if (face >= 0).any() else 0.0
                if best is None or size < best[0]:
                    best = (size, move)
            if best is not None:
                flow[p] = np.where(face >= 0, best[1] + self.rng.normal(size=best[1].shape), 0)
        return DisplacementField(flow, np.zeros((count, 1, *flow.shape[2:]), np.float32), s)


class GarbageDisplacer(OracleDisplacer):
    """As sure, and it says nothing: noise."""

    def __init__(self, world: World, body, sigma_px: float) -> None:
        super().__init__(world, body)
        self.sigma_px = sigma_px

    def predict(self, crop: Crop, surface, seen=None) -> DisplacementField:
        field = super().predict(crop, surface)
        return dataclasses.replace(field, flow=(self.sigma_px * self.rng.normal(size=field.flow.shape)).astype(np.float32))


class OracleFinder:
    name = "oracle"

    def __init__(self, world: World, body) -> None:
        self.world, self.body, self.calls = world, body, 0

    def detect(self, rgb, enough: int = 1) -> list[Detection]:
        self.calls += 1
        out = []
        for k in sorted(self.world.visible):
            uv = project(CAMERA, pose(self.body, self.world.truth(k)).vertices[0])
            out.append(Detection(np.r_[uv.min(0), np.ptp(uv, axis=0)].astype(np.float32), 0.9))
        return out


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def parts(body):
    fitter = Fitter(body, max_persons=2, max_points=1000, options=FitOptions(shape_sigma=float("inf")))
    return Skinner(body, max_persons=2), WarpRenderer(body), fitter


def make(parts, body, people: int = 1, **overrides) -> tuple[Models, World]:
    world = World(people)
    config = with_overrides(Config(), {"track.max_people": people, "detect.interval_s": 0.3, **overrides})
    skinner, renderer, fitter = parts
    oracles = OracleFinder(world, body), OracleEstimator(world, body), OracleDisplacer(world, body)
    return Models(config, body, skinner, renderer, *oracles, fitter, make_lifting(body), {}), world


def run(models: Models, world: World, frames: int, state=None, first: int = 0):
    """Play ``frames`` frames; returns the state and all results."""
    state, results = state or initial_state(), []
    for i in range(first, first + frames):
        world.i = i
        state, result = process(models, state, Frame(np.full((480, 640, 3), 90, np.uint8), i * DT_NS, CAMERA))
        results.append(result)
    return state, results


def pve_mm(body, params: BodyParams, true: BodyParams) -> float:
    """Vertex error with the pelvis aligned."""
    a, b = pose(body, params), pose(body, true)
    return 1e3 * float(np.linalg.norm((a.vertices - a.joints[:, :1]) - (b.vertices - b.joints[:, :1]), axis=-1).mean())
