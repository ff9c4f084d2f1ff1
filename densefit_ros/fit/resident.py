"""A fit whose evidence is written on the device by other kernels, and whose numbers come back with theirs.

The evidence lies in fixed slots, ``fitter.max_points`` per person, used or not.  Everything that a frame does not change is
laid out here, once; then a solve is a list of launches that anybody may queue, or record into a graph.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import warp as wp

from ..errors import BackendUnavailable
from ..types import BodyParams, Correspondences, FitResult, Keypoints
from . import guard, outcome, points, stage
from .layout import GROUPS
from .options import Claim, PoseGaussian
from .priors.gmm import GmmPrior
from .solver import Fitter

ANCHORS = 2


def require_mixture(fitter: Fitter) -> None:
    """Raises BackendUnavailable when the fitter's pose prior cannot be expanded on the device: only a mixture can."""
    prior = fitter.pose_prior
    if prior is not None and not isinstance(prior, GmmPrior):
        raise BackendUnavailable(f"the frame on one device knows the pose prior gmm, not {prior.name}")


class ResidentFit:
    """All ``fitter.max_persons`` persons of a fitter in every solve, ANCHORS anchors, one keypoint set, no limbs, no depth.

    ``arrays`` are the fitter's own on the device: other kernels write start, cameras, anchors, keypoints and matches there.
    A slot without a match is a plane with weight and normal 0: it has no say, wherever its point lies.  ``claims`` are
    those of the anchors.  Raises as :func:`require_mixture`.
    """

    def __init__(self, fitter: Fitter, keypoints: str, iterations: int, claims: tuple[Claim, Claim] = (Claim(), Claim())) -> None:
        b, persons, slots = fitter._b, fitter.max_persons, fitter.max_points
        self._fitter, self._steps = fitter, iterations
        landmarks = fitter._landmark_set(keypoints)
        b.anchors.host[0] = ANCHORS
        b.point_start.host[: persons + 1] = slots * np.arange(persons + 1)
        b.share_start.host[:] = int(fitter._constants.class_size.max()) * np.arange(persons * slots)
        b.normal.host[:] = 0
        b.share.host[:] = 0
        # Points come as they are found, not sorted by the joints that move them: any of them may fill any group.
        every = np.full(persons * slots, (1 << GROUPS) - 1)
        points.stage_chunks(b, every, np.full(persons, slots), persons, 2 * landmarks.count)
        self._staged = stage.Staged(
            persons=persons, points=persons * slots, most_points=slots, valid_start=np.ones(persons, bool),
            evidence=np.zeros(persons, int), person_of_point=np.repeat(np.arange(persons), slots),
            is_pixel=np.zeros(persons * slots, bool), lasting=np.ones(persons * slots, bool), landmarks=landmarks, limbs=0,
            start=BodyParams.rest(persons), claims=claims,
        )  # fmt: skip
        none = Keypoints(keypoints, np.zeros((persons, landmarks.count, 2)), np.zeros((persons, landmarks.count)))
        require_mixture(fitter)
        prior = fitter.pose_prior
        nothing = PoseGaussian(np.zeros((persons, 23, 3)), np.zeros((persons, 69, 69)))
        self._plan = fitter._plan(self._staged, none, None if prior is None else nothing)
        b.inbox.upload()
        self.launches = fitter._sequence(self._plan, iterations)
        if prior is not None:
            self._mixture = _upload(fitter, prior)  # launches do not keep what they read
            self.launches = [*_choose_gaussians(fitter, self._mixture), *self.launches]
        self.arrays = SimpleNamespace(**{name: m.device for name, m in vars(b).items() if hasattr(m, "pull")})
        self.face_part = wp.array(fitter._constants.face_part.astype(np.int32), dtype=wp.int32, device=fitter._device)
        self.face_class = wp.array(fitter._constants.face_class.astype(np.int32), dtype=wp.int32, device=fitter._device)

    def queue_download(self) -> None:
        """Queue the copies of results and matches to the host."""
        self._fitter._b.outbox.download()
        self._fitter._b.inbox.download()

    def matches(self, persons: int) -> Correspondences:
        """What the first ``persons`` persons were fitted to.  Once the download has arrived."""
        b, slots = self._fitter._b, self._fitter.max_points
        used = np.flatnonzero(b.sqrt_weight.host[: persons * slots] > 0)
        return Correspondences(
            (used // slots).astype(np.int32), b.face.host[used], b.bary.host[used], b.target.host[used, :2],
            b.sqrt_weight.host[used],
        )  # fmt: skip

    def answer(self, start: BodyParams) -> FitResult:
        """The result of the first persons, those of ``start``, as :meth:`Fitter.solve` gives it.  ``start`` is where their fit
        began.  Once the download has arrived."""
        b, fitter, count = self._fitter._b, self._fitter, len(start)
        b.outbox.fresh = True
        is_pixel = b.sqrt_weight.host > 0
        everyone = self._staged.persons
        keys = b.key_weight.host[: everyone * self._staged.landmarks.count] > 0
        staged = dataclasses.replace(
            self._staged, is_pixel=is_pixel, start=BodyParams.stack([start, BodyParams.rest(everyone - count)]),
            evidence=is_pixel.reshape(everyone, -1).sum(1) + keys.reshape(everyone, -1).sum(1),
        )  # fmt: skip
        residuals = outcome.residuals(fitter, staged)
        believed = guard.believed(residuals, fitter.options)
        result = outcome.collect(fitter, self._plan, staged, self._steps, residuals, believed)
        rows = {f.name: getattr(result, f.name)[:count] for f in dataclasses.fields(FitResult) if f.name != "params"}
        return FitResult(params=result.params.rows(slice(count)), **rows)


def _upload(fitter: Fitter, prior: GmmPrior) -> SimpleNamespace:
    k, device = fitter._kernels.types, fitter._device

    def put(values, dtype, shape):
        return wp.array(np.ascontiguousarray(values.reshape(shape)), dtype=dtype, device=device)

    return SimpleNamespace(
        count=len(prior.means),
        mean=put(prior.means, k.V3, (-1, 3)),
        precision=put(prior.precisions, k.F, -1),
        offset=put(prior.offset, k.F, -1),
        energy=wp.zeros(fitter.max_persons * len(prior.means), dtype=k.F, device=device),
    )


def _choose_gaussians(fitter: Fitter, m: SimpleNamespace) -> list:
    """Launches that expand the mixture around the start, as ``GmmPrior.gaussian`` does on the host."""
    kernels, b, device, persons = fitter._kernels.pose_prior, fitter._b, fitter._device, fitter.max_persons
    weigh = [m.count, b.rotvec.device, m.mean, m.precision, m.offset, m.energy]
    choose = [m.count, m.energy, m.mean, m.precision, b.pose_mean.device, b.pose_precision.device]
    return [
        wp.launch(kernels.weigh, dim=persons * m.count, inputs=weigh, device=device, record_cmd=True),
        wp.launch(kernels.choose, dim=persons * 69, inputs=choose, device=device, record_cmd=True),
    ]
