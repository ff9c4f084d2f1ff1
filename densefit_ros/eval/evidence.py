"""Sources of evidence by name, so that all of them meet in one harness.

displacement     the network's displacements of a rendering of the first estimate (the paper's method)
keypoints        2D keypoints: files of OpenPose, or (where the truth is known) true points with a detector's noise
densepose        an IUV map: files, or the truth's own map with noise
pipeline         what the tracker uses: displacements, and the keypoints of the first estimate where it has them
gt-displacement  true displacements of the rendered pixels: the upper bound of the method
gt-joints        25 true joints: the upper bound of keypoints
none             the first estimate as it is
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..body.joints import landmark_positions
from ..displace.decode import covered_cells, decode
from ..errors import AssetError, ConfigError
from ..evidence import densepose
from ..evidence.keypoints import of_boxes, read_openpose
from ..geometry.camera import project
from ..models import Models
from ..render.appearance import neutral_appearance
from ..steps.priors import decode_options
from ..types import BodyParams, Correspondences, Crop, DisplacementField, Estimate, Keypoints, PosedBody, Surface
from .sample import Sample

log = logging.getLogger("densefit")
NAMES = ("displacement", "keypoints", "densepose", "pipeline", "gt-displacement", "gt-joints", "none")
GT_SIGMA_PX = 1.0
GT_STRIDE_PX = 4
KEYPOINT_SET = "openpose25"
# Detectors of people on photographs: about 1.5 % of the person's box, and every twentieth point is missed or wrong.
KEYPOINT_NOISE = 0.015
KEYPOINT_MISSING = 0.05
IUV_NOISE = 0.02
IUV_WRONG_PART = 0.02


@dataclass(frozen=True)
class EvidenceOptions:
    """Folders of other programs' results: a file per picture, under its name, in sub-folders like the dataset's or in none."""

    keypoints: Path | None = None  # OpenPose's <name>_keypoints.json
    densepose: Path | None = None  # DensePose's maps <name>_IUV.png, of the size of the pictures


@dataclass(frozen=True)
class Made:
    """The evidence of one sample around its current parameters."""

    matches: Correspondences
    keypoints: Keypoints | None = None
    epe_px: float = float("nan")  # mean error of the predicted displacements over all covered cells, crop px
    zero_px: float = float("nan")  # the same of no displacement at all


class EvidenceMaker:
    """Makes the evidence of one sample; holds what is loaded once."""

    def __init__(self, models: Models, options: EvidenceOptions) -> None:
        self._models, self._options = models, options
        self._appearance = neutral_appearance(models.body)
        self._chart = models.chart or densepose.body_chart(models.body)
        if options.densepose and not models.config.body.densepose_chart:
            log.warning("%s: %s", options.densepose, densepose.OWN_CHART)

    def make(self, name: str, sample: Sample, params: BodyParams, estimate: Estimate, crop: Crop) -> Made:
        """Dense matches and keypoints around the current ``params``.  Raises ConfigError where the truth is not known."""
        if name == "displacement":
            return self._displacement(sample, params, estimate, crop)
        if name == "pipeline":
            return replace(self._displacement(sample, params, estimate, crop), keypoints=estimate.keypoints)
        if name == "gt-displacement":
            return Made(self._true_displacement(sample, params, crop))
        if name == "gt-joints":
            return Made(Correspondences.empty(), self._true_keypoints(sample))
        if name == "keypoints":
            return Made(Correspondences.empty(), self._keypoints(sample))
        if name == "densepose":
            return Made(self._densepose(sample, crop))
        raise ConfigError(f"expected evidence among {', '.join(NAMES)}, got '{name}'")

    def _render(self, sample: Sample, vertices_m: np.ndarray, crop: Crop) -> Surface:
        return self._models.renderer.render(vertices_m, [self._appearance], sample.camera, crop.image_from_crop, crop.size)

    def _displacement(self, sample: Sample, params: BodyParams, estimate: Estimate, crop: Crop) -> Made:
        if self._models.displacer is None:
            raise ConfigError("this evidence needs the displacement network: set displace.enabled to true")
        start = np.array(self._models.skinner.pose(params).vertices)
        surface = self._render(sample, start, crop)
        field = self._models.displacer.predict(crop, surface, estimate.seen)
        matches = decode(field, surface, crop, decode_options(self._models.config))
        if not self._knows_body(sample):
            return Made(matches)
        return Made(matches, None, *self._flow_errors(sample, start[0], surface, field, crop))

    def _flow_errors(
        self, sample: Sample, start_m: np.ndarray, surface: Surface, field: DisplacementField, crop: Crop
    ) -> tuple[float, float]:
        """Mean length (px of the crop) of the displacements' errors, and of the true displacements."""
        true_m, half = self._true_body(sample).vertices[0], field.stride // 2
        _, r, c = np.nonzero(surface.face_id[:, half :: field.stride, half :: field.stride] >= 0)
        at = (np.zeros(len(r), np.int64), r * field.stride + half, c * field.stride + half)
        corners, bary = self._models.body.faces[surface.face_id[at]], surface.bary[at]
        here, there = (project(sample.camera, np.einsum("nk,nkc->nc", bary, v[corners])) for v in (start_m, true_m))
        flow = (there - here) / crop.image_from_crop[0, 0, 0]
        error = np.linalg.norm(field.flow[0][:, r, c].T - flow, axis=1)
        return float(np.nanmean(error)), float(np.nanmean(np.linalg.norm(flow, axis=1)))

    def _true_displacement(self, sample: Sample, params: BodyParams, crop: Crop) -> Correspondences:
        truth = self._true_body(sample)
        surface = self._render(sample, self._models.skinner.pose(params).vertices, crop)
        half = GT_STRIDE_PX // 2
        _, r, c = np.nonzero(covered_cells(surface, GT_STRIDE_PX, depth_edge_m=0.08))
        at = (np.zeros(len(r), np.int64), r * GT_STRIDE_PX + half, c * GT_STRIDE_PX + half)
        face, bary = surface.face_id[at], surface.bary[at]
        points = np.einsum("nk,nkc->nc", bary, truth.vertices[0][self._models.body.faces[face]])
        target = project(sample.camera, points)
        good = np.isfinite(target).all(1)
        count = int(good.sum())
        weight = np.full(count, 1.0 / GT_SIGMA_PX, np.float32)
        return Correspondences(np.zeros(count, np.int32), face[good], bary[good], target[good].astype(np.float32), weight)

    def _true_keypoints(self, sample: Sample) -> Keypoints:
        points = landmark_positions(self._models.body.landmarks[KEYPOINT_SET], self._true_body(sample))
        uv = project(sample.camera, points)
        seen = np.isfinite(uv).all(-1)
        return Keypoints(KEYPOINT_SET, np.nan_to_num(uv).astype(np.float32), seen.astype(np.float32))

    def _keypoints(self, sample: Sample) -> Keypoints:
        if self._options.keypoints is not None:
            path = _file_of(self._options.keypoints, sample, "_keypoints.json")
            return of_boxes(read_openpose(path), sample.box_xywh[None])
        exact, rng = self._true_keypoints(sample), _rng(sample)
        size = max(sample.box_xywh[2:])
        uv = exact.uv + (KEYPOINT_NOISE * size * rng.normal(size=exact.uv.shape)).astype(np.float32)
        lost = rng.random(exact.confidence.shape) < KEYPOINT_MISSING
        inside = ((uv >= 0) & (uv < [sample.camera.width, sample.camera.height])).all(-1)
        return Keypoints(KEYPOINT_SET, uv, np.where(lost | ~inside, 0, exact.confidence).astype(np.float32))

    def _densepose(self, sample: Sample, crop: Crop) -> Correspondences:
        if self._options.densepose is not None:
            path = _file_of(self._options.densepose, sample, "_IUV.png")
            return densepose.people_matches(densepose.read_iuv(path), sample.box_xywh[None], self._chart)
        surface = self._render(sample, self._true_body(sample).vertices, crop)
        iuv = noisy_iuv(_rng(sample), self._chart.encode(surface.face_id[0], surface.bary[0]))
        affine = crop.image_from_crop[0]
        options = densepose.DenseposeOptions(border_px=0)  # the noise below is per pixel: borders would be everywhere
        origin = (float(affine[0, 2]), float(affine[1, 2]))
        return densepose.to_correspondences(iuv, 0, self._chart, options, origin, float(affine[0, 0]))

    def _knows_body(self, sample: Sample) -> bool:
        truth = sample.truth
        same = truth.vertices_m is not None and len(truth.vertices_m) == self._models.body.num_vertices
        return truth.params is not None or same

    def _true_body(self, sample: Sample) -> PosedBody:
        truth, body = sample.truth, self._models.body
        if truth.params is not None:
            return self._models.skinner.pose(truth.params)
        if truth.vertices_m is None or not self._knows_body(sample):
            raise ConfigError(f"the true body of {sample.key} has another topology than '{body.name}': set body.model_path")
        vertices = np.asarray(truth.vertices_m, np.float32)
        return PosedBody(vertices[None], (body.j_regressor @ vertices)[None].astype(np.float32))


def _file_of(folder: Path, sample: Sample, ending: str) -> Path:
    """Another program's result for a sample's picture, in folders as the dataset has: names repeat in every sequence."""
    picture = Path(sample.picture or sample.key)
    path = folder / picture.parent / f"{picture.stem}{ending}"
    if not path.is_file():
        raise AssetError(f"{folder}: no {path.relative_to(folder)} for sample {sample.key}")
    return path


def noisy_iuv(rng: np.random.Generator, iuv: np.ndarray) -> np.ndarray:
    """An IUV map with the errors of a network: coordinates off by 2 %, some pixels on a wrong part."""
    covered = iuv[..., 0] > 0
    out = iuv.astype(np.float64)
    out[..., 1:] += 255 * IUV_NOISE * rng.normal(size=(*covered.shape, 2))
    wrong = covered & (rng.random(covered.shape) < IUV_WRONG_PART)
    out[wrong, 0] = rng.integers(1, densepose.NUM_PARTS + 1, wrong.sum())
    return np.where(covered[..., None], np.clip(np.round(out), 0, 255), 0).astype(np.uint8)


def _rng(sample: Sample) -> np.random.Generator:
    """The same noise for a sample in every run, whatever was evaluated before it."""
    return np.random.default_rng(np.frombuffer(sample.key.encode(), np.uint8))
