"""What the regressor network says, in the terms of the rest of the system.

Convention: the network's root rotation lives in the frame of the viewing ray through the crop's centre,
``R_camera_root = R_ray @ R_network``; ``R_ray`` is the smallest rotation that takes (0, 0, 1) to that ray.  Rotations
are six numbers each: the first two *rows* of the matrix.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..errors import ShapeError
from ..geometry import so3
from ..geometry.camera import crop_camera
from ..types import NUM_JOINTS, BodyParams, Camera, Estimate, Keypoints

# A keypoint of this standard deviation, as a share of the crop's side, counts as fully confident, and what that means to the
# fit is fit.keypoint_sigma_share: only the ratio of the two matters to less confident ones.  Joints of one answer err
# together: with 2.4 times this, as if each counted for itself, the fit bent poses after them (169 to 185 mm on the built-in
# sequence); like this they do no harm.
CONFIDENT_SIGMA = 0.0083


class RestBody(Protocol):
    """The part of a body model that decoding needs."""

    joint_template: np.ndarray  # (24,3) m
    joint_shapedirs: np.ndarray  # (24,3,10) m


def crop_intrinsics(camera: Camera, image_from_crop: np.ndarray, size: int) -> np.ndarray:
    """The network's second input: (P,4) float32 fx, fy, cx, cy of each crop's camera over the crop's side."""
    cameras = [crop_camera(camera, a, size) for a in np.asarray(image_from_crop).reshape(-1, 2, 3)]
    return np.array([[c.fx, c.fy, c.cx, c.cy] for c in cameras], np.float32).reshape(-1, 4) / np.float32(size)


def ray_rotation(intrinsics: np.ndarray) -> np.ndarray:
    """Smallest rotation taking +z to the ray through the crop's centre.  (P,4) normalised intrinsics -> (P,3,3).

    A crop whose centre lies on the optical axis gives the identity; one to the right of it a turn about +y.
    """
    i = np.asarray(intrinsics)
    ray = np.stack([(0.5 - i[:, 2]) / i[:, 0], (0.5 - i[:, 3]) / i[:, 1], np.ones(len(i), i.dtype)], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    # Rodrigues with axis z x ray, written without the angle: exact for any ray in front of the camera.
    k = so3.hat(np.stack([-ray[:, 1], ray[:, 0], np.zeros(len(i), i.dtype)], -1))
    return np.eye(3, dtype=i.dtype) + k + k @ k / (1 + ray[:, 2])[:, None, None]


def decode(outputs: dict[str, np.ndarray], body: RestBody, camera: Camera, image_from_crop: np.ndarray, size: int) -> Estimate:
    """Network outputs of P crops to an Estimate in the camera frame.

    ``image_from_crop`` (P,2,3) and ``size`` (px) say where the crops lie in the image of ``camera``.
    """
    rot6d = np.asarray(outputs["rot6d_rows"], np.float64)
    if rot6d.shape[1:] != (NUM_JOINTS, 6):
        raise ShapeError(f"regressor output rot6d_rows expects (P,{NUM_JOINTS},6), got {rot6d.shape}")
    intrinsics = crop_intrinsics(camera, image_from_crop, size).astype(np.float64)
    rotations = so3.from_rot6d_rows(rot6d)
    rotations[:, 0] = ray_rotation(intrinsics) @ rotations[:, 0]
    rotvec = so3.log(rotations).astype(np.float32)
    betas = np.asarray(outputs["betas"], np.float32)
    pelvis = pelvis_position(np.asarray(outputs["cam"], np.float64), intrinsics)
    uv_sigma = np.exp(0.5 * np.asarray(outputs["joints_log_var"], np.float32))
    rest = body.joint_template[0] + betas @ body.joint_shapedirs[0].T
    params = BodyParams(betas, rotvec[:, 0], rotvec[:, 1:], (pelvis - rest).astype(np.float32))
    return Estimate(
        params,
        np.asarray(outputs["confidence"], np.float32),
        keypoints=_keypoints(np.asarray(outputs["joints_uv"]), uv_sigma, np.asarray(image_from_crop), size),
        source="network",
        feature=outputs.get("feature"),
        rot_sigma_rad=np.exp(0.5 * np.asarray(outputs["rot_log_var"], np.float32)),
        uv_sigma=uv_sigma,
    )


def pelvis_position(cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Camera-frame position of the pelvis joint.  cam (P,3), normalised intrinsics (P,4) -> (P,3) m."""
    fx, fy, cx, cy = intrinsics.T
    z = fx * np.exp(-cam[:, 2])
    return np.stack([z * (cam[:, 0] + 0.5 - cx) / fx, z * (cam[:, 1] + 0.5 - cy) / fy, z], -1)


def _keypoints(uv: np.ndarray, sigma: np.ndarray, image_from_crop: np.ndarray, size: int) -> Keypoints:
    crop_px = (uv + 0.5) * size
    image_px = np.einsum("pij,pkj->pki", image_from_crop[:, :, :2], crop_px) + image_from_crop[:, None, :, 2]
    return Keypoints("smpl24", image_px.astype(np.float32), np.minimum(CONFIDENT_SIGMA / sigma, 1.0).astype(np.float32))
