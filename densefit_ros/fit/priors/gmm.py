"""Mixture of Gaussians over the 69 numbers of a body pose (SMPLify, Bogo et al. 2016, eq. 5).

As there, the sum is replaced by its largest term: energy = min_k [0.5 d^T C_k^-1 d - log(c w_k)].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...body.assets import read_npz
from ...errors import AssetError
from ..options import PoseGaussian
from .files import array


class GmmPrior:
    """K Gaussians: means (K,69) rad, covariances (K,69,69) rad^2, weights (K,).

    ``precisions`` (K,69,69) rad^-2 and ``offset`` (K,) make the energy.
    """

    name = "gmm"

    def __init__(self, means: np.ndarray, covariances: np.ndarray, weights: np.ndarray) -> None:
        self.means = np.asarray(means, np.float64)
        self.weights = np.asarray(weights, np.float64) / np.sum(weights)
        self.precisions = np.linalg.inv(np.asarray(covariances, np.float64))
        self.precisions = (self.precisions + self.precisions.transpose(0, 2, 1)) / 2
        self.offset = 0.5 * np.linalg.slogdet(covariances)[1] - np.log(self.weights)
        self.offset -= self.offset.min()  # the constant is free; keep energies near zero

    @staticmethod
    def load(path: str | Path) -> GmmPrior:
        """Ours (.npz), or SMPLify's gmm_08.pkl through the restricted unpickler."""
        path = Path(path)
        if path.suffix == ".pkl":
            from ...body.unpickle import restricted_load

            data = restricted_load(path)
            if not isinstance(data, dict):
                raise AssetError(f"expected a dictionary with means, covars and weights in {path}, got {type(data).__name__}")
            data = {str(k): v for k, v in data.items()}
        else:
            data = read_npz(path)
        means = array(data, "means", (None, 69), path)
        covariances = array(data, "covars", (len(means), 69, 69), path)
        if np.linalg.eigvalsh(covariances).min() <= 0:
            raise AssetError(f"expected positive definite covariances in {path}")
        weights = array(data, "weights", (len(means),), path)
        if not (weights > 0).all():
            raise AssetError(f"expected positive weights in {path}")
        return GmmPrior(means, covariances, weights)

    def _terms(self, rotvec: np.ndarray) -> np.ndarray:
        d = np.asarray(rotvec, np.float64).reshape(-1, 1, 69) - self.means
        return 0.5 * ((d[:, :, None] @ self.precisions)[:, :, 0] * d).sum(-1) + self.offset  # a fifth of einsum's time

    def energy(self, rotvec: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """(P,23,3) -> (P,)."""
        return self._terms(rotvec).min(1)

    def gaussian(self, rotvec: np.ndarray, context: np.ndarray | None = None) -> PoseGaussian:
        """The component that explains the pose best."""
        terms = self._terms(rotvec)
        best = terms.argmin(1)
        return PoseGaussian(self.means[best].reshape(-1, 23, 3), self.precisions[best], terms.min(1))
