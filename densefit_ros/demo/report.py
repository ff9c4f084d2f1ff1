"""Numbers of a demo run: rates, latencies, stages and, where the truth is known, errors before and after refinement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..body.model import BodyModel
from ..body.skin import Skinner
from ..eval.metrics import mpjpe_mm, pa_mpjpe_mm, pve_mm, reprojection_px
from ..geometry.camera import project
from ..types import BodyParams, PosedBody
from .record import Image, Run


def params_of(message: Any) -> BodyParams:
    """An SmplBody, as ROS or rosbags read it, to a batch of one."""

    def f(name: str, *shape: int) -> np.ndarray:
        return np.asarray(getattr(message, name), np.float32).reshape(1, *shape)

    return BodyParams(f("betas", 10), f("global_orient", 3), f("body_pose", 23, 3), f("transl", 3))


def summarise(run: Run, truth: Callable[[int], BodyParams | None], body: BodyModel) -> dict[str, Any]:
    """The content of summary.json."""
    answered = [(i, run.answers[i.stamp_ns]) for i in run.images if i.stamp_ns in run.answers]
    latency = [(a.received_ns - i.stamp_ns) * 1e-6 for i, a in answered]
    times = sorted(a.received_ns for _, a in answered)
    span_s = (times[-1] - times[0]) * 1e-9 if len(times) > 1 else 0.0
    stages: dict[str, list[float]] = {}
    for _, a in answered:
        for name, ms in a.stage_ms.items():
            stages.setdefault(name, []).append(ms)
    summary: dict[str, Any] = {
        "input": run.text,
        "frames_in": len(run.images),
        "frames_out": len(answered),
        "dropped": len(run.images) - len(answered),
        "fps": _round((len(times) - 1) / span_s, 2) if span_s > 0 else None,
        "latency_ms_p50": _percentile(latency, 50),
        "latency_ms_p95": _percentile(latency, 95),
        "stage_ms": {n: _round(float(np.median(v)), 2) for n, v in stages.items()},
        "people": len({b.id for _, a in answered for b in a.bodies}),
        "frames_with_people": sum(bool(a.bodies) for _, a in answered),
        "warm_up_frames_excluded": run.warm_up,
        "first_estimate_by": sorted({b.source for _, a in answered for b in a.bodies}),
        "backends": run.backends,
    }
    if run.images and truth(run.images[0].index) is not None:
        summary.update(errors(run, truth, body))
    return summary


def errors(run: Run, truth: Callable[[int], BodyParams | None], body: BodyModel) -> dict[str, dict[str, float | None]]:
    """Mean errors of the first estimate and of the refined body, over the images that have both.

    Joint and vertex errors are relative to the pelvis; where several people were tracked, the one nearest to the true
    pelvis in the image counts.
    """
    rows: dict[str, list[tuple[float, float, float, float]]] = {"first_estimate": [], "refined": []}
    skinner = Skinner(body)
    for image in run.images:
        answer, true = run.answers.get(image.stamp_ns), truth(image.index)
        if answer is None or true is None or not answer.bodies:
            continue
        goal = _copy(skinner.pose(true))
        refined = min(answer.bodies, key=lambda b: _pelvis_distance(b, goal, image))
        first = answer.first_estimates.get(refined.id)
        if first is None:
            continue
        for name, message in (("first_estimate", first), ("refined", refined)):
            rows[name].append(_errors(_copy(skinner.pose(params_of(message))), goal, image))
    keys = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "reproj_px")
    return {
        name: {k: _round(float(np.mean([r[n] for r in values])), 2) if values else None for n, k in enumerate(keys)}
        for name, values in rows.items()
    }


def table(summary: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    s = summary
    lines = [
        f"input            {s['input']}",
        f"images           {s['frames_in']} in, {s['frames_out']} answered, {s['dropped']} dropped"
        f" ({s['warm_up_frames_excluded']} warm-up images not counted)",
        f"rate             {s['fps']} Hz",
        f"latency          p50 {s['latency_ms_p50']} ms, p95 {s['latency_ms_p95']} ms (image stamp to received message)",
        f"people           {s['people']} tracked, in {s['frames_with_people']} images",
        f"first estimate   by {', '.join(s['first_estimate_by']) or '-'}",
        "stages (median)  " + ", ".join(f"{k} {v} ms" for k, v in s["stage_ms"].items()),
        "running on       " + ", ".join(f"{k} {v}" for k, v in s["backends"].items()),
    ]
    if "refined" in s:
        lines.append(f"{'':17}{'MPJPE mm':>10}{'PA-MPJPE mm':>13}{'PVE mm':>9}{'reproj px':>11}")
        for name in ("first_estimate", "refined"):
            r = s[name]
            cells = (("mpjpe_mm", 10), ("pa_mpjpe_mm", 13), ("pve_mm", 9), ("reproj_px", 11))
            lines.append(f"{name:17}" + "".join(f"{'-' if r[k] is None else format(r[k], '.1f'):>{w}}" for k, w in cells))
    return "\n".join(lines)


def _errors(posed: PosedBody, goal: PosedBody, image: Image) -> tuple[float, float, float, float]:
    j, g = posed.joints[0], goal.joints[0]
    uv, goal_uv = project(image.camera, j), project(image.camera, g)
    return (
        float(mpjpe_mm(j, g)),
        float(pa_mpjpe_mm(j, g)),
        float(pve_mm(posed.vertices[0], goal.vertices[0], j[0], g[0])),
        float(reprojection_px(uv, goal_uv)),
    )


def _pelvis_distance(message: Any, goal: PosedBody, image: Image) -> float:
    pelvis = np.asarray(message.joints, np.float64).reshape(24, 3)[:1]
    return float(np.linalg.norm(project(image.camera, pelvis) - project(image.camera, goal.joints[0][:1])))


def _copy(posed: PosedBody) -> PosedBody:
    return PosedBody(np.array(posed.vertices), np.array(posed.joints))  # the skinner may lend its buffers


def _percentile(values: list[float], q: float) -> float | None:
    return _round(float(np.percentile(values, q)), 2) if values else None


def _round(value: float, digits: int) -> float | None:
    return round(value, digits) if np.isfinite(value) else None
