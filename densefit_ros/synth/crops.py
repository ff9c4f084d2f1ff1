"""Labelled crops of synthetic people, rendered straight at crop resolution."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..body.joints import JOINT_INDEX
from ..geometry import so3
from ..geometry.camera import crop_camera
from ..geometry.crop import columns_seen
from ..geometry.crop import image_from_crop as crop_affine
from ..render.protocol import Appearance, SceneSurface
from ..types import BodyParams, Camera, Crop
from .cameras import box_of, crop_square, place, sample_camera, sample_view, square_quality, wrong_square
from .clothing import skin
from .engine import SynthEngine
from .lighting import Lights, hollow, sample_lights, shade
from .poses import sample
from .scenery import cast_shadow, cut_at_border, draw_carried, draw_false_limbs, draw_occluders, soften_edges

_STRIDE = 7  # every 7th vertex is enough for boxes and visibility
_HANDS = (JOINT_INDEX["left_hand"], JOINT_INDEX["right_hand"])
_BETA_SIGMA = 1.0
_BETA_LIMIT = 2.5


@dataclass(frozen=True, eq=False)
class CropBatch:
    """P crops of S x S pixels and all that is known of them."""

    rgb: np.ndarray  # (P,S,S,3) uint8
    params: BodyParams  # camera frame; the body *under* the clothes
    intrinsics: np.ndarray  # (P,4) float32: fx, fy, cx, cy of the crop's camera, crop px
    cameras: tuple[Camera, ...]  # of the full images
    image_from_crop: np.ndarray  # (P,2,3) float32
    appearances: tuple[Appearance, ...]  # the person's own colours without light
    lights: tuple[Lights, ...]
    subjects: np.ndarray  # (P,) int64 ids of the looks
    visible_face: np.ndarray  # (P,S,S) int32 face of the person's dressed surface; -1: anything else, no image, columns unseen
    depth_m: np.ndarray  # (P,S,S) float32 of the front-most person, 0 on background
    inside: np.ndarray  # (P,S,S) bool: the pixel comes from inside the full image
    joints_m: np.ndarray  # (P,24,3) float32, camera frame
    joints_px: np.ndarray  # (P,24,2) float32, crop px
    joint_visible: np.ndarray  # (P,24) bool: the person's own surface is seen at the joint's pixel
    visible_share: np.ndarray  # (P,) float32 in [0,1]: of the person's surface outline, the part that the crop shows
    confidence: np.ndarray  # (P,) float32 in [0,1]: target of the regressor's confidence
    labelled: np.ndarray  # (P,) bool: the person is really in the middle of the crop: train parameters on it

    def __len__(self) -> int:
        return len(self.rgb)

    @property
    def size(self) -> int:
        """S."""
        return self.rgb.shape[1]

    @property
    def crop(self) -> Crop:
        """The pictures as the networks take them."""
        return Crop(self.rgb, self.inside, self.image_from_crop, self.size)

    @property
    def crop_cameras(self) -> list[Camera]:
        """The cameras that render straight into the crops."""
        return [crop_camera(c, a, self.size) for c, a in zip(self.cameras, self.image_from_crop)]


@dataclass(frozen=True, eq=False)
class People:
    """Bodies before they are placed, pelvis at the camera's origin."""

    params: BodyParams
    vertices: np.ndarray  # (P,V,3) dressed
    joints: np.ndarray  # (P,24,3)
    subjects: np.ndarray
    appearances: tuple[Appearance, ...]


def sample_betas(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,10) float32 shapes of adults: normal, cut off where bodies become caricatures."""
    return np.clip(rng.normal(0, _BETA_SIGMA, (n, 10)), -_BETA_LIMIT, _BETA_LIMIT).astype(np.float32)


def make_crops(rng: np.random.Generator, engine: SynthEngine, count: int, size: int = 192) -> CropBatch:
    """``count`` crops of ``size`` px; the same generator state and engine settings give the same crops."""
    o = engine.options
    people = draw_people(rng, engine, count)
    cameras = tuple(sample_camera(rng) for _ in range(count))
    near = rng.random(count) < o.near_share if o.near_share else np.zeros(count, bool)  # no draw at 0: seeds stay
    shift = np.stack(
        [place(rng, c, np.ptp(v[::_STRIDE], 0), near=n) - middle_of(v) for c, v, n in zip(cameras, people.vertices, near)]
    )
    params = BodyParams(people.params.betas, people.params.root_rotvec, people.params.joint_rotvec, shift)
    joints = people.joints + shift[:, None]
    kind = rng.random(count)
    absent = kind < 0.4 * o.negative_share  # nobody at all where the person would be
    wrong = (kind >= 0.4 * o.negative_share) & (kind < o.negative_share)
    squares = np.empty((count, 4), np.float32)
    quality = np.ones(count, np.float32)
    for i in range(count):
        box = box_of(_to_image(cameras[i], people.vertices[i, ::_STRIDE] + shift[i]))
        squares[i] = crop_square(rng, box, cameras[i], o)
        if wrong[i]:
            # Where people may be near, a window of head and shoulders shows somebody.
            small = (0.1, 0.18) if o.near_share else (0.2, 0.36)
            ideal, squares[i] = squares[i].copy(), wrong_square(rng, box, *small)
            quality[i] = square_quality(squares[i], ideal)
    affine = np.stack([crop_affine(s, size) for s in squares])
    crop_cams = [crop_camera(c, a, size) for c, a in zip(cameras, affine)]
    surface, owner = _render(rng, engine, people, shift, ~absent, crop_cams, size)
    own = (owner[surface.person_id] == np.arange(count)[:, None, None]) & (surface.person_id >= 0)
    inside_u = inside_axis(affine[:, 0], np.array([c.width for c in cameras]), size)
    inside_v = inside_axis(affine[:, 1], np.array([c.height for c in cameras]), size)
    inside = inside_v[:, :, None] & inside_u[:, None, :]
    rgb = np.empty((count, size, size, 3), np.uint8)
    lights: list[Lights] = []
    intrinsics = np.array([(c.fx, c.fy, c.cx, c.cy) for c in crop_cams], np.float32)
    joints_px = _project(joints, intrinsics)
    for i in range(count):
        crisp = o.crisp_share > 0 and rng.random() < o.crisp_share
        image, light, occluded = compose(rng, engine, surface, i, crop_cams[i], own[i], joints_px[i], crisp)
        if occluded is not None:
            own[i] &= ~occluded
        if not absent[i] and rng.random() < o.carried_share:
            hand = int(rng.choice(_HANDS))
            metre_px = intrinsics[i, 0] / max(float(joints[i, hand, 2]), 0.3)
            own[i] &= ~draw_carried(rng, image, engine.backgrounds, joints_px[i, hand], metre_px, own[i])
        rgb[i] = cut_at_border(engine.sensor.expose(rng, image, o.coarse_share, crisp), inside_u[i], inside_v[i])
        lights.append(light)
    own &= inside
    if o.aspect < 1:
        seen = columns_seen(size)
        own[:, :, : seen.start] = own[:, :, seen.stop :] = False
    visible_face = np.where(own, surface.face_id, -1).astype(np.int32)
    seen_joint = _lookup(own, joints_px)
    share = _lookup(own, _project(people.vertices[:, ::_STRIDE] + shift[:, None], intrinsics)).mean(1).astype(np.float32)
    share[absent] = 0
    confidence = np.clip((share - 0.08) / 0.17, 0, 1) * np.clip((quality - 0.25) / 0.25, 0, 1)
    confidence[wrong & (quality < 0.4)] = 0
    labelled = (confidence > 0.3) & ~wrong & ~absent
    return CropBatch(
        rgb, params, intrinsics, cameras, affine, people.appearances, tuple(lights), people.subjects, visible_face,
        surface.depth_m, inside, joints, joints_px, seen_joint, share, confidence.astype(np.float32), labelled,
    )  # fmt: skip


def draw_people(rng: np.random.Generator, engine: SynthEngine, count: int) -> People:
    """``count`` dressed people with their own poses, shapes, looks and views."""
    poses = sample(rng, count)
    view = sample_view(rng, count, steep=engine.options.near_share > 0)
    root = so3.log((view @ poses.R_world_root).astype(np.float64)).astype(np.float32)
    subjects = np.array([engine.draw_subject(rng) for _ in range(count)], np.int64)
    looks = [engine.subject(int(s)) for s in subjects]
    gains = rng.uniform(0.85, 1.15, (count, 1)) * (1 + rng.normal(0, 0.04, (count, 3)))
    betas = sample_betas(rng, count)
    params = BodyParams(betas, root, poses.joint_rotvec, np.zeros((count, 3), np.float32))
    vertices, joints = skin(engine.wardrobe, params, [s.clothes for s in looks])
    return People(params, vertices, joints, subjects, tuple(s.appearance(g) for s, g in zip(looks, gains)))


def _render(
    rng: np.random.Generator,
    engine: SynthEngine,
    people: People,
    shift: np.ndarray,
    present: np.ndarray,
    cameras: list[Camera],
    size: int,
) -> tuple[SceneSurface, np.ndarray]:
    """All scenes, each with its person (if present) and now and then others, who are borrowed from the other scenes."""
    count = len(shift)
    vertices = [people.vertices[present] + shift[present, None]]
    looks = [a for a, p in zip(people.appearances, present) if p]
    scene = list(np.flatnonzero(present))
    owner = list(np.flatnonzero(present))
    for i in range(count):
        if count < 2 or rng.random() >= engine.options.crowd_share:
            continue
        for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))):
            j = int((i + rng.integers(1, count)) % count)
            z = float(shift[i, 2])
            deeper = float(rng.choice([rng.uniform(-0.35, 0.0) * z, rng.uniform(0.1, 1.5) * z], p=[0.22, 0.78]))
            lateral = rng.choice([-1, 1]) * rng.uniform(0.35, 1.3) * (1 + max(deeper, 0) / z)
            t = middle_of(people.vertices[i]) + shift[i] - middle_of(people.vertices[j])
            t = t + np.array([lateral, rng.normal(0, 0.12), deeper], np.float32)
            if t[2] < 0.8:
                continue
            vertices.append((people.vertices[j] + t.astype(np.float32))[None])
            looks.append(people.appearances[j])
            scene.append(i)
            owner.append(-2)
    surface = engine.renderer.render_window(np.concatenate(vertices), looks, cameras, size, size, np.array(scene, np.int32))
    return surface, np.array(owner + [-2])  # person_id -1 (background) reads the last entry


def compose(
    rng: np.random.Generator,
    engine: SynthEngine,
    surface: SceneSurface,
    i: int,
    camera: Camera,
    own: np.ndarray,
    joints_px: np.ndarray | None = None,
    crisp: bool = False,
) -> tuple[np.ndarray, Lights, np.ndarray | None]:
    """One picture in [0,1] float32, its lights, and the mask of occluders in front of the person, if any.

    own (S,S) bool: where the person is seen; joints_px (24,2): where false limbs may be put, nowhere if left out;
    crisp: all in focus.
    """
    size = len(own)
    image = np.multiply(engine.backgrounds.scene(rng, size, crisp), np.float32(1 / 255), dtype=np.float32)
    lights = sample_lights(rng, np.array(cv2.mean(image)[:3]))
    if joints_px is not None and rng.random() < engine.options.false_limbs_share:
        draw_false_limbs(rng, image, engine.backgrounds, joints_px, surface.rgb[i][own])
    covered = surface.person_id[i] >= 0
    if covered.any():
        if rng.random() < 0.4:
            image = cast_shadow(rng, image, covered)
        at = np.flatnonzero(covered)  # flat indices: gathering by pairs of indices takes twice as long
        rows, columns = np.divmod(at, size)
        depth = surface.depth_m[i]
        z = depth.ravel()[at]
        position = np.stack([(columns + 0.5 - camera.cx) / camera.fx * z, (rows + 0.5 - camera.cy) / camera.fy * z, z], -1)
        albedo, normals = surface.rgb[i].reshape(-1, 3)[at], surface.normals[i].reshape(-1, 3)[at]
        colour = shade(lights, albedo, normals, position, float(rng.uniform(0, 6)))
        colour *= hollow(depth, covered, lights.occlusion).ravel()[at, None]
        image.reshape(-1, 3)[at] = colour
        soften_edges(image, surface.person_id[i] + 1)
    occluded = None
    if rng.random() < engine.options.occluder_share:
        occluded = draw_occluders(rng, image, engine.backgrounds)
        soften_edges(image, occluded)
    return image, lights, occluded


def middle_of(vertices: np.ndarray) -> np.ndarray:
    """Middle (3,) of the bounding box of (V,3)."""
    v = vertices[::_STRIDE]
    return 0.5 * (v.min(0) + v.max(0))


def _to_image(camera: Camera, points_m: np.ndarray) -> np.ndarray:
    z = np.maximum(points_m[:, 2], 0.1)  # what reaches behind the camera must not flip the box
    return np.stack([camera.fx * points_m[:, 0] / z + camera.cx, camera.fy * points_m[:, 1] / z + camera.cy], -1)


def _project(points_m: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(P,N,3) m, (P,4) -> (P,N,2) px."""
    z = np.maximum(points_m[..., 2:], 0.05)
    return points_m[..., :2] / z * intrinsics[:, None, :2] + intrinsics[:, None, 2:]


def _lookup(mask: np.ndarray, points_px: np.ndarray) -> np.ndarray:
    """Mask value (P,N) bool at pixel positions (P,N,2); False outside."""
    size = mask.shape[1]
    c = np.floor(points_px).astype(np.int64)
    ok = ((c >= 0) & (c < size)).all(-1)
    c = np.clip(c, 0, size - 1)
    return ok & mask[np.arange(len(mask))[:, None], c[..., 1], c[..., 0]]


def inside_axis(row: np.ndarray, length: np.ndarray, size: int) -> np.ndarray:
    """(P,S) bool: positions along one axis that lie inside the image; row is the affine's (P,3)."""
    axis = row[:, 0] + row[:, 1]  # axis-aligned: one of the two is the scale
    position = axis[:, None] * (np.arange(size) + 0.5)[None, :] + row[:, 2:3]
    return (position >= 0) & (position < length[:, None])
