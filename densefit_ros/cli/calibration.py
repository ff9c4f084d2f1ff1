"""Calibration data for int8 engines: crops of synthetic people, with renderings of wrong estimates as a tracker meets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..body.assets import load_body
from ..body.model import rest_joints
from ..detect.contract import FINDER_CONTRACT, HEIGHT_PX, WIDTH_PX
from ..displace.contract import DISPLACEMENT_CONTRACT
from ..displace.displacer import pack_rendering
from ..errors import AssetError
from ..regress.contract import REGRESSOR_CONTRACT
from ..render.factory import make_renderer
from ..runtime.onnxruntime_backend import OnnxRuntime
from ..runtime.picture import IMAGE_FEATURES, SIZE_PX, check_pair
from ..runtime.protocol import NetworkContract
from ..synth.backgrounds import load_backgrounds
from ..synth.crops import make_crops
from ..synth.displacement import make_pairs
from ..synth.engine import SynthEngine
from ..synth.perturb import disturb
from ..synth.scenes import make_scenes
from ..weights import weights_path

BATCH = 8
SEED = 20


def network_of(inputs: set[str]) -> NetworkContract:
    """Which network has these inputs.  Raises AssetError."""
    contracts = (REGRESSOR_CONTRACT, DISPLACEMENT_CONTRACT, FINDER_CONTRACT)
    found = next((c for c in contracts if set(c.inputs) == inputs), None)
    if found is None:
        raise AssetError(f"expected a regressor, displacement or finder network, got one with inputs {', '.join(sorted(inputs))}")
    return found


def regressor_of(displacement: Path) -> Path:
    """The regressor whose image trunk a displacement network reads: beside it, else the shipped one.  Raises AssetError."""
    beside = displacement.with_name("regressor.onnx")
    path = beside if beside.is_file() else weights_path("regressor.onnx")
    check_pair(path, displacement)
    return path


def feeds(network: NetworkContract, crops: int, regressor: Path | None = None) -> Iterator[dict[str, np.ndarray]]:
    """At least ``crops`` samples of a network's inputs, in batches; the same ones every time.

    ``regressor`` (default: the shipped one) makes the image features that the displacement network reads.
    """
    body, batches = load_body(), -(-crops // BATCH)
    # One subject per batch or so: looks take turns as people do in front of a robot.
    engine = SynthEngine(body, make_renderer(body, "warp", "cpu"), load_backgrounds("train"), subjects=max(batches, 2))
    encoder = OnnxRuntime(regressor or weights_path("regressor.onnx"))
    for index in range(batches):
        rng = np.random.default_rng([SEED, index])
        if network is FINDER_CONTRACT:
            yield {"image": make_scenes(rng, engine, BATCH, WIDTH_PX, HEIGHT_PX).rgb}
            continue
        batch = make_crops(rng, engine, BATCH, SIZE_PX)
        picture = {"image": batch.rgb, "intrinsics": (batch.intrinsics / batch.size).astype(np.float32)}
        if network is REGRESSOR_CONTRACT:
            yield picture
        else:
            seen = encoder(picture)
            start = disturb(rng, batch.params, rest_joints(body, batch.params.betas)[:, 0])
            pairs = make_pairs(rng, engine, batch, start)
            yield {**{name: seen[name] for name in IMAGE_FEATURES}, "rendering": pack_rendering(pairs.surface)}
