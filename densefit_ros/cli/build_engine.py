"""``densefit build-engine``: TensorRT engines for this machine, before the node needs them."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from ..runtime import onnx_prepare, tensorrt_backend
from ..runtime.engine_cache import default_cache_dir
from ..runtime.onnxruntime_backend import OnnxRuntime
from ..runtime.tensorrt_build import PRECISIONS
from ..weights import weights_path

SHIPPED = ("regressor", "displacement", "finder")
_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Build what is missing or stale; engines that fit this machine are kept.  Raises DensefitError."""
    parser = argparse.ArgumentParser(prog="densefit build-engine", description=__doc__.split(": ", 1)[1])
    parser.add_argument("networks", nargs="*", default=SHIPPED, help=f".onnx files, or {', '.join(SHIPPED)} (default: these)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="default: fp16")
    parser.add_argument(
        "--cache",
        type=Path,
        default=None,
        metavar="DIR",
        help="default: $DENSEFIT_CACHE, else $XDG_CACHE_HOME/densefit or ~/.cache/densefit",
    )
    parser.add_argument("--crops", type=int, default=256, help="synthetic crops that int8 is calibrated with (default: 256)")
    args = parser.parse_args(arguments)
    cache = args.cache or default_cache_dir()
    tensorrt_backend.check_available()  # before minutes of calibration
    for name in args.networks:
        path = weights_path(f"{name}.onnx") if name in SHIPPED else Path(name)
        begin = time.monotonic()
        precision = "fp16" if name == "finder" else args.precision  # as the tracker loads it, whatever runtime.precision is
        if precision == "int8":
            quantise(path, cache, args.crops)
        runtime = tensorrt_backend.TensorRTRuntime(path, precision, cache)
        print(f"{path.name}: {runtime.name} ready in {cache}, {time.monotonic() - begin:.0f} s")
    return 0


def quantise(path: Path, cache: Path, crops: int) -> Path:
    """The int8 form of a network, made once from synthetic crops.  Raises AssetError."""
    from .calibration import DISPLACEMENT_CONTRACT, feeds, network_of, regressor_of

    out = tensorrt_backend.quantised_path(path, cache)
    if not out.is_file():
        _log.info("quantising %s with %d synthetic crops", path.name, crops)
        network = network_of(set(OnnxRuntime(path).inputs))
        regressor = regressor_of(path) if network is DISPLACEMENT_CONTRACT else None
        onnx_prepare.quantise(path, out, feeds(network, crops, regressor))
    return out
