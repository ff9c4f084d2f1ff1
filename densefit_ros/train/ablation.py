"""What each input of the displacement network is worth to it: held-out numbers with one input neutralised at a time.

Neutral is the input's mean over the person's pixels, so that the outline stays and only its content goes.  The network was
trained with all of them: this measures what the shipped network leans on, not what one trained without the input would reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..body.model import pose, rest_joints
from ..config import Config
from ..displace.decode import decode
from ..displace.displacer import Displacer
from ..fit.options import Anchor
from ..fit.solver import Fitter
from ..models import fit_options
from ..steps.priors import decode_options
from ..synth.displacement import make_pairs
from ..synth.perturb import disturb
from ..types import Crop, Surface
from .intervals import interval
from .sources import _People
from .tasks import VALIDATION_SEED, displacement_metrics

SEED = VALIDATION_SEED + 1
START_DEG = 8.0
_BATCH = 16
PLANES = {"texture": "rgb", "depth": "depth_m", "normals": "normals", "vertex colours": "vertex_colors"}
VARIANTS = ("all inputs", *(f"without {name}" for name in PLANES), "without any")


def neutralised(surface: Surface, names: Sequence[str]) -> Surface:
    """``surface`` with the named inputs replaced by their mean over each person's pixels."""
    mask = surface.face_id >= 0
    count = np.maximum(mask.sum((1, 2)), 1)
    changes = {}
    for name in names:
        values = getattr(surface, PLANES[name])
        plane = values if values.ndim == 4 else values[..., None]
        mean = (plane * mask[..., None]).sum((1, 2), dtype=np.float64) / count[:, None]
        flat = np.where(mask[..., None], mean[:, None, None], 0).astype(values.dtype)
        changes[PLANES[name]] = flat.reshape(values.shape)
    return dataclasses.replace(surface, **changes)


def evaluate_ablation(displacer: Displacer, people: int, backgrounds: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Per variant: EPE over visible cells, that of zero displacement, and vertex error after one fit.

    ``loss_*`` is what leaving the input out costs, person by person, with the 95 % interval of its mean.
    """
    source = _People(SEED, _BATCH, held_out=True, backgrounds=backgrounds)
    config = Config()
    fitter, options = Fitter(source.body, max_persons=_BATCH, options=fit_options(config)), decode_options(config)
    fields: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in VARIANTS}
    errors: dict[str, list[np.ndarray]] = {name: [] for name in ("start", *VARIANTS)}
    own_epe: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
    for index in range(-(-people // _BATCH)):
        crops = source.crops(index)
        rng = np.random.default_rng([SEED, 16, index])
        start = disturb(rng, crops.params, rest_joints(source.body, crops.params.betas)[:, 0], degrees=START_DEG)
        pairs = make_pairs(rng, source.engine, crops, start)
        crop = Crop(crops.rgb, crops.inside, crops.image_from_crop, crops.size)
        valid = pairs.valid & (np.abs(pairs.flow).max(1) < 200)
        truth = pose(source.body, crops.params)
        errors["start"].append(_pve_mm(pose(source.body, start), truth)[crops.labelled])
        for variant in VARIANTS:
            names = {"all inputs": (), "without any": tuple(PLANES)}.get(variant, (variant.removeprefix("without "),))
            field = displacer.predict(crop, neutralised(pairs.surface, names))
            fields[variant].append((field.flow, field.log_var[:, 0], pairs.flow, valid, pairs.visible))
            own_epe[variant].append(_epe_px(field.flow, pairs.flow, valid & pairs.visible)[crops.labelled])
            anchor = Anchor(start, rot_sigma_rad=np.radians(START_DEG), betas_sigma=1.0)
            fit = fitter.solve(start, crops.cameras, decode(field, pairs.surface, crop, options), anchors=[anchor])
            errors[variant].append(_pve_mm(pose(source.body, fit.params), truth)[crops.labelled])
    out = {}
    for variant in VARIANTS:
        metrics = displacement_metrics(*(np.concatenate(f) for f in zip(*fields[variant])))
        out[variant] = {k: metrics[k] for k in ("epe_px", "zero_px", "epe_ratio", "epe_sure_px", "zero_sure_px")}
        out[variant]["pve_mm"] = float(np.concatenate(errors[variant]).mean())
        out[variant]["start_pve_mm"] = float(np.concatenate(errors["start"]).mean())
        for name, rows in (("loss_px", own_epe), ("loss_mm", errors)):
            loss = np.concatenate(rows[variant]) - np.concatenate(rows["all inputs"])
            loss = loss[np.isfinite(loss)]  # of some people the picture shows nothing that was rendered
            low, high = interval(loss)
            out[variant] |= {name: float(loss.mean()), f"{name}_low": low, f"{name}_high": high}
    return out


def _epe_px(flow: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(P,) mean end-point error over each person's ``seen`` cells, NaN where there are none."""
    error = np.linalg.norm(flow - target, axis=1) * seen
    with np.errstate(invalid="ignore"):
        return error.sum((1, 2)) / seen.sum((1, 2))


def _pve_mm(got, truth) -> np.ndarray:
    difference = got.vertices - got.joints[:, :1] - truth.vertices + truth.joints[:, :1]
    return 1000 * np.linalg.norm(difference, axis=-1).mean(1)
