"""The displacement network: image and rendering in, one 2D displacement and its variance per 4x4 crop pixels out.

A U-Net of ordinary convolutions with a stride-2 stem, so that the full-resolution planes are touched once, and in its
decoder, at an eighth of the resolution, one global matching step: every cell of the rendering asks every cell of the
image whether it shows the same point of the body (softmax of feature products; Xu et al., "GMFlow", CVPR 2022, use it for
optical flow).  Convolutions alone have to find the match by shifting features about; asked for that they answered zero
for the first ten thousand samples, while the matching step learns from the first hundred.  Convolutions then refine it to
a quarter of the resolution.

The layer kinds were chosen by measurement on the target: at this size ordinary 3x3 convolutions train two to four times
faster on a CPU than depthwise ones and run equally fast in ONNX Runtime.  Widths are multiples of 16, the block of its AVX-512
kernels: others are padded to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.torch_blocks import Residual, bounded, conv, double, fuse

# Standard deviations outside [0.2, 33] crop px carry no information at 192 px: the bounds keep the likelihood finite.
LOG_VAR_MIN, LOG_VAR_MAX = -3.2, 7.0
_RAW_START = 0.4  # a fresh network claims a standard deviation of about 5 px
_FLOW_UNIT_PX = 8.0  # the last layer works in units of a typical displacement
_DEPTH_UNIT_M = 0.3
_RENDER_CHANNELS = 10
# Trained at 128 px and answering 192 px crops from a smaller copy: with minutes of CPU training, 2.25 times as many
# samples bring more than the finer grid, and inference takes 5.5 instead of 8.3 ms.
WORKING_SIZE_PX = 128
MATCH_STRIDE_PX = 8
_REACH_CELLS = 5.0  # standard deviation of the matching step's prior: near cells first


class DisplacementNet(nn.Module):
    """U-Net with a matching step over the concatenation of image, rendering and mask.

    forward(image (P,S,S,3) uint8, rendering (P,S,S,10) float32) -> flow (P,2,S/4,S/4) crop px, log_var (P,1,S/4,S/4).
    Rendering channels: rgb in [0,1], depth relative to the person's mean in m, unit normals, vertex colours in [0,1];
    the mask is where vertex colours are non-zero.  S is a multiple of 32.  A fresh network predicts zero flow.
    ``fused`` builds the inference form, with batch normalisation folded into the convolutions.
    """

    def __init__(
        self, widths: Sequence[int] = (32, 48, 64, 96, 144), bottleneck_blocks: int = 1, match: int = 32, fused: bool = False
    ) -> None:
        super().__init__()
        w0, w1, w2, w3, w4 = widths
        self.config = {"widths": list(widths), "bottleneck_blocks": bottleneck_blocks, "match": match}
        self.stem = conv(3 + _RENDER_CHANNELS + 1, w0, 3, 2)
        self.down4 = nn.Sequential(conv(w0, w1, 3, 2), Residual(w1))
        self.down8 = nn.Sequential(conv(w1, w2, 3, 2), Residual(w2))
        self.down16 = nn.Sequential(conv(w2, w3, 3, 2), Residual(w3))
        self.down32 = nn.Sequential(conv(w3, w4, 3, 2), *(Residual(w4) for _ in range(bottleneck_blocks)))
        self.up16 = conv(w4 + w3, w3)
        self.up8 = conv(w3 + w2, w2)
        self.query = nn.Conv2d(w2, match, 1)
        self.key = nn.Conv2d(w2, match, 1)
        self.up4 = conv(w2 + 3 + w1, w1)
        self.head = nn.Conv2d(w1, 3, 1)
        self.gate = nn.Parameter(torch.zeros(1))  # how much of the coarse match reaches the output
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
        """Crops larger than WORKING_SIZE_PX are answered from smaller copies, on their own grid and in their own pixels.

        ``guided`` appends what only training asks for: the guide (P,4,S/4,S/4), logit of "the person is seen here" and
        which point of the body (vertex colours), and the matching step's scores (P,N,N) over the N = (S/8)^2 cells."""
        planes = self.normalise(image, rendering)
        side = image.shape[1]
        if side > WORKING_SIZE_PX and not guided:
            planes = F.interpolate(planes, (WORKING_SIZE_PX, WORKING_SIZE_PX), mode="bilinear", align_corners=False)
            flow, log_var = self._predict(planes)
            zoom, grid = side / WORKING_SIZE_PX, (side // 4, side // 4)
            flow = zoom * F.interpolate(flow, grid, mode="bilinear", align_corners=False)
            log_var = F.interpolate(log_var, grid, mode="bilinear", align_corners=False) + 2.0 * math.log(zoom)
            return flow, log_var
        return self._predict(planes, guided)

    def _predict(self, planes: Tensor, guided: bool = False) -> tuple[Tensor, ...]:
        x = self.stem(planes)
        s4 = self.down4(x)
        s8 = self.down8(s4)
        s16 = self.down16(s8)
        s32 = self.down32(s16)
        s16 = self.up16(torch.cat([double(s32), s16], 1))
        s8 = self.up8(torch.cat([double(s16), s8], 1))
        matched, scores = self._match(s8)
        matched = F.interpolate(matched, scale_factor=2.0, mode="bilinear", align_corners=False)
        features = self.up4(torch.cat([double(s8), matched.to(s8.dtype), s4], 1))
        out = self.head(features).float()
        flow = _FLOW_UNIT_PX * out[:, :2] + MATCH_STRIDE_PX * self.gate * matched[:, :2]
        outputs = flow, bounded(out[:, 2:] + _RAW_START, LOG_VAR_MIN, LOG_VAR_MAX)
        return (*outputs, self.guide(features).float(), scores) if guided else outputs

    def _match(self, s8: Tensor) -> tuple[Tensor, Tensor]:
        """Features at stride 8 -> displacement and spread (P,3,h,w) in cells, and the scores (P,h*w,h*w)."""
        rows, columns = s8.shape[2:]
        query, key = self.query(s8).float(), self.key(s8).float()
        with torch.autocast(s8.device.type, enabled=False):
            u = torch.arange(columns, device=s8.device, dtype=torch.float32) - 0.5 * (columns - 1)
            v = torch.arange(rows, device=s8.device, dtype=torch.float32) - 0.5 * (rows - 1)
            place = torch.stack([u.repeat(rows), v.repeat_interleave(columns)], -1)  # (N,2) cells
            length2 = (place * place).sum(-1)
            # The prior -|x_i - x_j|^2 / (2 reach^2), without the term that a softmax over j does not see, is a product
            # too: three more channels instead of a pass over all N x N scores.
            near = torch.cat([place, torch.ones_like(length2)[:, None]], 1).T
            far = torch.cat([place, -0.5 * length2[:, None]], 1).T / _REACH_CELLS**2
            persons = s8.shape[0]  # not len(): the exporter would write it down as a constant
            query = torch.cat([query.flatten(2) * query.shape[1] ** -0.5, near.expand(persons, -1, -1)], 1)
            key = torch.cat([key.flatten(2), far.expand(persons, -1, -1)], 1)
            scores = query.transpose(1, 2) @ key
            found = scores.softmax(-1) @ torch.cat([place, length2[:, None]], 1)  # (P,N,3)
            move = found[..., :2] - place
            spread = (found[..., 2:] - (found[..., :2] ** 2).sum(-1, keepdim=True)) / _REACH_CELLS**2
            matched = torch.cat([move, spread], -1).transpose(1, 2).unflatten(2, (rows, columns))
        return matched, scores

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
