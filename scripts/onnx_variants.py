#!/usr/bin/env python3
"""Do smaller variants of the networks pay?  Size, time of a call with one person, and how far their outputs are off.

    scripts/onnx_variants.py [--seconds 20] [--backgrounds DIR ...]

As shipped (computed in float32), float16, and int8 convolutions calibrated on synthetic training crops; ONNX Runtime, one
thread that sleeps when idle, on the CPU.  docs/DECISIONS.md records what came out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from densefit_ros.body.model import rest_joints
from densefit_ros.displace.displacer import pack_rendering
from densefit_ros.runtime.onnx_prepare import folded, half, quantise
from densefit_ros.runtime.onnxruntime_backend import OnnxRuntime
from densefit_ros.runtime.picture import IMAGE_FEATURES
from densefit_ros.synth.displacement import make_pairs
from densefit_ros.synth.perturb import disturb
from densefit_ros.train.sources import People
from densefit_ros.weights import weights_path

Feeds = list[dict[str, np.ndarray]]
BATCHES, PEOPLE = 6, 16
# Outputs by which a difference is felt: px of the crop, log of px^2, rad-like matrix entries, share of the crop's side.
TELLING = {"regressor": ("rot6d_rows", "cam", "joints_uv"), "displacement": ("flow", "log_var")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing, all variants in turn (default: %(default)g)")
    parser.add_argument("--backgrounds", nargs="*", default=None, metavar="DIR")
    args = parser.parse_args()
    feeds = {"regressor": [], "displacement": []}
    for regressor, displacement in samples(args.backgrounds):
        feeds["regressor"].append(regressor)
        feeds["displacement"].append(displacement)
    with tempfile.TemporaryDirectory() as folder:
        files = {(n, v): path for n in feeds for v, path in variants(n, feeds[n], Path(folder)).items()}
        sizes = {key: path.stat().st_size for key, path in files.items()}
        networks = {key: OnnxRuntime(path) for key, path in files.items()}
        times = timed(networks, feeds, args.seconds)
        for (name, variant), network in networks.items():
            p50, p95 = (1e3 * np.percentile(times[name, variant], q) for q in (50, 95))
            off = differences(networks[name, "float32"], network, feeds[name][-1], TELLING[name])
            print(f"{name:13s} {variant:8s} {sizes[name, variant] / 1e6:5.2f} MB  p50 {p50:5.2f} ms  p95 {p95:5.2f} ms  {off}")
    return 0


def samples(backgrounds: list[str] | None) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Inputs of both networks for batches of training people; the last batch is for comparison."""
    source = People(5, PEOPLE, subjects=64, backgrounds=backgrounds)
    encoder = OnnxRuntime(weights_path("regressor.onnx"))
    for index in range(BATCHES):
        crops, rng = source.crops(index), np.random.default_rng(index)
        start = disturb(rng, crops.params, rest_joints(source.body, crops.params.betas)[:, 0], degrees=None)
        pairs = make_pairs(rng, source.engine, crops, start)
        picture = {"image": crops.rgb, "intrinsics": (crops.intrinsics / crops.size).astype(np.float32)}
        seen = encoder(picture)
        yield picture, {**{name: seen[name] for name in IMAGE_FEATURES}, "rendering": pack_rendering(pairs.surface)}


def variants(name: str, feeds: Feeds, folder: Path) -> dict[str, Path]:
    """Files of one network by variant."""
    import onnx

    shipped = weights_path(f"{name}.onnx")
    out = {"float32": shipped, "float16": folder / f"{name}_float16.onnx", "int8": folder / f"{name}_int8.onnx"}
    onnx.save(half(folded(shipped)), str(out["float16"]))
    quantise(shipped, out["int8"], feeds[:-1])
    return out


def timed(networks: dict, feeds: dict[str, Feeds], seconds: float) -> dict[tuple[str, str], list[float]]:
    """Wall times (s) of calls with one person; variants take turns, so that all of them meet the same machine."""
    one = {n: {k: np.ascontiguousarray(a[:1]) for k, a in f[-1].items()} for n, f in feeds.items()}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in networks}
    for key, network in networks.items():
        network(one[key[0]])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, network in networks.items():
            begin = time.perf_counter()
            network(one[key[0]])
            times[key].append(time.perf_counter() - begin)
    return times


def differences(reference: OnnxRuntime, network: OnnxRuntime, feed: dict[str, np.ndarray], names: tuple[str, ...]) -> str:
    """Mean and largest difference of the telling outputs."""
    a, b = reference(feed), network(feed)
    off = {n: np.abs(a[n] - b[n]) for n in names}
    return "  ".join(f"{n} {v.mean():.4f} (at most {v.max():.3f})" for n, v in off.items())


if __name__ == "__main__":
    sys.exit(main())
