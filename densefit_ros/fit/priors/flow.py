"""Conditional normalizing flow over body poses, in the manner of ProHMR (Kolotouros et al. 2021).

p(pose | context) = N(z; 0, I) |det dz/dpose|, z = flow(pose; context): affine couplings with small networks that see half
of the pose and the context.  The context is whatever describes one image: the shipped model is conditioned on a
regressor's own estimate, 69 rotation numbers and its standard deviation in rad (:func:`estimate_context`), which every
regressor has; a model conditioned on a network's feature vector has the same form and is trained the same way
(:mod:`densefit_ros.fit.priors.train`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...body.assets import read_npz
from ...errors import AssetError, ShapeError
from ..options import PoseGaussian
from . import mlp
from .files import array

D = 69
MAX_LOG_SCALE = 2.0


def estimate_context(rotvec: np.ndarray, sigma_rad: np.ndarray | float) -> np.ndarray:
    """Context of the shipped flow: a regressor's pose (P,23,3) rad and the standard deviation of its joints, scalar or (P,)."""
    rotvec = np.asarray(rotvec, np.float64).reshape(-1, D)
    sigma = np.broadcast_to(np.asarray(sigma_rad, np.float64), (len(rotvec),))
    return np.concatenate([rotvec, np.log(np.clip(sigma, 1e-3, 3.0))[:, None]], 1)


class FlowPrior:
    """L couplings; ``mask[i]`` marks the inputs that coupling i leaves alone."""

    name = "flow"

    def __init__(self, mean, scale, context_mean, context_scale, mask, w1, b1, w2, b2, w3, b3) -> None:
        self.mean, self.scale = mean, scale  # of poses: inputs are whitened per number
        self.context_mean, self.context_scale = context_mean, context_scale
        self.mask = mask.astype(bool)
        self._layers = list(zip(w1, b1, w2, b2, w3, b3))

    @staticmethod
    def load(path: str | Path) -> FlowPrior:
        """.npz as :mod:`densefit_ros.fit.priors.train` writes it."""
        path = Path(path)
        d = read_npz(path)
        mask = array(d, "mask", (None, D), path)
        n, context = len(mask), array(d, "context_mean", (None,), path)
        scale, context_scale = array(d, "scale", (D,), path), array(d, "context_scale", (len(context),), path)
        if not (scale > 0).all() or not (context_scale > 0).all():
            raise AssetError(f"expected positive scales in {path}")
        w1 = array(d, "w1", (n, None, D + len(context)), path)
        h = w1.shape[1]
        return FlowPrior(
            array(d, "mean", (D,), path), scale, context, context_scale,
            mask, w1, array(d, "b1", (n, h), path), array(d, "w2", (n, h, h), path), array(d, "b2", (n, h), path),
            array(d, "w3", (n, 2 * D, h), path), array(d, "b3", (n, 2 * D), path),
        )  # fmt: skip

    def to_latent(self, rotvec: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        """One pose (69,) -> z (69,), dz/dpose (69,69), log |det|, gradient of the latter (69,)."""
        x, dx = (rotvec - self.mean) / self.scale, np.diag(1.0 / self.scale)
        c = (context - self.context_mean) / self.context_scale
        zero = np.zeros((len(c), D))
        log_det, d_log_det = -float(np.log(self.scale).sum()), np.zeros(D)
        for mask, (w1, b1, w2, b2, w3, b3) in zip(self.mask, self._layers):
            keep = mask.astype(float)
            h, dh = mlp.tanh(*mlp.linear(w1, b1, np.concatenate([keep * x, c]), np.concatenate([keep[:, None] * dx, zero])))
            h, dh = mlp.tanh(*mlp.linear(w2, b2, h, dh))
            out, dout = mlp.linear(w3, b3, h, dh)
            s, ds = mlp.tanh(out[:D] / MAX_LOG_SCALE, dout[:D] / MAX_LOG_SCALE)
            s, ds = MAX_LOG_SCALE * s * (1 - keep), MAX_LOG_SCALE * ds * (1 - keep)[:, None]
            shift, dshift = out[D:] * (1 - keep), dout[D:] * (1 - keep)[:, None]
            gain = np.exp(s)
            dx = gain[:, None] * (dx + x[:, None] * ds) + dshift
            x = gain * x + shift
            log_det, d_log_det = log_det + float(s.sum()), d_log_det + ds.sum(0)
        return x, dx, log_det, d_log_det

    def _contexts(self, count: int, context: np.ndarray | None) -> np.ndarray:
        c = None if context is None else np.asarray(context, np.float64)
        if c is None or c.shape != (count, len(self.context_mean)):
            got = "none" if c is None else c.shape
            raise ShapeError(
                f"expected a context {(count, len(self.context_mean))} for the flow prior, got {got}: see estimate_context"
            )
        return c

    def energy(self, rotvec: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """Negative log density.  (P,23,3), (P,C) -> (P,)."""
        flat = np.asarray(rotvec, np.float64).reshape(-1, D)
        out = np.empty(len(flat))
        for p, c in enumerate(self._contexts(len(flat), context)):
            z, _, log_det, _ = self.to_latent(flat[p], c)
            out[p] = 0.5 * z @ z - log_det
        return out

    def gaussian(self, rotvec: np.ndarray, context: np.ndarray | None = None) -> PoseGaussian:
        """Gauss-Newton on z; the determinant enters through its gradient."""
        flat = np.asarray(rotvec, np.float64).reshape(-1, D)
        mean, precision, energy = np.empty_like(flat), np.empty((len(flat), D, D)), np.empty(len(flat))
        for p, c in enumerate(self._contexts(len(flat), context)):
            z, jacobian, log_det, d_log_det = self.to_latent(flat[p], c)
            precision[p] = jacobian.T @ jacobian + 1e-6 * np.eye(D)
            mean[p] = flat[p] - np.linalg.solve(precision[p], jacobian.T @ z - d_log_det)
            energy[p] = 0.5 * z @ z - log_det
        return PoseGaussian(mean.reshape(-1, 23, 3), precision, energy)
