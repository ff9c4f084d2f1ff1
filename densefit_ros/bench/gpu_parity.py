"""How far the device's answers are from the CPU's, and what a steady frame allocates, in numbers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from ..body.model import BodyModel, pose
from ..errors import BackendUnavailable
from ..fit.solver import Fitter
from ..models import Models, load_models
from ..pipeline import initial_state, process
from ..render.appearance import neutral_appearance
from ..render.factory import make_renderer
from ..settings import with_overrides
from ..types import Frame
from . import fit_problems, gpu_rows
from .fit_bench import OPTIONS


def parity(body: BodyModel, device: str) -> dict[str, float]:
    """Differences between ``device`` and the CPU: share of pixels, mm, crop px.  What is not installed has no entry."""
    out = {"render_warp_pixels": _render(body, device, "warp"), "fit_mm": _fit(body, device)}
    for backend in ("auto",) if device == "cpu" else ("onnxruntime", "torch"):  # in float32
        try:
            out["frame_mm"] = _frame(device, backend)
            break
        except BackendUnavailable:
            continue
    if device != "cpu":
        if find_spec("nvdiffrast"):
            out["render_nvdiffrast_pixels"] = _render(body, device, "nvdiffrast")
        for precision in ("fp32", "fp16") if find_spec("tensorrt") else ():
            out[f"tensorrt_{precision}_flow_px"] = _tensorrt(precision)
    return {name: round(float(value), 6) for name, value in out.items()}


def _render(body: BodyModel, device: str, backend: str) -> float:
    people = fit_problems.people(np.random.default_rng(1), 4)
    vertices = pose(body, people).vertices.astype(np.float32)
    affine = np.float32([[[2.0, 0, 60], [0, 2.0, 10]]] * 4)
    looks = [neutral_appearance(body)] * 4
    answers = [
        make_renderer(body, name, where).render(vertices, looks, fit_problems.CAMERA, affine, gpu_rows.RENDER_PX).face_id
        for name, where in ((backend, device), ("warp", "cpu"))
    ]
    return float(np.mean((answers[0] >= 0) != (answers[1] >= 0)))


def _fit(body: BodyModel, device: str) -> float:
    p = fit_problems.problem(body, 4, 500, seed=2)
    results = [
        Fitter(body, where, max_persons=4, max_points=500, options=OPTIONS).solve(
            p.start, p.camera, p.matches, anchors=[p.anchor]
        )
        for where in (device, "cpu")
    ]
    return fit_problems.vertex_error_mm(body, results[0].params, results[1].params)


def _frame(device: str, backend: str) -> float:
    """The second frame of a track, answered at once on the device and at once on the CPU."""
    answers = []
    for where, runtime in ((device, backend), ("cpu", "onnxruntime")):  # auto may be bfloat16
        exact = {"runtime.precision": "fp32"}
        models = load_models(with_overrides(gpu_rows.frame_settings(where, 1, runtime), exact))
        images, camera, boxes = gpu_rows.crowd(models.body, 1, 2)
        state, _ = process(models, initial_state(), Frame(images[0], 0, camera), boxes)
        answers.append(process(models, state, Frame(images[1], gpu_rows.DT_NS, camera))[1].people[0].vertices)
    return float(1e3 * np.linalg.norm(answers[0] - answers[1], axis=-1).mean())


def _tensorrt(precision: str) -> float:
    from ..displace.contract import DISPLACEMENT_CONTRACT
    from ..runtime.onnxruntime_backend import OnnxRuntime
    from ..runtime.tensorrt_backend import TensorRTRuntime
    from ..weights import weights_path

    path = weights_path("displacement.onnx")
    rng = np.random.default_rng(0)
    inputs = {n: rng.random((4, *s.shape[1:])).astype(np.float32) for n, s in DISPLACEMENT_CONTRACT.inputs.items()}
    inputs["rendering"][:, :40] = 0
    got, expected = (runtime(inputs)["flow"] for runtime in (TensorRTRuntime(path, precision), OnnxRuntime(path)))
    return float(np.abs(got - expected).mean())


def steady_state(models: Models, frames: int) -> dict[str, Any]:
    """Bytes of device memory and allocations of torch that ``frames`` steady frames took, and what they run as.

    On CUDA torch is told to refuse operations that wait; Warp's and TensorRT's are in the graph, where there is nothing to
    wait for: a steady frame is one replay and one wait for its end.
    """
    images, camera, boxes = gpu_rows.crowd(models.body, 1, min(30, frames + 1))
    state, _ = process(models, initial_state(), Frame(images[0], 0, camera), boxes)
    torch = None
    try:
        for i in range(1, frames + 11):
            if i == 11 and models.backends["device"] != "cpu":  # warm
                import torch

                torch.cuda.synchronize()
                before = torch.cuda.mem_get_info()[0], torch.cuda.memory_stats()["allocation.all.allocated"]
                torch.cuda.set_sync_debug_mode("error")
            state, _ = process(models, state, Frame(images[i % len(images)], i * gpu_rows.DT_NS, camera))
    finally:
        if torch is not None:
            torch.cuda.set_sync_debug_mode("default")
    out: dict[str, Any] = {"frames": frames, "runs_as": models.backends["device_frame"]}
    if torch is not None:
        out["device_bytes"] = int(before[0] - torch.cuda.mem_get_info()[0])
        out["torch_allocations"] = int(torch.cuda.memory_stats()["allocation.all.allocated"] - before[1])
    return out
