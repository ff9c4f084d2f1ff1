"""Held-out synthetic people as a dataset: other looks, poses and backgrounds than the training saw, with exact truth."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from ..body.model import BodyModel, pose
from ..geometry.camera import project
from ..render.warp_renderer import WarpRenderer
from ..synth.backgrounds import load_backgrounds
from ..synth.cameras import CropOptions
from ..synth.crops import CropBatch, make_crops
from ..synth.depth_camera import SCALE_SIGMA, measured
from ..synth.engine import SynthEngine
from ..synth.sequence import SyntheticSequence, heldout_engine, random_sequence
from .sample import SMPL24, PointsProtocol, Sample, Truth, box_of_points

BLOCK = 8
MADE = 10  # pictures made at a time: nearly all of them show their person well enough
IMAGE_PX = 256
# Training draws its looks from subject 0 on; nobody trains on this many.
FIRST_SUBJECT = 1_000_000
SUBJECTS = 200
VIDEO_FRAMES = 50
# Wider round the person than the crops that networks read: windows are cut from these pictures.
PICTURE = CropOptions(aspect=1.0, negative_share=0.0, margin=1.2, centre_jitter=0.08, scale_low=0.85, scale_high=1.3)


class Synthetic:
    """``count`` people on pictures of 256 px; the same seed gives the same people on every machine.

    They stand before the held-out photographs of the installed wheels, which are two, and those in ``backgrounds``, folders.
    People come in blocks of 8, each with a random generator of its own: any of them can be had alone, and a longer dataset
    begins with a shorter one.
    """

    name = "synthetic"
    protocol: PointsProtocol = SMPL24

    def __init__(self, body: BodyModel, count: int = 2000, seed: int = 0, backgrounds: Sequence[str] = ()) -> None:
        self._body, self._seed, self._backgrounds = body, seed, backgrounds
        self.keys = tuple(f"{seed}/{i // BLOCK:05d}/{i % BLOCK:02d}" for i in range(count))
        self._engine: SynthEngine | None = None
        self._block: tuple[int, list[Sample]] = (-1, [])

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """The sample of ``keys[index]``; neighbours are cheap."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = index // BLOCK
        if self._block[0] != number:
            self._block = (number, self._make(number))
        return dataclasses.replace(self._block[1][index % BLOCK], frame=index)

    def _make(self, number: int) -> list[Sample]:
        if self._engine is None:
            self._engine = SynthEngine(
                self._body, WarpRenderer(self._body), load_backgrounds("heldout", self._backgrounds), first_subject=FIRST_SUBJECT,
                subjects=SUBJECTS, cache=SUBJECTS, options=PICTURE,
            )  # fmt: skip
        rng, samples = np.random.default_rng([self._seed, number]), []
        while len(samples) < BLOCK:
            batch = make_crops(rng, self._engine, MADE, IMAGE_PX)
            for i in np.flatnonzero(batch.labelled)[: BLOCK - len(samples)]:
                samples.append(self._sample(batch, int(i), f"{self._seed}/{number:05d}/{len(samples):02d}"))
        return samples

    def _sample(self, batch: CropBatch, i: int, key: str) -> Sample:
        camera = batch.crop_cameras[i]
        params = batch.params.person(i)
        posed = pose(self._body, params)
        image = batch.rgb[i]
        return Sample(
            key=key,
            sequence=key,  # every picture stands alone
            frame=0,
            fps=0.0,
            image=lambda: image,
            camera=camera,
            box_xywh=box_of_points(project(camera, posed.vertices[0])),
            truth=Truth(posed.joints[0], posed.joints[0, 0], posed.vertices[0], params),
        )


class SyntheticVideo:
    """``count`` frames of held-out people who move, 50 frames of 640x480 at 30 Hz each: also for errors over time.

    ``backgrounds`` as :class:`Synthetic`'s; ``near`` as :func:`random_sequence`'s, with boxes of what the picture shows.
    """

    name = "synthetic-video"
    protocol: PointsProtocol = SMPL24

    def __init__(
        self, body: BodyModel, count: int = 2000, seed: int = 0, backgrounds: Sequence[str] = (), near: bool = False
    ) -> None:
        self._body, self._seed, self._backgrounds, self._near = body, seed, backgrounds, near
        self.keys = tuple(f"{self._sequence(i)}/{i % VIDEO_FRAMES:05d}" for i in range(count))
        self._engine: SynthEngine | None = None
        self._current: tuple[int, SyntheticSequence | None] = (-1, None)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """The sample of ``keys[index]``; frames of one sequence are cheap."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, frame = divmod(index, VIDEO_FRAMES)
        if self._current[0] != number:
            self._engine = self._engine or heldout_engine(self._body, directories=self._backgrounds)
            self._current = number, random_sequence(self._engine, 1000 * self._seed + number, VIDEO_FRAMES, near=self._near)
        video = self._current[1]
        shot = functools.cache(lambda: video.render(frame))
        rng = np.random.default_rng([self._seed, number, 5])
        wall_m = float(video.params.t_camera_root[:, 2].max() + rng.uniform(0.6, 3.0))
        scale = float(1 + SCALE_SIGMA * rng.standard_normal())
        params = video.params.person(frame)
        posed = pose(self._body, params)
        box_xywh = box_of_points(project(video.camera, posed.vertices[0]))
        if self._near:
            size = (video.camera.width, video.camera.height)
            low, high = np.clip(box_xywh[:2], 0, size), np.clip(box_xywh[:2] + box_xywh[2:], 0, size)
            box_xywh = np.concatenate([low, high - low])
        return Sample(
            key=self.keys[index],
            sequence=self._sequence(index),
            frame=frame,
            fps=video.fps,
            image=lambda: shot().rgb,
            camera=video.camera,
            box_xywh=box_xywh,
            truth=Truth(posed.joints[0], posed.joints[0, 0], posed.vertices[0], params),
            ground=video.ground,
            depth_m=lambda: measured(shot().depth_m, wall_m, scale, np.random.default_rng([self._seed, number, 6, frame])),
        )

    def _sequence(self, index: int) -> str:
        return f"{self._seed}/{index // VIDEO_FRAMES:03d}"
