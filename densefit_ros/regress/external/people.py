"""One person of another regressor's file, and the step from a crop's camera to the full image.

Regressors predict a weak-perspective camera (s, tx, ty) of a square crop: a point X of the body lies at s (X + t) in the crop,
whose sides are at -1 and 1.  In the full image, with focal length f, a crop of side b px around (u, v) and an image of w x h:

    z = 2 f / (b s),   x = tx + 2 (u - w/2) / (b s),   y = ty + 2 (v - h/2) / (b s)

is SMPL's translation (Li et al., "CLIFF", ECCV 2022, eq. 4; the same in the public code of 4D-Humans, TokenHMR, WHAM, BEDLAM
and CameraHMR).  It keeps the place and the size of the body; the perspective inside the body becomes that of the full image.

All six sources take (w/2, h/2) as the image's middle, so their pixels run from 0 to w as ours do: pixel centres at
half-integers, nothing to add.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...body.model import BodyModel
from ...errors import AssetError
from ...types import BodyParams, Camera

SMPL_PELVIS_M = (-0.0018, -0.2233, 0.0282)  # at rest, of SMPL's neutral mean body
OTHER_SHAPES = "SMPL's betas mean nothing to the free body and are left out: set body.model_path to your SMPL file to use them"


@dataclass(frozen=True, eq=False)
class ExternalPerson:
    """A body as its source places it in one picture."""

    picture: str  # file name; empty: the picture number ``frame``
    frame: int  # number of the picture in the sorted folder, -1 where the file names the pictures
    person: str  # the source's own id, or the number in the file
    params: BodyParams  # batch of one, in the camera of the source
    focal_px: float | None = None  # of the full picture; None: the length of its diagonal
    centre_px: tuple[float, float] | None = None  # principal point; None: the middle of the picture
    size_px: tuple[int, int] | None = None  # width, height of the picture that the source saw; None: not said


def weak_to_full(
    weak: np.ndarray, centre_px: np.ndarray, side_px: np.ndarray, size_wh: np.ndarray, focal_px: np.ndarray
) -> np.ndarray:
    """SMPL translation (N,3) m in the full image's camera.

    weak (N,3) s, tx, ty; centre (N,2) and side (N,) of the crops px; size (N,2) width, height; focal (N,) px.
    """
    weak, centre_px, size_wh = (np.asarray(a, np.float64) for a in (weak, centre_px, size_wh))
    span = np.asarray(side_px, np.float64) * weak[:, 0]
    if not (np.isfinite(span) & (span > 0)).all():
        raise AssetError("a crop camera has no positive scale: s and the crop's side must be greater than 0")
    offset = 2 * (centre_px - size_wh / 2) / span[:, None]
    return np.column_stack([weak[:, 1:] + offset, 2 * np.asarray(focal_px, np.float64) / span])


def source_camera(person: ExternalPerson, width: int, height: int) -> Camera:
    """The camera that the source projects this person with, for a picture of this size."""
    focal = math.hypot(width, height) if person.focal_px is None else person.focal_px
    cx, cy = (width / 2, height / 2) if person.centre_px is None else person.centre_px
    return Camera(focal, focal, cx, cy, width, height)


def in_camera(params: BodyParams, source: Camera, camera: Camera, pelvis_m: np.ndarray) -> BodyParams:
    """The same body (a batch of one) for another camera of the same picture: pelvis on the same pixel, same size in it.

    ``pelvis_m`` (3,) is its rest pelvis.  The orientation stays.
    """
    at = params.t_camera_root[0].astype(np.float64) + pelvis_m
    if at[2] <= 0 or (source.fx, source.fy, source.cx, source.cy) == (camera.fx, camera.fy, camera.cx, camera.cy):
        return params
    u, v = source.fx * at[0] / at[2] + source.cx, source.fy * at[1] / at[2] + source.cy
    z = at[2] * camera.fy / source.fy
    there = np.array([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z])
    return dataclasses.replace(params, t_camera_root=(there - pelvis_m)[None].astype(np.float32))


def for_body(params: BodyParams, body: BodyModel) -> BodyParams:
    """SMPL's parameters for ``body``.

    The free body has other shapes and another origin: it gets its mean shape, and its pelvis comes to where that of SMPL's
    mean body is, which a shape moves by a centimetre or two.
    """
    if body.is_smpl:
        return params
    shift = (np.array(SMPL_PELVIS_M) - body.joint_template[0]).astype(np.float32)
    return dataclasses.replace(params, betas=np.zeros_like(params.betas), t_camera_root=params.t_camera_root + shift)


def by_picture(people: Iterable[ExternalPerson], names: Sequence[str]) -> list[list[ExternalPerson]]:
    """The people of each picture in ``names`` (file names, in order).

    A name matches with or without its suffix, or as the beginning of a longer stem ("a_0" belongs to "a.jpg").  Raises
    AssetError when nobody belongs to any picture.
    """
    out: list[list[ExternalPerson]] = [[] for _ in names]
    index_of, seen = picture_index(names), []
    for person in people:
        if person.frame >= 0:
            index = person.frame if person.frame < len(names) else None
        else:
            index = index_of(person.picture)
            seen.append(person.picture)
        if index is not None:
            out[index].append(person)
    if not any(out):
        said = ", ".join(dict.fromkeys(seen)) or "frame numbers beyond the last picture"
        raise AssetError(f"no estimate belongs to a picture: the file speaks of {said[:80]}, the folder holds {names[0]}, ...")
    return out


def picture_index(names: Sequence[str]) -> Callable[[str], int | None]:
    """Which of ``names`` a picture's name in a file means, as ``by_picture`` tells it; None: none of them."""
    exact = {name: i for i, name in enumerate(names)}
    stems = {name.rpartition(".")[0] or name: i for i, name in enumerate(names)}

    def index_of(picture: str) -> int | None:
        name = picture.replace("\\", "/").rpartition("/")[2]
        stem = name.rpartition(".")[0] or name
        if name in exact or stem in stems:
            return exact.get(name, stems.get(stem))
        begins = [s for s in stems if name.startswith(f"{s}_")]
        return stems[max(begins, key=len)] if begins else None

    return index_of
