"""Rotations between the two forms used here: rotation vectors (``rotvec``, rad) and matrices (``rotmat``).

Convention: column vectors, ``x_parent = rotmat @ x_child``; ``exp`` is Rodrigues' formula; a body is updated by
multiplication from the left, ``rotmat <- exp(delta) @ rotmat`` (docs/FIT.md).  All functions accept any leading
batch shape and keep the dtype.
"""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError


def hat(v: np.ndarray) -> np.ndarray:
    """Skew matrix: ``hat(a) @ b == cross(a, b)``.  (...,3) -> (...,3,3)."""
    v = _vec3(v, "hat")
    out = np.zeros(v.shape[:-1] + (3, 3), v.dtype)
    out[..., 0, 1], out[..., 0, 2] = -v[..., 2], v[..., 1]
    out[..., 1, 0], out[..., 1, 2] = v[..., 2], -v[..., 0]
    out[..., 2, 0], out[..., 2, 1] = -v[..., 1], v[..., 0]
    return out


def exp(rotvec: np.ndarray) -> np.ndarray:
    """Rotation vector to matrix.  (...,3) rad -> (...,3,3).  ``exp([0, 0, pi/2]) @ x_axis == y_axis``."""
    rotvec = _vec3(rotvec, "exp")
    theta2 = np.sum(rotvec * rotvec, -1)[..., None, None]
    small = theta2 < 1e-8
    theta = np.sqrt(np.where(small, 1.0, theta2))
    # Taylor below 1e-4 rad: sin(t)/t and (1-cos t)/t^2 lose all digits there in float32.
    a = np.where(small, 1.0 - theta2 / 6.0, np.sin(theta) / theta)
    b = np.where(small, 0.5 - theta2 / 24.0, (1.0 - np.cos(theta)) / np.where(small, 1.0, theta2))
    k = hat(rotvec)
    eye = np.eye(3, dtype=rotvec.dtype)
    return (eye + a * k + b * (k @ k)).astype(rotvec.dtype, copy=False)


def log(rotmat: np.ndarray) -> np.ndarray:
    """Matrix to rotation vector with angle in [0, pi].  (...,3,3) -> (...,3) rad.

    Goes through the unit quaternion with the largest component as divisor, so it is exact near pi, where the root of a
    person seen by an optical (y down) camera lives.
    """
    w, xyz = _quat_parts(rotmat)
    n = np.sqrt(np.einsum("...i,...i->...", xyz, xyz))[..., None]
    angle = 2.0 * np.arctan2(n, np.abs(w))
    scale = np.where(n < 1e-6, 2.0, angle / np.maximum(n, 1e-6))
    return (xyz * np.copysign(scale, w)).astype(rotmat.dtype, copy=False)


def to_quat_xyzw(rotmat: np.ndarray) -> np.ndarray:
    """Matrix to unit quaternion in ROS order x, y, z, w with w >= 0.  (...,3,3) -> (...,4)."""
    w, xyz = _quat_parts(rotmat)
    q = np.concatenate([xyz, w], -1)
    return np.where(w < 0, -q, q)


def angle_between(rotmat_a: np.ndarray, rotmat_b: np.ndarray) -> np.ndarray:
    """Geodesic angle in rad between rotations.  (...,3,3), (...,3,3) -> (...)."""
    return np.linalg.norm(log(np.swapaxes(rotmat_a, -1, -2) @ rotmat_b), axis=-1)


def project(matrix: np.ndarray) -> np.ndarray:
    """Nearest rotation in the Frobenius norm, determinant +1.  (...,3,3) -> (...,3,3)."""
    u, _, vt = np.linalg.svd(matrix)
    d = np.linalg.det(u @ vt)
    u = u.copy()
    u[..., :, 2] *= np.sign(d)[..., None]
    return u @ vt


def from_rot6d_rows(rot6d: np.ndarray) -> np.ndarray:
    """Six numbers to a rotation: the first two *rows* of the matrix, orthonormalised.  (...,6) -> (...,3,3)."""
    rot6d = np.asarray(rot6d)
    if rot6d.shape[-1] != 6:
        raise ShapeError(f"from_rot6d_rows expects (...,6), got {rot6d.shape}")
    a, b = rot6d[..., :3], rot6d[..., 3:]
    x = a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-8)
    b = b - np.sum(x * b, -1, keepdims=True) * x
    y = b / np.maximum(np.linalg.norm(b, axis=-1, keepdims=True), 1e-8)
    return np.stack([x, y, np.cross(x, y)], -2)


def from_rot6d_columns(rot6d: np.ndarray) -> np.ndarray:
    """Six numbers to a rotation: the first two *columns*, first column first.  (...,6) -> (...,3,3)."""
    return np.swapaxes(from_rot6d_rows(rot6d), -1, -2)


def _quat_parts(rotmat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    m = np.asarray(rotmat)
    if m.shape[-2:] != (3, 3):
        raise ShapeError(f"expected rotation matrices (...,3,3), got {m.shape}")
    # Four candidate quaternions (Shepperd 1978), each scaled by 4 times one component; take the best conditioned.
    candidates = m.reshape(-1, 9) @ _CANDIDATES.astype(m.dtype, copy=False)
    candidates[:, ::5] += 1
    best = candidates[:, ::5].argmax(1)  # the largest component: its square is a quarter of the diagonal's entry
    q = candidates.reshape(-1, 4, 4)[np.arange(len(best)), best]
    q /= np.sqrt(np.einsum("ni,ni->n", q, q))[:, None]
    q = q.reshape(*m.shape[:-2], 4)
    return q[..., :1], q[..., 1:]


def _candidates() -> np.ndarray:
    """(9,16): matrix entries, row by row, to four rows of w, x, y, z, less the 1 on the diagonal."""
    out = np.zeros((3, 3, 4, 4))
    for i, signs in enumerate([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]):
        out[range(3), range(3), i, i] = signs
    for i, (a, b) in enumerate([(2, 1), (0, 2), (1, 0)]):  # w with x, y, z: differences across the diagonal
        out[a, b, 0, 1 + i] = out[a, b, 1 + i, 0] = 1
        out[b, a, 0, 1 + i] = out[b, a, 1 + i, 0] = -1
    for i, j in ((0, 1), (0, 2), (1, 2)):  # of x, y, z with each other: sums
        out[i, j, 1 + i, 1 + j] = out[j, i, 1 + i, 1 + j] = 1
        out[i, j, 1 + j, 1 + i] = out[j, i, 1 + j, 1 + i] = 1
    return out.reshape(9, 16)


_CANDIDATES = _candidates()


def _vec3(v: np.ndarray, name: str) -> np.ndarray:
    v = np.asarray(v)
    if not np.issubdtype(v.dtype, np.floating):
        v = v.astype(np.float64)
    if v.shape[-1:] != (3,):
        raise ShapeError(f"{name} expects vectors (...,3), got {v.shape}")
    return v
