"""Losses of both networks.  Pure functions of tensors; each returns the total and its parts for the log."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .torch_body import JointChain, SkinPoints, angle_between, rotmat_from_rot6d_rows

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class DisplacementWeights:
    """Terms of :func:`displacement_loss`."""

    l1: float = 0.25  # per px
    nll: float = 1.0
    nll_beta: float = 0.5
    nll_spread: float = 0.25  # factor on the gradients of the variances
    occluded_l1: float = 0.25  # factor on the L1 term where the image does not show the surface point
    match: float = 0.5  # of the matching step; falls to a fifth over the run
    fit: float = 4.0  # of the body after a step of the fit (through_fit.py)
    start_px: float = 2.0  # L1 is normalised by the start's own error plus this, so that near-perfect starts count


def displacement_loss(
    flow: Tensor, log_var: Tensor, target: Tensor, valid: Tensor, visible: Tensor, nll_share: float, w: DisplacementWeights
) -> tuple[Tensor, Parts]:
    """Robust likelihood of the displacements.

    flow, target (P,2,h,w) crop px; log_var (P,1,h,w); valid, visible (P,h,w) bool; ``nll_share`` in [0,1] ramps the
    likelihood in after a start with plain L1.  The likelihood is the isotropic two-dimensional Laplace density
    exp(-r / b) / (2 pi b^2), whose variance per component is 3 b^2: its tails carry the cells that follow an occluder.
    """
    mask = valid.float()
    count = mask.sum().clamp(min=1.0)
    r = torch.sqrt(((flow - target) ** 2).sum(1) + 1e-4)
    with torch.no_grad():
        length = torch.sqrt((target**2).sum(1))
        start = (length * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1.0)
        per_person = 8.0 / (start + w.start_px)
        trust = torch.where(visible, 1.0, w.occluded_l1)
    l1 = (r * mask * trust * per_person[:, None, None]).sum() / count
    # b is bounded away from the value that a lucky cell would drive it to by the range of log_var.
    log_b = 0.5 * (log_var[:, 0] - math.log(3.0))
    # What says that a whole batch is too sure or not enough differs in sign from batch to batch, and its gradient in the trunk
    # was as large as the flow's: 3 to 26, cosine -0.1 between batches.
    log_b = w.nll_spread * log_b + (1 - w.nll_spread) * log_b.detach()
    # Plain likelihood leaves hard cells to their variance: sure cells pull ten times harder.  The factor b^beta evens that
    # out and moves no optimum (Seitzer et al., ICLR 2022).
    evened = torch.exp(w.nll_beta * log_b.detach())
    nll = ((r * torch.exp(-log_b) + 2.0 * log_b) * evened * mask).sum() / count
    with torch.no_grad():
        epe = (r * mask).sum() / count
        zero = (length * mask).sum() / count
    total = w.l1 * l1 + w.nll * nll_share * nll
    return total, {"l1": l1.detach(), "nll": nll.detach(), "epe_px": epe, "zero_px": zero}


def guide_loss(guide: Tensor, body_colour: Tensor) -> Tensor:
    """Where the picture shows the person, and which point of the body it shows there.

    guide (P,4,h,w): logit and colours; body_colour (P,3,h,w): vertex colours of the true surface, 0 where not seen.
    """
    mask = (body_colour.sum(1) > 0).float()
    seen = F.binary_cross_entropy_with_logits(guide[:, 0], mask)
    colour = ((guide[:, 1:] - body_colour).abs().sum(1) * mask).sum() / mask.sum().clamp(min=1.0)
    return 2.0 * seen + 2.0 * colour


def part_loss(logits: Tensor, body_part: Tensor) -> Tensor:
    """Cross-entropy of the body's parts where the picture shows them.

    logits (P,24,h,w); body_part (P,h,w) integers, 24 where the person is not seen.  Left and right, front and back of a limb
    differ little in colour but are errors of half a metre: classes keep apart what an average of colours mixes.
    """
    use = body_part < logits.shape[1]
    if not bool(use.any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits.permute(0, 2, 3, 1)[use], body_part[use].long())


def match_loss(query: Tensor, key: Tensor, flow: Tensor, valid: Tensor, visible: Tensor, stride_px: int = 8) -> Tensor:
    """Cross-entropy of the matching step with a Gaussian of one cell around each cell's true place.

    query, key (P,N,D) of cells of ``stride_px``; flow (P,2,2h,2w) crop px at twice the matching resolution, N = h * w.  Only
    cells whose point the picture shows, inside the crop, have a say.
    """
    rows, columns = flow.shape[2] // 2, flow.shape[3] // 2
    truth = flow[:, :, 1::2, 1::2] / stride_px  # any of the four sub-cells serves: 0.4 px from the mean of all
    u = torch.arange(columns, device=flow.device)[None, None, :] + truth[:, 0]
    v = torch.arange(rows, device=flow.device)[None, :, None] + truth[:, 1]
    inside = (u > -0.5) & (u < columns - 0.5) & (v > -0.5) & (v < rows - 0.5)
    use = (valid & visible)[:, 1::2, 1::2] & inside
    if not bool(use.any()):
        return (query.sum() + key.sum()) * 0.0
    # The cells in use come first, as many as the person with the most has: scores of the others are not made.
    use = use.flatten(1)
    most = int(use.sum(1).max())
    first = use.byte().argsort(stable=True, dim=1, descending=True)[:, :most]
    use, u, v = (x.flatten(1).gather(1, first) for x in (use, u, v))
    asked = query.gather(1, first[..., None].expand(-1, -1, query.shape[2]))
    with torch.autocast(query.device.type, enabled=False):
        scores = asked @ key.transpose(1, 2)
    near_u = -0.5 * (torch.arange(columns, device=flow.device) - u[use][:, None]) ** 2
    near_v = -0.5 * (torch.arange(rows, device=flow.device) - v[use][:, None]) ** 2
    target = (near_v[:, :, None] + near_u[:, None, :]).flatten(1).softmax(-1)
    return -(target * scores[use].log_softmax(-1)).sum(-1).mean()


def attention_loss(logits: Tensor, joints_uv: Tensor, person: Tensor) -> Tensor:
    """Cross-entropy of each joint's attention map with a Gaussian of one cell around the joint.

    logits (P,24,h,w); joints_uv (P,24,2) over the side minus 0.5; joints outside the crop have no say.  The mean
    position alone says too little: many maps share it.
    """
    rows, columns = logits.shape[2:]
    u = joints_uv[..., 0] * rows + 0.5 * columns - 0.5
    v = (joints_uv[..., 1] + 0.5) * rows - 0.5
    near_u = -0.5 * (torch.arange(columns, device=logits.device) - u[..., None]) ** 2
    near_v = -0.5 * (torch.arange(rows, device=logits.device) - v[..., None]) ** 2
    target = (near_v[..., :, None] + near_u[..., None, :]).flatten(2).softmax(-1)
    inside = (in_view(joints_uv, columns / rows) & person[:, None]).float()
    entropy = -(target * logits.flatten(2).log_softmax(-1)).sum(-1)
    return (entropy * inside).sum() / inside.sum().clamp(min=1.0)


def in_view(joints_uv: Tensor, aspect: float) -> Tensor:
    """(P,24) bool: positions over the crop's side minus 0.5 that lie in its middle columns, ``aspect`` of all."""
    return (joints_uv.abs() < 0.5 * joints_uv.new_tensor([aspect, 1.0])).all(-1)


@dataclass(frozen=True)
class RegressorWeights:
    """Terms of :func:`regressor_loss`."""

    rotation: float = 2.0
    joints: float = 8.0  # per m
    skin: float = 8.0  # per m
    betas: float = 0.02
    shape: float = 4.0  # per m
    pelvis_uv: float = 5.0
    scale: float = 1.0
    reprojection: float = 8.0
    placed: float = 10.0
    depth: float = 3.0
    rotation_nll: float = 0.05
    placed_nll: float = 0.02
    confidence: float = 0.3
    guide: float = 0.5  # of the training-only heads; these two fall to a fifth over the run
    parts: float = 0.5
    attention: float = 0.3  # the one term whose gradients agree between batches (cosine 0.2), so it stays


def regressor_loss(
    outputs: dict[str, Tensor],
    batch: dict[str, Tensor],
    chain: JointChain,
    skin: SkinPoints,
    w: RegressorWeights,
    aspect: float = 1.0,
) -> tuple[Tensor, Parts]:
    """All terms of the regressor.  ``batch`` as :class:`densefit_ros.train.sources.RegressorSource` makes it, from pictures with
    ``aspect`` times as many columns as rows.

    Samples that are no ``person`` show nobody in their middle: they teach the confidence alone.
    """
    person = batch["person"].float()
    count = person.sum().clamp(min=1.0)

    def mean(x: Tensor) -> Tensor:
        return (x.flatten(1).mean(1) * person).sum() / count

    rot = rotmat_from_rot6d_rows(outputs["rot6d_rows"])
    # Rotations are judged on the true shape, and shape in the true pose.  Together, limbs of unknown foreshortening were
    # answered in the picture's plane with bones 4 % too short: with the same rotations joints were 113.6 mm off on the shapes
    # that were answered, 116.1 on the mean shape, which a track begins with, and 111.7 on the true ones.
    joints, points = skin.posed(chain, rot, batch["betas"])  # pelvis at the origin, frame of the viewing ray
    truth, points_truth = skin.posed(chain, batch["rotmat"], batch["betas"])
    shaped = skin.posed(chain, batch["rotmat"], outputs["betas"])
    rotation = mean((rot - batch["rotmat"]).abs())
    joint = mean((joints - truth).abs())
    surface = mean((points - points_truth).abs())
    betas = mean((outputs["betas"] - batch["betas"]) ** 2)
    shape = mean((shaped[0] - truth).abs()) + mean((shaped[1] - points_truth).abs())
    cam, cam_true = outputs["cam"], batch["cam"]
    pelvis_uv = mean((cam[:, :2] - cam_true[:, :2]).abs())
    scale = mean((cam[:, 2:] - cam_true[:, 2:]).abs())
    inside = in_view(batch["joints_uv"], aspect).float()
    projected = project_joints(joints, cam, batch["intrinsics"], batch["ray_rotmat"])
    reprojection = mean(F.smooth_l1_loss(projected, batch["joints_uv"], beta=0.02, reduction="none").sum(-1).clamp(max=1.0))
    placed_error = (outputs["joints_uv"] - batch["joints_uv"]).abs().sum(-1)
    placed = mean(placed_error * inside)
    depth = mean((outputs["joints_z"] - batch["joints_z"]).abs() * inside)
    # Variances learn from errors that they cannot change: the mean must not pay for a confident variance.
    angle2 = angle_between(rot.detach(), batch["rotmat"]) ** 2
    rotation_nll = mean(angle2 * torch.exp(-outputs["rot_log_var"]) + 3.0 * outputs["rot_log_var"]) * 0.5
    error2 = ((outputs["joints_uv"].detach() - batch["joints_uv"]) ** 2).sum(-1).clamp(max=0.25)
    placed_nll = mean(error2 * torch.exp(-outputs["joints_log_var"]) + 2.0 * outputs["joints_log_var"]) * 0.5
    confidence = F.binary_cross_entropy(outputs["confidence"].clamp(1e-5, 1 - 1e-5), batch["confidence"])
    total = (
        w.rotation * rotation
        + w.joints * joint
        + w.skin * surface
        + w.betas * betas
        + w.shape * shape
        + w.pelvis_uv * pelvis_uv
        + w.scale * scale
        + w.reprojection * reprojection
        + w.placed * placed
        + w.depth * depth
        + w.rotation_nll * rotation_nll
        + w.placed_nll * placed_nll
        + w.confidence * confidence
    )
    with torch.no_grad():
        mpjpe = 1000 * mean((joints - truth).norm(dim=-1))
    parts = {"rotation": rotation, "joints": joint, "skin": surface, "betas": betas, "shape": shape, "pelvis_uv": pelvis_uv}
    parts |= {"scale": scale, "depth": depth, "reprojection": reprojection, "placed": placed, "confidence": confidence}
    parts["rotation_nll"] = rotation_nll
    return total, {k: v.detach() for k, v in parts.items()} | {"mpjpe_mm": mpjpe}


def project_joints(joints_m: Tensor, cam: Tensor, intrinsics: Tensor, ray_rotmat: Tensor) -> Tensor:
    """Pelvis-centred joints (P,24,3) in the ray's frame to crop positions (P,24,2), over the side minus 0.5."""
    fx, fy, cx, cy = intrinsics.unbind(-1)
    z = fx * torch.exp(-cam[:, 2])
    pelvis = torch.stack([z * (cam[:, 0] + 0.5 - cx) / fx, z * (cam[:, 1] + 0.5 - cy) / fy, z], -1)
    points = joints_m @ ray_rotmat.transpose(1, 2) + pelvis[:, None]
    depth = points[..., 2].clamp(min=0.2)
    u = fx[:, None] * points[..., 0] / depth + cx[:, None] - 0.5
    v = fy[:, None] * points[..., 1] / depth + cy[:, None] - 0.5
    return torch.stack([u, v], -1)
