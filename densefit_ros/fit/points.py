"""Dense evidence at the boundary: checked, sorted by person and by the joints that move it, cut into chunks."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from ..types import NUM_JOINTS, Correspondences, DepthPoints
from .layout import CHUNK_POINTS, CHUNK_ROWS, GROUPS, KIND_PIXEL, KIND_PLANE
from .stage import MAX_VALUE


def stage(
    buffers, body, matches: Correspondences, depth: DepthPoints | None, persons: int, limit: int, extra_rows: int, options
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Dense evidence, sorted by person and by the joints that move it, in chunks of like points.

    Returns the number of points, person and kind of each, which of them have errors that last (all but some planes), usable
    matches per person.  Matches that are not finite or have no weight are dropped; more than ``limit`` for one person are thinned
    evenly.  ``extra_rows`` are those of a person's landmarks: they get chunks of their own.
    """
    arrays = [_pixels(matches, padded=depth is not None and len(depth) > 0)]
    if depth is not None and len(depth):
        arrays.append(_planes(depth))
    person, face, bary, target, weight, normal, share, lasting = (
        arrays[0] if len(arrays) == 1 else tuple(map(np.concatenate, zip(*arrays)))
    )
    is_pixel = np.arange(len(person)) < len(matches.person)
    keep = _usable(body, persons, person, face, bary, target, weight, normal)
    if keep is not None:
        person, face, bary, target, weight, normal, share, lasting, is_pixel = (
            a[keep] for a in (person, face, bary, target, weight, normal, share, lasting, is_pixel)
        )
    counts = np.bincount(person, minlength=persons) if len(person) else np.zeros(persons, np.int64)
    if len(person) and counts.max() > limit:
        order = np.argsort(person, kind="stable")
        starts = np.cumsum(counts) - counts
        order = np.concatenate([order[s + np.linspace(0, c - 1, min(c, limit)).astype(int)] for s, c in zip(starts, counts) if c])
        person, face, bary, target, weight, normal, share, lasting, is_pixel = (
            a[order] for a in (person, face, bary, target, weight, normal, share, lasting, is_pixel)
        )
        counts = np.minimum(counts, limit)
    n, kin = len(person), body.face_class[face]
    key = kin if persons == 1 else person * len(body.class_size) + kin
    small = persons * len(body.class_size) < 1 << 15  # a stable sort of 16 bits is a radix sort
    order = np.argsort(key.astype(np.int16 if small else np.int32, copy=False), kind="stable")
    person, kin, is_pixel = person[order], kin[order], is_pixel[order]
    b = buffers
    b.point_start.host[0] = 0
    np.cumsum(counts, out=b.point_start.host[1 : persons + 1])
    b.face.host[:n], b.bary.host[:n], b.target.host[:n, : target.shape[1]] = face[order], bary[order], target[order]
    b.kind.host[:n], b.joints_class.host[:n] = np.where(is_pixel, KIND_PIXEL, KIND_PLANE), kin
    b.sqrt_weight.host[:n] = weight[order]
    share = share[order]
    share[is_pixel] = shares(person[is_pixel], body.face_part[b.face.host[:n][is_pixel]], options)
    b.share.host[:n] = share
    if len(arrays) > 1:
        b.normal.host[:n] = normal[order]
    size = body.class_size[kin]
    np.cumsum(size, out=b.share_start.host[:n])
    b.share_start.host[:n] -= size
    stage_chunks(b, body.class_groups[kin], counts, persons, extra_rows)
    return n, person, is_pixel, lasting[order], counts


def shares(person: np.ndarray, part: np.ndarray, options) -> np.ndarray:
    """How much of an independent measurement each match is, (N,): see FitOptions."""
    together = person.astype(np.int64) * NUM_JOINTS + part
    return options.independent_share / (1.0 + (np.bincount(together)[together] - 1) * options.part_correlation)


def _usable(body, persons: int, person, face, bary, target, weight, normal) -> np.ndarray | None:
    """Which points can be used; None: all of them, the usual case, found with a few reductions."""
    n = len(person)
    if n == 0:
        return None
    with np.errstate(all="ignore"):
        if person.max() < persons and face.max() < len(body.face_class) and min(person.min(), face.min()) >= 0:
            sizes = [np.abs(a).max(initial=0.0) for a in (bary, target, normal)]
            if weight.min() > 0 and weight.max() < MAX_VALUE and all(s < MAX_VALUE for s in sizes):  # false for NaN
                return None
        total = np.abs(target).sum(1) + np.abs(bary).sum(1) + weight
        finite = total + np.abs(normal).sum(1) < MAX_VALUE
    if (face[finite] >= len(body.face_class)).any() or (person[finite] >= persons).any():
        raise ShapeError(
            f"expected person < {persons} and face < {len(body.face_class)}, got up to {person.max()} and {face.max()}: "
            "matches of another body model?"
        )
    return finite & (weight > 0) & (person >= 0) & (person < persons) & (face >= 0) & (face < len(body.face_class))


def stage_chunks(b, groups: np.ndarray, counts: np.ndarray, persons: int, extra_rows: int) -> None:
    """How many rows each chunk of each person has, and which groups of columns its points fill together."""
    of_points = -(-int(counts.max(initial=0)) // CHUNK_POINTS)
    extra = -(-extra_rows // CHUNK_ROWS)
    rows = np.zeros((persons, of_points + extra), np.int32)
    filled = np.zeros_like(rows)
    if of_points:
        first = CHUNK_POINTS * np.arange(of_points)
        rows[:, :of_points] = 2 * np.clip(counts[:, None] - first, 0, CHUNK_POINTS)
        end = np.cumsum(counts)[:, None]
        start = np.minimum(end - counts[:, None] + first, end)
        filled[:, :of_points] = np.bitwise_or.reduceat(np.append(groups, 0), start.reshape(-1)).reshape(persons, of_points)
    if extra:
        rows[:, of_points:] = np.clip(extra_rows - CHUNK_ROWS * np.arange(extra), 0, CHUNK_ROWS)
        filled[:, of_points:] = (1 << GROUPS) - 1
    filled[rows == 0] = 0
    b.chunk_rows.host[: rows.size], b.chunk_groups.host[: rows.size] = rows.reshape(-1), filled.reshape(-1)


def _check(points: Correspondences | DepthPoints, **shapes: tuple[int, ...]) -> None:
    """Raise ShapeError unless every array belongs to the same N points."""
    n = len(points.person)
    wanted = {"person": (n,), "face": (n,), "bary": (n, 3), "sqrt_weight": (n,), **{k: (n, *s) for k, s in shapes.items()}}
    for name, shape in wanted.items():
        got = np.asarray(getattr(points, name))
        if got.shape != shape or (name in ("person", "face") and n and got.dtype.kind not in "iu"):
            kind = "integer " if name in ("person", "face") else ""
            raise ShapeError(f"expected {kind}{name} {shape} of {n} points, got {got.shape} {got.dtype}")


def _pixels(m: Correspondences, padded: bool):
    """``padded``: with the shapes that planes have."""
    _check(m, target_uv=(2,))
    target, normal = np.asarray(m.target_uv), np.zeros((len(m.person), 3 if padded else 0))
    if padded:
        target = np.concatenate([target, normal[:, :1]], 1)
    rest = np.asarray(m.sqrt_weight), normal, np.ones(len(m.person)), np.ones(len(m.person), bool)
    return np.asarray(m.person), np.asarray(m.face), np.asarray(m.bary), target, *rest


def _planes(d: DepthPoints):
    _check(d, xyz_m=(3,), normal=(3,), share=(), lasting=())
    return tuple(map(np.asarray, (d.person, d.face, d.bary, d.xyz_m, d.sqrt_weight, d.normal, d.share, d.lasting)))
