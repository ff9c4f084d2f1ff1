"""The pipeline as the node sees it: load once, answer frames, forget tracks.  Tests hand the node another one."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any, Protocol

import numpy as np

from ..config import MAX_PEOPLE, Config
from ..errors import DeviceLost
from ..runtime.cuda_probe import device_answers
from ..track.association import track_name
from ..types import Estimate, Frame, FrameResult

# tf2 never forgets a frame, and a person brings up to sixteen: a listener would grow by half a megabyte with everybody who is
# seen for ten seconds, by estimate.  So a name is given again after that many others, 128 MB in all.
NAMES = 256


class Engine(Protocol):
    """Answers frames.  Used by one thread at a time."""

    body: Any  # body.BodyModel: faces, topology_id, joints
    backends: dict[str, str]  # what really runs

    def process(
        self, frame: Frame, boxes_xywh: np.ndarray | None = None, estimates: Estimate | None = None, camera: str = ""
    ) -> FrameResult:
        """Answer one frame of a camera; boxes and first estimates of other programs as in pipeline.process.

        Raises DensefitError, of which DeviceLost means that no frame can be answered any more.
        """
        ...

    def reset(self, camera: str | None = None) -> None:
        """Forget all tracks of a camera, or of all."""
        ...

    def retune(self, config: Config) -> None:
        """Take over the live settings without loading anything anew."""
        ...


class PipelineEngine:
    """:mod:`densefit_ros.pipeline`: one set of models, and a state per camera."""

    def __init__(self, config: Config) -> None:
        """Loads and warms up.  Raises DensefitError when a file or backend is missing."""
        from .. import pipeline

        self._pipeline = pipeline
        self._models = pipeline.load_models(config)
        self._states: dict[str, Any] = {}
        # Names are given in turn by all cameras, also after a reset.  They begin anywhere, because the bodies of other nodes are
        # on the same /tf.
        self._first_name = secrets.randbelow(1 << 23)
        self._born = self._first_name
        self.body = self._models.body
        self.backends = dict(self._models.backends)

    def process(
        self, frame: Frame, boxes_xywh: np.ndarray | None = None, estimates: Estimate | None = None, camera: str = ""
    ) -> FrameResult:
        state = dataclasses.replace(self._states.get(camera) or self._pipeline.initial_state(), born=self._free_name())
        try:
            state, result = self._pipeline.process(self._models, state, frame, boxes_xywh, estimates)
        except Exception as e:
            if self.backends["device"] == "cuda" and not device_answers():
                raise DeviceLost(f"the GPU answers nothing any more ({type(e).__name__}: {e})") from e
            raise
        self._states[camera], self._born = state, state.born
        return result

    def _free_name(self) -> int:
        """The number of the next name: those from there on that one image can need have gone round, and nobody has them still."""
        taken = {t.track_id for state in self._states.values() for t in (*state.tracks, *state.lost)}
        number = self._first_name + (self._born - self._first_name) % NAMES
        while any(track_name(number + i) in taken for i in range(MAX_PEOPLE)):
            number += 1
        return number

    def reset(self, camera: str | None = None) -> None:
        for name in list(self._states) if camera is None else [camera]:
            self._states.pop(name, None)

    def retune(self, config: Config) -> None:
        self._models = dataclasses.replace(self._models, config=config)
