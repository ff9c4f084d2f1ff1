"""The networks that ship, made trainable again: ``densefit train restore --out RUN``.

ONNX files hold the inference form: batch normalisation is folded into the convolutions, and heads that only training asks
for are gone.  Here every convolution gets a normalisation back whose statistics are measured on synthetic pictures, so the
restored network computes what the files do and goes on learning from there (``--init RUN/best.pt``).  Training's own heads
learn anew, on features that stay as they are: fresh ones would shake the trunk that they are to teach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..detect.finder_network import FinderNet
from ..displace.network import RenderingConv
from ..regress.network import RegressorNet
from ..runtime.picture import check_pair
from ..runtime.torch_backend import TorchRuntime
from .config import BOTH
from .data import Batch
from .finder import seen_cells
from .joint import JointNet
from .loop import to_tensors
from .losses import guide_loss, part_loss

# Root mean square of a restored filter.  Behind it comes a normalisation, so its scale is no part of the function; it sets how
# far a step of Adam turns it, and folded filters, scaled by their channels' statistics, would all turn at different speeds.
_FILTER_RMS = 0.05
_HEADS_LR = 1e-2


def restore(regressor: Path, displacement: Path, batches: Iterable[Batch]) -> JointNet:
    """A trainable network of the two files' weights, with statistics of the pictures and renderings of ``batches``.

    ``batches`` as JointSource makes them, from which the heads that only training asks for learn too.  Raises AssetError when a
    file is not of this version's networks, or the two were not trained together.
    """
    batches = list(batches)
    check_pair(regressor, displacement)
    files = {part: TorchRuntime(path).network for part, path in zip(BOTH, (regressor, displacement))}
    net = JointNet(**{part: _config(n) for part, n in files.items()})
    folded = {f"{part}.{name}": value for part, n in files.items() for name, value in n.state_dict().items()}
    rendered = "displacement.render2.0.weight"
    folded[rendered] = RenderingConv.as_normalised(folded[rendered])
    _unfold(net, folded, (_inputs(batch, "image", "intrinsics", "rendering") for batch in batches))
    _teach_heads(net.regressor, batches)
    return net


def restore_finder(finder: Path, batches: Iterable[Batch]) -> FinderNet:
    """A trainable network of the file's weights, with statistics of the pictures of ``batches``, as FinderSource makes them.

    Raises AssetError when the file is not of this version's network.
    """
    batches = list(batches)
    file = TorchRuntime(finder).network
    net = FinderNet(**_config(file))
    _unfold(net, file.state_dict(), (_inputs(batch, "image") for batch in batches))
    with torch.no_grad():
        learnt = [(net.features(*_inputs(batch, "image")).bfloat16(), seen_cells(*_inputs(batch, "owner"))) for batch in batches]
    _teach([net.guide], learnt, lambda features, seen: F.binary_cross_entropy_with_logits(net.guide(features)[:, 0], seen))
    return net


def _config(network: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in network.config.items() if k != "fused"}


def _inputs(batch: Batch, *names: str) -> tuple[Tensor, ...]:
    return tuple(to_tensors({name: batch[name] for name in names}, "cpu").values())


def _unfold(net: nn.Module, folded: Mapping[str, Tensor], pictures: Iterable[tuple[Tensor, ...]]) -> None:
    """Give ``net``, in place, the function of the ``folded`` parameters, with normalisations measured on ``pictures``."""
    state = net.state_dict()
    state |= {name: value for name, value in folded.items() if name in state}
    pairs = _normalised(net)
    for conv, norm in pairs.items():
        bias = folded[f"{conv}.bias"]
        # A normalisation that changes nothing but adds the folded bias.
        state |= {f"{norm}.weight": torch.ones_like(bias), f"{norm}.bias": bias, f"{norm}.running_mean": torch.zeros_like(bias)}
        state[f"{norm}.running_var"] = torch.full_like(bias, 1.0 - net.get_submodule(norm).eps)
    net.load_state_dict(state)
    net.eval()
    for conv, (mean, variance) in _statistics(net, pairs, pictures).items():
        _renormalise(net.get_submodule(conv), net.get_submodule(pairs[conv]), mean, variance)


def _normalised(net: nn.Module) -> dict[str, str]:
    """Convolutions with a normalisation behind them, by name, and its name."""
    out = {}
    for name, module in net.named_modules():
        layers = list(module) if isinstance(module, nn.Sequential) else []
        for i, (first, second) in enumerate(zip(layers, layers[1:])):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                out[f"{name}.{i}"] = f"{name}.{i + 1}"
    return out


def _statistics(
    net: nn.Module, pairs: dict[str, str], pictures: Iterable[tuple[Tensor, ...]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance per channel of what each convolution answers, over all pixels of all pictures."""
    sums: dict[str, Tensor] = {}

    def gather(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], answer: Tensor) -> None:
            x = answer.double().transpose(0, 1).flatten(1)
            count = torch.full((len(x),), float(x.shape[1]), dtype=torch.double)
            sums[name] = sums.get(name, 0.0) + torch.stack([count, x.sum(1), (x * x).sum(1)])

        return hook

    hooks = [net.get_submodule(name).register_forward_hook(gather(name)) for name in pairs]
    with torch.inference_mode():
        for inputs in pictures:
            net(*inputs)
    for hook in hooks:
        hook.remove()
    means = {name: (s[1] / s[0], s[2] / s[0]) for name, s in sums.items()}
    return {name: (mean.float(), (square - mean**2).clamp(min=0.0).float()) for name, (mean, square) in means.items()}


def _renormalise(conv: nn.Conv2d, norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Give filters their scale, and the normalisation behind them statistics and parameters that leave the function as it is."""
    with torch.no_grad():
        # A filter that answers nothing stays as it is.
        scale = _FILTER_RMS / conv.weight.square().mean((1, 2, 3)).sqrt().clamp(min=1e-6)
        conv.weight *= scale[:, None, None, None]
        norm.running_mean.copy_(scale * mean)
        norm.running_var.copy_(scale**2 * variance)
        norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps) / scale)
        norm.bias += mean


def _teach_heads(net: RegressorNet, batches: Sequence[Batch]) -> None:
    """Fit the heads that only training asks for to the trunk's features, which stay."""
    with torch.no_grad():
        learnt = [
            (net.trunk(*_inputs(batch, "image")).s8.bfloat16(), *_inputs(batch, "body_colour", "body_part")) for batch in batches
        ]
    _teach(
        [net.guide, net.parts],
        learnt,
        lambda s8, colour, part: guide_loss(net.guide(s8), colour) + part_loss(net.parts(s8), part),
    )


def _teach(
    heads: Sequence[nn.Module], learnt: Sequence[tuple[Tensor, ...]], loss_of: Callable[..., Tensor], passes: int = 20
) -> None:
    """Fit ``heads`` alone: ``learnt`` holds features, in half precision, and what ``loss_of`` compares their answers with."""
    optimizer = torch.optim.AdamW(nn.ModuleList(heads).parameters(), lr=_HEADS_LR)
    for _ in range(passes):
        for features, *truth in learnt:
            loss = loss_of(features.float(), *truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
