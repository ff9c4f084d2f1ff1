"""The fit's residuals and Jacobians once more: float64 NumPy, one person, written to be read.

This is the oracle of the tests: the kernels must agree with it, and it must agree with central differences through
:func:`retract`.  Equations are those of docs/FIT.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..body.model import joint_shares
from ..geometry import so3
from ..types import NUM_BETAS, NUM_JOINTS, NUM_UNKNOWNS, BodyParams, Camera
from .layout import COL_BETA, COL_ROT


@dataclass(frozen=True)
class State:
    """One person: local rotations (24,3,3), betas (10,), translation (3,) m."""

    local: np.ndarray
    betas: np.ndarray
    t: np.ndarray


@dataclass(frozen=True)
class Posed:
    """Global rotations (24,3,3), posed and rest joints (24,3) m of a state."""

    rotation: np.ndarray
    joint: np.ndarray
    rest: np.ndarray


def from_params(params: BodyParams) -> State:
    """The first person of a batch."""
    rotvec = params.rotvec[0].astype(np.float64)
    return State(so3.exp(rotvec), params.betas[0].astype(np.float64), params.t_camera_root[0].astype(np.float64))


def to_params(state: State) -> BodyParams:
    """A batch of one."""
    rotvec = so3.log(state.local)
    return BodyParams(state.betas[None], rotvec[None, 0], rotvec[None, 1:], state.t[None])


def forward(body, state: State) -> Posed:
    """Forward kinematics."""
    rest = body.joint_template.astype(np.float64) + body.joint_shapedirs.astype(np.float64) @ state.betas
    rotation, joint = np.empty((NUM_JOINTS, 3, 3)), np.empty((NUM_JOINTS, 3))
    rotation[0], joint[0] = state.local[0], rest[0] + state.t
    for k in range(1, NUM_JOINTS):
        q = body.parents[k]
        rotation[k] = rotation[q] @ state.local[k]
        joint[k] = joint[q] + rotation[q] @ (rest[k] - rest[q])
    return Posed(rotation, joint, rest)


def retract(body, state: State, step: np.ndarray) -> State:
    """Move by 85 numbers: each rotation increment turns the joint's whole subtree about it, in camera axes."""
    rotation = forward(body, state).rotation
    d = step[COL_ROT:COL_BETA].reshape(NUM_JOINTS, 3)
    frame = np.stack([np.eye(3)] + [rotation[body.parents[k]] for k in range(1, NUM_JOINTS)])
    local = so3.exp(np.einsum("kba,kb->ka", frame, d)) @ state.local
    return State(local, state.betas + step[COL_BETA:], state.t + step[:3])


def below(body) -> np.ndarray:
    """(24,24) bool: column m hangs on row k (k itself included)."""
    out = np.eye(NUM_JOINTS, dtype=bool)
    for m in range(NUM_JOINTS - 1, 0, -1):
        out[body.parents[m]] |= out[m]
    return out


def combination(body, state: State, posed: Posed, weight: np.ndarray, rest: np.ndarray, rest_by_beta: np.ndarray):
    """A point ``sum_i sum_k weight[i,k] x_ik`` where bone k carries rest point i, and its (3,85) Jacobian.

    weight (n,24), rest (n,3) m, rest_by_beta (n,3,10).
    """
    carried = np.einsum("kab,nkb->nka", posed.rotation, rest[:, None] - posed.rest[None]) + posed.joint
    y = np.einsum("nk,nka->ka", weight, carried)  # weighted position per bone
    s = weight.sum(0)
    hang = below(body).astype(float)
    jacobian = np.zeros((3, NUM_UNKNOWNS))
    jacobian[:, :3] = np.eye(3) * s.sum()
    for k in range(NUM_JOINTS):
        jacobian[:, COL_ROT + 3 * k : COL_ROT + 3 * k + 3] = -so3.hat(hang[k] @ y - (hang[k] @ s) * posed.joint[k])
    # The joints' own motion with shape, along the chain.
    rest_joint_by_beta = body.joint_shapedirs.astype(np.float64)
    joint_by_beta = np.empty((NUM_JOINTS, 3, NUM_BETAS))
    joint_by_beta[0] = rest_joint_by_beta[0]
    for k in range(1, NUM_JOINTS):
        q = body.parents[k]
        joint_by_beta[k] = joint_by_beta[q] + posed.rotation[q] @ (rest_joint_by_beta[k] - rest_joint_by_beta[q])
    moved = np.einsum("kab,nkbc->nkac", posed.rotation, rest_by_beta[:, None] - rest_joint_by_beta[None]) + joint_by_beta
    jacobian[:, COL_BETA:] = np.einsum("nk,nkac->ac", weight, moved)
    return y.sum(0), jacobian


def _skin(body, vertices: np.ndarray, state: State):
    weight = joint_shares(body, vertices).astype(np.float64)
    by_beta = body.shapedirs[vertices].astype(np.float64)
    rest = body.v_template[vertices].astype(np.float64) + by_beta @ state.betas
    if body.posedirs is not None:
        feature = (state.local[1:] - np.eye(3)).reshape(-1)
        rest = rest + (feature @ body.posedirs.astype(np.float64)).reshape(-1, 3)[vertices]
    return weight, rest, by_beta


def surface_point(body, state: State, posed: Posed, face: int, bary: np.ndarray):
    """Point (3,) of a face and its Jacobian (3,85); pose blendshapes count in the point only."""
    weight, rest, by_beta = _skin(body, body.faces[face], state)
    return combination(body, state, posed, np.asarray(bary, np.float64)[:, None] * weight, rest, by_beta)


def landmark_point(body, state: State, posed: Posed, landmarks, index: int):
    """Point (3,) of a named landmark and its Jacobian (3,85)."""
    ids, vw = landmarks.vertex_index[index], landmarks.vertex_weight[index].astype(np.float64)
    weight, rest, by_beta = _skin(body, ids, state)
    joints = np.diag(landmarks.joint_weights[index].astype(np.float64))  # joint k is a rest point on its own bone
    return combination(
        body, state, posed, np.concatenate([vw[:, None] * weight, joints]), np.concatenate([rest, posed.rest]),
        np.concatenate([by_beta, body.joint_shapedirs.astype(np.float64)]),
    )  # fmt: skip


def pixel(camera: Camera, x: np.ndarray, jacobian: np.ndarray, target: np.ndarray, sqrt_weight: float):
    """Reprojection residual (2,) in sigmas and its Jacobian (2,85)."""
    z = x[2]
    r = np.array([camera.fx * x[0] / z + camera.cx, camera.fy * x[1] / z + camera.cy]) - target
    chain = np.array([[camera.fx / z, 0, -camera.fx * x[0] / z**2], [0, camera.fy / z, -camera.fy * x[1] / z**2]])
    return sqrt_weight * r, sqrt_weight * chain @ jacobian


def plane(x: np.ndarray, jacobian: np.ndarray, point: np.ndarray, normal: np.ndarray, sqrt_weight: float):
    """Point-to-plane residual (1,) and its Jacobian (1,85)."""
    return sqrt_weight * np.array([normal @ (x - point)]), sqrt_weight * (normal @ jacobian)[None]


def direction(a, b, observed: np.ndarray, sqrt_weight: float):
    """Unit direction from point a to point b, each (x, Jacobian), against a unit vector: (3,) and (3,85)."""
    d = b[0] - a[0]
    n = np.linalg.norm(d)
    u = d / n
    return sqrt_weight * (u - observed), sqrt_weight / n * (np.eye(3) - np.outer(u, u)) @ (b[1] - a[1])


def inverse_left_jacobian(v: np.ndarray) -> np.ndarray:
    """d log(exp(e) exp(v)) / de at 0."""
    t = float(np.linalg.norm(v))
    c = 1 / 12 if t < 1e-4 else 1 / t**2 - (1 + np.cos(t)) / (2 * t * np.sin(t))
    k = so3.hat(v)
    return np.eye(3) - 0.5 * k + c * k @ k


def rotation_anchor(body, state: State, posed: Posed, anchor_rotmat: np.ndarray, joint: int, sigma: float):
    """log(R_anchor^T R) / sigma of one local rotation: (3,) and (3,85)."""
    v = so3.log(anchor_rotmat.T @ state.local[joint])
    jacobian = np.zeros((3, NUM_UNKNOWNS))
    jacobian[:, COL_ROT + 3 * joint : COL_ROT + 3 * joint + 3] = inverse_left_jacobian(-v) @ posed.rotation[joint].T
    return v / sigma, jacobian / sigma


def chart(body, state: State, posed: Posed):
    """Rotation vectors of the 23 body joints (69,) and their Jacobian (69,85): the chart of pose priors and limits."""
    v = so3.log(state.local[1:])
    jacobian = np.zeros((69, NUM_UNKNOWNS))
    for i in range(23):
        k = i + 1
        parent = posed.rotation[body.parents[k]]
        jacobian[3 * i : 3 * i + 3, COL_ROT + 3 * k : COL_ROT + 3 * k + 3] = inverse_left_jacobian(v[i]) @ parent.T
    return v.reshape(-1), jacobian


def robust(squared: float, scale: float) -> tuple[float, float]:
    """Geman-McClure cost c^2 e / (c^2 + e) and its derivative by e (the IRLS weight)."""
    c2 = scale * scale
    return c2 * squared / (c2 + squared), (c2 / (c2 + squared)) ** 2
