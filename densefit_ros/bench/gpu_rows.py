"""Rows of the GPU's record: solver, first-order baseline, renderers and whole frames, all on one device.

Everything takes ``device``: with "cpu" the same code is exercised by the tests, and its times mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..body.model import BodyModel, pose
from ..config import KEEP_EVERYBODY, Config
from ..fit import baselines
from ..fit.solver import Fitter
from ..geometry.camera import project
from ..models import load_models
from ..pipeline import initial_state, process
from ..render.appearance import neutral_appearance
from ..render.factory import make_renderer
from ..settings import with_overrides
from ..synth.sequence import demo_sequence
from ..types import Camera, Frame
from . import fit_problems
from .fit_bench import OPTIONS

ITERATIONS = 5
POINTS = 1000
RENDER_PX = 256
DT_NS = 33_000_000


@dataclass(frozen=True)
class Amounts:
    """How much is run."""

    repeats: int = 300  # timed calls
    warm_up: int = 50
    fit_persons: tuple[int, ...] = (1, 16)
    frame_persons: tuple[int, ...] = (1, 8)
    points: int = POINTS
    adam: tuple[int, int] = (50, 50)  # 100 iterations in SPIN's two stages


def timed(once: Callable[[], Any], wait: Callable[[], None], amounts: Amounts) -> np.ndarray:
    """Milliseconds of each of ``amounts.repeats`` calls, after warm-up; ``wait`` ends when the device has finished."""
    for _ in range(amounts.warm_up):
        once()
    wait()
    out = []
    for _ in range(amounts.repeats):
        begin = time.perf_counter()
        once()
        wait()
        out.append(1e3 * (time.perf_counter() - begin))
    return np.array(out)


def row(method: str, persons: int, ms: np.ndarray, **more: Any) -> dict:
    """Medians and tails of one measurement."""
    low, middle, high, tail = np.percentile(ms, [25, 50, 75, 99])
    return {
        "method": method, "points": None, "persons": persons, "iterations": None, "ms_median": round(float(middle), 4),
        "ms_iqr": round(float(high - low), 4), "ms_p99": round(float(tail), 4), "n": len(ms), "objective": None, "pve_mm": None,
        **more,
    }  # fmt: skip


def waiting(device: str) -> Callable[[], None]:
    """What ends when everything queued on ``device`` has run."""
    import warp as wp

    return (lambda: None) if device == "cpu" else (lambda: wp.synchronize_device(device))


def fit_rows(body: BodyModel, device: str, amounts: Amounts) -> list[dict]:
    """Whole calls of the solver (``lm``), its iterations alone (``lm_steps``: one graph on CUDA), SMPLify with Adam."""
    rows, wait = [], waiting(device)
    for persons in amounts.fit_persons:
        p = fit_problems.problem(body, persons, amounts.points, seed=0)
        fitter = Fitter(body, device, max_persons=persons, max_points=amounts.points, options=OPTIONS)

        def whole(p=p, fitter=fitter):
            return fitter.solve(p.start, p.camera, p.matches, anchors=[p.anchor], iterations=ITERATIONS)

        result = whole()
        staged = fitter._stage(p.start, p.camera, p.matches, None, None, [p.anchor])
        plan = fitter._plan(staged, None, None)
        known = {
            "points": amounts.points, "iterations": ITERATIONS, "objective": round(float(result.cost[:, -1].sum()), 3),
            "pve_mm": round(fit_problems.vertex_error_mm(body, result.params, p.truth), 3),
        }  # fmt: skip
        rows.append(row("lm", persons, timed(whole, wait, amounts), **known))
        steps = timed(lambda f=fitter, q=plan, s=staged: f._run(q, s, ITERATIONS), wait, amounts)
        rows.append(row("lm_steps", persons, steps, **known))
        rows.append(adam_row(body, p, persons, device, amounts))
        rows[-1]["slower_than_lm"] = round(rows[-1]["ms_median"] / rows[-3]["ms_median"], 1)
    return rows


def adam_row(body: BodyModel, p: fit_problems.Problem, persons: int, device: str, amounts: Amounts) -> dict:
    """SMPLify with Adam through smplx, from the same start on the same objective."""

    def run() -> baselines.Trace:
        objective = baselines.TorchObjective(body, p.start, p.camera, p.matches, [p.anchor], OPTIONS, device)
        return baselines.smplify_adam(objective, amounts.adam)

    run()
    traces = [run() for _ in range(3)]
    ms = 1e3 * np.array([t.seconds[-1] for t in traces])
    return row(
        "smplify_adam", persons, ms, points=amounts.points, iterations=sum(amounts.adam),
        objective=round(float(traces[-1].objective[-1]), 3),
        pve_mm=round(fit_problems.vertex_error_mm(body, traces[-1].params, p.truth), 3),
    )  # fmt: skip


def render_rows(body: BodyModel, device: str, amounts: Amounts, backends: tuple[str, ...]) -> list[dict]:
    """Each renderer on the same bodies, side by side: whole calls from and to the host."""
    rows = []
    camera = fit_problems.CAMERA
    for backend in backends:
        renderer = make_renderer(body, backend, device)
        for persons in amounts.frame_persons:
            people = fit_problems.people(np.random.default_rng(0), persons)
            vertices = pose(body, people).vertices.astype(np.float32)
            looks = [neutral_appearance(body)] * persons
            affine = np.stack([_window_of(project(camera, v)) for v in vertices])

            def once(renderer=renderer, vertices=vertices, looks=looks, affine=affine):
                return renderer.render(vertices, looks, camera, affine, RENDER_PX)

            rows.append(row(f"render_{backend}", persons, timed(once, waiting(device), amounts), size_px=RENDER_PX))
    return rows


def _window_of(uv: np.ndarray) -> np.ndarray:
    low, high = uv.min(0), uv.max(0)
    side = 1.2 * float((high - low).max())
    x, y = 0.5 * (low + high) - 0.5 * side
    return np.float32([[side / RENDER_PX, 0, x], [0, side / RENDER_PX, y]])


def frame_settings(device: str, persons: int, runtime: str = "auto", appearance: bool = False) -> Config:
    """The tracker as it is measured: known people, built-in networks."""
    return with_overrides(
        Config(),
        {
            "device": device, "track.max_people": persons, "detect.backend": "none", "regress.backend": "network",
            "runtime.backend": runtime, "runtime.device_frame": "on", "track.appearance": appearance,
            **KEEP_EVERYBODY,
        },
    )  # fmt: skip


def crowd(body: BodyModel, persons: int, count: int = 30) -> tuple[list[np.ndarray], Camera, np.ndarray]:
    """``count`` images with ``persons`` copies of the built-in person side by side, their camera, and boxes in the first."""
    sequence = demo_sequence(body)
    columns = min(persons, 4)
    rows = -(-persons // columns)
    w, h = (640, 480) if persons == 1 else (320, 240)
    images = []
    for i in range(count):
        small = cv2.resize(sequence.frame(i)[0], (w, h), interpolation=cv2.INTER_AREA)
        images.append(np.ascontiguousarray(np.tile(small, (rows, columns, 1))))
    c, scale = sequence.camera, w / 640
    camera = Camera(c.fx * scale, c.fy * scale, columns * w / 2, rows * h / 2, columns * w, rows * h)
    uv = scale * project(c, pose(body, sequence.frame(0)[1]).vertices[0])
    low, high = uv.min(0), uv.max(0)
    boxes = [[low[0] + w * (k % columns), low[1] + h * (k // columns), *(high - low)] for k in range(persons)]
    return images, camera, np.float32(boxes)


def frame_row(device: str, persons: int, amounts: Amounts, runtime: str = "auto", appearance: bool = False) -> dict:
    """Whole frames of the tracker, image on the host to results on the host."""
    models = load_models(frame_settings(device, persons, runtime, appearance))
    images, camera, boxes = crowd(models.body, persons, min(30, amounts.warm_up + amounts.repeats))
    state, _ = process(models, initial_state(), Frame(images[0], 0, camera), boxes)
    counter = {"i": 0, "state": state, "at_once": 0, "people": 0}

    def once() -> None:
        counter["i"] += 1
        frame = Frame(images[counter["i"] % len(images)], counter["i"] * DT_NS, camera)
        counter["state"], result = process(models, counter["state"], frame)
        counter["at_once"] += "crop" not in result.stage_ms
        counter["people"] += len(result.people)

    ms = timed(once, waiting(device), amounts)
    return row(
        "frame_learning" if appearance else "frame", persons, ms, iterations=models.config.fit.iterations,
        runs=dict(models.backends), at_once=round(counter["at_once"] / counter["i"], 4),
        people=round(counter["people"] / counter["i"], 4),
    )  # fmt: skip
