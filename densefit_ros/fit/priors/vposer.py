"""VPoser (Pavlakos et al. 2019): a variational autoencoder of 21 body rotations with a 32-dimensional latent.

Loads the published V02_05 checkpoint by its tensors' names, or a smaller network of the same form trained by us.  Runs in
NumPy, with the decoder's derivative carried forward; no human_body_prior, no torch except to open a checkpoint.

Two uses.  As a Gaussian in a fit over all joints: pose = decode(z) with z ~ N(0, I), linearised, plus a small deviation
``off_manifold_rad`` that the autoencoder cannot express.  Or the fit itself runs in the latent, as SMPLify-X does it: see
:mod:`densefit_ros.fit.latent`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...body.assets import read_npz
from ...errors import AssetError
from ...geometry import so3
from ..options import PoseGaussian
from . import mlp
from .checkpoint import read_checkpoint
from .files import array

JOINTS = 21  # all but the hands
POSE = 3 * JOINTS
HAND_SIGMA_RAD = 0.2
OFF_MANIFOLD_RAD = 0.08
LATENT_STEPS = 12
_PREFIXES = ("vp_model.", "model.", "")


class VPoserPrior:
    """Encoder and decoder as dictionaries of arrays under VPoser's own names."""

    name = "vposer"

    def __init__(self, tensors: dict[str, np.ndarray], off_manifold_rad: float = OFF_MANIFOLD_RAD) -> None:
        self._t = tensors
        self.latent = tensors["encoder_net.8.mu.weight"].shape[0]
        self.off_manifold_rad = off_manifold_rad

    @staticmethod
    def load(path: str | Path) -> VPoserPrior:
        """.npz of ours, or the published checkpoint (.ckpt, .pt): nothing in it is executed."""
        path = Path(path)
        data = read_npz(path) if path.suffix == ".npz" else read_checkpoint(path)
        for prefix in _PREFIXES:
            if prefix + "encoder_net.1.weight" in data:
                break
        else:
            raise AssetError(f"expected VPoser tensors (encoder_net.1.weight, ...) in {path}, found {sorted(data)[:6]}")
        data = {k[len(prefix) :]: v for k, v in data.items() if k.startswith(prefix)}
        hidden, latent = np.shape(data.get("decoder_net.0.weight", np.zeros((0, 0))))
        shapes = {
            "encoder_net.2.weight": (hidden, POSE), "encoder_net.6.weight": (hidden, hidden),
            "encoder_net.7.weight": (hidden, hidden), "encoder_net.8.mu.weight": (latent, hidden),
            "decoder_net.0.weight": (hidden, latent), "decoder_net.3.weight": (hidden, hidden),
            "decoder_net.5.weight": (6 * JOINTS, hidden),
        }  # fmt: skip
        shapes.update({k[:-6] + "bias": v[:1] for k, v in dict(shapes).items()})
        for layer, width in ((1, POSE), (4, hidden)):
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"encoder_net.{layer}.{part}"] = (width,)
        return VPoserPrior({k: array(data, k, s, path) for k, s in shapes.items()})

    def encode(self, rotvec: np.ndarray) -> np.ndarray:
        """Mean of the latent.  (P,23,3) or (P,21,3) rad -> (P,L)."""
        x = np.asarray(rotvec, np.float64)[:, :JOINTS].reshape(-1, POSE)
        t = self._t
        x = _batch_norm(t, "encoder_net.1", x)
        x = x @ t["encoder_net.2.weight"].T + t["encoder_net.2.bias"]
        x = _batch_norm(t, "encoder_net.4", np.where(x > 0, x, 0.01 * x))
        for layer in ("encoder_net.6", "encoder_net.7", "encoder_net.8.mu"):
            x = x @ t[layer + ".weight"].T + t[layer + ".bias"]
        return x

    def decode(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(L,) -> rotations (21,3,3), and their derivative as left increments in the joint's own frame (63,L)."""
        t = self._t
        x, dx = mlp.linear(t["decoder_net.0.weight"], t["decoder_net.0.bias"], np.asarray(z, np.float64), np.eye(self.latent))
        x, dx = mlp.leaky_relu(x, dx)
        x, dx = mlp.leaky_relu(*mlp.linear(t["decoder_net.3.weight"], t["decoder_net.3.bias"], x, dx))
        x, dx = mlp.linear(t["decoder_net.5.weight"], t["decoder_net.5.bias"], x, dx)
        return _rotations(x.reshape(JOINTS, 3, 2), dx.reshape(JOINTS, 3, 2, self.latent))

    def nearest(self, rotvec: np.ndarray) -> tuple[np.ndarray, float]:
        """Latent that explains one pose (23,3) best, with that energy: Gauss-Newton from the encoder's guess.

        Minimises |z|^2 + |log(decode(z)^T R)|^2 / off_manifold_rad^2.  The encoder alone is a poor guess away from the
        poses that it was trained on.
        """
        target = so3.exp(np.asarray(rotvec, np.float64)[:JOINTS])
        z = self.encode(np.asarray(rotvec)[None])[0]
        z = z * min(1.0, 1.5 * np.sqrt(self.latent) / max(np.linalg.norm(z), 1e-12))
        weight, damping = 1.0 / self.off_manifold_rad**2, 1e-3

        def evaluate(z):
            rotmat, turn = self.decode(z)
            off = so3.log(target @ np.swapaxes(rotmat, -1, -2))  # left, as the increments of the decoder are
            return off, turn, z @ z + weight * (off**2).sum()

        off, turn, cost = evaluate(z)
        for _ in range(LATENT_STEPS):
            j = np.einsum("jab,jbl->jal", _inverse_left_jacobian(-off), turn.reshape(JOINTS, 3, -1)).reshape(POSE, -1)
            h = weight * j.T @ j + np.eye(self.latent)
            g = z - weight * j.T @ off.reshape(-1)
            step = np.linalg.solve(h + damping * np.diag(h.diagonal()), -g)
            trial = evaluate(z + step)
            if trial[2] <= cost:
                z, damping = z + step, damping / 5
                small = cost - trial[2] < 1e-6 * cost
                off, turn, cost = trial
                if small:
                    break
            else:
                damping *= 10
        hands = (np.asarray(rotvec, np.float64)[JOINTS:] ** 2).sum() / HAND_SIGMA_RAD**2
        return z, 0.5 * (cost + hands)

    def energy(self, rotvec: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """Half the squared latent, plus the deviation from the manifold and of the hands.  (P,23,3) -> (P,)."""
        return np.array([self.nearest(w)[1] for w in np.asarray(rotvec, np.float64).reshape(-1, 23, 3)])

    def gaussian(self, rotvec: np.ndarray, context: np.ndarray | None = None) -> PoseGaussian:
        """Probabilistic principal components around the pose's own latent."""
        rotvec = np.asarray(rotvec, np.float64).reshape(-1, 23, 3)
        mean, precision, energy = np.zeros((len(rotvec), 69)), np.zeros((len(rotvec), 69, 69)), np.zeros(len(rotvec))
        precision[:, POSE:, POSE:] = np.eye(6) / HAND_SIGMA_RAD**2
        for p in range(len(rotvec)):
            z, energy[p] = self.nearest(rotvec[p])
            rotmat, turn = self.decode(z)
            w = _near(so3.log(rotmat), rotvec[p, :JOINTS])
            # Increments to rotation vectors: the inverse left Jacobian of each joint.
            d = np.einsum("jab,jbl->jal", _inverse_left_jacobian(w), turn.reshape(JOINTS, 3, -1)).reshape(POSE, -1)
            mean[p, :POSE] = w.reshape(-1) - d @ z
            precision[p, :POSE, :POSE] = np.linalg.inv(d @ d.T + self.off_manifold_rad**2 * np.eye(POSE))
        return PoseGaussian(mean.reshape(-1, 23, 3), (precision + precision.transpose(0, 2, 1)) / 2, energy)


def _near(w: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Of the two rotation vectors of one rotation, the one nearer to the reference."""
    n = np.linalg.norm(w, axis=-1, keepdims=True)
    other = w - w * (2 * np.pi / np.maximum(n, 1e-9))
    swap = (n > 1e-6) & (
        np.linalg.norm(other - reference, axis=-1, keepdims=True) < np.linalg.norm(w - reference, axis=-1, keepdims=True)
    )
    return np.where(swap, other, w)


def _batch_norm(t: dict, name: str, x: np.ndarray) -> np.ndarray:
    scale = t[name + ".weight"] / np.sqrt(t[name + ".running_var"] + 1e-5)
    return (x - t[name + ".running_mean"]) * scale + t[name + ".bias"]


def _rotations(six: np.ndarray, tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two columns a joint, (J,3,2) with tangents (J,3,2,L), orthonormalised; derivative as left increments (3J,L)."""

    def unit(v, dv):
        n = np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
        u = v / n
        return u, (dv - u[..., None] * np.einsum("ja,jal->jl", u, dv)[:, None]) / n[..., None]

    b1, d1 = unit(six[:, :, 0], tangent[:, :, 0])
    raw, draw = six[:, :, 1], tangent[:, :, 1]
    dot = np.einsum("ja,ja->j", b1, raw)
    ddot = np.einsum("jal,ja->jl", d1, raw) + np.einsum("ja,jal->jl", b1, draw)
    b2, d2 = unit(raw - dot[:, None] * b1, draw - ddot[:, None] * b1[..., None] - dot[:, None, None] * d1)
    b3 = np.cross(b1, b2)
    d3 = np.cross(d1, b2[..., None], axisa=1, axisb=1, axisc=1) + np.cross(b1[..., None], d2, axisa=1, axisb=1, axisc=1)
    rotmat = np.stack([b1, b2, b3], -1)
    derivative = np.stack([d1, d2, d3], 2)  # (J,3,3,L)
    spin = np.einsum("jacl,jbc->jabl", derivative, rotmat)  # dR R^T = hat(increment)
    turn = 0.5 * np.stack([spin[:, 2, 1] - spin[:, 1, 2], spin[:, 0, 2] - spin[:, 2, 0], spin[:, 1, 0] - spin[:, 0, 1]], 1)
    return rotmat, turn.reshape(3 * len(six), -1)


def _inverse_left_jacobian(w: np.ndarray) -> np.ndarray:
    t2 = (w * w).sum(-1)
    t = np.sqrt(np.maximum(t2, 1e-12))
    c = np.where(t2 < 1e-6, 1 / 12, 1 / np.maximum(t2, 1e-12) - (1 + np.cos(t)) / (2 * t * np.sin(t) + 1e-300))
    k = so3.hat(w)
    return np.eye(3) - 0.5 * k + c[..., None, None] * (k @ k)
