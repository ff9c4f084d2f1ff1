"""From keypoints alone to a body: no estimate needed.

Upright rest poses at several headings are placed by linear least squares, all are fitted, the cheapest wins.  For a
tracker's first frame a regressor is better and faster; this makes the fit usable on its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..body.joints import landmark_positions
from ..body.model import pose
from ..errors import ShapeError
from ..geometry import so3
from ..types import NUM_JOINTS, BodyParams, Camera, Correspondences, FitResult, Keypoints
from .options import Anchor
from .solver import Fitter

HEADINGS_RAD = (0.0, np.pi / 2, np.pi, -np.pi / 2)
ROT_SIGMA_RAD = 0.6  # of a joint around the rest pose
STILL = {3: 0.2, 6: 0.2, 9: 0.2, 10: 0.1, 11: 0.1, 12: 0.3, 13: 0.2, 14: 0.2, 15: 0.3, 20: 0.2, 21: 0.2, 22: 0.1, 23: 0.1}


def lift(fitter: Fitter, keypoints: Keypoints, camera: Camera, iterations: int | None = None) -> FitResult:
    """Fit bodies to 2D keypoints (P,K) and, where given, their 3D directions.

    fitter: with ``options.ROUGH`` or of that kind, and room for P persons.  Returns the result of the best heading of
    each person; persons without enough keypoints have status NO_EVIDENCE or INVALID_START.
    """
    persons = len(keypoints.uv)
    marks = fitter.body.landmarks.get(keypoints.set_name)
    if marks is None:
        raise ShapeError(f"expected one of the keypoint sets {sorted(fitter.body.landmarks)}, got {keypoints.set_name!r}")
    shapes, count = (np.shape(keypoints.uv), np.shape(keypoints.confidence)), len(marks.names)
    if shapes != ((persons, count, 2), (persons, count)):
        raise ShapeError(f"expected {keypoints.set_name} keypoints (P,{count},2) and confidence (P,{count}), got {shapes}")
    keypoints = replace(keypoints, confidence=np.clip(np.nan_to_num(keypoints.confidence), 0, 1))
    if persons > fitter.max_persons:
        raise ShapeError(f"expected at most {fitter.max_persons} persons, got {persons}: raise max_persons")
    sigma = np.full(NUM_JOINTS, ROT_SIGMA_RAD)
    sigma[0] = np.inf
    for joint, value in STILL.items():
        sigma[joint] = value
    best: FitResult | None = None
    for heading in HEADINGS_RAD:
        start = place(fitter.body, keypoints, camera, heading)
        result = fitter.solve(
            start, camera, Correspondences.empty(), keypoints=keypoints, anchors=[Anchor(start, sigma)], iterations=iterations
        )
        best = result if best is None else _better(best, result)
    return best


def place(body, keypoints: Keypoints, camera: Camera, heading_rad: float) -> BodyParams:
    """An upright body in rest pose with its arms down at a heading (0: facing the camera), where the keypoints say."""
    persons = len(keypoints.uv)
    root = so3.log(so3.exp(np.array([np.pi, 0.0, 0.0])) @ so3.exp(np.array([0.0, heading_rad, 0.0])))
    rest = BodyParams.rest(1)
    joints = rest.joint_rotvec.copy()
    joints[0, 15, 2], joints[0, 16, 2] = -1.1, 1.1  # the shoulders: a T-pose is rare
    rest = BodyParams(rest.betas, root[None].astype(np.float32), joints, rest.t_camera_root)
    marks = body.landmarks[keypoints.set_name]
    x = landmark_positions(marks, pose(body, rest))[0].astype(np.float64)
    t = np.zeros((persons, 3))
    for p in range(persons):
        t[p] = _translation(x, keypoints.uv[p], keypoints.confidence[p] * marks.placed, camera)
    repeat = lambda a: np.repeat(a, persons, 0)  # noqa: E731
    return BodyParams(repeat(rest.betas), repeat(rest.root_rotvec), repeat(rest.joint_rotvec), t.astype(np.float32))


def _translation(x: np.ndarray, uv: np.ndarray, confidence: np.ndarray, camera: Camera) -> np.ndarray:
    """(u - cx)(z + t_z) = fx (x + t_x), and the same for v: linear in t."""
    good = np.isfinite(uv).all(-1) & (np.nan_to_num(confidence) > 0)
    if good.sum() < 2:
        return np.array([0.0, 0.0, 3.0])
    w = np.sqrt(confidence[good])[:, None]
    a = (uv[good] - np.array([camera.cx, camera.cy])) / np.array([camera.fx, camera.fy])
    zero, one = np.zeros(len(a)), np.ones(len(a))
    rows = np.concatenate([w * np.stack([one, zero, -a[:, 0]], 1), w * np.stack([zero, one, -a[:, 1]], 1)])
    rhs = np.concatenate([w[:, 0] * (a[:, 0] * x[good, 2] - x[good, 0]), w[:, 0] * (a[:, 1] * x[good, 2] - x[good, 1])])
    t = np.linalg.lstsq(rows, rhs, rcond=None)[0]
    return t if np.isfinite(t).all() and t[2] > 0.5 else np.array([*(np.median(a, 0) * 3.0), 3.0])


def _better(a: FitResult, b: FitResult) -> FitResult:
    usable = np.nan_to_num(b.cost[:, -1], nan=np.inf) < np.nan_to_num(a.cost[:, -1], nan=np.inf)

    def pick(new, old):
        return np.where(usable.reshape((-1,) + (1,) * (np.ndim(old) - 1)), new, old)

    names = ("betas", "root_rotvec", "joint_rotvec", "t_camera_root")
    params = BodyParams(*(pick(getattr(b.params, n), getattr(a.params, n)) for n in names))
    rest = ("status", "cost", "accepted", "joint_covariance", "inlier_share", "information")
    return FitResult(params, *(pick(getattr(b, n), getattr(a, n)) for n in rest))
