"""What displacements are for: a loss on the body that the fit would make of them.

A likelihood of single cells counts errors by their area in the picture.  The fit counts them by what they do to a body: a
forearm of twelve cells places a wrist as far as a trunk of two hundred does, and an error that all cells of a part share moves
it while one that changes from cell to cell does not.  Around the start one step of the fit is linear.  With J the pixels' and B
the body's derivatives by the fit's unknowns, x the step that would lead to the truth, P the precision of the start, and n the
displacements' errors, the step that the fit takes is off by

    e = (J^T W J + P)^-1 (J^T W n - P x)

and the loss is how far B e moves the body, pelvis-aligned.  W are the precisions that the network states, robust and counted
by parts as the tracker's fit does.  The labels (:class:`FitLabeller`) are derivatives at some cells and some points of the body.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..body.joints import SMPL_FLIP
from ..body.model import BodyModel, joint_shares, joint_transforms, outline_vertices
from ..config import DisplaceConfig, FitConfig
from ..fit.layout import COL_BETA, COL_ROT
from ..fit.reference import below
from ..geometry import so3
from ..synth.displacement import STRIDE_PX, DisplacementPairs
from ..types import NUM_BETAS, NUM_JOINTS, NUM_UNKNOWNS, BodyParams
from .data import Batch

CELLS = 160  # of each rendering
POINTS = 48  # of the body's surface, beside its joints
NAMES = ("fit_cell", "fit_part", "fit_pixel_by_step", "fit_body_by_step", "fit_step")
_PART_CORRELATION, _ROBUST_SCALE = DisplaceConfig().part_correlation, FitConfig().robust_scale  # the tracker's
_ROT_SIGMA_RAD = (np.radians(1.5), np.radians(15.0))  # least and most that a start may claim per axis
_T_SIGMA_M, _BETAS_SIGMA = 0.05, 0.5
_VARIANCE_SHARE = 0.25  # of the variances' derivative: they are to state errors, which the likelihood sees to
# Signs of the unknowns in the mirror: x of the translation; y and z of the rotations, which are axial vectors.
_SIGN = np.ones(NUM_UNKNOWNS, np.float32)
_SIGN[0] = -1
_SIGN[COL_ROT:COL_BETA] = np.tile([1, -1, -1], NUM_JOINTS)
_ORDER = np.arange(NUM_UNKNOWNS)
_ORDER[COL_ROT:COL_BETA] = (COL_ROT + 3 * np.asarray(SMPL_FLIP)[:, None] + np.arange(3)).reshape(-1)


class BodyMotion:
    """Derivatives of points of the skin by the fit's unknowns (docs/FIT.md), for many points of many bodies at once.

    Where several joints carry a point, its place is taken for the place to which each of them would carry it.
    """

    def __init__(self, body: BodyModel) -> None:
        self.body = body
        self._below = below(body).astype(np.float32)
        self._share = joint_shares(body)

    def at(self, start: BodyParams, vertices: np.ndarray, weights: np.ndarray, points_m: np.ndarray) -> np.ndarray:
        """(P,N,3,85) m of the points ``points_m`` (P,N,3): combinations ``weights`` (P,N,K) of ``vertices`` (P,N,K)."""
        rotmat, position, _ = (x.astype(np.float32) for x in joint_transforms(self.body, start))
        share = np.einsum("pnk,pnkj->pnj", weights, self._share[vertices])  # of each joint in each point
        turned = share @ self._below.T  # of each joint and all that hangs on it
        out = _moved_and_turned((points_m[:, :, None] - position[:, None]) * turned[..., None])
        by_rest = np.einsum("pnj,pjab->pnab", share, rotmat)
        rest_by_beta = np.einsum("pnk,pnkcb->pncb", weights, self.body.shapedirs[vertices])
        carried = self._joints_by_betas(rotmat) - np.einsum("pjab,jbc->pjac", rotmat, self.body.joint_shapedirs)
        out[..., COL_BETA:] = by_rest @ rest_by_beta + np.einsum("pnj,pjac->pnac", share, carried)
        return out

    def joints(self, start: BodyParams) -> np.ndarray:
        """(P,24,3,85) m of the posed joints."""
        rotmat, position, _ = (x.astype(np.float32) for x in joint_transforms(self.body, start))
        hangs = self._below.T - np.eye(NUM_JOINTS, dtype=np.float32)  # [j,k]: joint j is carried by k
        out = _moved_and_turned((position[:, :, None] - position[:, None]) * hangs[..., None])
        out[..., COL_BETA:] = self._joints_by_betas(rotmat)
        return out

    def _joints_by_betas(self, rotmat: np.ndarray) -> np.ndarray:
        dirs = self.body.joint_shapedirs.astype(np.float32)
        out = np.empty((len(rotmat), NUM_JOINTS, 3, NUM_BETAS), np.float32)
        out[:, 0] = dirs[0]
        for k in range(1, NUM_JOINTS):
            q = self.body.parents[k]
            out[:, k] = out[:, q] + np.einsum("pab,bc->pac", rotmat[:, q], dirs[k] - dirs[q])
        return out


def _moved_and_turned(arm: np.ndarray) -> np.ndarray:
    """(P,N,3,85) of points that translation moves and joints turn, ``arm`` (P,N,24,3) m away from them; 0 by betas."""
    out = np.zeros((*arm.shape[:2], 3, NUM_UNKNOWNS), np.float32)
    out[..., :COL_ROT] = np.eye(3, dtype=np.float32)
    out[..., COL_ROT:COL_BETA] = -np.swapaxes(so3.hat(arm), -2, -3).reshape(*arm.shape[:2], 3, -1)
    return out


def step_between(body: BodyModel, start: BodyParams, truth: BodyParams) -> np.ndarray:
    """(P,85): the step of :func:`densefit_ros.fit.reference.retract` that leads from ``start`` to ``truth``."""

    def local(params: BodyParams) -> np.ndarray:
        return so3.exp(params.rotvec.astype(np.float64))

    rotmat = joint_transforms(body, start)[0].astype(np.float64)
    frame = np.concatenate([np.broadcast_to(np.eye(3), (len(rotmat), 1, 3, 3)), rotmat[:, body.parents[1:]]], 1)
    turn = np.einsum("pjab,pjb->pja", frame, so3.log(local(truth) @ np.swapaxes(local(start), -1, -2)))
    return np.concatenate(
        [truth.t_camera_root - start.t_camera_root, turn.reshape(len(turn), -1), truth.betas - start.betas], 1
    ).astype(np.float32)


class FitLabeller:
    """Makes the labels of :func:`fit_loss`."""

    def __init__(self, body: BodyModel, face_part: np.ndarray) -> None:
        self._motion, self._face_part = BodyMotion(body), face_part
        self._outline = outline_vertices(body, POINTS)

    def labels(
        self,
        rng: np.random.Generator,
        pairs: DisplacementPairs,
        truth: BodyParams,
        intrinsics: np.ndarray,
        valid: np.ndarray,
        cells: slice,
    ) -> Batch:
        """Labels of P starts that were rendered into crops of ``intrinsics`` (P,4) px.

        valid (P,h,w) bool: cells of the columns seen, ``cells`` of all columns.  fit_cell (P,CELLS) int32 indices into h * w, -1
        where there is none; fit_part (P,CELLS) uint8; fit_pixel_by_step (P,CELLS,2,85) float16 crop px; fit_body_by_step
        (P,24+POINTS,3,85) float16 m, pelvis-aligned; fit_step (P,85) float32.
        """
        persons, _, columns = valid.shape
        start, vertices, surface = pairs.params, pairs.vertices_m, pairs.surface
        body, half = self._motion.body, STRIDE_PX // 2
        chosen = np.full((persons, CELLS), -1, np.int32)
        for i in range(persons):
            own = rng.permutation(np.flatnonzero(valid[i]))[:CELLS]
            chosen[i, : len(own)] = own
        row, column = np.divmod(np.maximum(chosen, 0), columns)
        person = np.arange(persons)[:, None]
        at = (person, row * STRIDE_PX + half, (column + cells.start) * STRIDE_PX + half)
        face = np.maximum(surface.face_id[at], 0)
        corners, bary = body.faces[face], surface.bary[at].astype(np.float32)
        points = np.einsum("pnk,pnkc->pnc", bary, vertices[person[..., None], corners])
        by_step = self._motion.at(start, corners, bary, points)
        z = np.maximum(points[..., 2:3], 0.05)[..., None]
        focal = intrinsics[:, None, :2, None].astype(np.float32)
        pixel = focal * (by_step[..., :2, :] - points[..., :2, None] / z * by_step[..., 2:, :]) / z
        outline = np.broadcast_to(self._outline[None, :, None], (persons, len(self._outline), 1))
        skin = self._motion.at(start, outline, np.ones(outline.shape, np.float32), vertices[:, self._outline])
        joints = self._motion.joints(start)
        moved = np.concatenate([joints, skin], 1) - joints[:, :1]
        return {
            "fit_cell": chosen,
            "fit_part": self._face_part[face],
            "fit_pixel_by_step": np.clip(pixel, -6e4, 6e4).astype(np.float16),
            "fit_body_by_step": moved.astype(np.float16),
            "fit_step": step_between(body, start, truth),
        }


def mirror_labels(batch: Batch, which: np.ndarray, columns: int) -> Batch:
    """The chosen labels for pictures mirrored left to right, of ``columns`` cells a row."""
    out = {name: batch[name].copy() for name in NAMES}
    row, column = np.divmod(batch["fit_cell"][which], columns)
    out["fit_cell"][which] = np.where(batch["fit_cell"][which] < 0, -1, row * columns + (columns - 1 - column))
    for name in ("fit_pixel_by_step", "fit_body_by_step"):
        moved = batch[name][which][..., _ORDER] * _SIGN.astype(np.float16)
        moved[..., 0, :] *= -1
        out[name][which] = moved
    out["fit_step"][which] = batch["fit_step"][which][..., _ORDER] * _SIGN
    return out


def fit_loss(flow: Tensor, log_var: Tensor, target: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """How far off the body is after one step of the fit, over how far off the start is; and the same in mm.

    flow, target (P,2,h,w) crop px; log_var (P,1,h,w); ``labels`` as :class:`FitLabeller` makes them.
    """
    cell = labels["fit_cell"].long()
    used = (cell >= 0).float()
    index = cell.clamp(min=0)
    noise = (flow - target).flatten(2).gather(2, index[:, None].expand(-1, 2, -1)).transpose(1, 2)  # (P,N,2)
    stated = log_var.flatten(1).gather(1, index)
    variance = (_VARIANCE_SHARE * stated + (1.0 - _VARIANCE_SHARE) * stated.detach()).exp()
    squared = (noise.detach() ** 2).sum(-1) / variance.detach()
    robust = (_ROBUST_SCALE**2 / (_ROBUST_SCALE**2 + squared)) ** 2  # Geman and McClure's weight at the truth
    part = labels["fit_part"].long()
    count = used.new_zeros(len(used), NUM_JOINTS).scatter_add(1, part, used).gather(1, part)
    weight = used * robust / variance / (1.0 + (count - 1.0).clamp(min=0.0) * _PART_CORRELATION)
    step = labels["fit_step"]
    turn = step[:, COL_ROT:COL_BETA].square().mean(1).sqrt().clamp(*_ROT_SIGMA_RAD)
    place = step[:, :3].norm(dim=1).clamp(min=_T_SIGMA_M)
    shape = step[:, COL_BETA:].square().mean(1).sqrt().clamp(min=_BETAS_SIGMA)
    sizes = (3, NUM_UNKNOWNS - 3 - NUM_BETAS, NUM_BETAS)
    sigma = torch.cat([s[:, None].expand(-1, n) for s, n in zip((place, turn, shape), sizes)], 1)
    # In units of the start's standard deviations its precision is the identity.
    by_step = labels["fit_pixel_by_step"] * sigma[:, None, None]
    weighted = (by_step * weight[..., None, None]).flatten(1, 2)
    normal = weighted.transpose(1, 2) @ by_step.flatten(1, 2) + torch.eye(NUM_UNKNOWNS, device=flow.device)
    wanted = step / sigma
    pull = (weighted.transpose(1, 2) @ noise.flatten(1)[..., None])[..., 0] - wanted
    # cholesky() would end the run over one broken sample: with a factor of NaN the trainer skips its step.
    factor, failed = torch.linalg.cholesky_ex(normal)
    factor = factor.masked_fill((failed != 0)[:, None, None], torch.nan)
    off = torch.cholesky_solve(pull[..., None], factor)[..., 0] * sigma
    body = labels["fit_body_by_step"]
    after = (body @ off[:, None, :, None])[..., 0].square().sum(-1).add(1e-8).sqrt().mean(1)
    before = (body @ step[:, None, :, None])[..., 0].norm(dim=-1).mean(1)
    somebody = (used.sum(1) >= 6).float()
    people = somebody.sum().clamp(min=1.0)
    loss = (after / (before + 0.02) * somebody).sum() / people
    return loss, 1000 * (after.detach() * somebody).sum() / people
