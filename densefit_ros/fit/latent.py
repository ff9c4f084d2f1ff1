"""The fit in VPoser's latent, as SMPLify-X does it: the body's 21 rotations are decode(z), and z is what moves.

Unknowns: translation (3), root (3), latent (L), two hands (6), betas (10).  The normal equations of all 85 numbers come
from the fitter, whatever the evidence; the chain rule through the decoder makes them those of the latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..types import NUM_UNKNOWNS, BodyParams
from . import reference
from .layout import COL_BETA
from .priors.vposer import JOINTS, POSE, VPoserPrior
from .solver import Fitter

HANDS = slice(3 + 3 + POSE, COL_BETA)  # unknowns of joints 22 and 23


@dataclass(frozen=True)
class LatentResult:
    """Where a fit in the latent ended."""

    params: BodyParams  # batch of one
    latent: np.ndarray  # (L,)
    cost: np.ndarray  # (K+1,) robust cost plus |z|^2, at the start and after each iteration
    accepted: int


def solve_latent(fitter: Fitter, prior: VPoserPrior, start: BodyParams, camera, matches, iterations: int = 15,
                 weight: float = 1.0, damping: float = 1e-3, **evidence) -> LatentResult:  # fmt: skip
    """Fit one person.  ``weight`` is on |z|^2; evidence as in ``Fitter.normal_equations``.

    The start is first moved onto the decoder's manifold, so its cost there is what the history begins with.  Robust scale is
    the fitter's ``robust_scale`` throughout.
    """
    fitter = fitter.with_options(robust_start=fitter.options.robust_scale)
    state = reference.from_params(start)
    z, _ = prior.nearest(start.joint_rotvec[0])
    state = _decoded(prior, state, z)
    h, g, cost = _linearise(fitter, prior, state, z, camera, matches, weight, evidence)
    history, accepted = [cost], 0
    for _ in range(iterations):
        s = 1.0 / np.sqrt(np.maximum(h.diagonal(), 1e-12))
        a = h * s[:, None] * s + damping * np.eye(len(h))
        step = -s * scipy.linalg.cho_solve(scipy.linalg.cho_factor(a), s * g)
        trial_z = z + step[6:-16]
        trial = _decoded(prior, _move(fitter.body, state, step), trial_z)
        new = _linearise(fitter, prior, trial, trial_z, camera, matches, weight, evidence)
        if np.isfinite(new[2]) and new[2] < cost:
            (h, g, cost), state, z = new, trial, trial_z
            damping, accepted = max(damping / 5, 1e-7), accepted + 1
        else:
            damping *= 8
        history.append(cost)
    return LatentResult(reference.to_params(state), z, np.array(history), accepted)


def _decoded(prior: VPoserPrior, state: reference.State, z: np.ndarray) -> reference.State:
    local = state.local.copy()
    local[1 : 1 + JOINTS] = prior.decode(z)[0]
    return reference.State(local, state.betas, state.t)


def _move(body, state: reference.State, step: np.ndarray) -> reference.State:
    """Everything but the latent; the decoder sets the body joints afterwards."""
    full = np.zeros(NUM_UNKNOWNS)
    full[:6], full[HANDS], full[COL_BETA:] = step[:6], step[-16:-10], step[-10:]
    return reference.retract(body, state, full)


def chain(body, prior: VPoserPrior, state: reference.State, z: np.ndarray) -> np.ndarray:
    """Derivative of the 85 increments by the unknowns of the latent fit, (85, 6 + L + 16)."""
    latent = len(z)
    out = np.zeros((NUM_UNKNOWNS, 22 + latent))
    out[:6, :6] = np.eye(6)
    out[HANDS, 6 + latent : 12 + latent] = np.eye(6)
    out[COL_BETA:, -10:] = np.eye(10)
    rotation = reference.forward(body, state).rotation
    turn = prior.decode(z)[1].reshape(JOINTS, 3, latent)
    for i in range(JOINTS):
        # The decoder turns a joint in its parent's frame; the unknowns are in camera axes.
        out[6 + 3 * i : 9 + 3 * i, 6 : 6 + latent] = rotation[body.parents[i + 1]] @ turn[i]
    return out


def _linearise(fitter, prior, state, z, camera, matches, weight, evidence):
    params = reference.to_params(state)
    h, g, cost = fitter.normal_equations(params, camera, matches, **evidence)
    # Turning joint k carries its subtree, but decode(z) sets each local rotation by itself: the same first-order motion.
    d = chain(fitter.body, prior, state, z)
    h, g = d.T @ h[0].astype(float) @ d, d.T @ g[0].astype(float)
    index = np.arange(6, 6 + len(z))
    h[index, index] += weight
    g[index] += weight * z
    return h, g, float(cost[0]) + weight * float(z @ z)


__all__ = ["LatentResult", "chain", "solve_latent"]
