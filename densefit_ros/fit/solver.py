"""The fit: Levenberg-Marquardt on 85 unknowns a person, batched, in a fixed number of steps.

>>> fitter = Fitter(load_body())
>>> result = fitter.solve(start, camera, matches, anchors=[Anchor(start, rot_sigma_rad=0.2)])

Unknowns, Jacobian and solver are described in docs/FIT.md.  A fitter owns its memory and is not safe to use from two
threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import warp as wp

from .. import warp_setup
from ..errors import BackendUnavailable, ShapeError
from ..types import BodyParams, Camera, Correspondences, DepthPoints, FitResult, FitStatus, Keypoints
from . import buffers, guard, linear, outcome, points, stage
from .layout import CHUNK_POINTS, CHUNK_ROWS, COL_RESIDUAL, EXTRA_CHUNKS, MAX_LANDMARKS, WIDTH
from .options import Anchor, FitOptions, PoseGaussian
from .plan import Shape, build

_JOINTS = SimpleNamespace(joint_weights=np.eye(24), vertex_index=np.zeros((24, 0), np.int32), vertex_weight=np.zeros((24, 0)))
HISTORY = 256  # most iterations of one solve


class Fitter:
    """Fits one body model.  Everything is allocated here; ``solve`` allocates only its answer.

    device: "cpu" or "cuda[:n]".  max_points counts dense matches and depth points of one person; more are thinned.
    pose_prior: a :class:`densefit_ros.fit.priors.PosePrior`, or None.
    Raises BackendUnavailable when the device does not exist.
    """

    def __init__(self, body, device: str = "cpu", max_persons: int = 16, max_points: int = 1024,
                 options: FitOptions | None = None, pose_prior=None):  # fmt: skip
        warp_setup.init()
        self.body = body
        self.options = options or FitOptions()
        self.pose_prior = pose_prior
        self.max_persons, self.max_points = int(max_persons), int(max_points)
        try:
            self._device = wp.get_device(device)
        except Exception as error:
            message = f"expected a Warp device, got {device!r}: {error} (is the CUDA driver installed?)"
            raise BackendUnavailable(message) from error
        self.linear = linear.choose(self.options.linear, self._device.is_cpu)
        scalar = wp.float32 if self.options.dtype == "float32" else wp.float64
        chunks = -(-self.max_points // CHUNK_POINTS) + EXTRA_CHUNKS
        self._kernels = buffers.make_kernels(scalar)
        self._constants = buffers.upload_body(body, self._kernels.types, self._device)
        most = int(self._constants.class_size.max())
        self._b = buffers.allocate(
            self._kernels.types, self.max_persons, self.max_points, chunks, most, HISTORY, self._device
        )  # fmt: skip
        self._landmarks: dict = {}
        self._joints = buffers.upload_landmarks(_JOINTS, self._kernels.types, self._device)
        self._plans: dict = {}

    def solve(
        self,
        start: BodyParams,
        camera: Camera | Sequence[Camera],
        matches: Correspondences,
        *,
        keypoints: Keypoints | None = None,
        depth: DepthPoints | None = None,
        anchors: Sequence[Anchor] = (),
        iterations: int | None = None,
        pose_gaussian: PoseGaussian | None = None,
        pose_context: np.ndarray | None = None,
    ) -> FitResult:
        """Refine ``start`` (P persons, camera frame) on the evidence of one frame.

        matches, keypoints, depth: any mix, each may be empty or None.  anchors: Gaussian priors, up to four.
        pose_gaussian: a pose prior already expanded; without it the fitter's own ``pose_prior`` is expanded around the
        start, given ``pose_context`` (P,C) where it is conditional.  Never raises on bad numbers: a person that cannot be
        fitted keeps its start, and ``status`` says why.  Raises ShapeError when arrays do not fit together.
        """
        count = len(start.betas)
        if count == 0:
            return outcome.empty()
        if count > self.max_persons:
            raise ShapeError(f"expected at most {self.max_persons} persons, got {count}: raise max_persons")
        steps = self.options.iterations if iterations is None else int(iterations)
        if not 1 <= steps <= HISTORY:
            raise ShapeError(f"expected 1 to {HISTORY} iterations, got {steps}")
        staged = self._stage(start, camera, matches, keypoints, depth, anchors)
        plan = self._plan(staged, keypoints, self._expanded(pose_gaussian, pose_context, count))
        self._run(plan, staged, steps)
        return self._answer(plan, staged, steps)

    # -- stages of a solve ---------------------------------------------------------------------------------------------

    def _stage(self, start, camera, matches, keypoints, depth, anchors) -> stage.Staged:
        b, persons = self._b, len(start.betas)
        ok = stage.stage_start(b, start)
        stage.stage_cameras(b, camera, persons)
        landmarks, limbs, extra = None, 0, 0
        if keypoints is not None:
            landmarks = self._landmark_set(keypoints.set_name)
            limbs = len(landmarks.limb_first) if keypoints.direction_xyz is not None else 0
            extra = 2 * landmarks.count + 3 * limbs
        limit, options = self.max_points, self.options
        n, person, is_pixel, lasting, counts = points.stage(b, self._constants, matches, depth, persons, limit, extra, options)
        evidence = np.asarray(counts)
        if keypoints is not None:
            evidence = evidence + stage.stage_keypoints(b, keypoints, landmarks, persons, limbs, self.options)
        stage.stage_anchors(b, anchors, persons, self.max_persons)
        return stage.Staged(
            persons, n, int(np.max(counts, initial=0)), ok, evidence, person, is_pixel, lasting, landmarks, limbs, start,
            tuple(a.claim for a in anchors),
        )  # fmt: skip

    def _expanded(self, given: PoseGaussian | None, context: np.ndarray | None, persons: int) -> PoseGaussian | None:
        """The given pose prior, or the fitter's own around the staged start."""
        if given is not None or self.pose_prior is None:
            return given
        rotvec = self._b.rotvec.host[: 24 * persons].reshape(persons, 24, 3)[:, 1:]
        return self.pose_prior.gaussian(rotvec.astype(np.float64), context)

    def _landmark_set(self, name: str):
        if name not in self._landmarks:
            if name not in self.body.landmarks:
                raise ShapeError(f"expected one of the keypoint sets {sorted(self.body.landmarks)}, got {name!r}")
            table = buffers.upload_landmarks(self.body.landmarks[name], self._kernels.types, self._device)
            stage.limb_table(table, tuple(self.body.landmarks[name].names))
            self._landmarks[name] = table
        return self._landmarks[name]

    def _plan(self, staged: stage.Staged, keypoints, gaussian: PoseGaussian | None):
        b, p = self._b, staged.persons
        if gaussian is not None:
            shapes = np.shape(gaussian.mean), np.shape(gaussian.precision)
            if shapes != ((p, 23, 3), (p, 69, 69)):
                raise ShapeError(f"expected a pose prior of mean ({p},23,3) and precision ({p},69,69), got {shapes}")
            b.pose_mean.host[: 23 * p] = np.asarray(gaussian.mean).reshape(-1, 3)
            b.pose_precision.host[: 4761 * p] = np.asarray(gaussian.precision).reshape(-1)
        else:
            b.pose_cost.host[: 23 * p] = 0
        rounded = -(-staged.most_points // CHUNK_POINTS) * CHUNK_POINTS
        name = keypoints.set_name if keypoints is not None else None
        rows = 0 if staged.landmarks is None else 2 * staged.landmarks.count + 3 * staged.limbs
        key = Shape(p, rounded, name, staged.limbs, -(-rows // CHUNK_ROWS), gaussian is not None)
        if key not in self._plans:
            self._plans[key] = build(
                self._kernels, self._constants, b, key, staged.landmarks, self._joints, self.options, self.max_persons,
                self.max_persons * self.max_points, self.max_persons * MAX_LANDMARKS, HISTORY, self._device,
                self.linear == "tile",
            )  # fmt: skip
        return self._plans[key]

    def _run(self, plan, staged: stage.Staged, steps: int) -> None:
        """All iterations: as one recorded graph, or with the host's LAPACK between recorded pieces."""
        self._b.inbox.upload()
        self._b.outbox.fresh = False
        if self.linear == "tile":
            self._replay(plan, steps, self._sequence(plan, steps))
            return
        b, p = self._b, staged.persons
        matrix = b.gram.host[: 2 * p * WIDTH * WIDTH].reshape(2, p, WIDTH, WIDTH)
        step = b.step.host[: p * WIDTH].reshape(p, WIDTH)
        cur, damping, done = b.cur.host[:p], b.damping.host[:p], b.done.host[:p]
        self._replay(plan, "begin", plan.load + plan.evaluation + plan.begin)
        iteration = plan.retract + plan.evaluation + plan.decide
        for _ in range(steps):
            if done.all():
                break
            linear.step(matrix, cur, damping, step)
            self._replay(plan, "iteration", iteration)
        self._replay(plan, "end", plan.end)

    def _replay(self, plan, name, launches: list) -> None:
        if name not in plan.graphs:
            plan.graphs[name] = self._record(launches)
        graph = plan.graphs[name]
        if graph is not None:
            wp.capture_launch(graph)
            return
        for launch in launches:
            launch.launch()

    def _record(self, launches: list):
        """A graph of the launches; None on a CPU whose Warp records graphs on CUDA only: the same launches, one by one."""
        try:
            # What the launches need was loaded when they were made.  Before CUDA 12.3 Warp compiles every module there is
            # unless it is told not to.
            with self._quiet(), wp.ScopedCapture(device=self._device, force_module_load=False) as capture:
                for launch in launches:
                    launch.launch()
        except RuntimeError:
            if not self._device.is_cpu:
                raise
            return None
        return capture.graph

    def _quiet(self):
        return nullcontext() if self._device.is_cpu else warp_setup.without_collections()

    @staticmethod
    def _sequence(plan, steps: int) -> list:
        body = (plan.propose + plan.retract + plan.evaluation + plan.decide) * steps
        return plan.load + plan.evaluation + plan.begin + body + plan.end

    def _answer(self, plan, staged: stage.Staged, steps: int) -> FitResult:
        residuals = outcome.residuals(self, staged)
        return outcome.collect(self, plan, staged, steps, residuals, guard.believed(residuals, self.options))

    # -- for tests and for fits in another chart -----------------------------------------------------------------------

    def normal_equations(self, start: BodyParams, camera, matches, **evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal matrix (P,85,85), gradient (P,85) and robust cost (P,) of the evidence and priors at ``start``.

        The gradient is half the derivative of the cost; unknowns as in ``FitResult.information``.
        """
        anchors = evidence.pop("anchors", ())
        gaussian, context = evidence.pop("pose_gaussian", None), evidence.pop("pose_context", None)
        keypoints, depth = evidence.pop("keypoints", None), evidence.pop("depth", None)
        if evidence:
            raise ShapeError(f"expected keypoints, depth, anchors, pose_gaussian or pose_context, got {sorted(evidence)}")
        staged = self._stage(start, camera, matches, keypoints, depth, anchors)
        p = staged.persons
        plan = self._plan(staged, keypoints, self._expanded(gaussian, context, p))
        self._b.inbox.upload()
        self._b.outbox.fresh = False
        for launch in plan.load + plan.evaluation + plan.begin:
            launch.launch()
        b = self._b
        h = outcome.symmetric(b.gram.pull()[: p * WIDTH * WIDTH].reshape(p, WIDTH, WIDTH))
        return h[:, :85, :85], h[:, COL_RESIDUAL, :85].copy(), b.cost.pull()[:p].copy()

    def with_options(self, **changes) -> Fitter:
        """Another fitter on the same body and device with some options changed."""
        return Fitter(
            self.body, str(self._device), self.max_persons, self.max_points, replace(self.options, **changes), self.pose_prior
        )


__all__ = ["Anchor", "FitOptions", "FitResult", "FitStatus", "Fitter", "PoseGaussian"]
