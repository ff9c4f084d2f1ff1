"""Dense matches that err together count with their independent share, and keypoints do not shrink with them."""

from __future__ import annotations

import numpy as np

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.fit.solver import FitOptions, Fitter
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.types import BodyParams, Correspondences, Keypoints


def test_share_scales_dense_evidence_and_nothing_else():
    body = load_body()
    camera = camera_from_fov(640, 480, 60)
    start = BodyParams(
        np.zeros((1, 10), np.float32),
        np.array([[3.0, 0.1, 0.2]], np.float32),
        np.full((1, 23, 3), 0.1, np.float32),
        np.array([[0, 0, 4]], np.float32),
    )
    rng = np.random.default_rng(0)
    face = rng.integers(len(body.faces), size=300).astype(np.int32)
    bary = rng.dirichlet(np.ones(3), 300).astype(np.float32)
    corners = pose(body, start).vertices[0][body.faces[face]]
    uv = project(camera, np.einsum("nk,nkc->nc", bary, corners)) + rng.normal(size=(300, 2)) * 2
    matches = Correspondences(np.zeros(300, np.int32), face, bary, uv.astype(np.float32), np.ones(300, np.float32))
    joints = project(camera, pose(body, start).joints) + 3.0
    keypoints = Keypoints("smpl24", joints.astype(np.float32), np.ones((1, 24), np.float32))

    def equations(share, **evidence):
        fitter = Fitter(body, max_persons=1, options=FitOptions(independent_share=share, dtype="float64"))
        evidence = {"matches": Correspondences.empty(), **evidence}
        return fitter.normal_equations(start, camera, evidence.pop("matches"), **evidence)

    none = equations(1.0, keypoints=keypoints)
    whole = equations(1.0, matches=matches, keypoints=keypoints)
    part = equations(0.1, matches=matches, keypoints=keypoints)
    for w, p, n in zip(whole, part, none):
        np.testing.assert_allclose(p - n, 0.1 * (w - n), rtol=1e-8, atol=1e-6 * np.abs(w).max())
