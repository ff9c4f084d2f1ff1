"""The joints of a body in torch, for losses: forward kinematics without the surface."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class JointChain(nn.Module):
    """Joint positions from local rotations and shape.

    Built from the arrays of a body model: joint_template (24,3) m, joint_shapedirs (24,3,10) m, parents (24,) with -1
    for the root.  Buffers only, nothing to learn.
    """

    def __init__(self, joint_template: np.ndarray, joint_shapedirs: np.ndarray, parents: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("template", torch.as_tensor(np.asarray(joint_template, np.float32)))
        self.register_buffer("shapedirs", torch.as_tensor(np.asarray(joint_shapedirs, np.float32)))
        self.parents = [int(p) for p in parents]

    def joints(self, rotmat: Tensor, betas: Tensor) -> Tensor:
        """(P,24,3,3) local rotations (the root's in any frame), (P,10) -> (P,24,3) m, pelvis at the origin."""
        rest = self.template + torch.einsum("jck,pk->pjc", self.shapedirs, betas)
        world = [rotmat[:, 0]]
        position = [torch.zeros_like(rest[:, 0])]
        for joint in range(1, len(self.parents)):
            parent = self.parents[joint]
            bone = (rest[:, joint] - rest[:, parent])[:, :, None]
            position.append(position[parent] + (world[parent] @ bone)[:, :, 0])
            world.append(world[parent] @ rotmat[:, joint])
        return torch.stack(position, 1)


def rotmat_from_rot6d_rows(rot6d: Tensor) -> Tensor:
    """(...,6) -> (...,3,3): the first two *rows*, orthonormalised; the twin of geometry.so3.from_rot6d_rows."""
    a, b = rot6d[..., :3], rot6d[..., 3:]
    x = a / a.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    b = b - (x * b).sum(-1, keepdim=True) * x
    y = b / b.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -2)


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Geodesic angle in rad of (...,3,3) rotations.  From the chord, whose derivative stays finite at zero."""
    chord2 = ((a - b) ** 2).sum((-1, -2)).clamp(min=1e-12, max=8.0)
    return 2.0 * torch.asin(torch.sqrt(chord2 / 8.0).clamp(max=1.0 - 1e-6))
