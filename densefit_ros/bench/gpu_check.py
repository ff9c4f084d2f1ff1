"""``make gpu-check``, its second half: what the GPU gives, as one JSON file to be committed.

``python -m densefit_ros.bench.gpu_check`` writes densefit_ros/bench/baselines/cuda-<gpu>.json:
{hardware, versions, commit, parity, steady_state, rows}.  Rows are those of ``densefit bench fit --json``, and method
``frame`` with ms_median and ms_p99.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from ..body.assets import load_body
from ..errors import AssetError, BackendUnavailable, DensefitError
from ..eval.provenance import commit
from ..models import load_models
from . import gpu_parity, gpu_rows
from .hardware import describe

BASELINES = Path(__file__).resolve().parent / "baselines"
ROW = {"method": str, "points": (int, type(None)), "persons": int, "iterations": (int, type(None)), "ms_median": float,
       "ms_iqr": float, "objective": (float, type(None)), "pve_mm": (float, type(None))}  # fmt: skip
TOP = {"hardware": str, "versions": dict, "commit": str, "parity": dict, "steady_state": dict, "rows": list}
PACKAGES = ("torch", "warp-lang", "tensorrt", "nvdiffrast", "onnxruntime", "onnxruntime-gpu", "numpy")
# What the issue of this path asks of a data-centre GPU, ms; a smaller one is measured all the same.
PROMISES = {("lm", 1): 0.6, ("lm", 16): 1.2, ("frame", 1): 3.0, ("frame", 8): 8.0}


def require(device: str) -> None:
    """Raise BackendUnavailable, in one line, unless ``device`` can run kernels."""
    from ..models import resolve_device

    resolve_device(device)


def measure(device: str, amounts: gpu_rows.Amounts, say: Callable[[str], None], frames: int = 200) -> dict[str, Any]:
    """Everything, as the value that is written."""
    body = load_body()
    say("solver and SMPLify-Adam")
    rows = gpu_rows.fit_rows(body, device, amounts)
    say("renderers")
    rows += gpu_rows.render_rows(body, device, amounts, ("warp",))
    try:
        if device != "cpu":
            rows += gpu_rows.render_rows(body, device, amounts, ("nvdiffrast",))
    except BackendUnavailable as error:
        say(f"nvdiffrast is left out: {error}")
    for appearance in (False, True):
        for persons in amounts.frame_persons:
            say(f"frames of {persons}{' with textures learnt' if appearance else ''}")
            rows.append(gpu_rows.frame_row(device, persons, amounts, appearance=appearance))
    say("parity with the CPU")
    steady = gpu_parity.steady_state(load_models(gpu_rows.frame_settings(device, 1)), frames)
    return {
        "hardware": describe(device), "versions": versions(device), "commit": commit(),
        "parity": gpu_parity.parity(body, device), "steady_state": steady, "rows": rows,
    }  # fmt: skip


def versions(device: str) -> dict[str, str]:
    """Of the packages that take part and of the CUDA driver."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device != "cpu":
        import warp as wp

        found["cuda_driver"] = ".".join(map(str, wp.get_cuda_driver_version()))
    return found


def check(result: dict[str, Any]) -> None:
    """Raise AssetError when a record is not one: for what is written here and what is read from disk."""
    for name, kind in TOP.items():
        if not isinstance(result.get(name), kind):
            raise AssetError(f"GPU record: expected '{name}' to be {kind.__name__}, got {type(result.get(name)).__name__}")
    for row in result["rows"]:
        for name, kind in ROW.items():
            if not isinstance(row.get(name, ...), kind):
                raise AssetError(f"GPU record: row {row.get('method')} has no valid '{name}', got {row.get(name)!r}")
        if row["method"].startswith("frame") and not (isinstance(row.get("ms_p99"), float) and row.get("n", 0) >= 1):
            raise AssetError("GPU record: a frame row needs ms_p99 and n")
    missing = {"lm", "smplify_adam", "frame"} - {r["method"] for r in result["rows"]}
    if missing:
        raise AssetError(f"GPU record: no rows of {sorted(missing)}")


def write(result: dict[str, Any], path: Path) -> None:
    """Checked, and never half."""
    check(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def file_name(gpu: str) -> str:
    """cuda-<gpu>.json from the driver's name of the GPU."""
    return f"cuda-{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"


def verdict(result: dict[str, Any]) -> list[str]:
    """A line per promise: held or not."""
    rows = {(r["method"], r["persons"]): r for r in result["rows"]}
    return [
        f"{method}, {persons}: {rows[method, persons]['ms_median']:.2f} ms, at most {most} promised on a data-centre GPU: "
        + ("held" if rows[method, persons]["ms_median"] <= most else "NOT held")
        for (method, persons), most in PROMISES.items()
        if (method, persons) in rows
    ]


def main(argv: list[str] | None = None) -> int:
    """Exit status 1, and one line, without a CUDA device."""
    parser = argparse.ArgumentParser(prog="python -m densefit_ros.bench.gpu_check", description="Measure this machine's GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=None, help=f"default: {BASELINES.name}/cuda-<gpu>.json")
    parser.add_argument("--repeats", type=int, default=300, help="timed calls of each measurement, at least 200 for a record")
    parser.add_argument("--require", action="store_true", help="only say whether there is a CUDA device")
    args = parser.parse_args(argv)
    try:
        require(args.device)
        if args.require:
            return 0
        import warp as wp

        out = args.out or BASELINES / file_name(wp.get_device(args.device).name)
        result = measure(
            args.device, gpu_rows.Amounts(repeats=args.repeats), lambda m: print(f"[gpu-check] {m}", file=sys.stderr)
        )
        write(result, out)
    except DensefitError as error:
        print(f"[gpu-check] error: {error}", file=sys.stderr)
        return 1
    print("\n".join([*verdict(result), f"written: {out}"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
