"""The image encoder of both networks: an ordinary convolutional encoder with a short decoder to an eighth of the crop.

Regressor and displacement network each carry a copy, so that either file runs alone, and both copies are trained as one
(``densefit train joint``): finding the body's points in a picture is what both have to learn, and nearly all of what they
have to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .torch_blocks import Residual, conv, double

# Crops are read at half their side: training and inference cost a quarter, and with the number of people that a CPU can
# show a network in hours, more people were worth more than a finer grid.
WORKING_SIZE_PX = 96
WIDTHS = (24, 32, 64, 112, 176)
BLOCKS = (1, 2, 2, 1)
NECK = 48


class Features(NamedTuple):
    """What the trunk says of S x S pictures."""

    s4: Tensor  # (P,widths[1],S/4,S/4): edges and colours
    s8: Tensor  # (P,2*neck,S/8,S/8): decoded; knows what it looks at
    s32: Tensor  # (P,widths[4],S/32,S/32)


def reduced(planes: Tensor, size_px: int) -> Tensor:
    """(P,C,S,S) to (P,C,size,size) where S is larger: means of pixels if it is a multiple, else bilinear."""
    side = planes.shape[-1]
    if side <= size_px:
        return planes
    if side % size_px == 0:
        return F.avg_pool2d(planes, side // size_px)
    return F.interpolate(planes, (size_px, size_px), mode="bilinear", align_corners=False)


class Trunk(nn.Module):
    """forward(image (P,S,S,3) uint8) -> Features of the picture at ``size`` px or, where that is smaller, its own size."""

    def __init__(
        self, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = BLOCKS, neck: int = NECK, size: int = WORKING_SIZE_PX
    ) -> None:
        super().__init__()
        self.size = size
        self.stem = conv(3, widths[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(conv(inputs, width, 3, 2), *(Residual(width) for _ in range(count)))
            for inputs, width, count in zip(widths, widths[1:], blocks)
        )
        self.up16 = conv(widths[4] + widths[3], widths[3])
        self.up8 = conv(widths[3] + widths[2], 2 * neck)

    def forward(self, image: Tensor) -> Features:
        x = (reduced(image.permute(0, 3, 1, 2).float(), self.size) - 115.0) / 64.0
        s4 = self.stages[0](self.stem(x))
        s8 = self.stages[1](s4)
        s16 = self.stages[2](s8)
        s32 = self.stages[3](s16)
        s16 = self.up16(torch.cat([double(s32), s16], 1))
        s8 = self.up8(torch.cat([double(s16), s8], 1))
        return Features(s4, s8, s32)
