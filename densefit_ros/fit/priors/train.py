"""Fit the three default priors to poses: (n,23,3) rotation vectors from any source.

The shipped files come from synthetic poses: ``python -m densefit_ros.bench.fit_priors``, minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .flow import MAX_LOG_SCALE, D, estimate_context
from .vposer import JOINTS, POSE


def train_gmm(poses: np.ndarray, components: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """scikit-learn's expectation maximisation with full covariances; at least 0.05 rad along every axis."""
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(components, covariance_type="full", reg_covar=0.05**2, random_state=seed, max_iter=60)
    model.fit(poses.reshape(len(poses), -1))
    return {"means": model.means_, "covars": model.covariances_, "weights": model.weights_}


def train_vposer(
    poses: np.ndarray, hidden: int = 96, latent: int = 32, steps: int = 3000, seed: int = 0
) -> dict[str, np.ndarray]:
    """VPoser's form, smaller: reconstruction of rotations (geodesic) plus 0.005 times the divergence from N(0, I)."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    relu, norm = nn.LeakyReLU, nn.BatchNorm1d
    encoder = nn.ModuleDict(
        {"1": norm(POSE), "2": nn.Linear(POSE, hidden), "4": norm(hidden), "6": nn.Linear(hidden, hidden),
         "7": nn.Linear(hidden, hidden), "mu": nn.Linear(hidden, latent), "logvar": nn.Linear(hidden, latent)}
    )  # fmt: skip
    decoder = nn.ModuleDict({"0": nn.Linear(latent, hidden), "3": nn.Linear(hidden, hidden), "5": nn.Linear(hidden, 6 * JOINTS)})
    act = relu()
    x_all = torch.tensor(poses[:, :JOINTS].reshape(len(poses), -1), dtype=torch.float32)
    parameters = list(encoder.parameters()) + list(decoder.parameters())
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = x_all[torch.randint(len(x_all), (256,))]
        # Noise on the input only: numbers that never vary (toes) would get a normalisation that blows up in use.
        h = encoder["4"](act(encoder["2"](encoder["1"](x + 0.05 * torch.randn_like(x)))))
        h = encoder["7"](encoder["6"](h))
        mu, sigma = encoder["mu"](h), nn.functional.softplus(encoder["logvar"](h)) + 1e-4
        z = mu + sigma * torch.randn_like(sigma)
        out = decoder["5"](act(decoder["3"](act(decoder["0"](z))))).view(-1, JOINTS, 3, 2)
        chord = (_torch_rotations(out) - _torch_exp(x.view(-1, JOINTS, 3))).square().sum((-1, -2))
        divergence = 0.5 * (mu.square() + sigma.square() - 1 - 2 * sigma.log()).sum(1)
        loss = chord.sum(1).mean() + 0.005 * divergence.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    out = {}
    for name, layer in encoder.items():
        key = f"encoder_net.8.{name}" if name in ("mu", "logvar") else f"encoder_net.{name}"
        out.update({f"{key}.{k}": v.numpy() for k, v in layer.state_dict().items() if v.ndim})
    for name, layer in decoder.items():
        out.update({f"decoder_net.{name}.{k}": v.numpy() for k, v in layer.state_dict().items()})
    return out


def _torch_rotations(six):
    import torch

    b1 = torch.nn.functional.normalize(six[..., 0], dim=-1)
    b2 = six[..., 1] - (b1 * six[..., 1]).sum(-1, keepdim=True) * b1
    b2 = torch.nn.functional.normalize(b2, dim=-1)
    return torch.stack([b1, b2, torch.linalg.cross(b1, b2)], -1)


def _torch_exp(w):
    import torch

    angle = w.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    x, y, z = (w / angle).unbind(-1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(*x.shape, 3, 3)
    s, c = angle.sin()[..., None], angle.cos()[..., None]
    return torch.eye(3) + s * k + (1 - c) * (k @ k)


def train_flow(
    poses: np.ndarray, contexts=None, layers: int = 6, hidden: int = 96, steps: int = 5000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Maximum likelihood of poses given contexts (n,C).

    Without contexts, each batch makes its own: the pose turned by noise of a random, stated size (0.03 to 0.5 rad), as a
    regressor's estimate is.
    """
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    flat = poses.reshape(len(poses), D).astype(np.float32)
    mean, scale = flat.mean(0), np.maximum(flat.std(0), 0.05)

    def batch():
        pick = rng.integers(0, len(flat), 256)
        # A little noise keeps the density finite where the poses do not vary at all (toes, fingers).
        x = flat[pick] + 0.02 * rng.standard_normal((256, D))
        if contexts is not None:
            return x, contexts[pick]
        sigma = np.exp(rng.uniform(np.log(0.03), np.log(0.5), 256))
        return x, estimate_context(x + sigma[:, None] * rng.standard_normal((256, D)), sigma)

    sample = np.concatenate([batch()[1] for _ in range(20)])
    c_mean, c_scale = sample.mean(0), np.maximum(sample.std(0), 0.05)
    mask = np.stack([rng.permutation(D) % 2 for _ in range(layers)]).astype(np.float32)
    w = {"w1": (hidden, D + len(c_mean)), "w2": (hidden, hidden), "w3": (2 * D, hidden)}
    t = {k: (torch.randn(layers, *s) * (0.01 if k == "w3" else s[1] ** -0.5)).requires_grad_() for k, s in w.items()}
    t.update({k.replace("w", "b"): torch.zeros(layers, s[0], requires_grad=True) for k, s in w.items()})
    optimizer = torch.optim.Adam(t.values(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, c = batch()
        x = torch.tensor((x - mean) / scale, dtype=torch.float32)
        c = torch.tensor((c - c_mean) / c_scale, dtype=torch.float32)
        log_det = 0.0
        for i in range(layers):
            keep = torch.from_numpy(mask[i])
            h = torch.tanh(torch.cat([keep * x, c], 1) @ t["w1"][i].T + t["b1"][i])
            h = torch.tanh(h @ t["w2"][i].T + t["b2"][i])
            out = h @ t["w3"][i].T + t["b3"][i]
            s = MAX_LOG_SCALE * torch.tanh(out[:, :D] / MAX_LOG_SCALE) * (1 - keep)
            x = s.exp() * x + out[:, D:] * (1 - keep)
            log_det = log_det + s.sum(1)
        loss = (0.5 * x.square().sum(1) - log_det).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(t.values()), 5.0)
        optimizer.step()
        schedule.step()
    out = {"mean": mean, "scale": scale, "context_mean": c_mean, "context_scale": c_scale, "mask": mask}
    out.update({k: v.detach().numpy() for k, v in t.items()})
    return out


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Compressed, half precision where that is enough (networks), single where it is not (covariances)."""
    dtype = np.float32 if "covars" in arrays else np.float16
    np.savez_compressed(path, **{k: np.asarray(v).astype(dtype) for k, v in arrays.items()})


def main(poses: np.ndarray, arguments: list[str] | None = None) -> int:
    """Train all three on ``poses`` (n,23,3) rad and write gmm.npz, vposer.npz, flow.npz."""
    parser = argparse.ArgumentParser(description="fit the default pose priors")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--only", choices=("gmm", "vposer", "flow"))
    a = parser.parse_args(arguments)
    a.out.mkdir(parents=True, exist_ok=True)
    for name, train in (("gmm", train_gmm), ("vposer", train_vposer), ("flow", train_flow)):
        if a.only in (None, name):
            save(a.out / f"{name}.npz", train(poses))
    return 0
