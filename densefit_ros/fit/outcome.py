"""From the device's memory to a FitResult: status, covariance, inliers."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from ..types import NUM_BETAS, NUM_JOINTS, NUM_UNKNOWNS, BodyParams, FitResult, FitStatus
from .layout import MAX_LANDMARKS, WIDTH

N = NUM_UNKNOWNS


def empty() -> FitResult:
    """The answer for no persons."""
    z = np.zeros
    return FitResult(
        BodyParams.rest(0), z(0, np.int32), z((0, 1), np.float32), z(0, np.int32), z((0, NUM_JOINTS, 3, 3), np.float32),
        z(0, np.float32), z((0, N, N), np.float32),
    )  # fmt: skip


def symmetric(lower: np.ndarray) -> np.ndarray:
    """Full matrices from their lower triangles, (P,n,n), zero above."""
    out = lower + lower.transpose(0, 2, 1)
    index = np.arange(lower.shape[-1])
    out[:, index, index] = lower[:, index, index]
    return out


def joint_covariance(information: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """J H^-1 J^T per joint.

    information (P,85,85) in the scale of its noise, lower triangle; jacobian (P,24,85,3) -> (P,24,3,3) m^2.
    """
    out = np.empty((len(jacobian), NUM_JOINTS, 3, 3))
    for p in range(len(jacobian)):
        a = np.array(information[p], np.float64)
        diagonal = np.maximum(a.diagonal(), 1e-12)
        # Directions that nothing measures get a variance of 1e9 in their own scale, not a singular matrix.
        a.reshape(-1)[:: N + 1] += 1e-9 * diagonal
        rows = np.array(jacobian[p].transpose(0, 2, 1), np.float64, order="C").reshape(-1, N)  # (72,85)
        # C order lower is Fortran order upper: A = U^T U.
        factor, info = lapack.dpotrf(a.T, lower=0)
        if info == 0:
            half = lapack.dtrtrs(factor, rows.T, lower=0, trans=1, overwrite_b=1)[0].T
        else:
            s = 1.0 / np.sqrt(diagonal)
            w, v = np.linalg.eigh(a * s * s[:, None], UPLO="L")
            half = (rows * s) @ (v / np.sqrt(np.maximum(w, 1e-9)))
        half = np.ascontiguousarray(half).reshape(NUM_JOINTS, 3, N)
        out[p] = half @ half.transpose(0, 2, 1)
    return out


def noise_variance(r2: np.ndarray, scale: float, unknowns: float) -> float:
    """Variance of the dense residuals in units of what their weights promised: robust, 1 when the weights are right.

    r2: squared norms (two components each).  For a Gaussian the weighted mean of r2 under Geman-McClure weights is below
    2; the factor that makes it unbiased is found once per scale by integration over the exponential law of r2 / 2.
    """
    if len(r2) < 8:
        return 1.0
    c2 = scale * scale
    variance = 1.0
    for _ in range(3):  # weights depend on the scale being estimated: a fixed point, reached fast
        w = c2 * variance / (c2 * variance + r2)
        w *= w
        total = float(w.sum())
        if total <= 0:
            return 1.0
        effective = max(2.0 * total - unknowns, 0.2 * total)
        variance = min(max(float(w @ r2) / effective / _gaussian_ratio(scale), 1e-4), 1e6)
    return variance


@functools.cache
def _gaussian_ratio(scale: float) -> float:
    r2 = np.linspace(0.0, 80.0, 8001)
    density = np.exp(-r2 / 2)
    w = (scale**2 / (scale**2 + r2)) ** 2
    return float((w * r2 * density).sum() / (2.0 * (w * density).sum()))


class Squared(NamedTuple):
    """Squared residuals of one person in sigmas."""

    dense: np.ndarray  # (N,)
    share: np.ndarray  # (N,) of an independent measurement
    keypoints: np.ndarray  # (K,)


def residuals(fitter, staged) -> list[tuple[Squared, Squared]]:
    """Of every person, at the start and at the result.

    Depth points are left out: the guard judges what a network said.
    """
    b, n = fitter._b, staged.points
    cur = b.cur.pull()
    none = np.zeros(0)
    if n:
        dense, dense_start = b.r2.pull().reshape(2, -1), b.r2_start.pull()
        starts = np.searchsorted(staged.person_of_point, np.arange(staged.persons + 1))
    if staged.landmarks is not None:
        k = staged.landmarks.count
        keys, keys_start, weight = b.key_r2.pull().reshape(2, -1), b.key_r2_start.pull(), b.key_weight.host
        assert keys.shape[1] == fitter.max_persons * MAX_LANDMARKS
    out = []
    for i in range(staged.persons):
        first = final = share = none
        if n:
            mine = slice(starts[i], starts[i + 1])
            pixel = staged.is_pixel[mine]
            share = b.share.host[:n][mine][pixel].astype(np.float64)
            first, final = dense_start[mine][pixel].astype(np.float64), dense[cur[i]][mine][pixel].astype(np.float64)
        key_first = key_final = none
        if staged.landmarks is not None:
            mine = slice(i * k, (i + 1) * k)
            used = weight[mine] > 0
            key_first, key_final = keys_start[mine][used].astype(np.float64), keys[cur[i]][mine][used].astype(np.float64)
        out.append((Squared(first, share, key_first), Squared(final, share, key_final)))
    return out


def collect(fitter, plan, staged, steps: int, residuals: list, believed: np.ndarray) -> FitResult:
    """Read the result, decide the status of every person, and give starts back unchanged where nothing was gained.

    Persons whose result is not ``believed`` (P,) bool keep their start, with status REJECTED and nothing learnt from evidence.
    """
    b, p, options = fitter._b, staged.persons, fitter.options
    cur = b.cur.pull()[:p]
    done, accepted = b.done.pull()[:p].copy(), b.accepted.pull()[:p].copy()
    history = b.history.pull()[: p * (len(b.history.host) // fitter.max_persons)].reshape(p, -1)[:, : steps + 1].copy()
    ran = b.iteration.pull()[:p]
    for i in range(p):
        history[i, ran[i] + 1 :] = history[i, min(ran[i], steps)]
    rotvec = b.out_rotvec.pull()[: 24 * p].reshape(p, 24, 3).astype(np.float32)
    params = BodyParams(
        b.out_beta.pull()[:p].astype(np.float32), rotvec[:, 0], rotvec[:, 1:], b.out_t.pull()[:p].astype(np.float32)
    )
    status = np.full(p, FitStatus.MAX_ITERATIONS, np.int32)
    status[done == 1] = FitStatus.CONVERGED
    status[(accepted == 0) & (done != 1)] = FitStatus.STALLED
    behind = ~(b.cost.pull()[:p] < np.inf) | ~(_start_depth(fitter.body, staged.start, staged.valid_start) > options.z_min_m)
    status[staged.evidence < options.min_matches] = FitStatus.NO_EVIDENCE
    status[~staged.valid_start | behind] = FitStatus.INVALID_START
    finite = np.isfinite(rotvec).all((1, 2)) & np.isfinite(params.t_camera_root).all(1) & np.isfinite(params.betas).all(1)
    status[~finite & (status < FitStatus.REJECTED)] = FitStatus.STALLED
    status[~believed & (status < FitStatus.REJECTED)] = FitStatus.REJECTED
    kept = status >= FitStatus.REJECTED
    params = keep_start(params, staged, kept)

    # Uncertainty at the result: data scaled by how large its residuals turned out, priors as promised.
    persons = np.arange(p)
    gram = b.gram.pull()[: 2 * p * WIDTH * WIDTH].reshape(2, p, WIDTH, WIDTH)[cur, persons, :N, :N]
    prior = b.prior_gram.pull()[: 2 * p * WIDTH * WIDTH].reshape(2, p, WIDTH, WIDTH)[cur, persons, :N, :N]
    jacobian = b.joint_jacobian.pull()[: p * NUM_JOINTS * N].reshape(p, NUM_JOINTS, N, 3)
    if not np.isfinite(gram.sum() + prior.sum() + jacobian.sum()):  # a start that could not be evaluated
        gram, prior, jacobian = (np.nan_to_num(a, posinf=0.0, neginf=0.0) for a in (gram, prior, jacobian))
    gram[kept] = prior[kept]
    inliers, scaled, shares = np.zeros(p, np.float32), np.empty(gram.shape), np.ones(p)
    # Errors that evidence has in common leave no residuals: small ones then do not mean that the errors are small.
    least = 0.25 if options.covariance_share == 1.0 else 1.0
    for i in range(p):
        e = residuals[i][0 if kept[i] else 1].dense
        inliers[i] = np.count_nonzero(e < options.inlier_sigma**2) / max(len(e), 1)
        unknowns = N - float(np.sum(prior[i].diagonal() / np.maximum(gram[i].diagonal(), 1e-12)))
        variance = noise_variance(e, float(options.robust_scale), min(max(unknowns, 0.0), N))
        shares[i] = share = options.covariance_share / max(variance, least)
        scaled[i] = prior[i] * (1.0 - share)
        scaled[i] += gram[i] * share
    _count_planes(scaled, np.where(kept, 1.0, shares), jacobian, fitter, staged)
    _discount_anchors(scaled, b, staged, fitter.max_persons)
    covariance = joint_covariance(scaled, jacobian)
    return FitResult(params, status, history, accepted, covariance.astype(np.float32), inliers, symmetric(gram))


def _count_planes(information: np.ndarray, shares: np.ndarray, jacobian: np.ndarray, fitter, staged) -> None:
    """Count what the floor says in full in ``information`` (P,85,85), of which ``shares`` (P,) are in there, in place.

    It does not err with the displacements, for whose errors the evidence is discounted.  A point moves nearly as the joint does
    that carries it: what its lever adds is left out.
    """
    b = fitter._b
    plane = np.flatnonzero(~staged.lasting)
    if not len(plane):
        return
    person = staged.person_of_point[plane]
    joint = fitter._constants.face_part[b.face.host[plane]]
    normal = b.normal.host[plane].astype(np.float64)
    r2 = b.r2.pull().reshape(2, -1)[b.cur.pull()[person], plane].astype(np.float64)
    scale2 = float(fitter.options.robust_scale) ** 2
    precision = b.share.host[plane] * (b.sqrt_weight.host[plane].astype(np.float64) * scale2 / (scale2 + r2)) ** 2
    of_joint = np.zeros((len(information), NUM_JOINTS, 3, 3))
    np.add.at(of_joint, (person, joint), precision[:, None, None] * normal[:, :, None] * normal[:, None, :])
    for i, k in zip(*np.nonzero(of_joint.any((2, 3)))):
        rows = jacobian[i, k].astype(np.float64)  # (85,3)
        information[i] += (1.0 - shares[i]) * np.tril(rows @ of_joint[i, k] @ rows.T)


def _discount_anchors(information: np.ndarray, b, staged, capacity: int) -> None:
    """Take what each anchor says beyond its claim out of ``information`` (P,85,85), in place.

    An anchor's block of the normal matrix is its precision times J^T J of a rotation's logarithm, whose singular values are 1 or
    more: what is left stays positive.
    """
    p, unknown = staged.persons, np.arange(N)
    for a, claim in enumerate(staged.claims):
        people = slice(a * capacity, a * capacity + p)
        rotation = b.inv_sigma_rotation.host.reshape(-1, NUM_JOINTS)[people].repeat(3, axis=1).astype(np.float64)
        t, betas = (w.host[people].astype(np.float64) for w in (b.inv_sigma_t, b.inv_sigma_beta))
        surer = np.maximum(betas**2 - claim.betas_sigma**-2, 0.0) if claim.betas_sigma > 0 else np.zeros_like(betas)
        information[:, unknown, unknown] -= np.hstack([(1.0 - claim.share) * np.hstack([t, rotation]) ** 2, surer])


def keep_start(params: BodyParams, staged, keep: np.ndarray) -> BodyParams:
    """The caller's start for the persons in ``keep``; where the start is not finite, the rest pose in front of the camera."""
    if not keep.any():
        return params
    start, ok = staged.start, staged.valid_start
    t = np.where(ok[:, None], start.t_camera_root, [0.0, 0.0, 3.0])
    values = (
        (np.where(ok[:, None], start.betas, 0.0), params.betas),
        (np.where(ok[:, None], start.root_rotvec, 0.0), params.root_rotvec),
        (np.where(ok[:, None, None], start.joint_rotvec, 0.0), params.joint_rotvec),
        (t, params.t_camera_root),
    )
    picked = [np.where(keep.reshape((-1,) + (1,) * (new.ndim - 1)), np.asarray(old, np.float32), new) for old, new in values]
    return BodyParams(*picked)


def _start_depth(body, start: BodyParams, ok: np.ndarray) -> np.ndarray:
    betas = np.where(ok[:, None], start.betas, 0.0)
    z = np.where(ok, np.asarray(start.t_camera_root)[:, 2], 1.0)
    return z + body.joint_template[0, 2] + betas @ body.joint_shapedirs[0, 2][:NUM_BETAS]
