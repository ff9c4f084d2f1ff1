"""Held-out synthetic people as a dataset: other looks, poses and backgrounds than the training saw, with exact truth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..body.model import BodyModel, pose
from ..geometry.camera import project
from ..render.warp_renderer import WarpRenderer
from ..synth.backgrounds import load_backgrounds
from ..synth.crops import CropBatch, make_crops
from ..synth.engine import SynthEngine
from .sample import SMPL24, PointsProtocol, Sample, Truth, box_of_points

BATCH = 8
IMAGE_PX = 256
# Training draws its looks from subject 0 on; nobody trains on this many.
FIRST_SUBJECT = 1_000_000
SUBJECTS = 200


class Synthetic:
    """``count`` people on pictures of 256 px; the same seed gives the same people on every machine."""

    name = "synthetic"
    protocol: PointsProtocol = SMPL24

    def __init__(self, body: BodyModel, count: int = 2000, seed: int = 0) -> None:
        self._body, self._count, self._seed = body, count, seed
        backgrounds = load_backgrounds("heldout")
        self._engine = SynthEngine(
            body, WarpRenderer(body), backgrounds, first_subject=FIRST_SUBJECT, subjects=SUBJECTS, cache=SUBJECTS
        )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        given, block = 0, 0
        while given < self._count:
            # A generator per block: blocks can be made alone and in any order.
            batch = make_crops(np.random.default_rng([self._seed, block]), self._engine, BATCH, IMAGE_PX)
            for i in np.flatnonzero(batch.labelled):
                if given == self._count:
                    return
                yield self._sample(batch, int(i), f"{self._seed}/{block:05d}/{i:02d}", given)
                given += 1
            block += 1

    def _sample(self, batch: CropBatch, i: int, key: str, number: int) -> Sample:
        camera = batch.crop_cameras[i]
        params = batch.params.person(i)
        posed = pose(self._body, params)
        image = batch.rgb[i]
        uv = project(camera, posed.vertices[0])
        return Sample(
            key=key,
            sequence="synthetic",
            frame=number,
            fps=0.0,
            image=lambda: image,
            camera=camera,
            box_xywh=box_of_points(uv),
            truth=Truth(posed.joints[0], posed.joints[0, 0], posed.vertices[0], params),
        )
