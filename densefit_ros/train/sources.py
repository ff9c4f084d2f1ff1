"""Labelled batches of synthetic people for both networks.

Training draws looks from the training subjects and backgrounds from the training photographs; validation (``held_out``)
draws from subjects and photographs that training never sees.  Batch ``i`` depends on (seed, i) alone.  ``size`` below
the networks' own trains a first phase on smaller crops, at less than half the cost of a sample; the share ``easy`` of
all crops shows one person with nobody and nothing in front, every other displacement batch of them with the person's
true texture.  ``coarse``: share of crops that are blown up from fewer pixels; ``rough``: of those in boxes twice as far off;
``false_limbs``: of those with beams and branches where limbs could be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..body.assets import load_body
from ..body.between import part_way
from ..body.joints import SMPL_FLIP
from ..body.model import face_parts, rest_joints, vertex_colors
from ..displace.displacer import pack_rendering
from ..displace.mirrored import POINT_SUM, mirror_rendering
from ..errors import ConfigError
from ..geometry import so3
from ..geometry.crop import columns_seen
from ..regress.decode import decode as decode_estimate
from ..regress.decode import ray_rotation
from ..render.factory import make_renderer
from ..runtime.factory import make_runtime
from ..runtime.picture import SIZE_PX
from ..synth.backgrounds import load_backgrounds
from ..synth.cameras import CropOptions
from ..synth.crops import CropBatch, make_crops
from ..synth.displacement import STRIDE_PX, DisplacementPairs, make_pairs
from ..synth.engine import HELDOUT_SUBJECT, SynthEngine
from ..synth.perturb import disturb
from ..types import BodyParams
from .data import Batch
from .leftovers import Leftovers
from .through_fit import NAMES as FIT_NAMES
from .through_fit import FitLabeller, mirror_labels

EVALUATION_SUBJECT = HELDOUT_SUBJECT + 200_000  # nobody whom validation, which chooses the weights, has looked at
# One person in sight and nothing in front: what a first phase learns the match from.
EASY = CropOptions(
    negative_share=0.0, crowd_share=0.0, occluder_share=0.0, carried_share=0.0, visible_box_share=0.0, scale_high=1.1
)
NO_PART = 24
_PART_FLIP = np.array([*SMPL_FLIP, NO_PART], np.uint8)
_ESTIMATED_OF_LEFT = 0.8  # of the starts that are refined once: a disturbed one now and then has other errors
_PAIR_NAMES = ("rendering", "flow", "valid", "visible")  # of pair_batch
_MIRROR = np.diag([-1.0, 1.0, 1.0]).astype(np.float32)


class People:
    """What both sources share: the engine of one split, and crops by index."""

    def __init__(
        self,
        seed: int,
        count: int,
        held_out: bool = False,
        first_subject: int | None = None,
        subjects: int = 800,
        backgrounds: Sequence[str] | None = None,
        device: str = "cpu",
        size: int = SIZE_PX,
        easy: float = 0.0,
        coarse: float = CropOptions.coarse_share,
        rough: float = CropOptions.rough_share,
        false_limbs: float = CropOptions.false_limbs_share,
        crisp: float = CropOptions.crisp_share,
        near: float = CropOptions.near_share,
    ) -> None:
        cv2.setNumThreads(1)
        self.seed, self.count, self.size, self.easy = seed, count, size, float(easy)
        shares = {
            "coarse_share": coarse, "rough_share": rough, "false_limbs_share": false_limbs, "crisp_share": crisp,
            "near_share": near,
        }  # fmt: skip
        self._options = [dataclasses.replace(o, **shares) for o in (CropOptions(), EASY)]
        self.body = load_body()
        photographs = load_backgrounds("heldout" if held_out else "train", backgrounds)
        self.engine = SynthEngine(
            self.body,
            make_renderer(self.body, "warp", device),
            photographs,
            first_subject=(HELDOUT_SUBJECT if held_out else 0) if first_subject is None else first_subject,
            subjects=subjects,
            cache=subjects,
            options=self._options[0],
        )

        self._face_colour = vertex_colors(self.body)[self.body.faces].mean(1).astype(np.float16)
        self._face_part = face_parts(self.body)

    def body_part(self, crops: CropBatch, stride: int) -> np.ndarray:
        """(P,S/stride,W/stride) uint8: joint that moves the person's surface where the picture shows it, else NO_PART."""
        face = _seen_faces(crops, stride)
        return np.where(face >= 0, self._face_part[face], NO_PART).astype(np.uint8)

    def body_colour(self, crops: CropBatch, stride: int) -> np.ndarray:
        """(P,3,S/stride,W/stride) float16: vertex colours of the person's surface as the picture shows it, else 0."""
        face = _seen_faces(crops, stride)
        colour = np.where(face[..., None] >= 0, self._face_colour[face], np.float16(0))
        return np.ascontiguousarray(colour.transpose(0, 3, 1, 2))

    def crops(self, index: int) -> CropBatch:
        self.engine.options = self._options[self.is_easy(index)]
        return make_crops(np.random.default_rng([self.seed, 11, index]), self.engine, self.count, self.size)

    def is_easy(self, index: int) -> bool:
        """Whether the crops of this index are easy: evenly spread over the share ``easy`` of all."""
        return int((index + 1) * self.easy) > int(index * self.easy)


def _seen_faces(crops: CropBatch, stride: int) -> np.ndarray:
    """The person's faces in the middle of each cell of the columns that networks see."""
    return crops.visible_face[:, :, columns_seen(crops.size)][:, stride // 2 :: stride, stride // 2 :: stride]


class RegressorSource(People):
    """Crops with the body's parameters.

    image (P,S,W,3) uint8, the columns that networks see; intrinsics (P,4) over the side S; ray_rotmat (P,3,3); rotmat
    (P,24,3,3) with the root in the ray's frame; betas (P,10); cam (P,3) as the network's; joints_uv (P,24,2) over the side
    minus 0.5; joints_z (P,24) m relative to the pelvis along the ray; confidence (P,), 0 where nobody is in the middle;
    body_colour (P,3,S/8,W/8); body_part (P,S/8,W/8).
    """

    def batch(self, index: int) -> Batch:
        """See :class:`densefit_ros.train.data.Source`."""
        crops = self.crops(index)
        return {**regressor_batch(crops), "body_colour": self.body_colour(crops, 8), "body_part": self.body_part(crops, 8)}

    def augment(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mirror half of the people, and change light and colour."""
        out = mirror(batch, rng.random(len(batch["image"])) < 0.5)
        out["image"] = recolour(out["image"], rng)
        return out


def regressor_batch(crops: CropBatch) -> Batch:
    """The regressor's targets of labelled crops."""
    size = crops.size
    intrinsics = (crops.intrinsics / size).astype(np.float32)
    ray = ray_rotation(intrinsics.astype(np.float64)).astype(np.float32)
    rotmat = so3.exp(crops.params.rotvec).astype(np.float32)
    rotmat[:, 0] = np.swapaxes(ray, 1, 2) @ rotmat[:, 0]
    pelvis = crops.joints_m[:, 0]
    z = np.maximum(pelvis[:, 2], 0.1)
    cam = np.concatenate([crops.joints_px[:, 0] / size - 0.5, np.log(intrinsics[:, :1] / z[:, None])], 1)
    relative = np.einsum("pij,pkj->pki", np.swapaxes(ray, 1, 2), crops.joints_m - pelvis[:, None])
    person = crops.labelled & (pelvis[:, 2] > 0.2) & (np.abs(cam[:, :2]).max(1) < 1.5)
    confidence = np.where(person, 1.0, np.where(crops.confidence < 0.05, 0.0, 0.5 * crops.confidence))
    return {
        "image": crops.rgb[:, :, columns_seen(size)],
        "intrinsics": intrinsics,
        "ray_rotmat": ray,
        "rotmat": rotmat,
        "betas": crops.params.betas.astype(np.float32),
        "cam": cam.astype(np.float32),
        "joints_uv": np.clip(crops.joints_px / size - 0.5, -3, 3).astype(np.float32),
        "joints_z": relative[..., 2].astype(np.float32),
        "confidence": confidence.astype(np.float32),
        "person": person,
    }


def mirror(batch: Batch, which: np.ndarray) -> Batch:
    """Mirror the chosen samples left to right; the body model's shapes are symmetric, so betas stay.

    A rotation R becomes M R' M with M = diag(-1, 1, 1), R' that of the joint on the other side.
    """
    out = {k: v.copy() for k, v in batch.items()}
    flip = np.asarray(SMPL_FLIP)
    out["image"][which] = batch["image"][which][:, :, ::-1]
    out["intrinsics"][which, 2] = 1 - batch["intrinsics"][which, 2]
    out["ray_rotmat"][which] = _MIRROR @ batch["ray_rotmat"][which] @ _MIRROR
    out["rotmat"][which] = _MIRROR @ batch["rotmat"][which][:, flip] @ _MIRROR
    out["cam"][which, 0] *= -1
    out["joints_uv"][which] = batch["joints_uv"][which][:, flip] * np.float32([-1, 1])
    if "body_colour" in out:
        out["body_colour"][which] = mirrored_colour(batch["body_colour"][which][..., ::-1])
    if "body_part" in out:
        out["body_part"][which] = _PART_FLIP[batch["body_part"][which][..., ::-1]]
    out["joints_z"][which] = batch["joints_z"][which][:, flip]
    return out


def mirror_pairs(batch: Batch, which: np.ndarray) -> Batch:
    """Mirror the chosen pairs of picture and rendering left to right.

    The column x goes to S - x, so that the pixel a cell is read at (stride * c + stride / 2) is again such a pixel.
    """
    out = {k: v.copy() for k, v in batch.items()}
    flipped = {"rendering": mirror_rendering(batch["rendering"][which])}
    if "image" in batch:
        flipped["image"] = batch["image"][which][:, :, ::-1]
    for name, value in flipped.items():
        out[name][which] = np.concatenate([value[:, :, :1], value[:, :, :-1]], 2)
    for name in ("flow", "valid", "visible"):
        out[name][which] = batch[name][which][..., ::-1]
    out["flow"][which, 0] *= -1
    return out


def mirrored_colour(colour: np.ndarray) -> np.ndarray:
    """Body colours (P,3,h,w) of the other side's points: a function of the rest position, x first, 0 where nobody is."""
    out = colour.copy()
    out[:, 0] = np.where(colour.any(1), POINT_SUM - colour[:, 0], 0)
    return out


def _cells_seen(size: int) -> slice:
    """The columns of the displacement network's cells that lie in the columns seen of crops of ``size`` px."""
    columns = columns_seen(size)
    return slice(columns.start // STRIDE_PX, columns.stop // STRIDE_PX)


def pair_batch(pairs: DisplacementPairs) -> Batch:
    """rendering (P,S,W,11) float16; flow (P,2,h,w) float16 crop px; valid, visible (P,h,w) bool: of the columns seen.

    learnt (P,) bool: the rendering's colours come from the picture, and change where the picture's do.
    """
    cells = _cells_seen(pairs.image.shape[1])
    flow = pairs.flow[..., cells]
    return {
        "rendering": pack_rendering(pairs.surface).astype(np.float16),
        "flow": np.clip(flow, -500, 500).astype(np.float16),
        "valid": pairs.valid[..., cells] & (np.abs(flow).max(1) < 200),
        "visible": pairs.visible[..., cells],
        "learnt": pairs.learnt,
    }


class JointSource(People):
    """Crops with the body's parameters, as RegressorSource, and renderings of ``starts`` disturbed estimates of each.

    A rendering costs half of what a picture does, and has other disturbances and another texture every time.  Those of
    :func:`pair_batch` have the starts on their second axis.  Where the path of a trained regressor is given, the share
    ``estimated`` of all starts is its answer to the crop: the errors that displacements will have to mend, and no noise model
    makes; every other time a share of 0.3 to 1 of these errors.  Where the path of its displacement network is given too, the
    starts of the share ``left`` of all batches are what one frame of the tracker leaves (:mod:`.leftovers`).  ``live``: see
    :func:`densefit_ros.synth.displacement.make_pairs`; with ``true_looks`` every other easy batch wears its own colours
    instead, which no track does.  ``degrees`` fixes the size of the disturbances.
    """

    def __init__(
        self,
        *args,
        starts: int = 2,
        regressor: str = "",
        estimated: float = 0.5,
        live: float = 0.0,
        degrees: float | None = None,
        displacement: str = "",
        left: float = 0.0,
        true_looks: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.starts, self.estimated, self.live, self.true_looks, self.degrees = starts, estimated, live, true_looks, degrees
        # Bfloat16 where the CPU has it: 2 instead of 11 ms a picture, of the 33 that one took with both networks.
        self._regressor = make_runtime(regressor, device="cpu") if regressor else None
        self._labeller = FitLabeller(self.body, self._face_part)
        self.left, self._leftovers = float(left), None
        if left > 0:
            if self._regressor is None or not displacement or self.size != SIZE_PX:
                raise ConfigError(f"left: expected regressor and displacement, and size {SIZE_PX}")
            self._leftovers = Leftovers(self.body, Path(displacement), self._regressor, self.count)

    def batch(self, index: int) -> Batch:
        """See :class:`densefit_ros.train.data.Source`."""
        crops = self.crops(index)
        rng = np.random.default_rng([self.seed, 12, index])
        pelvis = rest_joints(self.body, crops.params.betas)[:, 0]
        left = self.is_left(index)
        made = []
        for k in range(self.starts):
            start = disturb(rng, crops.params, pelvis, degrees=self.degrees)
            if self._regressor is not None:
                start = self._some_estimates(rng, crops, start, _ESTIMATED_OF_LEFT if left else self.estimated)
            if left:
                start = self._leftovers.of(rng, self.engine, crops, start)
            # int(index * easy) counts the easy batches before this one.
            true_look = self.true_looks and self.is_easy(index) and int(index * self.easy) % 2 == 1
            looks = crops.appearances if k == self.starts - 1 and true_look else None
            rendered = make_pairs(rng, self.engine, crops, start, looks, self.live)
            pair = pair_batch(rendered)
            # No track looks at a crop with nobody in its middle; such pairs have the largest errors and would lead the loss.
            pair["valid"] &= crops.labelled[:, None, None]
            chooser = np.random.default_rng([self.seed, 13, index, k])
            cells = _cells_seen(crops.size)
            made.append(pair | self._labeller.labels(chooser, rendered, crops.params, crops.intrinsics, pair["valid"], cells))
        pairs = {name: np.stack([m[name] for m in made], 1) for name in made[0]}
        shown = {"body_colour": self.body_colour(crops, 8), "body_part": self.body_part(crops, 8)}
        return {**regressor_batch(crops), **shown, **pairs}

    def is_left(self, index: int) -> bool:
        """Whether the starts of this index are what a frame leaves.

        Drawn, not spread evenly as easy batches are: a fifth of all would only ever meet easy ones with the true texture.
        """
        return bool(np.random.default_rng([self.seed, 14, index]).random() < self.left)

    def _some_estimates(self, rng: np.random.Generator, crops: CropBatch, start: BodyParams, share: float) -> BodyParams:
        """``start`` with the regressor's answers for a random ``share`` of the people."""
        asked = np.flatnonzero(crops.labelled & (rng.random(len(crops)) < share))
        if not len(asked):
            return start
        rows = [start.person(i) for i in range(len(crops))]
        images = resized(crops.rgb[asked], self._regressor.inputs["image"].shape[1])
        outputs = self._regressor({"image": images, "intrinsics": crops.intrinsics[asked] / crops.size})
        for k, i in enumerate(asked):
            own = {name: value[k : k + 1] for name, value in outputs.items()}
            estimate = decode_estimate(own, self.body, crops.cameras[i], crops.image_from_crop[i : i + 1], crops.size).params
            if abs(np.log(estimate.t_camera_root[0, 2] / crops.joints_m[i, 0, 2])) < 0.5:
                left = rng.uniform(0.3, 1.0) if rng.random() < 0.5 else 1.0
                rows[i] = part_way(crops.params.person(i), estimate, np.array([left]))
        return BodyParams.stack(rows)

    def augment(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mirror half of the people with their renderings; change light and colour of the pictures."""
        which = rng.random(len(batch["image"])) < 0.5
        names = (*_PAIR_NAMES, *FIT_NAMES, "learnt")
        flat = {n: batch[n].reshape(-1, *batch[n].shape[2:]) for n in names}
        of_start = np.repeat(which, self.starts)
        pairs = mirror_pairs({n: flat[n] for n in _PAIR_NAMES}, of_start)
        pairs |= mirror_labels(flat, of_start, flat["flow"].shape[3])
        out = mirror({n: v for n, v in batch.items() if n not in names}, which)
        # mirror_pairs takes x to S - x in whole pixels, which is one more than mirror does to their centres.
        side = out["image"].shape[1]
        moved = out["image"][which]
        out["image"][which] = np.concatenate([moved[:, :, :1], moved[:, :, :-1]], 2)
        out["intrinsics"][which, 2] += 1 / side
        out["cam"][which, 0] += 1 / side
        out["joints_uv"][which, :, 0] += 1 / side
        # Another centre is another viewing ray, in whose frame the root's rotation is given: 0.3 to 0.6 degrees.
        ray = ray_rotation(out["intrinsics"][which].astype(np.float64)).astype(np.float32)
        out["rotmat"][which, 0] = np.swapaxes(ray, 1, 2) @ out["ray_rotmat"][which] @ out["rotmat"][which, 0]
        out["ray_rotmat"][which] = ray
        colours = _colours(rng, len(which))
        out["image"] = _through(out["image"], *colours)
        learnt = flat["learnt"]
        texture = (255 * pairs["rendering"][learnt][..., :3]).round().astype(np.uint8)
        covered = pairs["rendering"][learnt][..., 10:]
        of_learnt = [np.repeat(c, self.starts, 0)[learnt] for c in colours]
        pairs["rendering"][learnt, ..., :3] = _through(texture, *of_learnt) / np.float32(255) * covered
        return out | {n: pairs[n].reshape(batch[n].shape) for n in names if n in pairs}


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """(P,S,S,3) uint8 pictures at another side."""
    if images.shape[1] == size:
        return images
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR) for image in images])


def recolour(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random gain per channel, offset, contrast and gamma for each (P,S,W,3) uint8 picture; one in ten loses its colour."""
    return _through(images, *_colours(rng, len(images)))


def _colours(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(P,256,3) uint8, another level for each that a channel may have, and (P,) bool, which pictures have no colour."""
    level = np.arange(256, dtype=np.float32) / 255
    gamma = np.exp(rng.normal(0, 0.18, (count, 1, 1)))
    gain = np.exp(rng.normal(0, 0.12, (count, 1, 1))) * (1 + rng.normal(0, 0.05, (count, 3, 1)))
    offset, contrast = rng.normal(0, 0.03, (count, 1, 1)), np.exp(rng.normal(0, 0.15, (count, 1, 1)))
    table = np.clip(255 * (contrast * (gain * level**gamma - 0.45) + 0.45 + offset), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(table.swapaxes(1, 2)), rng.random(count) < 0.1


def _through(images: np.ndarray, tables: np.ndarray, grey: np.ndarray) -> np.ndarray:
    out = np.empty_like(images)
    for i, table in enumerate(tables):
        out[i] = cv2.LUT(images[i], table[None])
        if grey[i]:
            out[i] = cv2.cvtColor(out[i], cv2.COLOR_RGB2GRAY)[..., None]
    return out
