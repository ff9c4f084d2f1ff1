"""Both networks trained as one: the displacement network reads what the regressor's image trunk makes of a picture.

A picture costs most of a sample, in making and in learning; here one picture teaches the trunk the person's parameters and
serves several renderings.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..displace.network import DisplacementNet
from ..regress.network import RegressorNet
from ..runtime.torch_trunk import Features
from .data import Batch, SourceSpec
from .loop import Metrics
from .losses import DisplacementWeights, displacement_loss, match_loss
from .tasks import RegressorTask, displacement_metrics_of, likelihood_share
from .through_fit import NAMES as FIT_NAMES
from .through_fit import fit_loss
from .torch_body import JointChain, SkinPoints

Moves = tuple[Tensor, Tensor, tuple[Tensor, Tensor]]  # flow, log_var, and the match's queries and keys


class JointNet(nn.Module):
    """Regressor, and a displacement network on its trunk.

    forward(image (B,S,S,3) uint8, intrinsics (B,4), rendering (B,K,S,W,11)) -> the regressor's outputs with its
    training-only ones, and flow, log_var, queries and keys of the B*K renderings.
    """

    def __init__(self, regressor: dict[str, Any] | None = None, displacement: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.regressor = RegressorNet(**(regressor or {}))
        trunk = self.regressor.config
        self.displacement = DisplacementNet(**{"fine": trunk["widths"][1], "neck": trunk["neck"], **(displacement or {})})
        self.config = {"regressor": self.regressor.config, "displacement": self.displacement.config}

    def forward(self, image: Tensor, intrinsics: Tensor, rendering: Tensor) -> tuple[tuple[Tensor, ...], Moves]:
        features = self.regressor.trunk(image)
        return self.regressor.answer(features, intrinsics, True), self.displace(features, rendering)

    def displace(self, features: Features, rendering: Tensor) -> Moves:
        """flow, log_var, queries and keys of (B,K,S,W,11) renderings on the features of B pictures."""
        s4, s8 = features.s4, features.s8
        if rendering.shape[1] > 1:  # a copy would lose the order in memory that convolutions want: 2 to 8 % of a step
            s4, s8 = (f.repeat_interleave(rendering.shape[1], 0) for f in (s4, s8))
        return self.displacement.answer(s4, s8, rendering.flatten(0, 1))


class JointTask:
    """The regressor's and the displacement network's losses, added; or the latter's alone, on a trunk that stays as it is."""

    def __init__(
        self,
        spec: SourceSpec,
        validation_spec: SourceSpec,
        chain: JointChain,
        skin: SkinPoints,
        displacement_only: bool = False,
    ) -> None:
        self.spec, self.validation_spec, self._alone = spec, validation_spec, displacement_only
        self._regressor = RegressorTask(spec, validation_spec, chain, skin)
        self._weights = DisplacementWeights()

    def network(self, config: dict[str, Any]) -> nn.Module:
        net = JointNet(**config)
        net.regressor.requires_grad_(not self._alone)
        return net

    def loss(self, net: nn.Module, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        if self._alone:
            net.regressor.eval()  # running statistics stay too
            with torch.no_grad():
                features = net.regressor.trunk(batch["image"])
            moves = net.displace(features, batch["rendering"])
            total, parts = 0.0, {}
        else:
            answers, moves = net(batch["image"], batch["intrinsics"], batch["rendering"])
            total, parts = self._regressor.loss_of(answers, batch, progress)
        moved, moved_parts = self._displacement_loss(moves, batch, progress)
        fitted, fitted_parts = self._fit_loss(moves, batch, progress)
        return total + moved + fitted, {**parts, **moved_parts, **fitted_parts}

    def _displacement_loss(self, moves: Moves, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        flow, log_var, (query, key) = moves
        target, valid, visible = (batch[name].flatten(0, 1) for name in ("flow", "valid", "visible"))
        share, w = likelihood_share(progress), self._weights
        moved, parts = displacement_loss(flow, log_var, target, valid, visible, nll_share=share, w=w)
        matched = match_loss(query, key, target, valid, visible)
        return moved + (1.0 - 0.8 * progress) * w.match * matched, {**parts, "match": matched.detach()}

    def _fit_loss(self, moves: Moves, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        flow, log_var, _ = moves
        labels = {name: batch[name].flatten(0, 1) for name in FIT_NAMES}
        with torch.autocast(flow.device.type, enabled=False):
            fitted, off_mm = fit_loss(flow, log_var, batch["flow"].flatten(0, 1), labels)
        weighted = likelihood_share(progress) * self._weights.fit * fitted  # it reads variances: not before they are learnt
        return weighted, {"fit": fitted.detach(), "fit_mm": off_mm}

    def validate(self, net: nn.Module, batches: list[Batch], device: str) -> Metrics:
        """Both tasks' metrics; the score weighs a tenth less joint error as much as a tenth less displacement error."""
        placed = self._regressor.validate(net.regressor, batches, device)
        moved = displacement_metrics_of(net, batches, device)
        return {**placed, **moved, "score": placed["mpjpe_mm"] / 200 + moved["epe_ratio"]}
