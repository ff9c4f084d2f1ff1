"""Inputs of the networks in training."""

from __future__ import annotations

import torch


def inputs(people: int = 2, starts: int = 2, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """image (P,S,W,3), intrinsics (P,4), rendering (P,K,S,W,11) of a JointNet, W half of S; the same every time."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (people, size, size // 2, 3), generator=generator, dtype=torch.uint8)
    rendering = torch.rand((people, starts, size, size // 2, 11), generator=generator)
    return image, torch.tensor([[3.0, 3.0, 0.5, 0.5]]).repeat(people, 1), rendering
