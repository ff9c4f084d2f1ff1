"""The regressor network: one crop and its camera in, SMPL parameters with their uncertainty out.

An image encoder (:mod:`densefit_ros.runtime.torch_trunk`) and on its features one spatial attention map per joint.  Each map
places its joint in the crop (integral regression, Sun et al., ECCV 2018) and gathers the features that the joint's
rotation is read from.  Placing joints first is what lets a small network learn from few samples: the rotation heads then
see *where* a limb is, not a globally averaged feature.

Frames: rotations other than the root's are relative to the parent.  The root's is predicted in the frame of the viewing
ray (``R_camera_root = R_ray @ R_predicted``, ``R_ray`` the smallest rotation that takes +z to the ray through the crop's
centre, see :func:`densefit_ros.regress.decode.ray_rotation`), because the crop of a person at the image's border looks
like that of a person turned in front of the camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..body.joints import SMPL_PARENTS
from ..runtime.torch_blocks import bounded, fuse
from ..runtime.torch_trunk import BLOCKS, NECK, WIDTHS, Features, Trunk

NUM_JOINTS = 24
ROT_LOG_VAR_MIN, ROT_LOG_VAR_MAX = 2 * math.log(0.02), 2 * math.log(2.0)
UV_LOG_VAR_MIN, UV_LOG_VAR_MAX = 2 * math.log(0.003), 2 * math.log(0.5)
OWN = 64
_DEPTH_UNIT_M = 0.5
_ARMS_DOWN_RAD = 1.0
_CAM_START = (0.0, 0.0, math.log(0.45))  # a standing adult fills the crop: 1.75 m is about 0.8 of its side


class OwnHeads(nn.Module):
    """Every joint's rotation once more, from what its own attention has gathered and its parent's and children's.

    The common layers answer for all joints through ``hidden`` numbers; what they had left over was in the gathered features: on
    2,200 pictures these heads alone brought joints from 113.2 to 110.4 mm, and others of their size without the joints' own
    features to 111.3.  They begin at nothing.
    """

    def __init__(self, neck: int, hidden: int, width: int) -> None:
        super().__init__()
        parents = [max(p, 0) for p in SMPL_PARENTS]
        children = torch.zeros(NUM_JOINTS, NUM_JOINTS)  # a row takes the mean of a joint's children, of a last joint itself
        for j in range(NUM_JOINTS):
            own = [k for k in range(1, NUM_JOINTS) if parents[k] == j] or [j]
            children[j, own] = 1.0 / len(own)
        self.register_buffer("above", torch.tensor(parents), persistent=False)
        self.register_buffer("below", children, persistent=False)
        self.common = nn.Linear(hidden, width)
        inputs = 3 * neck + 8 + width
        self.first = nn.Parameter(torch.randn(NUM_JOINTS, inputs, width) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(NUM_JOINTS, 1, width))
        self.last = nn.Parameter(torch.zeros(NUM_JOINTS, width, 6))

    def forward(self, gathered: Tensor, uv: Tensor, z: Tensor, spread2: Tensor, feature: Tensor) -> Tensor:
        """Features (P,24,neck), places (P,24,2), depths (P,24), spreads (P,24), common feature (P,hidden) -> (P,24,6)."""
        place = torch.cat([8.0 * uv, 4.0 * z[..., None]], -1)
        down, up = self.below @ place - place, place - place[:, self.above]
        width = 8.0 * spread2[..., None]
        common = torch.relu(self.common(feature))[:, None].expand(-1, NUM_JOINTS, -1)
        near = [gathered, gathered[:, self.above], self.below @ gathered]
        known = torch.cat([*near, down, up, width, self.below @ width, common], -1)
        hidden = torch.relu(known.transpose(0, 1) @ self.first + self.bias)
        return (hidden @ self.last).transpose(0, 1)


class RegressorNet(nn.Module):
    """forward(image (P,S,S,3) uint8, intrinsics (P,4)) -> the tuple of OUTPUTS; shapes in regress/contract.py.

    ``intrinsics`` is (fx, fy, cx, cy) of the crop's camera over the crop's side.  A fresh network answers with a person
    standing upright in front of the camera, arms hanging.  ``own``: width of the joints' own heads, 0: none.  ``fused`` builds
    the inference form.
    """

    OUTPUTS = (
        "rot6d_rows", "betas", "cam", "rot_log_var", "confidence", "feature", "joints_uv", "joints_log_var", "s4", "s8",
        "joints_z",
    )  # fmt: skip

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        blocks: Sequence[int] = BLOCKS,
        neck: int = NECK,
        hidden: int = 256,
        own: int = OWN,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.config = {"widths": list(widths), "blocks": list(blocks), "neck": neck, "hidden": hidden, "own": own}
        self.trunk = Trunk(widths, blocks, neck)
        self.maps = nn.Conv2d(2 * neck, 2 * NUM_JOINTS, 1)  # per joint: attention, depth relative to the pelvis
        self.values = nn.Conv2d(2 * neck, neck, 1)
        self.guide: nn.Module | None = nn.Conv2d(2 * neck, 4, 1)
        self.parts: nn.Module | None = nn.Conv2d(2 * neck, NUM_JOINTS, 1)
        width = NUM_JOINTS * neck + widths[4] + 4 * NUM_JOINTS + 4
        self.mix = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.pose = nn.Linear(hidden, NUM_JOINTS * 6)
        self.own = OwnHeads(neck, hidden, own) if own else None
        self.shape = nn.Linear(hidden, 10)
        self.camera = nn.Linear(hidden, 3)
        self.spread = nn.Linear(hidden, 2 * NUM_JOINTS)
        self.person = nn.Linear(hidden, 1)
        self.register_buffer("mean_rot6d", mean_pose_rot6d_rows(), persistent=False)
        self.register_buffer("start_camera", torch.tensor(_CAM_START), persistent=False)
        for head in (self.pose, self.shape, self.camera, self.spread):
            nn.init.normal_(head.weight, std=1e-3)
            nn.init.zeros_(head.bias)
        if fused:
            self.finish()

    def finish(self) -> RegressorNet:
        """Take the inference form, in place: normalisation folded, no training-only heads."""
        fuse(self)
        self.guide = self.parts = None
        return self

    def forward(self, image: Tensor, intrinsics: Tensor, guided: bool = False) -> tuple[Tensor, ...]:
        """``guided`` appends what only training asks for, all on the cells of s8: attention logits (P,24,..), where the person
        is seen and which point of the body (P,4,..), and which part of it (P,24,..) logits."""
        return self.answer(self.trunk(image), intrinsics, guided)

    def answer(self, features: Features, intrinsics: Tensor, guided: bool = False) -> tuple[Tensor, ...]:
        """As ``forward``, from the trunk's features."""
        s8 = features.s8
        maps, values = self.maps(s8), self.values(s8)
        *outputs, z = self.read_out(maps.float(), values.float(), features.s32.float(), intrinsics)
        outputs = (*outputs, features.s4, s8, z)  # the displacement network reads s4 and s8
        if not guided:
            return outputs
        return (*outputs, maps[:, :NUM_JOINTS].float(), self.guide(s8).float(), self.parts(s8).float())

    def read_out(self, maps: Tensor, values: Tensor, coarse: Tensor, intrinsics: Tensor) -> tuple[Tensor, ...]:
        """Heads.  Kept in float32 under autocast: coordinates and angles lose too many digits in bfloat16."""
        with torch.autocast(maps.device.type, enabled=False):
            persons = maps.shape[0]
            # Rows are the unit: the crop's side, all of which they cover.  int: traced sizes would be exported as arithmetic
            # that TensorRT cannot read.
            rows, columns = (int(n) for n in maps.shape[2:])
            attention = maps[:, :NUM_JOINTS].flatten(2).softmax(-1)  # (P,24,rows*columns)
            u = (torch.arange(columns, device=maps.device, dtype=torch.float32) + 0.5 - 0.5 * columns) / rows
            v = (torch.arange(rows, device=maps.device, dtype=torch.float32) + 0.5) / rows - 0.5
            grid = torch.stack([u.repeat(rows), v.repeat_interleave(columns)], -1)
            uv = attention @ grid
            spread2 = (attention @ (grid * grid) - uv * uv).sum(-1)
            z = _DEPTH_UNIT_M * (attention * maps[:, NUM_JOINTS:].flatten(2)).sum(-1)
            gathered = attention @ values.flatten(2).transpose(1, 2)
            known = torch.cat([4.0 * uv.flatten(1), 4.0 * z, 8.0 * spread2, camera_features(intrinsics)], 1)
            feature = self.mix(torch.cat([gathered.flatten(1), coarse.mean((2, 3)), known], 1))
            rot6d = self.mean_rot6d + self.pose(feature).view(persons, NUM_JOINTS, 6)
            if self.own is not None:
                rot6d = rot6d + self.own(gathered, uv, z, spread2, feature)
            raw = self.spread(feature)
            rot_log_var = bounded(raw[:, :NUM_JOINTS], ROT_LOG_VAR_MIN, ROT_LOG_VAR_MAX)
            uv_log_var = bounded(raw[:, NUM_JOINTS:], UV_LOG_VAR_MIN, UV_LOG_VAR_MAX)
            # The pelvis was placed already: the camera head corrects it.
            cam = self.start_camera + self.camera(feature) + torch.cat([uv[:, 0], torch.zeros_like(uv[:, 0, :1])], 1)
            confidence = torch.sigmoid(self.person(feature)[:, 0])
            betas = self.shape(feature)
        return rot6d, betas, cam, rot_log_var, confidence, feature, uv, uv_log_var, z


def camera_features(intrinsics: Tensor) -> Tensor:
    """(P,4) normalised fx, fy, cx, cy -> (P,4): log focal lengths and the direction of the crop's centre."""
    fx, fy, cx, cy = intrinsics.unbind(-1)
    return torch.stack([fx.log() - 1.0, fy.log() - 1.0, (0.5 - cx) / fx, (0.5 - cy) / fy], -1)


def mean_pose_rot6d_rows() -> Tensor:
    """(24,6) first two rows of each rotation: facing the camera upright, arms hanging instead of SMPL's T."""
    rot = torch.eye(3).repeat(NUM_JOINTS, 1, 1)
    rot[0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # SMPL is y up, the camera y down: half a turn about x
    cos, sin = math.cos(_ARMS_DOWN_RAD), math.sin(_ARMS_DOWN_RAD)
    for joint, sign in ((16, -1.0), (17, 1.0)):  # left and right shoulder
        rot[joint] = torch.tensor([[cos, -sign * sin, 0.0], [sign * sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return rot[:, :2].reshape(NUM_JOINTS, 6)
