"""A body in torch, for losses: forward kinematics, and some points of the skin."""

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
        return self.transforms(rotmat, betas)[1]

    def transforms(self, rotmat: Tensor, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``joints``: world rotations (P,24,3,3), positions (P,24,3) m, and places at rest (P,24,3) m."""
        rest = self.template + torch.einsum("jck,pk->pjc", self.shapedirs, betas)
        world = [rotmat[:, 0]]
        position = [torch.zeros_like(rest[:, 0])]
        for joint in range(1, len(self.parents)):
            parent = self.parents[joint]
            bone = (rest[:, joint] - rest[:, parent])[:, :, None]
            position.append(position[parent] + (world[parent] @ bone)[:, :, 0])
            world.append(world[parent] @ rotmat[:, joint])
        return torch.stack(world, 1), torch.stack(position, 1), rest


class SkinPoints(nn.Module):
    """Points of the skin, linearly blended; without pose corrections, which the free body has not.

    Built from template (N,3) m, shapedirs (N,3,10) m and the joints' shares (N,24) of these points.  Buffers only.
    """

    def __init__(self, template: np.ndarray, shapedirs: np.ndarray, share: np.ndarray) -> None:
        super().__init__()
        for name, value in (("template", template), ("shapedirs", shapedirs), ("share", share)):
            self.register_buffer(name, torch.as_tensor(np.asarray(value, np.float32)))

    def posed(self, chain: JointChain, rotmat: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`JointChain.joints`: (P,24,3) m of the joints and (P,N,3) m of the points."""
        world, position, rest = chain.transforms(rotmat, betas)
        shift = position - torch.einsum("pjab,pjb->pja", world, rest)
        points = self.template + torch.einsum("ncb,pb->pnc", self.shapedirs, betas)
        turned = torch.einsum("nj,pjab->pnab", self.share, world)
        return position, torch.einsum("pnab,pnb->pna", turned, points) + torch.einsum("nj,pja->pna", self.share, shift)


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
