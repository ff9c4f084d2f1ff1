"""How gradients become steps: AdamW, or Muon for filters with AdamW for everything else.

Muon (torch.optim.Muon) orthogonalises the momentum of a matrix, so that all of its directions move equally far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import BackendUnavailable

_MUON_MOMENTUM = 0.95


class Stepper:
    """The optimisers of one network; convolutions of 3x3 and wider are what Muon steps, as matrices of one row an output.

    Heads stay with AdamW, as do biases, normalisations and maps of one pixel, many of which are heads.
    """

    def __init__(self, net: nn.Module, name: str, lr: float, weight_decay: float) -> None:
        parameters = [p for p in net.parameters() if p.requires_grad]
        filters = [p for p in parameters if name == "muon" and p.ndim == 4 and p.shape[2] > 1]
        chosen = {id(p) for p in filters}
        rest = [p for p in parameters if id(p) not in chosen]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._all: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, fused=True)]  # half the time on a CPU
        # Muon takes matrices alone: these share their numbers with the filters, which lie channels last in memory.
        self._matrices = [(p, nn.Parameter(p.data.permute(0, 2, 3, 1).view(len(p), -1))) for p in filters]
        if filters and not hasattr(torch.optim, "Muon"):
            raise BackendUnavailable(f"--optimizer muon: torch has it from version 2.9 on, this is {torch.__version__}")
        if filters:
            matrices = [m for _, m in self._matrices]
            # Steps as large as AdamW's usually are: one rate serves both.
            self._all.append(
                torch.optim.Muon(
                    matrices, lr=lr, weight_decay=weight_decay, momentum=_MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw"
                )
            )

    def step(self, lr: float) -> None:
        """Apply the parameters' gradients."""
        for filters, matrix in self._matrices:
            matrix.grad = None if filters.grad is None else filters.grad.permute(0, 2, 3, 1).flatten(1)
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)
