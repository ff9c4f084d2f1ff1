"""The displacement network: image and rendering in, one 2D displacement and its variance per 4x4 crop pixels out.

A U-Net of ordinary convolutions with a stride-2 stem, so that the full-resolution planes are touched once.  The layer
kinds were chosen by measurement on the target: at this size ordinary 3x3 convolutions train two to four times faster on
a CPU than depthwise ones and run equally fast in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..runtime.torch_blocks import Residual, bounded, conv, double, fuse

# Standard deviations outside [0.2, 33] crop px carry no information at 192 px: the bounds keep the likelihood finite.
LOG_VAR_MIN, LOG_VAR_MAX = -3.2, 7.0
_RAW_START = 0.4  # a fresh network claims a standard deviation of about 5 px
_FLOW_UNIT_PX = 8.0  # the last layer works in units of a typical displacement
_DEPTH_UNIT_M = 0.3
_RENDER_CHANNELS = 10


class DisplacementNet(nn.Module):
    """U-Net over the concatenation of image, rendering and mask.

    forward(image (P,S,S,3) uint8, rendering (P,S,S,10) float32) -> flow (P,2,S/4,S/4) crop px, log_var (P,1,S/4,S/4).
    Rendering channels: rgb in [0,1], depth relative to the person's mean in m, unit normals, vertex colours in [0,1];
    the mask is where vertex colours are non-zero.  S is a multiple of 32.  A fresh network predicts zero flow.
    ``fused`` builds the inference form, with batch normalisation folded into the convolutions.
    """

    def __init__(self, widths: Sequence[int] = (24, 40, 64, 96, 160), bottleneck_blocks: int = 1, fused: bool = False) -> None:
        super().__init__()
        w0, w1, w2, w3, w4 = widths
        self.config = {"widths": list(widths), "bottleneck_blocks": bottleneck_blocks}
        self.stem = conv(3 + _RENDER_CHANNELS + 1, w0, 3, 2)
        self.down4 = nn.Sequential(conv(w0, w1, 3, 2), Residual(w1))
        self.down8 = nn.Sequential(conv(w1, w2, 3, 2), Residual(w2))
        self.down16 = nn.Sequential(conv(w2, w3, 3, 2), Residual(w3))
        self.down32 = nn.Sequential(conv(w3, w4, 3, 2), *(Residual(w4) for _ in range(bottleneck_blocks)))
        self.up16 = conv(w4 + w3, w3)
        self.up8 = conv(w3 + w2, w2)
        self.up4 = conv(w2 + w1, w1)
        self.head = nn.Conv2d(w1, 3, 1)
        self.guide: nn.Module | None = nn.Conv2d(w1, 4, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if fused:
            self.finish()

    def finish(self) -> DisplacementNet:
        """Take the inference form, in place: normalisation folded, no training-only head."""
        fuse(self)
        self.guide = None
        return self

    def forward(self, image: Tensor, rendering: Tensor, guided: bool = False) -> tuple[Tensor, ...]:
        """``guided`` appends (P,4,S/4,S/4): logit of "the person is seen here", and which point of the body (vertex colours).

        That is for training: before it can match, the network has to read the image.  Asked for the match alone, it
        answers zero for the first thousands of samples.
        """
        x = self.stem(self.normalise(image, rendering))
        s4 = self.down4(x)
        s8 = self.down8(s4)
        s16 = self.down16(s8)
        s32 = self.down32(s16)
        s16 = self.up16(torch.cat([double(s32), s16], 1))
        s8 = self.up8(torch.cat([double(s16), s8], 1))
        features = self.up4(torch.cat([double(s8), s4], 1))
        out = self.head(features).float()
        outputs = _FLOW_UNIT_PX * out[:, :2], bounded(out[:, 2:] + _RAW_START, LOG_VAR_MIN, LOG_VAR_MAX)
        return (*outputs, self.guide(features).float()) if guided else outputs

    @staticmethod
    def normalise(image: Tensor, rendering: Tensor) -> Tensor:
        """NHWC inputs to the (P,14,S,S) planes that the convolutions see, zero on the rendering's background."""
        rgb = (image.permute(0, 3, 1, 2).float() - 115.0) / 64.0
        r = rendering.permute(0, 3, 1, 2)
        mask = (r[:, 7:10].sum(1, keepdim=True) > 0).float()
        own = (r[:, 0:3] - 0.45) * 4.0 * mask
        depth = (r[:, 3:4] / _DEPTH_UNIT_M).clamp(-4.0, 4.0)
        colours = (r[:, 7:10] - 0.5) * 3.0 * mask
        return torch.cat([rgb, own, depth, r[:, 4:7], colours, mask], 1)
