"""First-order baselines on the very objective of the fit: what published code does, through smplx and autograd.

``smplify_adam``: SMPLify as SPIN runs it (Kolotouros et al. 2019): Adam at 0.01, 100 steps on root and translation, then
100 on pose, shape and root with the translation fixed.  Its own pose and shape weights are replaced by the priors of the
problem, so that both sides minimise one function.
``smplify_lbfgs``: SMPLify-X's optimiser (Pavlakos et al. 2019): L-BFGS, learning rate 1, up to 30 outer steps of up to 30
inner ones, strong Wolfe line search, relative tolerance 1e-9; root and translation first, then everything.

Torch and smplx are imported here only, and only when a baseline runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..types import BodyParams, Camera, Correspondences
from .options import Anchor, FitOptions

ADAM_STEP = 1e-2
ADAM_ITERATIONS = (100, 100)
LBFGS_OUTER = 30
LBFGS_INNER = 30
LBFGS_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Trace:
    """How a baseline went: seconds and total objective before each evaluation, and where it ended."""

    seconds: np.ndarray  # (K,)
    objective: np.ndarray  # (K,) sum over persons
    params: BodyParams

    def seconds_to(self, objective: float) -> float:
        """When the objective first fell to the given value; inf if it never did."""
        reached = np.flatnonzero(self.objective <= objective)
        return float(self.seconds[reached[0]]) if len(reached) else float("inf")


class TorchObjective:
    """The fit's robust cost of dense matches, anchors and shape prior, on an smplx body, by autograd.

    ``cost`` equals ``FitResult.cost`` for options without joint limits and with a fixed robust scale.
    """

    def __init__(self, body, start: BodyParams, camera: Camera, matches: Correspondences, anchors: Sequence[Anchor] = (),
                 options: FitOptions | None = None, device: str = "cpu"):  # fmt: skip
        import torch

        from ..body.assets import to_smplx

        self.torch = torch
        self.device = torch.device(device)
        self.model = to_smplx(body).to(self.device)
        self.options = options or FitOptions()
        self.persons = len(start)
        f = lambda a: torch.tensor(np.asarray(a), dtype=torch.float32, device=self.device)  # noqa: E731
        self.person = torch.as_tensor(np.asarray(matches.person, np.int64), device=self.device)
        self.corners = torch.as_tensor(body.faces.astype(np.int64)[np.asarray(matches.face)], device=self.device)
        self.bary, self.target, self.sqrt_weight = f(matches.bary), f(matches.target_uv), f(matches.sqrt_weight)
        self.intrinsics = (camera.fx, camera.fy, camera.cx, camera.cy)
        self.variables = {
            "global_orient": f(start.root_rotvec), "body_pose": f(start.joint_rotvec).reshape(self.persons, 69),
            "betas": f(start.betas), "transl": f(start.t_camera_root),
        }  # fmt: skip
        for v in self.variables.values():
            v.requires_grad_(True)
        self._anchors = [self._anchor(a, f) for a in anchors]

    def _anchor(self, anchor: Anchor, f):
        rotvec = anchor.params.rotvec
        weight = lambda s, shape: f(np.broadcast_to(1.0 / np.asarray(s, float), shape).copy())  # noqa: E731
        p = self.persons
        return (
            self._rotmat(f(rotvec).reshape(-1, 3)).reshape(p, 24, 3, 3), weight(anchor.rot_sigma_rad, (p, 24)),
            f(anchor.params.betas), weight(anchor.betas_sigma, (p, 10)),
            f(anchor.params.t_camera_root), weight(anchor.t_sigma_m, (p, 3)),
        )  # fmt: skip

    def _rotmat(self, rotvec):
        from smplx.lbs import batch_rodrigues

        return batch_rodrigues(rotvec)

    def cost(self):
        """(P,) robust cost."""
        torch, v = self.torch, self.variables
        out = self.model(
            betas=v["betas"], body_pose=v["body_pose"], global_orient=v["global_orient"], transl=v["transl"], return_verts=True
        )
        x = (out.vertices[self.person[:, None], self.corners] * self.bary[..., None]).sum(1)
        fx, fy, cx, cy = self.intrinsics
        uv = torch.stack([fx * x[:, 0] / x[:, 2] + cx, fy * x[:, 1] / x[:, 2] + cy], 1)
        e = (self.sqrt_weight[:, None] * (uv - self.target)).square().sum(1)
        c2 = self.options.robust_scale**2
        total = torch.zeros(self.persons, device=self.device).index_add(0, self.person, c2 * e / (c2 + e))
        if np.isfinite(self.options.shape_sigma):
            total = total + (v["betas"] / self.options.shape_sigma).square().sum(1)
        if self._anchors:
            rotvec = torch.cat([v["global_orient"], v["body_pose"]], 1).reshape(-1, 3)
            rotmat = self._rotmat(rotvec).reshape(self.persons, 24, 3, 3)
        for rot, rot_w, betas, betas_w, t, t_w in self._anchors:
            angle2 = self._squared_angle(rot.transpose(-1, -2) @ rotmat)
            total = total + (rot_w.square() * angle2).sum(1)
            total = total + (betas_w * (v["betas"] - betas)).square().sum(1) + (t_w * (v["transl"] - t)).square().sum(1)
        return total

    def _squared_angle(self, rotmat):
        """|log R|^2, smooth at the identity: through the chord where the angle is small."""
        torch = self.torch
        chord2 = (rotmat - torch.eye(3, device=self.device)).square().sum((-1, -2)).clamp(max=8.0 - 1e-5)  # 8 sin^2(angle / 2)
        s2 = chord2 / 8
        small = s2 < 1e-4
        angle = 2 * torch.asin(torch.where(small, torch.full_like(s2, 0.25), s2).sqrt())
        return torch.where(small, 4 * s2 * (1 + s2 / 3), angle.square())

    def params(self) -> BodyParams:
        """Where the variables are now."""
        v = {k: x.detach().cpu().numpy().copy() for k, x in self.variables.items()}
        return BodyParams(v["betas"], v["global_orient"], v["body_pose"].reshape(-1, 23, 3), v["transl"])


def smplify_adam(problem: TorchObjective, iterations: tuple[int, int] = ADAM_ITERATIONS, clock: Callable[[], float] | None = None,
                 release_translation: bool = False) -> Trace:  # fmt: skip
    """SPIN's schedule.  ``release_translation`` also moves the translation in the second stage, which SPIN does not do."""
    v, log, begin = problem.variables, [], (clock or time.perf_counter)()
    now = clock or time.perf_counter
    stages = (("global_orient", "transl"), ("body_pose", "betas", "global_orient") + (("transl",) if release_translation else ()))
    for names, count in zip(stages, iterations):
        optimizer = problem.torch.optim.Adam([v[n] for n in names], lr=ADAM_STEP, betas=(0.9, 0.999))
        for name, x in v.items():
            x.requires_grad_(name in names)
        for _ in range(count):
            loss = problem.cost().sum()
            log.append((now() - begin, float(loss.detach())))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return _end(problem, log, now() - begin)


def smplify_lbfgs(problem: TorchObjective, outer: int = LBFGS_OUTER, clock: Callable[[], float] | None = None) -> Trace:
    """SMPLify-X's optimiser in two stages."""
    v, log, now = problem.variables, [], clock or time.perf_counter
    begin = now()
    for names in (("global_orient", "transl"), ("body_pose", "betas", "global_orient", "transl")):
        for name, x in v.items():
            x.requires_grad_(name in names)
        optimizer = problem.torch.optim.LBFGS([v[n] for n in names], lr=1.0, max_iter=LBFGS_INNER, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()  # noqa: B023 - called within this turn of the loop only
            loss = problem.cost().sum()
            loss.backward()
            log.append((now() - begin, float(loss.detach())))
            return loss

        previous = None
        for _ in range(outer):
            loss = float(optimizer.step(closure).detach())
            if not np.isfinite(loss):
                break
            if previous is not None and (previous - loss) / max(abs(previous), abs(loss), 1.0) <= LBFGS_TOLERANCE:
                break
            previous = loss
    return _end(problem, log, now() - begin)


def _end(problem: TorchObjective, log: list, seconds: float) -> Trace:
    with problem.torch.no_grad():
        log.append((seconds, float(problem.cost().sum())))
    t, f = np.array(log).T
    return Trace(t, f, problem.params())
