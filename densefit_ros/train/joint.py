"""Both networks trained as one: their image trunks are the same module, so each learns from what the other is taught.

A picture costs most of a sample, in making and in learning; here one picture teaches the trunk the person's parameters and
serves several renderings.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..displace.network import DisplacementNet
from ..regress.network import RegressorNet
from ..runtime.torch_trunk import Features
from .data import Batch, SourceSpec
from .loop import Metrics
from .losses import displacement_loss, match_loss
from .tasks import DisplacementTask, RegressorTask, likelihood_share
from .torch_body import JointChain


class JointNet(nn.Module):
    """Regressor and displacement network around one trunk.

    forward(image (B,S,S,3) uint8, intrinsics (B,4), rendering (B,K,S,S,10)) -> the regressor's outputs with its
    training-only ones, and flow, log_var and scores of the B*K renderings.
    """

    def __init__(self, regressor: dict[str, Any] | None = None, displacement: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.regressor = RegressorNet(**(regressor or {}))
        self.displacement = DisplacementNet(**(displacement or {}))
        self.displacement.trunk = self.regressor.trunk
        self.config = {"regressor": self.regressor.config, "displacement": self.displacement.config}

    def forward(self, image: Tensor, intrinsics: Tensor, rendering: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        features = self.regressor.trunk(image)
        starts = rendering.shape[1]
        repeated = Features(*(f.repeat_interleave(starts, 0) for f in features))
        planes = self.displacement.normalise(rendering.flatten(0, 1))
        return self.regressor.answer(features, intrinsics, True), self.displacement.answer(repeated, planes)


class JointTask:
    """The regressor's and the displacement network's losses, added."""

    def __init__(self, spec: SourceSpec, validation_spec: SourceSpec, chain: JointChain) -> None:
        self.spec, self.validation_spec = spec, validation_spec
        self._regressor = RegressorTask(spec, validation_spec, chain)
        self._displacement = DisplacementTask(spec, validation_spec)

    def network(self, config: dict[str, Any]) -> nn.Module:
        return JointNet(**config)

    def loss(self, net: nn.Module, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        answers, (flow, log_var, scores) = net(batch["image"], batch["intrinsics"], batch["rendering"])
        total, parts = self._regressor.loss_of(answers, batch, progress)
        pairs = {name: batch[name].flatten(0, 1) for name in ("flow", "valid", "visible")}
        share, w = likelihood_share(progress), self._displacement.weights
        moved, moved_parts = displacement_loss(flow, log_var, **_targets(pairs), nll_share=share, w=w)
        matched = match_loss(scores, pairs["flow"], pairs["valid"], pairs["visible"])
        total = total + moved + (1.0 - 0.8 * progress) * w.match * matched
        return total, {**parts, **moved_parts, "match": matched.detach()}

    def validate(self, net: nn.Module, batches: list[Batch], device: str) -> Metrics:
        """Both tasks' metrics; the score weighs a tenth less joint error as much as a tenth less displacement error."""
        pairs = [_first_start(b) for b in batches]
        placed = self._regressor.validate(net.regressor, batches, device)
        moved = self._displacement.validate(net.displacement, pairs, device)
        metrics = {**placed, **moved}
        metrics["score"] = placed["mpjpe_mm"] / 200 + moved["epe_ratio"]
        return metrics


def _targets(pairs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"target": pairs["flow"], "valid": pairs["valid"], "visible": pairs["visible"]}


def _first_start(batch: Batch) -> Batch:
    return {**batch, **{name: batch[name][:, 0] for name in ("rendering", "flow", "valid", "visible")}}
