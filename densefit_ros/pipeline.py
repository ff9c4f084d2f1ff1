"""The frame: find -> crop -> regress -> render -> displace -> decode -> fit -> track.

``process`` is the whole system; everything else in the package serves it.  It is a function of (models, state, frame)
that returns the next state, so a bag, a video, a test and a live camera run the same code.

Source of the chain regress, render, displace, fit: Wehrbein et al., "Personalized 3D Human Pose and Shape Refinement",
arXiv 2403.11634.  Warm start, second-order steps, guard, shape belief and covariances are ours (docs/DECISIONS.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .config import Config
from .displace.decode import decode
from .evidence.depth import depth_points
from .evidence.ground import ground_points
from .evidence.keypoints import of_boxes
from .geometry import crop as crops
from .models import Models, load_models
from .runtime.picture import SIZE_PX
from .steps import conclude, find, given, identify, priors, steady
from .track import egomotion
from .track import state as tracking
from .track.state import Track, TrackerState
from .types import Correspondences, Crop, DepthPoints, Estimate, Frame, FrameResult, Measured

__all__ = ["Config", "Models", "TrackerState", "initial_state", "load_models", "process"]


def initial_state() -> TrackerState:
    """Nobody tracked yet."""
    return TrackerState()


def process(
    models: Models,
    state: TrackerState,
    frame: Frame,
    boxes_xywh: np.ndarray | None = None,
    estimates: Estimate | None = None,
) -> tuple[TrackerState, FrameResult]:
    """Answer one frame.

    ``frame.keypoints``, when given, replaces both the finder and the first estimate.
    ``boxes_xywh`` (N,4) px, when given, replaces the built-in person finder in this frame; ``estimates``, of anybody in any
    order, replaces the finder, and the first estimate of the people whom it holds.  A stamp that is not newer than the last
    one drops all tracks: the camera's clock was set back, and a velocity across it would be nonsense.
    Raises ShapeError when the image does not fit its camera, or what comes with it does not fit the image.
    """
    find.check_frame(frame, models.body.landmarks)
    times, config = _Stopwatch(), models.config
    state = find.still_valid(state, frame.stamp_ns, config.track)
    state = egomotion.followed(models.body, state, frame.T_world_camera, frame.stamp_ns)
    before = {t.track_id: t for t in state.tracks}

    # The tracks, moved on to this frame.  On a CUDA device all steps run at once while nothing has to be decided between them.
    with times("find"):
        tracks = [tracking.predicted(t, frame.stamp_ns) for t in state.tracks]
    measured = None
    if models.device_frame is not None and boxes_xywh is None and estimates is None:
        with times("device"):
            measured = steady.measure(models, state, tracks, frame)
    if measured is None:
        state, tracks, crop, estimate = _first_estimates(models, state, tracks, frame, boxes_xywh, estimates, times)
        if not tracks:
            return conclude.finish(config, state, (), frame, times.ms, ())
        measured = _refine(models, tracks, crop, estimate, frame, times)

    # What was measured updates the tracks; what was not coasts, and is dropped after a while.
    with times("track"):
        concluded = conclude.people(models, before, tracks, measured, frame)
        concluded = conclude.learn_appearance(models, concluded, measured.crop, frame)
        concluded = identify.recognise(models, state, concluded, frame.stamp_ns)
    return conclude.finish(config, state, [c.track for c in concluded], frame, times.ms, [c.result for c in concluded])


def _first_estimates(
    models: Models,
    state: TrackerState,
    tracks: list[Track],
    frame: Frame,
    boxes_xywh: np.ndarray | None,
    estimates: Estimate | None,
    times: _Stopwatch,
) -> tuple[TrackerState, list[Track], Crop, Estimate]:
    """Everybody's crop and first estimate; newcomers that look like people become tracks."""
    config, camera, given_boxes = models.config, frame.camera, None
    with times("find"):
        boxes = find.mesh_boxes(models, tracks, camera)
        if estimates is not None:
            given_boxes = given.mesh_boxes(models, estimates, camera)
            enough = config.regress.new_confidence
            boxes_xywh = given.proposals(boxes_xywh, given_boxes, estimates.confidence, camera, enough)
        new_boxes, scores, state = find.newcomers(models, state, frame, boxes, boxes_xywh)
        boxes = around = np.concatenate([boxes, new_boxes])
    with times("regress"):
        if estimates is None:
            boxes, around = find.settled(models, frame, boxes, len(tracks), scores)
    with times("crop"):
        squares = [crops.square_around(b, config.render.crop_margin) for b in around]
        crop = crops.extract(frame.rgb, np.reshape(squares, (-1, 4)), SIZE_PX)
    with times("regress"):
        if estimates is None:
            keypoints = None if frame.keypoints is None else of_boxes(frame.keypoints, boxes)
            estimate = find.first_estimate(models, crop, boxes, frame, tracks, keypoints)
        else:
            estimate = given.first_estimate(models, crop, frame, tracks, boxes, estimates, given_boxes)
        estimate = find.without_broken(estimate, tracks)
        crop, estimate = identify.settle(models, tracks, crop, estimate, frame)
        state, tracks, kept = find.admit(models, state, tracks, estimate, frame.stamp_ns)
    return state, tracks, find.take_crop(crop, kept), find.take_estimate(estimate, kept)


def _refine(models: Models, tracks: list[Track], crop: Crop, estimate: Estimate, frame: Frame, times: _Stopwatch) -> Measured:
    """Render the start, ask the network where its pixels should go, and solve for the body that goes there.

    Whoever the fitter's guard rejects, because the displacements do not speak for the result, is solved again from the
    other evidence alone.
    """
    config, camera = models.config, frame.camera
    start = params = priors.fuse(tracks, estimate, config, frame.stamp_ns)
    anchors = priors.anchors(tracks, estimate, config, frame.stamp_ns)
    on_scale = on_floor = np.zeros(len(tracks), bool)
    if frame.depth_m is not None:
        with times("depth"):
            start, anchors, on_scale = priors.scale_to_depth(models, start, anchors, frame, crop)
            params = start
    mapped = given.iuv_matches(models, frame, start)
    matches = mapped
    if models.displacer is not None:
        with times("displace"):
            seen = priors.seen(models, tracks, crop, estimate, frame.stamp_ns)
    former = None
    for _ in range(config.displace.passes):
        planes = []
        with times("render"):
            vertices = models.skinner.pose(params).vertices
            if models.displacer is not None or on_scale.any():
                surface = priors.render(models, vertices, tracks, camera, crop)
        if on_scale.any():
            with times("depth"):
                planes.append(depth_points(frame.depth_m, surface, camera, on_scale))
        if models.displacer is not None:
            with times("displace"):
                field = models.displacer.predict(crop, surface, seen)
            with times("decode"):
                matches = Correspondences.concat([decode(field, surface, crop, priors.decode_options(config)), mapped])
        if frame.ground is not None:
            with times("ground"):
                planes.append(ground_points(vertices, models.body.faces, frame.ground, camera))
                on_floor = np.isin(np.arange(len(tracks)), planes[-1].person)
        with times("fit"):
            depth = DepthPoints.concat(planes) if planes else None
            sober = {"keypoints": estimate.keypoints, "depth": depth, "anchors": anchors}
            sober["pose_gaussian"] = priors.pose_gaussian(models, params, tracks, estimate, frame.stamp_ns)
            fit = models.fitter.solve(params, camera, matches, **sober)
            if former is None:
                fit = conclude.without_rejected(models, fit, params, camera, mapped, **sober)
            else:
                fit = conclude.with_former(fit, former)
            params, former = fit.params, fit
    with times("fit"):
        posed = models.skinner.pose(fit.params)
    return Measured(crop, estimate, start, matches, fit, posed, on_scale, on_floor)


class _Stopwatch:
    """Wall time per named stage; a stage that runs twice adds up."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.ms[stage] = self.ms.get(stage, 0.0) + (time.perf_counter() - begin) * 1e3
