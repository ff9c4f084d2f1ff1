"""Convolution blocks that all three networks are made of.  Imports torch: only network definitions and training do this."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution, batch normalisation and, unless told otherwise, ReLU; padded to keep the size over the stride."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Two 3x3 convolutions around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = conv(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def double(x: Tensor) -> Tensor:
    """(P,C,h,w) -> (P,C,2h,2w), nearest."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def bounded(raw: Tensor, low: float, high: float) -> Tensor:
    """Map any number into (low, high).  A sigmoid rather than a clamp: a clamped output has no gradient to return with."""
    return low + (high - low) * torch.sigmoid(raw)


def fuse(module: nn.Module) -> nn.Module:
    """Fold every batch normalisation into the convolution before it, in place, with its running statistics.

    The result is for inference: the same function as ``module.eval()``, with plain parameter names that survive export.
    """
    for child in module.modules():
        if not isinstance(child, nn.Sequential):
            continue
        for index in range(len(child) - 1):
            first, norm = child[index], child[index + 1]
            if isinstance(first, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                first.weight = nn.Parameter((first.weight * scale[:, None, None, None]).detach())
                first.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())
                child[index + 1] = nn.Identity()
    return module
