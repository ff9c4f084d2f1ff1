"""The image encoder: an ordinary convolutional encoder with a short decoder to an eighth of the crop.

It is part of the regressor, and the displacement network reads the same features: finding the body's points in a picture is
what both have to learn, and nearly all of what they have to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..geometry.crop import columns_seen
from .torch_blocks import Residual, conv, double

# Chosen with crops of 128 px: at 96, and with (24, 32, 64, 112, 176) and (1, 2, 2, 1), both networks stood still at a held-out
# joint error of 175 mm.  (24, 32, 64, 128, 192) and (1, 2, 4, 3), trained until held-out errors were those of the training
# pictures, came to 112.7 mm; grown from there 110.9 mm, for a call of 2.5 instead of 1.6 ms in bfloat16 (docs/DECISIONS.md).
WIDTHS = (24, 32, 96, 192, 256)
BLOCKS = (1, 2, 6, 3)
NECK = 48


class Features(NamedTuple):
    """What the trunk says of the middle columns, W wide, of S x S pictures."""

    s4: Tensor  # (P,widths[1],S/4,W/4): edges and colours
    s8: Tensor  # (P,2*neck,S/8,W/8): decoded; knows what it looks at
    s32: Tensor  # (P,widths[4],S/32,W/32)


class Trunk(nn.Module):
    """forward(image (P,S,S,3) uint8) -> Features; S is a multiple of 32.

    Of square pictures it sees the columns of :func:`densefit_ros.geometry.crop.columns_seen`; (P,S,W,3) are these alone.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = BLOCKS, neck: int = NECK) -> None:
        super().__init__()
        self.stem = conv(3, widths[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(conv(inputs, width, 3, 2), *(Residual(width) for _ in range(count)))
            for inputs, width, count in zip(widths, widths[1:], blocks)
        )
        self.up16 = conv(widths[4] + widths[3], widths[3])
        self.up8 = conv(widths[3] + widths[2], 2 * neck)

    def forward(self, image: Tensor) -> Features:
        if image.shape[2] == image.shape[1]:
            image = image[:, :, columns_seen(int(image.shape[1]))]
        x = (image.permute(0, 3, 1, 2).float() - 115.0) / 64.0
        s4 = self.stages[0](self.stem(x))
        s8 = self.stages[1](s4)
        s16 = self.stages[2](s8)
        s32 = self.stages[3](s16)
        s16 = self.up16(torch.cat([double(s32), s16], 1))
        s8 = self.up8(torch.cat([double(s16), s8], 1))
        return Features(s4, s8, s32)
