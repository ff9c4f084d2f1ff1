"""Training pairs of the displacement network: a picture, the rendering of a wrong estimate, and the true flow between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..body.between import part_way
from ..body.model import rest_joints
from ..render.appearance import neutral_appearance, update_appearance
from ..render.protocol import Appearance
from ..types import BodyParams, Surface
from .clothing import skin
from .crops import CropBatch
from .engine import SynthEngine
from .lighting import sample_lights, shade
from .perturb import corrupt_appearance, disturb

STRIDE_PX = 4  # of the network's output grid; the contract of densefit_ros.displace says the same
# A joint: how far the body that a live texture was learnt with may have been off, beside its share of the start's error.
_LEARNT_DEG = 1.5
# ... and that share: in 40 tracked held-out videos it was 0.78 in the median, quartiles 0.62 and 0.90.
_LEARNT_SHARE = (0.5, 1.05)
_CLOTH_M = 0.045  # how far behind the dressed surface a point of the body may lie and still count as seen


@dataclass(frozen=True, eq=False)
class DisplacementPairs:
    """P inputs and targets; h = w = S / 4.  Cell (r, c) stands for the rendered pixel (4 r + 2, 4 c + 2)."""

    image: np.ndarray  # (P,S,S,3) uint8
    flow: np.ndarray  # (P,2,h,w) float32 crop px: true place of the cell's surface point minus its rendered place; 0 if invalid
    valid: np.ndarray  # (P,h,w) bool: the cell shows the rendered body and its true place is in front of the camera
    visible: np.ndarray  # (P,h,w) bool: ... and the picture shows that point (not hidden by others, by itself, or off the image)
    surface: Surface  # the rendering
    params: BodyParams  # the disturbed estimate
    vertices_m: np.ndarray  # (P,V,3) of it, camera frame
    learnt: np.ndarray  # (P,) bool: its colours were learnt from the picture, as a live track's are


def make_pairs(
    rng: np.random.Generator,
    engine: SynthEngine,
    batch: CropBatch,
    disturbed: BodyParams,
    appearances: tuple[Appearance, ...] | None = None,
    live: float = 0.0,
) -> DisplacementPairs:
    """Render the disturbed bodies into the crops and find where each rendered surface point really is.

    Bodies are rendered as the tracker does it: without clothes' geometry, coloured by ``appearances``, or by such as a track
    may have.  Of the latter the share ``live`` are like those of a live track, learnt from the picture by a body that is
    wrong in the way in which the start still is, or, one in three, the grey of somebody just found; the others are the true
    colours, corrupted, with the light of other moments baked in.
    """
    count, size = len(batch), batch.size
    relight = learnt = np.zeros(count, bool)
    if appearances is None:
        appearances, relight, learnt = _worn(rng, engine, batch, disturbed, live)
    naked = [None] * count
    vertices, _ = skin(engine.wardrobe, disturbed, naked)
    truth, _ = skin(engine.wardrobe, batch.params, naked)
    scene = engine.renderer.render_window(vertices, appearances, batch.crop_cameras, size, size, np.arange(count, dtype=np.int32))
    rgb = scene.rgb.copy()
    _bake_light(rng, rgb, scene.normals, (scene.face_id >= 0) & relight[:, None, None], batch)
    flow, valid, visible = true_flow(engine, batch, truth, scene.face_id, scene.bary)
    surface = Surface(scene.face_id, scene.bary, scene.depth_m, scene.normals, rgb, scene.vertex_colors, batch.image_from_crop)
    return DisplacementPairs(batch.rgb, flow, valid, visible, surface, disturbed, vertices, learnt)


def _worn(
    rng: np.random.Generator, engine: SynthEngine, batch: CropBatch, disturbed: BodyParams, live: float
) -> tuple[tuple[Appearance, ...], np.ndarray, np.ndarray]:
    """Colours such as tracks have, and (P,) bool whether light is still to be baked in, and whether they were learnt here.

    A live texture was learnt where the fits before this frame had the body, and what they had wrong the start has too: the
    rendering then looks like the picture where the body is wrong.
    """
    kind = rng.random(len(batch)) if live > 0 else np.ones(len(batch))
    looks = [corrupt_appearance(rng, a, engine.atlas) for a in batch.appearances]
    for i in np.flatnonzero(kind < live / 3):
        looks[i] = Appearance()
    learnt = (kind >= live / 3) & (kind < live)
    if learnt.any():
        pelvis = rest_joints(engine.body, batch.params.betas)[:, 0]
        wearer = part_way(batch.params, disturbed, rng.uniform(*_LEARNT_SHARE, len(batch)))
        wearer = disturb(rng, wearer, pelvis, degrees=rng.uniform(0, _LEARNT_DEG, len(batch)))
        vertices, _ = skin(engine.wardrobe, wearer, [None] * len(batch))
        depth_m = engine.renderer.render_depth(vertices, batch.cameras, batch.image_from_crop, batch.size)[1]
        for i in np.flatnonzero(learnt):
            looks[i] = update_appearance(
                engine.body, neutral_appearance(engine.body), vertices[i], batch.rgb[i], batch.image_from_crop[i],
                batch.cameras[i], depth_m[i], batch.size,
            )  # fmt: skip
    return tuple(looks), kind >= live, learnt


def true_flow(
    engine: SynthEngine, batch: CropBatch, truth_m: np.ndarray, face_id: np.ndarray, bary: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flow (P,2,h,w), valid (P,h,w) and visible (P,h,w) at the cells' pixels of a rendering of other parameters.

    truth_m (P,V,3): the true body without clothes, camera frame; face_id (P,S,S), bary (P,S,S,3) of the rendering.
    """
    count, size = face_id.shape[:2]
    half = STRIDE_PX // 2
    face = face_id[:, half::STRIDE_PX, half::STRIDE_PX]
    weights = bary[:, half::STRIDE_PX, half::STRIDE_PX]
    cells = face.shape[1]
    p, r, c = np.nonzero(face >= 0)
    corners = engine.body.faces[face[p, r, c]]
    point = np.einsum("nk,nkc->nc", weights[p, r, c], truth_m[p[:, None], corners])
    fx, fy, cx, cy = batch.intrinsics[p].T
    front = point[:, 2] > 0.05
    z = np.where(front, point[:, 2], 1.0)
    u, v = point[:, 0] / z * fx + cx, point[:, 1] / z * fy + cy
    flow = np.zeros((count, 2, cells, cells), np.float32)
    flow[p, 0, r, c] = np.where(front, u - (c * STRIDE_PX + half + 0.5), 0)
    flow[p, 1, r, c] = np.where(front, v - (r * STRIDE_PX + half + 0.5), 0)
    valid = np.zeros((count, cells, cells), bool)
    valid[p, r, c] = front
    iu, iv = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    on = front & (iu >= 0) & (iu < size) & (iv >= 0) & (iv < size)
    iu, iv = np.clip(iu, 0, size - 1), np.clip(iv, 0, size - 1)
    # Seen: the person's own surface is there, and it is the layer right over this point, not another limb in front.
    gap = z - batch.depth_m[p, iv, iu]
    seen = on & (batch.visible_face[p, iv, iu] >= 0) & (gap < _limit(engine, batch, p, corners)) & (gap > -0.12)
    visible = np.zeros((count, cells, cells), bool)
    visible[p, r, c] = seen
    return flow, valid, visible


def _limit(engine: SynthEngine, batch: CropBatch, person: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Depth (m) by which the dressed surface may lie in front of each point: its own cloth's offset and some slack."""
    out = np.full(len(person), _CLOTH_M, np.float32)
    for i in np.unique(person):
        own = person == i
        offset = np.linalg.norm(engine.subject(int(batch.subjects[i])).clothes.offset_m.astype(np.float32), axis=1)
        out[own] = np.minimum(offset[corners[own, 0]] * 1.5, 0.16) + 0.03
    return out


def _bake_light(rng: np.random.Generator, rgb: np.ndarray, normals: np.ndarray, covered_px: np.ndarray, batch: CropBatch) -> None:
    """Multiply the colours (P,S,S,3) by the light of the picture (the usual case: gathered a moment ago) or of another place."""
    for i in range(len(rgb)):
        covered = np.nonzero(covered_px[i])
        if not len(covered[0]):
            continue
        u = rng.random()
        if u < 0.25:
            continue  # plain colours
        lights = batch.lights[i] if u < 0.75 else sample_lights(rng)
        rgb[i][covered] = np.clip(shade(lights, rgb[i][covered], normals[i][covered]), 0, 1)
