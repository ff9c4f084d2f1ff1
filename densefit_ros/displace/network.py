"""The displacement network: image features and rendering in, one 2D displacement and its variance per 4x4 crop pixels out.

The picture was read already, by the trunk of the regressor (:mod:`densefit_ros.runtime.torch_trunk`); the rendering is read by
an encoder of its own, which sees the picture's edges from a quarter and what the trunk makes of it from an eighth of the
resolution on.  There every cell of the rendering asks every cell of the picture whether it shows the same point of the
body (softmax of feature products; Xu et al., "GMFlow", CVPR 2022, use it for optical flow) and takes along what it finds
there.  Convolutions then refine the answer to a quarter of the resolution.

Measured rejections: a U-Net on image and rendering stacked, without matching, still answered zero after 10,000 samples; with
matching it learned to follow the person as a whole and left the limbs (220,000 samples; end-point error 0.55 of zero
displacement from starts 10 degrees a joint off, root-aligned joint error 0.92).  The layer kinds were chosen on the target:
at this size ordinary 3x3 convolutions train two to four times faster on a CPU than depthwise ones and run equally fast in
ONNX Runtime.  Widths are multiples of 16, the block of its AVX-512 kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.torch_blocks import Residual, bounded, conv, double, fuse
from ..runtime.torch_trunk import NECK, WIDTHS
from .contract import RENDER_CHANNELS

# Standard deviations outside [0.2, 33] crop px carry no information: the bounds keep the likelihood finite.
LOG_VAR_MIN, LOG_VAR_MAX = -3.2, 7.0
_RAW_START = 0.4  # a fresh network claims a standard deviation of about 5 px
_FLOW_UNIT_PX = 8.0  # the last layer works in units of a typical displacement
BLOCKS = (1, 3, 2, 1)
MATCH_STRIDE_PX = 8
_REACH_CELLS = 5.0  # standard deviation of the matching step's prior: near cells first
_FOUND_CHANNELS = 13  # with the match's three a multiple of 16


def _normalisation() -> Tensor:
    """(11,11): what filters read of a rendering's channels.  Colours are centred on the body, and stay 0 beside it."""
    rgb, depth, colours, mask = slice(0, 3), 3, slice(7, 10), 10
    planes = torch.eye(RENDER_CHANNELS)
    planes[rgb] *= 4.0
    planes[rgb, mask] = -4.0 * 0.45
    planes[depth] /= 0.3
    planes[colours] *= 3.0
    planes[colours, mask] = -3.0 * 0.5
    return planes


class RenderingConv(nn.Conv2d):
    """A convolution of the normalised rendering, on the rendering as it comes: normalising is linear, so the filters do it.

    As a step of its own, on the planes at full resolution, it took 2 of the network's 3.5 ms in OpenVINO.
    """

    def forward(self, rendering: Tensor) -> Tensor:
        return self._conv_forward(rendering, self.as_it_comes(self.weight), self.bias)

    @staticmethod
    def as_it_comes(filters: Tensor) -> Tensor:
        """Filters (O,11,k,k) of normalised channels as those of the rendering's own."""
        return torch.einsum("oikl,ij->ojkl", filters, _normalisation().to(filters))

    @staticmethod
    def as_normalised(filters: Tensor) -> Tensor:
        """The inverse of ``as_it_comes``."""
        return torch.einsum("oikl,ij->ojkl", filters, torch.linalg.inv(_normalisation()).to(filters))


class DisplacementNet(nn.Module):
    """forward(s4, s8, rendering (P,S,W,11) float32) -> flow (P,2,S/4,S/4) crop px, log_var (P,1,S/4,S/4).

    ``s4`` and ``s8`` are the trunk's of the picture.  All are of the columns that networks see; beyond these the answer is the
    largest variance.  Rendering channels: rgb in [0,1], depth relative to the person's mean in m, unit normals, vertex
    colours in [0,1], the mask (:func:`densefit_ros.displace.displacer.pack_rendering`).  S is a multiple of 32.  A fresh
    network predicts zero flow.  ``fused`` builds the inference form, with normalisation folded into the convolutions.
    """

    def __init__(
        self,
        fine: int = WIDTHS[1],
        neck: int = NECK,
        rendering: Sequence[int] = (16, 32, 64, 96, 96),
        match: int = 32,
        blocks: Sequence[int] = BLOCKS,
        fused: bool = False,
    ) -> None:
        """``fine`` and ``neck`` are the trunk's widths[1] and neck; ``blocks``: residual blocks at 1/8 of the rendering, 1/16
        and 1/32 of both, and 1/8 after the match."""
        super().__init__()
        r0, r1, r2, r3, r4 = rendering
        self.config = {"fine": fine, "neck": neck, "rendering": list(rendering), "match": match, "blocks": list(blocks)}
        self.render2 = conv(RENDER_CHANNELS, r0, 3, 2)
        self.render2[0] = RenderingConv(RENDER_CHANNELS, r0, 3, 2, 1, bias=False)
        self.render4 = conv(r0, r1, 3, 2)
        n8, n16, n32, m8 = blocks
        self.render8 = nn.Sequential(conv(r1 + fine, r2, 3, 2), *(Residual(r2) for _ in range(n8)))
        self.both8 = conv(r2 + 2 * neck, r2)
        self.both16 = nn.Sequential(conv(r2, r3, 3, 2), *(Residual(r3) for _ in range(n16)))
        self.both32 = nn.Sequential(conv(r3, r4, 3, 2), *(Residual(r4) for _ in range(n32)))
        self.up16 = conv(r4 + r3, r3)
        self.up8 = conv(r3 + r2, r2)
        self.query = nn.Conv2d(r2, match, 1)
        self.key = nn.Conv2d(2 * neck, match, 1)
        self.value = nn.Conv2d(2 * neck, _FOUND_CHANNELS, 1)
        self.found8 = conv(r2 + 3 + _FOUND_CHANNELS, r2)
        self.after8 = nn.Sequential(*(Residual(r2) for _ in range(m8)))
        self.up4 = conv(r2 + r1 + fine, r1)
        self.head = nn.Conv2d(r1, 3, 1)
        self.gate = nn.Parameter(torch.zeros(1))  # how much of the coarse match reaches the output
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if fused:
            self.finish()

    def finish(self) -> DisplacementNet:
        """Take the inference form, in place: normalisation folded."""
        fuse(self)
        first = self.render2[0]
        plain = nn.Conv2d(first.in_channels, first.out_channels, 3, 2, 1)
        plain.weight, plain.bias = nn.Parameter(first.as_it_comes(first.weight.detach())), first.bias
        self.render2[0] = plain
        return self

    def forward(self, s4: Tensor, s8: Tensor, rendering: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        flow, log_var, _ = self.answer(s4, s8, rendering)
        unseen = (int(rendering.shape[1]) - int(rendering.shape[2])) // 2
        beside = (unseen // 4, unseen // 4)
        return F.pad(flow, beside), F.pad(log_var, beside, value=LOG_VAR_MAX)

    def answer(self, s4: Tensor, s8: Tensor, rendering: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """As ``forward`` for the columns seen, and the match's queries and keys (P,N,D) of s8's N cells, for training."""
        own4 = self.render4(self.render2(rendering.permute(0, 3, 1, 2)))
        own8 = self.render8(torch.cat([own4, s4], 1))
        x8 = self.both8(torch.cat([own8, s8], 1))
        x16 = self.both16(x8)
        x16 = self.up16(torch.cat([double(self.both32(x16)), x16], 1))
        x8 = self.up8(torch.cat([double(x16), x8], 1))
        matched, found, asked = self._match(self.query(x8), self.key(s8), self.value(s8))
        x8 = self.after8(self.found8(torch.cat([x8, matched.to(x8.dtype), found.to(x8.dtype)], 1)))
        moved = F.interpolate(matched[:, :2], scale_factor=2.0, mode="bilinear", align_corners=False)
        out = self.head(self.up4(torch.cat([double(x8), own4, s4], 1))).float()
        flow = _FLOW_UNIT_PX * out[:, :2] + MATCH_STRIDE_PX * self.gate * moved
        return flow, bounded(out[:, 2:] + _RAW_START, LOG_VAR_MIN, LOG_VAR_MAX), asked

    def _match(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Displacement and spread (P,3,h,w) in cells, what was found there (P,C,h,w), and queries and keys (P,h*w,D)."""
        rows, columns = (int(n) for n in query.shape[2:])  # traced sizes become arithmetic that TensorRT cannot read
        query, key, value = query.float(), key.float(), value.float()
        with torch.autocast(query.device.type, enabled=False):
            u = torch.arange(columns, device=query.device, dtype=torch.float32) - 0.5 * (columns - 1)
            v = torch.arange(rows, device=query.device, dtype=torch.float32) - 0.5 * (rows - 1)
            place = torch.stack([u.repeat(rows), v.repeat_interleave(columns)], -1)  # (N,2) cells
            length2 = (place * place).sum(-1)
            # The prior -|x_i - x_j|^2 / (2 reach^2), without the term that a softmax over j does not see, is a product
            # too: three more channels instead of a pass over all N x N scores.
            near = torch.cat([place, torch.ones_like(length2)[:, None]], 1).T
            far = torch.cat([place, -0.5 * length2[:, None]], 1).T / _REACH_CELLS**2
            persons = query.shape[0]  # not len(): the exporter would write it down as a constant
            query = torch.cat([query.flatten(2) * query.shape[1] ** -0.5, near.expand(persons, -1, -1)], 1)
            key = torch.cat([key.flatten(2), far.expand(persons, -1, -1)], 1)
            query, key = query.transpose(1, 2), key.transpose(1, 2)
            read = torch.cat([torch.cat([place, length2[:, None]], 1).T.expand(persons, -1, -1), value.flatten(2)], 1)
            got = self._read(query, key, read.transpose(1, 2))  # (P,N,3+C)
            move = got[..., :2] - place
            spread = (got[..., 2:3] - (got[..., :2] ** 2).sum(-1, keepdim=True)) / _REACH_CELLS**2
            matched = torch.cat([move, spread], -1).transpose(1, 2).unflatten(2, (rows, columns))
            found = got[..., 3:].transpose(1, 2).unflatten(2, (rows, columns))
        return matched, found, (query, key)

    def _read(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mean of ``value`` (P,N,C) by the softmax of the products of queries and keys (P,N,D), C at most D."""
        if not self.training:
            return (query @ key.transpose(1, 2)).softmax(-1) @ value  # as exported
        # Without all N x N scores in memory: 66 instead of 170 ms for 24 pictures of 640 cells, forwards and backwards.
        own = value.shape[2]
        value = F.pad(value, (0, query.shape[2] - own))
        asked = (x[:, None].contiguous() for x in (query, key, value))  # of others the library makes the scores after all
        return F.scaled_dot_product_attention(*asked, scale=1.0)[:, 0, :, :own]
