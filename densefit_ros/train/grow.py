"""What a network takes over from other checkpoints: their common part, with the trunk grown where it is larger.

A grown trunk computes the same function: wider layers repeat channels and divide what the next layer makes of them, deeper
stages get blocks that add nothing yet.  After Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016: what a network has learned
need not be learned again when it grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# The first stage's channels are read by the displacement network too: stem and first stage keep their width.
_FIRST_TO_GROW = 1


@dataclass(frozen=True)
class Space:
    """How the channels of a layer's output repeat those of the smaller network's."""

    source: Tensor  # (new,) int64: the old channel
    share: Tensor  # (new,) what of it the next layer takes from here; sums to 1 over the copies of a channel

    @staticmethod
    def grown(old: int, new: int, generator: torch.Generator) -> Space:
        """The old channels, then copies of a random choice of them."""
        if new < old:
            raise ValueError(f"expected at least {old} channels, got {new}")
        more = torch.randint(0, old, (new - old,), generator=generator)
        source = torch.cat([torch.arange(old), more])
        # Unequal shares: equal copies would receive equal gradients and stay copies.
        raw = 0.5 + torch.rand(new, generator=generator)
        return Space(source, raw / torch.zeros(old).index_add(0, source, raw)[source])

    def outputs(self, value: Tensor) -> Tensor:
        return value[self.source]

    def inputs(self, weight: Tensor) -> Tensor:
        return weight[:, self.source] * self.share.view(1, -1, *[1] * (weight.ndim - 2))


def take_over(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load what a checkpoint holds of ``net``: all of it, its part of a joint run's, or the part that it adds to one.

    A smaller trunk grows.  Raises ValueError when the checkpoint holds something else.
    """
    weights = without_copies(weights)
    parts = [name for name in ("regressor", "displacement") if hasattr(net, name)]
    joint = any(name.startswith("regressor.") for name in weights)
    if joint and not parts:
        own = "regressor." if hasattr(net, "maps") else "displacement."
        weights = {name.removeprefix(own): value for name, value in weights.items() if name.startswith(own)}
    elif parts and not joint:
        net = net.regressor if "maps.weight" in weights else net.displacement
    net.load_state_dict(grow_trunk(net, weights))


def without_copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the trunk's second name, under which runs up to the crops of 128 px saved it."""
    return {name: value for name, value in weights.items() if not name.startswith("displacement.trunk.")}


def grow_trunk(net: nn.Module, weights: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """``weights`` of a network with a smaller trunk, as ``net.load_state_dict`` takes them.

    ``net`` is a RegressorNet or a JointNet; only the trunk's stages from the second on may be wider, and all may be deeper.
    Returns ``weights`` unchanged where nothing differs.  Raises ValueError for other differences.
    """
    target = net.state_dict()
    weights = _with_additions(target, weights)
    if all(name in weights and weights[name].shape == value.shape for name, value in target.items()):
        return weights
    out = {name: value.clone() for name, value in weights.items()}
    for prefix in {name.split("trunk.")[0] for name in target if "trunk." in name}:
        _grow_one(out, target, prefix, torch.Generator().manual_seed(seed))
    different = [n for n, v in target.items() if n not in out or out[n].shape != v.shape]
    if different:
        raise ValueError(f"expected the weights of a network with a smaller trunk, but {different[:3]} differ otherwise")
    return out


def _with_additions(target: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with what networks have had added since: a head that only training asks for, and deeper displacement
    networks and finders.  The additions change no output."""
    out = dict(weights)
    for name, value in target.items():
        last = name.removeprefix("displacement.")
        if ".parts." in f".{name}" and name not in out:
            out[name] = value.clone()
        elif last.startswith(("render8.", "both16.", "both32.", "after8.", "down")) and name not in out:
            out[name] = torch.zeros_like(value) if last.endswith("second.1.weight") else value.clone()
    return out


def _grow_one(out: dict[str, Tensor], target: dict[str, Tensor], prefix: str, generator: torch.Generator) -> None:
    trunk = f"{prefix}trunk."
    stages = 1 + max(int(n.removeprefix(f"{trunk}stages.").split(".")[0]) for n in target if n.startswith(f"{trunk}stages."))
    spaces: list[Space] = []
    for i in range(stages):
        name = f"{trunk}stages.{i}.0.0.weight"
        spaces.append(Space.grown(len(out[name]), len(target[name]), generator))
    for i, space in enumerate(spaces):
        if i < _FIRST_TO_GROW and len(space.source) != len(out[f"{trunk}stages.{i}.0.0.weight"]):
            raise ValueError(f"stage {i} of the trunk may not grow wider")
        before = spaces[i - 1] if i else None
        _convolution(out, f"{trunk}stages.{i}.0", before, space)
        block = 1
        while f"{trunk}stages.{i}.{block}.first.0.weight" in target:
            base = f"{trunk}stages.{i}.{block}"
            if f"{base}.first.0.weight" in out:
                _convolution(out, f"{base}.first", space, space)
                _convolution(out, f"{base}.second", space, space)
            else:
                out |= {n: v.clone() for n, v in target.items() if n.startswith(f"{base}.")}
                out[f"{base}.second.1.weight"] = torch.zeros_like(out[f"{base}.second.1.weight"])
            block += 1
    _convolution(out, f"{trunk}up16", _side_by_side(spaces[3], spaces[2]), spaces[2])
    _convolution(out, f"{trunk}up8", _side_by_side(spaces[2], spaces[1]), None)
    mix = f"{prefix}mix.0.weight"
    if mix in out:
        old = int(spaces[3].source.max()) + 1
        known = 4 * 24 + 4
        first = out[mix].shape[1] - old - known
        parts = [out[mix][:, :first], spaces[3].inputs(out[mix][:, first : first + old]), out[mix][:, first + old :]]
        out[mix] = torch.cat(parts, 1)


def _convolution(out: dict[str, Tensor], base: str, inputs: Space | None, outputs: Space | None) -> None:
    """A convolution and its batch normalisation, in place."""
    weight = out[f"{base}.0.weight"]
    if inputs is not None:
        weight = inputs.inputs(weight)
    if outputs is not None:
        weight = outputs.outputs(weight)
        for name in ("weight", "bias", "running_mean", "running_var"):
            out[f"{base}.1.{name}"] = outputs.outputs(out[f"{base}.1.{name}"])
    out[f"{base}.0.weight"] = weight


def _side_by_side(first: Space, second: Space) -> Space:
    old = int(first.source.max()) + 1
    return Space(torch.cat([first.source, second.source + old]), torch.cat([first.share, second.share]))
