"""The pipeline as the node sees it: load once, answer frames, forget tracks.  Tests hand the node another one."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from ..config import Config
from ..types import Frame, FrameResult


class Engine(Protocol):
    """Answers frames.  Used by one thread at a time."""

    body: Any  # body.BodyModel: faces, topology_id, joints
    backends: dict[str, str]  # what really runs

    def process(self, frame: Frame) -> FrameResult:
        """Answer one frame.  Raises DensefitError."""
        ...

    def reset(self) -> None:
        """Forget all tracks."""
        ...

    def retune(self, config: Config) -> None:
        """Take over the settings of LIVE_SETTINGS without loading anything anew."""
        ...


# Settings that the pipeline reads in every frame; all others shape buffers and networks when they are loaded.
LIVE_SETTINGS = frozenset(
    {
        "detect.interval_s",
        "detect.min_score",
        "regress.min_confidence",
        "render.crop_margin",
        "displace.passes",
        "displace.max_sigma_px",
        "displace.sigma_scale",
        "fit.prediction_rot_sigma_rad",
        "fit.prediction_t_sigma_m",
        "fit.estimate_sigma_scale",
        "fit.betas_sigma",
        "track.lost_after_s",
        "track.reidentify_s",
        "track.velocity_tau_s",
        "track.min_inliers",
        "track.appearance",
    }
)


class PipelineEngine:
    """:mod:`densefit_ros.pipeline` with its state."""

    def __init__(self, config: Config) -> None:
        """Loads and warms up.  Raises DensefitError when a file or backend is missing."""
        from .. import pipeline

        self._pipeline = pipeline
        self._models = pipeline.load_models(config)
        self._state = pipeline.initial_state()
        self.body = self._models.body
        self.backends = dict(self._models.backends)

    def process(self, frame: Frame) -> FrameResult:
        self._state, result = self._pipeline.process(self._models, self._state, frame)
        return result

    def reset(self) -> None:
        self._state = self._pipeline.initial_state()

    def retune(self, config: Config) -> None:
        self._models = dataclasses.replace(self._models, config=config)
