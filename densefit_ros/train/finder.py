"""The person finder as a training task: scenes, loss and held-out metrics."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..detect.contract import COLUMNS, HEIGHT_PX, PAD_GREY, ROWS, STRIDE_PX, WIDTH_PX
from ..detect.finder_network import FinderNet
from ..detect.peaks import decode_peaks
from ..synth.clutter import ClutteredBackgrounds
from ..synth.scenes import EMPTY, PERSON, UNASKED, make_scenes
from .config import TrainConfig
from .data import Batch, SourceSpec
from .finder_metrics import detection_metrics, suppressed
from .loop import Metrics, to_tensors
from .sources import People, recolour

VALIDATION_SEED = 900_000_019
_GUIDE = 3.0
_PIECES_SHARE, _TILE_PX = 0.35, 12
_FINER = 2  # scenes are rendered so many times as large and reduced, as finders reduce images
_MIN_LEFT = 0.3  # of a box that augmentation pushes out of the window


class FinderSource(People):
    """Whole pictures with the boxes of the people that they show.

    image (P,192,256,3) uint8; fine (P,384,512,3) uint8, the same before they were reduced; boxes (P,4,4) x, y, w, h px; kind
    (P,4), owner (P,192,256) int8: as :class:`densefit_ros.synth.scenes.SceneBatch`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engine.backgrounds = ClutteredBackgrounds(self.engine.backgrounds)

    def batch(self, index: int) -> Batch:
        """See :class:`densefit_ros.train.data.Source`."""
        rng = np.random.default_rng([self.seed, 13, index])
        scenes = make_scenes(rng, self.engine, self.count, WIDTH_PX, HEIGHT_PX, PAD_GREY, finer=_FINER)
        boxes = {"boxes": scenes.boxes_xywh, "kind": scenes.kind, "owner": scenes.owner}
        return {"image": scenes.rgb, "fine": scenes.fine, **boxes}

    def augment(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mirror, shift and zoom every picture, change light and colour, and paste people in pieces as no people.

        Pictures are moved before they are reduced: moved by parts of a pixel afterwards they lost a quarter of their finest
        detail, and no finder had seen any as sharp as those that it is asked about.
        """
        out = {k: v.copy() for k, v in batch.items() if k != "fine"}
        for i in range(len(out["image"])):
            affine = _zoom(rng)
            matrix, size = _of_opencv(affine), (WIDTH_PX, HEIGHT_PX)
            on_fine, fine_size = _of_opencv(affine * (1, 1, _FINER)), (_FINER * WIDTH_PX, _FINER * HEIGHT_PX)
            moved = cv2.warpAffine(batch["fine"][i], on_fine, fine_size, borderValue=(PAD_GREY,) * 3)
            out["image"][i] = cv2.resize(moved, size, interpolation=cv2.INTER_AREA)
            slots = (batch["owner"][i] + 1).astype(np.uint8)
            out["owner"][i] = cv2.warpAffine(slots, matrix, size, flags=cv2.INTER_NEAREST).astype(np.int8) - 1
            out["boxes"][i], out["kind"][i] = move_boxes(batch["boxes"][i], batch["kind"][i], affine)
            if rng.random() < _PIECES_SHARE:
                j = int(rng.integers(len(out["image"])))
                paste_pieces(rng, out["image"][i], out["owner"][i], batch["image"][j], batch["boxes"][j])
        out["image"] = recolour(out["image"], rng)
        return out


def paste_pieces(
    rng: np.random.Generator, image: np.ndarray, owner: np.ndarray, other: np.ndarray, boxes_xywh: np.ndarray
) -> None:
    """Cut a person out of ``other``, shuffle the window's tiles and put it where ``image`` (changed) shows nobody.

    The colours, edges and outlines of people without their order: what else tells them from clutter is their shape.
    """
    boxes = boxes_xywh[(boxes_xywh[:, 2:] >= 2 * _TILE_PX).all(1)]
    if not len(boxes):
        return
    x, y, w, h = boxes[int(rng.integers(len(boxes)))].astype(int)
    columns, rows = min(w // _TILE_PX, 8), min(h // _TILE_PX, 12)
    w, h = columns * _TILE_PX, rows * _TILE_PX
    tiles = other[y : y + h, x : x + w].reshape(rows, _TILE_PX, columns, _TILE_PX, 3).swapaxes(1, 2)
    tiles = tiles.reshape(-1, _TILE_PX, _TILE_PX, 3)[rng.permutation(rows * columns)]
    pieces = tiles.reshape(rows, columns, _TILE_PX, _TILE_PX, 3).swapaxes(1, 2).reshape(h, w, 3)
    for _ in range(3):
        u, v = int(rng.integers(WIDTH_PX - w + 1)), int(rng.integers(HEIGHT_PX - h + 1))
        if (owner[v : v + h, u : u + w] < 0).all():
            image[v : v + h, u : u + w] = pieces
            return


def _zoom(rng: np.random.Generator) -> np.ndarray:
    """(2,3) in pixel positions (centres at half-integers)."""
    scale = float(np.exp(rng.uniform(np.log(0.75), np.log(1.35))))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    shift = rng.uniform(-0.12, 0.12, 2) * (WIDTH_PX, HEIGHT_PX)
    middle = 0.5 * np.array([WIDTH_PX, HEIGHT_PX])
    linear = np.diag([flip * scale, scale])
    return np.concatenate([linear, (middle + shift - linear @ middle)[:, None]], 1)


def _of_opencv(affine: np.ndarray) -> np.ndarray:
    """The (2,3) map of pixel positions as OpenCV takes it, which counts pixel centres from 0."""
    out = affine.copy()
    out[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5
    return out


def move_boxes(boxes: np.ndarray, kind: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M,4) px under an axis-aligned (2,3) map, cut at the window's border; kinds (M,) with what became of them."""
    a = boxes[:, :2] @ affine[:, :2].T + affine[:, 2]
    b = (boxes[:, :2] + boxes[:, 2:]) @ affine[:, :2].T + affine[:, 2]
    low, high = np.minimum(a, b), np.maximum(a, b)
    whole = np.prod(high - low, axis=1)
    low, high = np.clip(low, 0, (WIDTH_PX, HEIGHT_PX)), np.clip(high, 0, (WIDTH_PX, HEIGHT_PX))
    left = np.prod(high - low, axis=1) / np.maximum(whole, 1e-6)
    out = np.where(left <= 0, EMPTY, np.where((kind == PERSON) & (left < _MIN_LEFT), UNASKED, kind)).astype(np.int8)
    out[kind == EMPTY] = EMPTY
    moved = np.concatenate([low, high - low], 1) * (out != EMPTY)[:, None]
    return moved.astype(np.float32), out


def make_finder_task(config: TrainConfig) -> FinderTask:
    """The task of a run.  Held-out scenes have other subjects and photographs."""
    kwargs = {"count": config.made, **config.data}
    train = SourceSpec(__name__, "FinderSource", {"seed": config.seed, **kwargs})
    held_out = SourceSpec(__name__, "FinderSource", {"seed": VALIDATION_SEED, "held_out": True, **kwargs})
    return FinderTask(train, held_out)


class FinderTask:
    """Tell where people's visible boxes have their centres, and how large they are."""

    def __init__(self, spec: SourceSpec, validation_spec: SourceSpec) -> None:
        self.spec, self.validation_spec = spec, validation_spec

    def network(self, config: dict) -> nn.Module:
        return FinderNet(**config)

    def loss(self, net: nn.Module, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        heat, box, guide = net.forward_guided(batch["image"])
        with torch.autocast(heat.device.type, enabled=False):
            owner = _of_cells(batch["owner"]).long()
            total, parts = finder_loss(heat, box, batch["boxes"], batch["kind"])
            seen, spread = guide_loss(guide, box, batch["boxes"], batch["kind"], owner)
        return total + (1 - 0.8 * progress) * (_GUIDE * seen + spread), {
            **parts,
            "seen": seen.detach(),
            "spread": spread.detach(),
        }

    def validate(self, net: nn.Module, batches: list[Batch], device: str) -> Metrics:
        """Average precision at IoU 0.5, recall and precision at the best threshold, recall by size; score = 1 - AP."""
        found, truth, kind = [], [], []
        for batch in batches:
            with torch.inference_mode():
                heat, box = (x.float().cpu().numpy() for x in net(to_tensors({"image": batch["image"]}, device)["image"]))
            found += [suppressed(*decode_peaks(h, b, -4.0)) for h, b in zip(heat, box)]
            truth += list(batch["boxes"])
            kind += list(batch["kind"])
        return detection_metrics(found, truth, kind)


def finder_loss(heat: Tensor, box: Tensor, boxes_px: Tensor, kind: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Penalty-reduced focal loss of the centres, generalised IoU and a little L1 of the boxes.

    heat (P,1,h,w) logits; box (P,4,h,w) network units; boxes_px (P,M,4); kind (P,M).  Boxes are learnt in all cells near a
    centre, weighted by the same Gaussian (Liu et al., "Training-time-friendly network", AAAI 2020): far fewer samples are
    needed than with the centre cell alone.  Every person weighs the same.
    """
    u = (torch.arange(COLUMNS, device=heat.device) + 0.5) * STRIDE_PX
    v = (torch.arange(ROWS, device=heat.device) + 0.5) * STRIDE_PX
    centre = boxes_px[..., :2] + 0.5 * boxes_px[..., 2:]
    size = boxes_px[..., 2:].clamp(min=1.0)
    person = (kind == PERSON).float()
    sigma = (0.1 * size).clamp(min=0.5 * STRIDE_PX)
    gauss_u = torch.exp(-0.5 * ((u - centre[..., :1]) / sigma[..., :1]) ** 2)  # (P,M,w)
    gauss_v = torch.exp(-0.5 * ((v - centre[..., 1:]) / sigma[..., 1:]) ** 2)
    bump = gauss_v[..., :, None] * gauss_u[..., None, :] * person[..., None, None]  # (P,M,h,w)
    at_u = ((u - centre[..., :1]).abs() <= 0.5 * STRIDE_PX)[..., None, :]
    at_v = ((v - centre[..., 1:]).abs() <= 0.5 * STRIDE_PX)[..., :, None]
    peak = ((at_u & at_v) & (person > 0)[..., None, None]).any(1)
    in_u = ((u >= boxes_px[..., :1]) & (u <= boxes_px[..., :1] + size[..., :1]))[..., None, :]
    in_v = ((v >= boxes_px[..., 1:2]) & (v <= boxes_px[..., 1:2] + size[..., 1:]))[..., :, None]
    unasked = (in_u & in_v & (kind == UNASKED)[..., None, None]).any(1)
    near, who = bump.max(1)

    logit = heat[:, 0]
    p = torch.sigmoid(logit)
    positive = -F.logsigmoid(logit) * (1 - p) ** 2 * peak
    negative = -F.logsigmoid(-logit) * p**2 * (1 - near) ** 4 * (~peak & ~unasked)
    count = person.sum().clamp(min=1.0)
    centres = (positive.sum() + negative.sum()) / count

    weight = torch.where(near > 0.3, near, torch.zeros_like(near))
    own = F.one_hot(who, bump.shape[1]).movedim(-1, 1) * weight[:, None]
    weight = (own / own.sum((2, 3), keepdim=True).clamp(min=1e-3)).sum(1)
    got_centre, got_size, true_centre, true_size = _pairs(box, boxes_px, who)
    giou = generalised_iou(got_centre, got_size, true_centre, true_size)
    boxes = ((1 - giou) * weight).sum() / count
    off = ((got_centre - true_centre) / true_size).abs().sum(-1) + (torch.log(got_size / true_size)).abs().sum(-1)
    sizes = (off.clamp(max=4.0) * weight).sum() / count
    return centres + 2.0 * boxes + 0.3 * sizes, {"centres": centres.detach(), "boxes": boxes.detach(), "sizes": sizes.detach()}


def guide_loss(guide: Tensor, box: Tensor, boxes_px: Tensor, kind: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """What each cell of a person knows: that a person is seen there, and (generalised IoU) which box is theirs.

    guide (P,1,h,w) logits; owner (P,h,w) slot of the person at the cell's middle, -1 nobody.
    """
    seen = F.binary_cross_entropy_with_logits(guide[:, 0], (owner >= 0).float())
    who = owner.clamp(min=0)
    asked = (owner >= 0) & (torch.gather(kind.long(), 1, who.flatten(1)).view(who.shape) == PERSON)
    own = F.one_hot(who, boxes_px.shape[1]).movedim(-1, 1) * asked[:, None].float()
    weight = (own / own.sum((2, 3), keepdim=True).clamp(min=1.0)).sum(1)
    spread = ((1 - generalised_iou(*_pairs(box, boxes_px, who))) * weight).sum() / weight.sum().clamp(min=1.0)
    return seen, spread


def _of_cells(pixels: Tensor) -> Tensor:
    """(P,H,W) to (P,h,w): of the pixels in the middle of cells."""
    return pixels[:, STRIDE_PX // 2 :: STRIDE_PX, STRIDE_PX // 2 :: STRIDE_PX]


def seen_cells(owner: Tensor) -> Tensor:
    """(P,h,w) float: 1 where a person is seen in the middle of a cell, of ``owner`` (P,H,W)."""
    return (_of_cells(owner) >= 0).float()


def _pairs(box: Tensor, boxes_px: Tensor, who: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per cell, centre and size (P,h,w,2) px of the predicted box and of that of person ``who`` (P,h,w)."""
    u = (torch.arange(COLUMNS, device=box.device) + 0.5) * STRIDE_PX
    v = (torch.arange(ROWS, device=box.device) + 0.5) * STRIDE_PX
    grid = torch.stack([u.expand(ROWS, -1), v[:, None].expand(-1, COLUMNS)], -1)
    got = box.permute(0, 2, 3, 1)
    true = torch.gather(boxes_px, 1, who.flatten(1)[..., None].expand(-1, -1, 4)).view(*who.shape, 4)
    true_size = true[..., 2:].clamp(min=1.0)
    size = STRIDE_PX * torch.exp(got[..., 2:].clamp(-2.0, 4.2))
    return grid + STRIDE_PX * got[..., :2], size, true[..., :2] + 0.5 * true_size, true_size


def generalised_iou(centre_a: Tensor, size_a: Tensor, centre_b: Tensor, size_b: Tensor) -> Tensor:
    """(...,2) each -> (...,) in (-1, 1]: IoU minus the share of the enclosing box that neither fills (Rezatofighi 2019)."""
    low_a, high_a, low_b, high_b = (centre_a - size_a / 2, centre_a + size_a / 2, centre_b - size_b / 2, centre_b + size_b / 2)
    common = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    union = size_a.prod(-1) + size_b.prod(-1) - common
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    return common / union - (hull - union) / hull
