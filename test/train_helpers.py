"""Inputs of the networks in training."""

from __future__ import annotations

import torch


def inputs(people: int = 2, starts: int = 2, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """image (P,S,W,3), intrinsics (P,4), rendering (P,K,S,W,11) of a JointNet, W half of S; the same every time."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (people, size, size // 2, 3), generator=generator, dtype=torch.uint8)
    rendering = torch.rand((people, starts, size, size // 2, 11), generator=generator)
    return image, torch.tensor([[3.0, 3.0, 0.5, 0.5]]).repeat(people, 1), rendering


def no_fit(people: int, starts: int) -> dict[str, torch.Tensor]:
    """The fit's labels of nobody."""
    lead = (people, starts)
    return {
        "fit_cell": torch.full((*lead, 4), -1, dtype=torch.int32),
        "fit_part": torch.zeros((*lead, 4), dtype=torch.uint8),
        "fit_pixel_by_step": torch.zeros((*lead, 4, 2, 85)),
        "fit_body_by_step": torch.zeros((*lead, 4, 3, 85)),
        "fit_step": torch.zeros((*lead, 85)),
    }
