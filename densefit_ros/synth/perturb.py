"""Errors as first estimates make them: of pose, place and shape, and of the texture that a track has gathered."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..body.joints import JOINT_INDEX
from ..geometry import so3
from ..render.protocol import Appearance
from ..types import BodyParams
from .surface import Atlas

_NEUTRAL = 0.5  # what the tracker shows where a person has no texture yet

# Which joints a regressor gets wrong most, relative to the mean; what it cannot see well lies at the ends of limbs.
_JOINT_SCALE = np.ones(24, np.float32)
for _name, _value in {
    "spine1": 0.55, "spine2": 0.45, "spine3": 0.45, "neck": 0.8, "head": 0.9, "collar": 0.5, "hip": 0.8, "knee": 0.95,
    "ankle": 0.9, "foot": 0.4, "shoulder": 1.25, "elbow": 1.5, "wrist": 1.1, "hand": 0.5,
}.items():  # fmt: skip
    for _joint, _index in JOINT_INDEX.items():
        if _joint == _name or _joint.endswith("_" + _name):
            _JOINT_SCALE[_index] = _value


@dataclass(frozen=True)
class DisturbOptions:
    """Sizes of the errors; degrees are root mean squares per joint before the joint's own factor."""

    small_share: float = 0.35  # starts close to the truth: at most ``small_deg``
    small_deg: float = 3.0
    most_deg: float = 15.0
    lag_share: float = 0.3  # starts that are an older pose of the same motion
    translation: float = 0.024  # of the distance, across the view, for the largest errors
    depth: float = 0.08  # of the distance, along the view, for the largest errors
    betas: float = 1.2  # for the largest errors


def disturb(
    rng: np.random.Generator,
    params: BodyParams,
    pelvis_rest_m: np.ndarray,
    options: DisturbOptions = DisturbOptions(),
    degrees: np.ndarray | float | None = None,
) -> BodyParams:
    """Estimates around the true ``params``.

    pelvis_rest_m (P,3): rest position of the pelvis for the true shapes, so that the body turns about it.  ``degrees``
    (P,) or a number fixes the size of the joint errors instead of drawing it.  Errors of neighbours in the tree are
    correlated and partly undone further out, as when a network sees the hand but not the elbow.
    """
    n = len(params)
    if degrees is None:
        small = rng.random(n) < options.small_share
        size = np.where(small, options.small_deg * rng.random(n) ** 1.5, rng.uniform(options.small_deg, options.most_deg, n))
    else:
        size = np.broadcast_to(np.asarray(degrees, np.float64), (n,)).copy()
    level = (size / options.most_deg)[:, None]
    angle = np.radians(size)[:, None, None] * _JOINT_SCALE[None, :, None]
    axis_scale = rng.gamma(4.0, 0.25, (n, 24, 1))
    noise = rng.normal(size=(n, 24, 3)) * angle * axis_scale / np.sqrt(3)
    for child, parent, share in (
        (18, 16, -0.45),
        (19, 17, -0.45),
        (4, 1, -0.5),
        (5, 2, -0.5),
        (15, 12, -0.3),
        (16, 13, -0.2),
        (17, 14, -0.2),
    ):
        noise[:, child] += share * noise[:, parent] * rng.random((n, 1))
    common = rng.normal(size=(n, 1, 3)) * angle[:, [3, 6, 9]] * 0.28  # the trunk leans as a whole
    noise[:, [3, 6, 9]] += common
    lag = (rng.random(n) < options.lag_share)[:, None]
    # A track's prediction lags along limbs that move fast: one leg or arm is off by much, the rest by little.
    limb = _LIMBS[rng.integers(len(_LIMBS), size=n)]
    factor = np.where(lag, np.where(limb, 1.6, 0.35), 1.0)
    noise *= factor[:, :, None]
    noise[:, 0] *= 0.6
    local = so3.exp(params.joint_rotvec.astype(np.float64)) @ so3.exp(noise[:, 1:])
    root = so3.exp(params.root_rotvec.astype(np.float64)) @ so3.exp(noise[:, 0])
    pelvis = pelvis_rest_m + params.t_camera_root
    distance = np.maximum(pelvis[:, 2:], 0.3)
    # Often well placed: what is left then is what a network has to look at the limbs for.
    across = rng.normal(size=(n, 2)) * options.translation * level * distance * rng.random((n, 1))
    along = rng.normal(size=(n, 1)) * options.depth * level * distance
    # Depth errors keep the person where it is in the picture: the pelvis moves along its own ray.
    moved = pelvis * (1 + along / distance) + np.concatenate([across, np.zeros((n, 1))], 1)
    moved[:, 2] = np.maximum(moved[:, 2], 0.4)
    betas = params.betas + rng.normal(size=params.betas.shape) * options.betas * level * rng.random((n, 1))
    f = np.float32
    t = moved - pelvis_rest_m
    return BodyParams(betas.astype(f), so3.log(root).astype(f), so3.log(local).astype(f), t.astype(f))


def _limbs() -> np.ndarray:
    rows = [(1, 4, 7), (2, 5, 8), (16, 18, 20), (17, 19, 21), (1, 2, 4, 5), (16, 17, 18, 19), (12, 15)]
    out = np.zeros((len(rows), 24), bool)
    for i, row in enumerate(rows):
        out[i, list(row)] = True
    return out


_LIMBS = _limbs()


def corrupt_appearance(rng: np.random.Generator, appearance: Appearance, grid: Atlas | None) -> Appearance:
    """The looks of a person as a track knows them: nothing yet (18 %), or gathered with errors.

    Errors: a shifted atlas (gathered under a wrong pose), patches never seen (grey), blur, noise, another exposure and
    white balance, colours of the background in patches.  Works on textures and on vertex colours (no shift there).
    """
    if rng.random() < 0.18:
        return _like(appearance, lambda rgb: np.full_like(rgb, _NEUTRAL))
    return _like(appearance, lambda rgb: _corrupt(rng, rgb, grid))


def _like(appearance: Appearance, change) -> Appearance:
    if appearance.texture is not None:
        return Appearance(texture=change(appearance.texture))
    if appearance.vertex_rgb is not None:
        return Appearance(vertex_rgb=change(appearance.vertex_rgb))
    return appearance


def _corrupt(rng: np.random.Generator, rgb: np.ndarray, grid: Atlas | None) -> np.ndarray:
    out = rgb
    if rgb.ndim == 3:
        size = int(rng.choice([96, 128, 192], p=[0.3, 0.5, 0.2]))  # what a track gathers is rarely sharper
        out = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.7:
            out = warp_texture(rng, out, rng.uniform(0.3, 5.0) * size / 256)
        if rng.random() < 0.6:
            out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.4, 2.2)) * size / 256)
        field = lambda cells: _smooth(rng, size, cells)[:, :, None]  # noqa: E731
    else:
        field = lambda cells: np.repeat(rng.normal(size=(len(rgb) // 64 + 1, 1)), 64, 0)[: len(rgb)].astype(np.float32)  # noqa: E731
    gain = rng.uniform(0.65, 1.35) * (1 + rng.normal(0, 0.08, 3))
    out = out * gain.astype(np.float32)
    if rng.random() < 0.6:
        out = out * (1 + np.float32(rng.uniform(0.05, 0.3)) * field(6))
    if rng.random() < 0.4:  # stains of the background
        stain = field(12) > 1.3
        out = np.where(stain, rng.uniform(0, 1, 3).astype(np.float32), out)
    if rng.random() < 0.65:  # sides and parts never seen
        out = np.where(field(int(rng.integers(3, 9))) > rng.uniform(-0.4, 1.4), np.float32(_NEUTRAL), out)
    out = out + np.float32(rng.uniform(0, 0.06)) * rng.standard_normal(out.shape[:-1] + (1,), np.float32)
    return np.clip(out, 0, 1).astype(np.float32)


def warp_texture(rng: np.random.Generator, texture: np.ndarray, texels: float) -> np.ndarray:
    """(T,T,3) colours moved by a smooth field with a standard deviation of about ``texels``."""
    size = texture.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    dx, dy = _smooth(rng, size, 8) * texels, _smooth(rng, size, 8) * texels
    return cv2.remap(texture, columns + dx, rows + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _smooth(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size,size) smooth field of about unit variance."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) * 1.2
