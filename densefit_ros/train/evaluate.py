"""Held-out numbers of exported networks, for the model card: ``densefit train evaluate``.

Everything runs as in the tracker: through the ONNX file, decoding and the fit.  Neither training nor the choice of the best
weights has seen these looks, poses and seeds; the photographs behind them are validation's, which training has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..body.model import BodyModel, pose, rest_joints
from ..config import Config
from ..displace.contract import STRIDE_PX
from ..displace.decode import decode
from ..displace.displacer import Displacer
from ..eval.metrics import mpjpe_mm, pve_mm
from ..fit.options import Anchor
from ..fit.solver import Fitter
from ..geometry import so3
from ..models import fit_options
from ..regress.decode import decode as decode_estimate
from ..regress.mirrored import Mirrored
from ..runtime.onnxruntime_backend import OnnxRuntime
from ..steps.priors import decode_options
from ..synth.crops import CropBatch
from ..synth.displacement import DisplacementPairs, make_pairs
from ..synth.perturb import disturb
from ..types import BodyParams, DisplacementField
from .reliability import Curve, Pool
from .sources import EVALUATION_SUBJECT, People
from .tasks import VALIDATION_SEED, displacement_metrics

SEED = VALIDATION_SEED + 1
_BATCH = 16
Numbers = dict[str, float]


def evaluate_regressor(
    path: Path, people: int, backgrounds: Sequence[str] | None = None, curves: dict[str, dict[str, Curve]] | None = None
) -> Numbers:
    """Errors of the first estimate on labelled held-out crops: mm, degrees, px of the crop.

    ``curves`` receives the reliability of its rotations' standard deviations and of its confidence.
    """
    source = People(SEED, _BATCH, held_out=True, first_subject=EVALUATION_SUBJECT, backgrounds=backgrounds)
    runtime = Mirrored(OnnxRuntime(path))
    rows: dict[str, list[np.ndarray]] = {}
    told, shown = [], []
    rotation, confidence = Pool(), Pool()
    for index in range(-(-people // _BATCH)):
        crops = source.crops(index)
        outputs, _ = runtime({"image": crops.rgb, "intrinsics": (crops.intrinsics / crops.size).astype(np.float32)})
        own = crops.labelled
        told.append(outputs["confidence"] > 0.5)
        shown.append(own)
        sigma = np.exp(0.5 * outputs["rot_log_var"])
        params = BodyParams.stack([_decoded(source.body, crops, outputs, i) for i in range(len(crops))])
        angle = so3.angle_between(_rotations(params), _rotations(crops.params))
        rotation.add(np.degrees(sigma[own]), np.degrees(angle[own]) / np.sqrt(3))
        confidence.add(outputs["confidence"], own)
        for name, value in parameter_errors(source.body, crops, params, sigma, outputs["joints_uv"]).items():
            rows.setdefault(name, []).append(value[own])
    result = {name: float(np.nanmean(np.concatenate(v))) for name, v in rows.items()}
    result["people"] = float(sum(len(v) for v in rows["pve_mm"]))
    if curves is not None:
        curves["rotation"] = {"all joints": rotation.errors()}
        curves["confidence"] = {"all crops": confidence.shares()}
    result["confidence_right"] = float(np.mean(np.concatenate(told) == np.concatenate(shown)))
    return result


def parameter_errors(
    body: BodyModel, crops: CropBatch, params: BodyParams, sigma_rad: np.ndarray, joints_uv: np.ndarray
) -> dict[str, np.ndarray]:
    """Per-person errors (P,) of an estimate against the truth of its crops."""
    got, truth = pose(body, params), pose(body, crops.params)
    angle = so3.angle_between(_rotations(params), _rotations(crops.params))
    inside = ((crops.joints_px >= 0) & (crops.joints_px < crops.size)).all(-1)
    placed = np.linalg.norm((joints_uv + 0.5) * crops.size - crops.joints_px, axis=-1)
    projected = np.linalg.norm(_crop_px(crops, got.joints) - crops.joints_px, axis=-1)
    side = np.ptp(np.clip(crops.joints_px, 0, crops.size), axis=1).max(-1)
    return {
        "mpjpe_mm": mpjpe_mm(got.joints, truth.joints),
        "pve_mm": pve_mm(got.vertices, truth.vertices, got.joints[:, 0], truth.joints[:, 0]),
        "angle_deg": np.degrees(angle).mean(1),
        "root_deg": np.degrees(angle[:, 0]),
        "rot_z2": (angle**2 / (3 * sigma_rad**2)).mean(1),
        "placed_px": _masked(placed, inside),
        "reproj_px": _masked(projected, inside),
        "pck10": _masked((placed < 0.1 * side[:, None]).astype(float), inside),
        "depth_relative": np.abs(got.joints[:, 0, 2] / truth.joints[:, 0, 2] - 1),
    }


def evaluate_displacement(
    displacer: Displacer,
    people: int,
    degrees: float | None,
    backgrounds: Sequence[str] | None = None,
    curves: dict[str, Curve] | None = None,
    live: bool = False,
) -> Numbers:
    """EPE of held-out pairs whose starts are ``degrees`` a joint off (None: mixed), and errors before and after one fit.

    Textures are the person's own with errors, or, ``live``, as tracks have them: a third grey, the others learnt from the picture
    by a body that is wrong as the start is.  ``curves`` receives the reliability of the stated standard deviations, by the kind
    of start.
    """
    source = People(SEED, _BATCH, held_out=True, first_subject=EVALUATION_SUBJECT, backgrounds=backgrounds)
    config = Config()
    fitter, options = Fitter(source.body, max_persons=_BATCH, options=fit_options(config)), decode_options(config)
    fields: list[tuple[np.ndarray, ...]] = []
    cells = Pool()
    rows: dict[str, list[np.ndarray]] = {}
    for index in range(-(-people // _BATCH)):
        crops = source.crops(index)
        rng = np.random.default_rng([SEED, 14, index])
        start = disturb(rng, crops.params, rest_joints(source.body, crops.params.betas)[:, 0], degrees=degrees)
        pairs = make_pairs(rng, source.engine, crops, start, live=float(live))
        crop = crops.crop
        field = displacer.predict(crop, pairs.surface)
        own = crops.labelled
        valid = pairs.valid & (np.abs(pairs.flow).max(1) < 200) & own[:, None, None]
        fields.append((field.flow, field.log_var[:, 0], pairs.flow, valid, pairs.visible))
        error = np.linalg.norm(field.flow - pairs.flow, axis=1) / np.sqrt(2)
        cells.add(np.exp(0.5 * field.log_var[:, 0][valid]), error[valid])
        for name, used in (("start", None), ("refined", field), ("true_flow", true_field(pairs))):
            params = start
            if used is not None:
                anchor = Anchor(start, rot_sigma_rad=np.radians(degrees or 8.0) / np.sqrt(3), betas_sigma=1.0)
                matches = decode(used, pairs.surface, crop, options)
                params = fitter.solve(start, crops.cameras, matches, anchors=[anchor]).params
            got, truth = pose(source.body, params), pose(source.body, crops.params)
            pve = pve_mm(got.vertices, truth.vertices, got.joints[:, 0], truth.joints[:, 0])
            mpjpe = mpjpe_mm(got.joints, truth.joints)
            reproj = np.linalg.norm(_crop_px(crops, got.joints) - crops.joints_px, axis=-1).mean(1)
            for key, value in (("pve_mm", pve), ("mpjpe_mm", mpjpe), ("reproj_px", np.minimum(reproj, 50))):
                rows.setdefault(f"{name}_{key}", []).append(value[own])
    if curves is not None:
        curves[_kind(degrees) + (", live textures" if live else "")] = cells.errors()
    result = displacement_metrics(*(np.concatenate(f) for f in zip(*fields)))
    return result | {name: float(np.mean(np.concatenate(v))) for name, v in rows.items()}


def true_field(pairs: DisplacementPairs) -> DisplacementField:
    """The answer of a perfect network: the true flow, sure where the picture shows the point."""
    log_var = np.where(pairs.valid & pairs.visible, 0.0, 12.0).astype(np.float32)
    return DisplacementField(pairs.flow, log_var[:, None], STRIDE_PX)


def _kind(degrees: float | None) -> str:
    return "mixed starts" if degrees is None else f"{degrees:g} degrees a joint"


def _decoded(body: BodyModel, crops: CropBatch, outputs: dict[str, np.ndarray], index: int) -> BodyParams:
    own = {name: value[index : index + 1] for name, value in outputs.items()}
    return decode_estimate(own, body, crops.cameras[index], crops.image_from_crop[index : index + 1], crops.size).params


def _rotations(params: BodyParams) -> np.ndarray:
    return so3.exp(params.rotvec.astype(np.float64))


def _crop_px(crops: CropBatch, points_m: np.ndarray) -> np.ndarray:
    fx, fy, cx, cy = (crops.intrinsics[:, k, None] for k in range(4))
    z = np.maximum(points_m[..., 2], 0.05)
    return np.stack([points_m[..., 0] / z * fx + cx, points_m[..., 1] / z * fy + cy], -1)


def _masked(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, values, 0).sum(1) / np.maximum(mask.sum(1), 1)
