"""An engine without networks: a person at a fixed place whenever the image is brighter than black.

Run as a program it is the densefit node with this engine, so that tests of the ROS side start in a second.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time

import numpy as np

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.config import Config
from densefit_ros.errors import DeviceLost
from densefit_ros.types import BodyParams, Estimate, FitStatus, Frame, FrameResult, PersonResult, TrackingState


class FakeEngine:
    """See the module.  ``device: cuda`` fails as a missing backend would; a red image is a bug in the pipeline, and a green one
    loses the GPU.

    DENSEFIT_FAKE_LOAD_S and DENSEFIT_FAKE_MS: how long loading and a frame take.
    """

    def __init__(self, config: Config) -> None:
        if config.device == "cuda":
            from densefit_ros.errors import BackendUnavailable

            raise BackendUnavailable("no CUDA in the fake engine")
        time.sleep(float(os.environ.get("DENSEFIT_FAKE_LOAD_S", "0")))
        self.body = load_body()
        self.backends = {"device": "cpu", "regress": "fake"}
        self.config = config
        self.resets = 0
        params = BodyParams.rest(1)
        params.root_rotvec[0] = [np.pi, 0, 0]
        params.t_camera_root[0] = [0.2, 0.1, 3.0]
        self.params = params
        self.posed = pose(self.body, params)

    def process(self, frame: Frame, boxes_xywh=None, estimates: Estimate | None = None, camera: str = "") -> FrameResult:
        """One person, or one for each estimate, box or person with keypoints that came from outside; ids name the camera."""
        begin = time.perf_counter()
        self.slow_down()
        mean = frame.rgb[::32, ::32].reshape(-1, 3).mean(0)
        if mean[0] > 250 and mean[1] < 5:
            raise ZeroDivisionError("planted bug")
        if mean[1] > 250 and mean[0] < 5:
            raise DeviceLost("planted loss")
        people = (self._person(frame),) if mean.max() > 8 else ()
        if estimates is not None:
            given = [estimates.params.person(i) for i in range(len(estimates.params))]
            people = tuple(dataclasses.replace(self._person(frame), params=p, source="external") for p in given)
        elif boxes_xywh is not None:
            people = tuple(dataclasses.replace(self._person(frame), box_xywh=b, source="boxes") for b in boxes_xywh)
        elif frame.keypoints is not None:
            points = [np.r_[uv.min(0), uv.max(0)] for uv in frame.keypoints.uv]
            people = tuple(dataclasses.replace(self._person(frame), box_xywh=b, source="keypoints") for b in points)
        elif frame.iuv is not None:
            parts = np.unique(frame.iuv[..., 0])
            people = (dataclasses.replace(self._person(frame), source=f"densepose {parts.tolist()}"),)
        if camera:
            people = tuple(dataclasses.replace(p, track_id=camera[0] * 5) for p in people)
        return FrameResult(frame.stamp_ns, frame.camera, people, {"fake": (time.perf_counter() - begin) * 1e3})

    def slow_down(self) -> None:
        """Take DENSEFIT_FAKE_MS for a frame."""
        time.sleep(float(os.environ.get("DENSEFIT_FAKE_MS", "0")) * 1e-3)

    def reset(self, camera: str | None = None) -> None:
        self.resets += 1

    def retune(self, config: Config) -> None:
        self.config = config

    def _person(self, frame: Frame) -> PersonResult:
        return PersonResult(
            track_id="abcde",
            tracking_state=TrackingState.TRACKED,
            status=FitStatus.CONVERGED,
            params=self.params,
            first_estimate=self.params,
            source="fake",
            vertices=self.posed.vertices[0],
            joints=self.posed.joints[0],
            velocity_m_s=np.array([0.5, 0.0, -0.25], np.float32),
            joint_covariance=np.tile(np.eye(3, dtype=np.float32) * 1e-4, (24, 1, 1)),
            box_xywh=np.array([10, 20, 100, 200], np.float32),
            fit_error_px=0.5,
            iterations=4,
            confidence=0.9,
            scale_source="depth" if frame.depth_m is not None else "prior",
        )


if __name__ == "__main__":
    from densefit_ros.ros.node import main

    sys.exit(main(sys.argv, FakeEngine))
