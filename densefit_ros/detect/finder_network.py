"""The person finder's network: a small picture in, one centre logit and one box per 8 x 8 pixels out.

People are centre points (Zhou, Wang, Kraehenbuehl, "Objects as Points", 2019).  Ordinary convolutions down to a stride of
32, whose field of view spans the window, and back up to 8: what is a person at 20 px and at 250 px is decided in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..runtime.torch_blocks import Residual, conv, double, fuse

_RARE_LOGIT = -4.0  # a fresh network expects a person in one cell of fifty: the many empty cells must not drown the start
_START_LOG_SIZE = (1.2, 2.0)  # 27 x 59 px


class FinderNet(nn.Module):
    """forward(image (P,H,W,3) uint8) -> heat (P,1,H/8,W/8) logits, box (P,4,H/8,W/8); meaning in detect/contract.py.

    H and W are multiples of 32.  ``fused`` builds the inference form, with batch normalisation folded.
    """

    OUTPUTS = ("heat", "box")
    guide: nn.Module | None

    def __init__(
        self,
        widths: Sequence[int] = (16, 24, 40, 64, 96),
        blocks: Sequence[int] = (1, 1, 1, 1),
        neck: int = 48,
        fused: bool = False,
    ) -> None:
        super().__init__()
        w0, w1, w2, w3, w4 = widths
        n4, n8, n16, n32 = blocks
        self.config = {"widths": list(widths), "blocks": list(blocks), "neck": neck}
        self.stem = conv(3, w0, 3, 2)
        self.down4 = nn.Sequential(conv(w0, w1, 3, 2), *(Residual(w1) for _ in range(n4)))
        self.down8 = nn.Sequential(conv(w1, w2, 3, 2), *(Residual(w2) for _ in range(n8)))
        self.down16 = nn.Sequential(conv(w2, w3, 3, 2), *(Residual(w3) for _ in range(n16)))
        self.down32 = nn.Sequential(conv(w3, w4, 3, 2), *(Residual(w4) for _ in range(n32)))
        self.up16 = conv(w4 + w3, w3, 1)
        self.up8 = conv(w3 + w2, neck)
        self.mix = conv(neck, neck)
        self.heat = nn.Conv2d(neck, 1, 1)
        self.box = nn.Conv2d(neck, 4, 1)
        self.guide = nn.Conv2d(neck, 1, 1)
        nn.init.normal_(self.heat.weight, std=1e-2)
        nn.init.constant_(self.heat.bias, _RARE_LOGIT)
        nn.init.normal_(self.box.weight, std=1e-2)
        with torch.no_grad():
            self.box.bias.copy_(torch.tensor([0.0, 0.0, *_START_LOG_SIZE]))
        if fused:
            self.finish()

    def finish(self) -> FinderNet:
        """Take the inference form, in place: normalisation folded, no training-only head."""
        fuse(self)
        self.guide = None
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        s8 = self.features(image)
        return self.heat(s8).float(), self.box(s8).float()

    def forward_guided(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Also (P,1,H/8,W/8): logit of "a person is seen here".

        For training: every cell has its say in it, centres have one per person, so what people look like is learnt from it
        in fewer samples.
        """
        s8 = self.features(image)
        return self.heat(s8).float(), self.box(s8).float(), self.guide(s8).float()

    def features(self, image: Tensor) -> Tensor:
        """(P,neck,H/8,W/8): what the heads read."""
        x = (image.permute(0, 3, 1, 2).float() - 115.0) / 64.0
        s8 = self.down8(self.down4(self.stem(x)))
        s16 = self.down16(s8)
        s32 = self.down32(s16)
        s16 = self.up16(torch.cat([double(s32), s16], 1))
        return self.mix(self.up8(torch.cat([double(s16), s8], 1)))
