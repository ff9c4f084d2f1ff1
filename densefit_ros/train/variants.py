"""The same people refined under several conditions: displacement errors and vertex errors, compared person by person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..body.model import pose, rest_joints
from ..config import Config
from ..displace.decode import decode
from ..displace.displacer import Displacer
from ..eval.metrics import mean_interval, pve_mm
from ..fit.options import Anchor
from ..fit.solver import Fitter
from ..models import fit_options
from ..steps.priors import decode_options
from ..synth.crops import CropBatch
from ..synth.displacement import DisplacementPairs
from ..synth.perturb import disturb
from ..types import BodyParams, Crop, Surface
from .sources import EVALUATION_SUBJECT, People
from .tasks import VALIDATION_SEED, displacement_metrics

SEED = VALIDATION_SEED + 1
START_DEG = 8.0
BATCH = 16


class Variants:
    """Scores of named conditions.  Starts are ``START_DEG`` off; displacing, decoding and fitting as in the tracker."""

    def __init__(self, displacer: Displacer, backgrounds: Sequence[str] | None = None) -> None:
        self.source = People(SEED, BATCH, held_out=True, first_subject=EVALUATION_SUBJECT, backgrounds=backgrounds)
        config = Config()
        self._displacer, self._decode_options = displacer, decode_options(config)
        self._fitter = Fitter(self.source.body, max_persons=BATCH, options=fit_options(config))
        self._fields: dict[str, list[tuple[np.ndarray, ...]]] = {}
        self._epe_px: dict[str, list[np.ndarray]] = {}
        self._pve_mm: dict[str, list[np.ndarray]] = {}

    def people(self, count: int, stream: int) -> Iterator[tuple[np.random.Generator, CropBatch, BodyParams]]:
        """Batches of at least ``count`` people in all, with their starts and a generator of their own."""
        for index in range(-(-count // BATCH)):
            crops = self.source.crops(index)
            rng = np.random.default_rng([SEED, stream, index])
            start = disturb(rng, crops.params, rest_joints(self.source.body, crops.params.betas)[:, 0], degrees=START_DEG)
            self._keep("start", self._vertex_error(start, crops))
            yield rng, crops, start

    def add(self, name: str, crops: CropBatch, pairs: DisplacementPairs, surface: Surface, picture: np.ndarray) -> None:
        """Refine the people of ``pairs`` on ``picture`` (P,S,S,3) uint8 from the rendering ``surface``."""
        crop = Crop(picture, crops.inside, crops.image_from_crop, crops.size)
        field = self._displacer.predict(crop, surface)
        valid = pairs.valid & (np.abs(pairs.flow).max(1) < 200) & crops.labelled[:, None, None]
        self._fields.setdefault(name, []).append((field.flow, field.log_var[:, 0], pairs.flow, valid, pairs.visible))
        self._epe_px.setdefault(name, []).append(_epe_px(field.flow, pairs.flow, valid & pairs.visible)[crops.labelled])
        anchor = Anchor(pairs.params, rot_sigma_rad=np.radians(START_DEG) / np.sqrt(3), betas_sigma=1.0)
        matches = decode(field, surface, crop, self._decode_options)
        fit = self._fitter.solve(pairs.params, crops.cameras, matches, anchors=[anchor])
        self._keep(name, self._vertex_error(fit.params, crops))

    def scores(self, base: str) -> dict[str, dict[str, float]]:
        """Per condition: EPE over visible cells, that of zero displacement, vertex error before and after the fit.

        ``loss_*`` is what the condition costs against the condition ``base``, person by person, with the 95 % interval of its
        mean.
        """
        out = {}
        for name, fields in self._fields.items():
            metrics = displacement_metrics(*(np.concatenate(f) for f in zip(*fields)))
            row = {k: metrics[k] for k in ("epe_px", "zero_px", "epe_ratio", "epe_sure_px", "zero_sure_px")}
            row["people"] = float(sum(map(len, self._pve_mm[name])))
            row["pve_mm"] = float(np.concatenate(self._pve_mm[name]).mean())
            row["start_pve_mm"] = float(np.concatenate(self._pve_mm["start"]).mean())
            for loss, rows in (("loss_px", self._epe_px), ("loss_mm", self._pve_mm)):
                more = np.concatenate(rows[name]) - np.concatenate(rows[base])
                more = more[np.isfinite(more)]  # of some people the picture shows nothing that was rendered
                _, low, high = mean_interval(more)
                row |= {loss: float(more.mean()), f"{loss}_low": low, f"{loss}_high": high}
            out[name] = row
        return out

    def _keep(self, name: str, pve_mm: np.ndarray) -> None:
        self._pve_mm.setdefault(name, []).append(pve_mm)

    def _vertex_error(self, params: BodyParams, crops: CropBatch) -> np.ndarray:
        """(labelled people,) mm, pelvis-aligned."""
        got, truth = pose(self.source.body, params), pose(self.source.body, crops.params)
        return pve_mm(got.vertices, truth.vertices, got.joints[:, 0], truth.joints[:, 0])[crops.labelled]


def _epe_px(flow: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(P,) mean end-point error over each person's ``seen`` cells, NaN where there are none."""
    error = np.linalg.norm(flow - target, axis=1) * seen
    with np.errstate(invalid="ignore"):
        return error.sum((1, 2)) / seen.sum((1, 2))
