"""What a network takes over from other checkpoints: their common part, with the trunk grown where it is larger.

A wider trunk computes the same function: its new channels are filters of their own, which nothing reads yet.  Deeper stages
get blocks that add a little noise at first.  What a network has learned need not be learned again when it grows.

Rejected: channels that repeat old ones and share what the next layer makes of them (Chen, Goodfellow, Shlens, "Net2Net",
ICLR 2016).  Unequal shares part copies under plain gradient descent; Adam divides the factor out, and after 950 steps
copies and their sources still had a cosine of 0.995.  Blocks that begin at nothing, with a last normalisation of 0, hardly
begin: after 950 steps it was 0.002, where that of their neighbours is 0.1 to 1.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# The first stage's channels are read by the displacement network too: stem and first stage keep their width.
_FIRST_TO_GROW = 1


FIRST_GAMMA = 0.1  # of the last normalisation of a block that is new


@dataclass(frozen=True)
class Space:
    """Where the channels of a smaller network's layer are among those of the larger one's."""

    old: tuple[int, ...]  # places of the old channels
    count: int

    @staticmethod
    def grown(old: int, new: int) -> Space:
        """The old channels, then the new ones."""
        if new < old:
            raise ValueError(f"expected at least {old} channels, got {new}")
        return Space(tuple(range(old)), new)

    def beside(self, other: Space) -> Space:
        """Of two layers' outputs, one after the other."""
        return Space((*self.old, *(self.count + i for i in other.old)), self.count + other.count)

    def outputs(self, value: Tensor, fresh: Tensor) -> Tensor:
        """Old rows where they belong among ``fresh`` ones."""
        out = fresh.clone()
        out[list(self.old)] = value
        return out

    def inputs(self, weight: Tensor) -> Tensor:
        """Nothing of the new channels is read yet."""
        out = weight.new_zeros(weight.shape[0], self.count, *weight.shape[2:])
        out[:, list(self.old)] = weight
        return out


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


def grow_trunk(net: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
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
        _grow_one(out, target, prefix)
    different = [n for n, v in target.items() if n not in out or out[n].shape != v.shape]
    if different:
        raise ValueError(f"expected the weights of a network with a smaller trunk, but {different[:3]} differ otherwise")
    return out


def _with_additions(target: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with what networks have had added since: a head that only training asks for, the joints' own heads, and
    deeper displacement networks and finders."""
    out = dict(weights)
    for name, value in target.items():
        last = name.removeprefix("displacement.")
        if (".parts." in f".{name}" or ".own." in f".{name}") and name not in out:
            out[name] = value.clone()
        elif last.startswith(("render8.", "both16.", "both32.", "after8.", "down")) and name not in out:
            out[name] = torch.full_like(value, FIRST_GAMMA) if last.endswith("second.1.weight") else value.clone()
    return out


def _grow_one(out: dict[str, Tensor], target: dict[str, Tensor], prefix: str) -> None:
    trunk = f"{prefix}trunk."
    stages = 1 + max(int(n.removeprefix(f"{trunk}stages.").split(".")[0]) for n in target if n.startswith(f"{trunk}stages."))
    spaces: list[Space] = []
    for i in range(stages):
        name = f"{trunk}stages.{i}.0.0.weight"
        spaces.append(Space.grown(len(out[name]), len(target[name])))
    for i, space in enumerate(spaces):
        if i < _FIRST_TO_GROW and space.count != len(space.old):
            raise ValueError(f"stage {i} of the trunk may not grow wider")
        before = spaces[i - 1] if i else None
        _convolution(out, target, f"{trunk}stages.{i}.0", before, space)
        block = 1
        while f"{trunk}stages.{i}.{block}.first.0.weight" in target:
            base = f"{trunk}stages.{i}.{block}"
            if f"{base}.first.0.weight" in out:
                _convolution(out, target, f"{base}.first", space, space)
                _convolution(out, target, f"{base}.second", space, space)
            else:
                out |= {n: v.clone() for n, v in target.items() if n.startswith(f"{base}.")}
                out[f"{base}.second.1.weight"] = torch.full_like(out[f"{base}.second.1.weight"], FIRST_GAMMA)
            block += 1
    _convolution(out, target, f"{trunk}up16", spaces[3].beside(spaces[2]), spaces[2])
    _convolution(out, target, f"{trunk}up8", spaces[2].beside(spaces[1]), None)
    mix = f"{prefix}mix.0.weight"
    if mix in out:
        old = len(spaces[3].old)
        known = 4 * 24 + 4
        first = out[mix].shape[1] - old - known
        parts = [out[mix][:, :first], spaces[3].inputs(out[mix][:, first : first + old]), out[mix][:, first + old :]]
        out[mix] = torch.cat(parts, 1)


def _convolution(
    out: dict[str, Tensor], target: dict[str, Tensor], base: str, inputs: Space | None, outputs: Space | None
) -> None:
    """A convolution and its batch normalisation, in place; ``target`` has the new filters."""
    weight = out[f"{base}.0.weight"]
    # Behind a filter comes a normalisation: its scale only sets how far a step of Adam turns it, new ones as far as the others.
    scale = weight.square().mean().sqrt()
    if inputs is not None:
        weight = inputs.inputs(weight)
    if outputs is not None:
        fresh = target[f"{base}.0.weight"]
        weight = outputs.outputs(weight, fresh * (scale / fresh.square().mean().sqrt().clamp(min=1e-12)))
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = out[f"{base}.1.{name}"]
            new = value.mean() if name in ("weight", "bias") else target[f"{base}.1.{name}"]
            out[f"{base}.1.{name}"] = outputs.outputs(value, torch.zeros(outputs.count, dtype=value.dtype) + new)
    out[f"{base}.0.weight"] = weight
