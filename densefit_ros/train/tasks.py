"""The two networks as training tasks: their network, loss and held-out metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..regress.network import RegressorNet
from .config import TrainConfig
from .data import Batch, SourceSpec
from .loop import Metrics, Task, to_tensors
from .losses import RegressorWeights, attention_loss, guide_loss, in_view, part_loss, regressor_loss
from .torch_body import JointChain, SkinPoints, angle_between, rotmat_from_rot6d_rows

# Seeds of held-out data: far from any that a run counts up from.
VALIDATION_SEED = 900_000_007
_SKIN_POINTS = 256  # of the surface that the regressor's loss looks at
_NLL_FROM, _NLL_FULL = 0.03, 0.10


def make_task(config: TrainConfig) -> Task:
    """The task of a run, on the shipped body."""
    if config.task == "finder":
        from .finder import make_finder_task

        return make_finder_task(config)
    from ..body.assets import load_body
    from ..body.model import joint_shares, outline_vertices

    body = load_body()
    chain = JointChain(body.joint_template, body.joint_shapedirs, body.parents)
    points = outline_vertices(body, _SKIN_POINTS)
    skin = SkinPoints(body.v_template[points], body.shapedirs[points], joint_shares(body, points))
    name = "RegressorSource" if config.task == "regressor" else "JointSource"
    kwargs = {"count": config.made, **config.data}
    train = SourceSpec("densefit_ros.train.sources", name, {"seed": config.seed, **kwargs})
    held_out_kwargs = {"seed": VALIDATION_SEED, **kwargs, "held_out": True}
    if name == "JointSource":
        # On disturbed starts alone scores of different networks can be compared.
        held_out_kwargs |= {"estimated": 0.0, "left": 0.0}
    held_out = SourceSpec("densefit_ros.train.sources", name, held_out_kwargs)
    if config.task != "regressor":
        from .joint import JointTask

        return JointTask(train, held_out, chain, skin, displacement_only=config.task == "displacement")
    return RegressorTask(train, held_out, chain, skin)


def likelihood_share(progress: float) -> float:
    """How much of the displacement's likelihood counts: none at first, so that variances start from sensible errors."""
    return min(max((progress - _NLL_FROM) / (_NLL_FULL - _NLL_FROM), 0.0), 1.0)


def displacement_metrics_of(net: nn.Module, batches: list[Batch], device: str) -> Metrics:
    """:func:`displacement_metrics` of a JointNet's answers to the first start of each picture."""
    rows: list[tuple[np.ndarray, ...]] = []
    for batch in batches:
        t = to_tensors({"image": batch["image"], "rendering": batch["rendering"][:, :1]}, device)
        with torch.inference_mode():
            flow, log_var, _ = net.displace(net.regressor.trunk(t["image"]), t["rendering"])
        target, valid, visible = (batch[name][:, 0] for name in ("flow", "valid", "visible"))
        rows.append((flow.float().cpu().numpy(), log_var.float().cpu().numpy()[:, 0], np.float32(target), valid, visible))
    return displacement_metrics(*(np.concatenate(x) for x in zip(*rows)))


def displacement_metrics(
    flow: np.ndarray, log_var: np.ndarray, target: np.ndarray, valid: np.ndarray, visible: np.ndarray
) -> Metrics:
    """EPE over visible cells against that of zero displacement, per start size, and calibration.

    flow, target (N,2,h,w) crop px; log_var (N,h,w); valid, visible (N,h,w) -> named means over cells.  ``z2`` is the mean of
    squared error over predicted variance, per component: 1 when calibrated (on visible and hidden cells together, as the
    fit sees them).
    """
    error = np.linalg.norm(flow - target, axis=1)
    length = np.linalg.norm(target, axis=1)
    seen = valid & visible
    sigma = np.exp(0.5 * log_var)
    start = (length * seen).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)
    out: Metrics = {"epe_px": _mean(error, seen), "zero_px": _mean(length, seen)}
    out["epe_ratio"] = out["epe_px"] / max(out["zero_px"], 1e-9)
    for name, low, high in (("small", 0.0, 3.0), ("medium", 3.0, 8.0), ("large", 8.0, np.inf)):
        own = seen & ((start >= low) & (start < high))[:, None, None]
        out[f"epe_{name}_px"], out[f"zero_{name}_px"] = _mean(error, own), _mean(length, own)
    out["epe_hidden_px"] = _mean(error, valid & ~visible)
    out["z2"] = _mean(0.5 * (error / sigma) ** 2, valid)
    # What the fit gains most from: the surer half of the cells.
    sure = seen & (sigma <= np.median(sigma[seen]) if seen.any() else seen)
    out["epe_sure_px"], out["zero_sure_px"] = _mean(error, sure), _mean(length, sure)
    out["score"] = out["epe_px"]
    return out


class RegressorTask:
    """Predict the body's parameters from a crop."""

    def __init__(self, spec: SourceSpec, validation_spec: SourceSpec, chain: JointChain, skin: SkinPoints) -> None:
        self.spec, self.validation_spec, self._chain, self._skin = spec, validation_spec, chain, skin
        self._weights = RegressorWeights()

    def network(self, config: dict[str, Any]) -> nn.Module:
        return RegressorNet(**config)

    def loss(self, net: nn.Module, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss_of(net(batch["image"], batch["intrinsics"], True), batch, progress)

    def loss_of(self, answers: tuple[Tensor, ...], batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """From the network's outputs with the training-only ones."""
        *values, attention, guide, shown = answers
        outputs = dict(zip(RegressorNet.OUTPUTS, values))
        chain, skin = (x.to(batch["betas"].device) for x in (self._chain, self._skin))
        aspect = batch["image"].shape[2] / batch["image"].shape[1]
        with torch.autocast(batch["betas"].device.type, enabled=False):
            total, parts = regressor_loss(outputs, batch, chain, skin, self._weights, aspect)
            guided = guide_loss(guide, batch["body_colour"])
            told_apart = part_loss(shown, batch["body_part"])
            aimed = attention_loss(attention, batch["joints_uv"], batch["person"])
        w = self._weights
        total = total + w.attention * aimed + (1.0 - 0.8 * progress) * (w.guide * guided + w.parts * told_apart)
        return total, {**parts, "guide": guided.detach(), "parts": told_apart.detach(), "attention": aimed.detach()}

    def validate(self, net: nn.Module, batches: list[Batch], device: str) -> Metrics:
        """Joint errors in mm and crop share, calibration of the rotations, and the share of persons told from none."""
        rows: list[Metrics] = []
        chain, skin = self._chain.to(device), self._skin.to(device)
        for batch in batches:
            t = to_tensors(batch, device)
            with torch.inference_mode():
                out = dict(zip(RegressorNet.OUTPUTS, net(t["image"], t["intrinsics"])))
                rot = rotmat_from_rot6d_rows(out["rot6d_rows"])
                joints, points = skin.posed(chain, rot, out["betas"])
                truth, points_truth = skin.posed(chain, t["rotmat"], t["betas"])
                off = (points - points_truth).norm(dim=-1).mean(-1).cpu().numpy()
                angle = angle_between(rot, t["rotmat"])
                z2 = (angle**2 / 3 * torch.exp(-out["rot_log_var"])).cpu().numpy()
                placed = (out["joints_uv"] - t["joints_uv"]).norm(dim=-1).cpu().numpy()
            person = batch["person"]
            inside = in_view(t["joints_uv"], t["image"].shape[2] / t["image"].shape[1]).cpu().numpy()
            a, b = joints.cpu().numpy()[person], truth.cpu().numpy()[person]
            scale = (out["cam"][:, 2] - t["cam"][:, 2]).abs().cpu().numpy()
            pelvis = (out["cam"][:, :2] - t["cam"][:, :2]).norm(dim=-1).cpu().numpy()
            sure = out["confidence"].cpu().numpy() > 0.5
            rows.append(
                {
                    "mpjpe_mm": float(1000 * np.linalg.norm(a - b, axis=-1).mean()),
                    "skin_mm": float(1000 * off[person].mean()),
                    "angle_deg": float(np.degrees(angle.cpu().numpy()[person].mean())),
                    "placed": float(placed[person][inside[person]].mean()),
                    "pck05": float((placed[person][inside[person]] < 0.05).mean()),
                    "pelvis_uv": float(pelvis[person].mean()),
                    "log_scale": float(scale[person].mean()),
                    "rot_z2": float(z2[person].mean()),
                    "told": float((sure == person).mean()),
                }
            )
        result = {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}
        return result | {"score": result["mpjpe_mm"] + 500 * result["placed"]}


def _mean(values: np.ndarray, mask: np.ndarray) -> float:
    return float(values[mask].mean()) if mask.any() else 0.0
