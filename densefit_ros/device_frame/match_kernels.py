"""Displacement fields to matches in fixed slots: displace/decode.py with a place for everybody, used or not.

A slot without a match is a plane of weight 0 at the body's first face: see fit/resident.py.
"""

# ruff: noqa: UP018 - Warp takes a plain literal for a constant
from __future__ import annotations

import warp as wp

from ..fit.layout import KIND_PIXEL, KIND_PLANE

_PIXEL, _PLANE = wp.constant(KIND_PIXEL), wp.constant(KIND_PLANE)
NUM_JOINTS = wp.constant(24)
wp.set_module_options({"enable_backward": False})


@wp.kernel
def judge_cells(
    flow: wp.array(dtype=float),
    log_var: wp.array(dtype=float),
    face_id: wp.array(dtype=int),
    depth_m: wp.array(dtype=float),
    affine: wp.array(dtype=wp.vec3),
    grid: int,
    stride: int,
    size: int,
    width: int,
    height: int,
    depth_edge_m: float,
    limits: wp.array(dtype=float),
    active: wp.array(dtype=int),
    out_target: wp.array(dtype=wp.vec2),
    out_weight: wp.array(dtype=float),
):
    """Target (full-image px) and weight (1/px) of each cell, 0 where it is no match.  limits: sigma, factor on it, matches."""
    i = wp.tid()
    cells = grid * grid
    p = i / cells
    cell = i - p * cells
    r = cell / grid
    c = cell - r * grid
    row = r * stride + stride / 2
    column = c * stride + stride / 2
    base = p * size * size
    out_weight[i] = 0.0
    if active[p] == 0 or face_id[base + row * size + column] < 0:
        return
    near = float(1.0e30)
    far = float(-1.0e30)
    for dr in range(-1, 2):
        for dc in range(-1, 2):
            j = base + (row + dr) * size + column + dc
            if face_id[j] >= 0:
                near = wp.min(near, depth_m[j])
                far = wp.max(far, depth_m[j])
    sigma = wp.exp(0.5 * log_var[i]) * limits[1]
    u = float(column) + 0.5 + flow[2 * p * cells + cell]
    v = float(row) + 0.5 + flow[(2 * p + 1) * cells + cell]
    side = float(size)
    # Written so that NaN fails.
    if not (far - near <= depth_edge_m and sigma <= limits[0] and u >= 0.0 and u < side and v >= 0.0 and v < side):
        return
    a = affine[p]
    # What the window shows of the image ends where the target's own pixel does.
    x = a[0] * (wp.floor(u) + 0.5) + a[1]
    y = a[0] * (wp.floor(v) + 0.5) + a[2]
    if x < 0.0 or x >= float(width) or y < 0.0 or y >= float(height):
        return
    out_target[i] = wp.vec2(a[0] * u + a[1], a[0] * v + a[2])
    out_weight[i] = 1.0 / (wp.max(sigma, 1.0e-6) * a[0])


@wp.kernel
def count_rows(weight: wp.array(dtype=float), grid: int, out: wp.array(dtype=int)):
    """Matches in each row of cells."""
    i = wp.tid()
    n = int(0)  # noqa: UP018 - Warp takes a plain 0 for a constant
    for c in range(grid):
        if weight[i * grid + c] > 0.0:
            n += 1
    out[i] = n


@wp.func
def count_before(row_count: wp.array(dtype=int), p: int, r: int, grid: int):
    """Matches of person p in the rows above r, and in all rows."""
    above = int(0)  # noqa: UP018
    total = int(0)  # noqa: UP018
    for j in range(grid):
        n = row_count[p * grid + j]
        if j < r:
            above += n
        total += n
    return wp.vec2i(above, total)


@wp.kernel
def thin(row_count: wp.array(dtype=int), grid: int, slots: int, limits: wp.array(dtype=float), weight: wp.array(dtype=float)):
    """Of a person's matches beyond ``slots`` or limits[2] an even choice stays; one thread per row of cells.

    Slot s keeps the match of rank round(s (total - 1) / (slots - 1)); no rank is asked for twice.
    """
    i = wp.tid()
    p = i / grid
    r = i - p * grid
    before = count_before(row_count, p, r, grid)
    rank = before[0]
    total = before[1]
    slots = wp.min(slots, int(limits[2]))
    if total <= slots:
        return
    for c in range(grid):
        if weight[i * grid + c] > 0.0:
            slot = (rank * (slots - 1) + (total - 1) / 2) / (total - 1)
            if (2 * slot * (total - 1) + slots - 1) / (2 * (slots - 1)) != rank:
                weight[i * grid + c] = 0.0
            rank += 1


@wp.kernel
def count_parts(
    weight: wp.array(dtype=float),
    face_id: wp.array(dtype=int),
    face_part: wp.array(dtype=int),
    grid: int,
    stride: int,
    size: int,
    out: wp.array(dtype=int),
):
    """Matches on each part of the body; one thread per person and part."""
    i = wp.tid()
    p = i / NUM_JOINTS
    part = i - p * NUM_JOINTS
    n = int(0)  # noqa: UP018
    for cell in range(grid * grid):
        if weight[p * grid * grid + cell] > 0.0:
            r = cell / grid
            c = cell - r * grid
            pixel = p * size * size + (r * stride + stride / 2) * size + c * stride + stride / 2
            if face_part[face_id[pixel]] == part:
                n += 1
    out[i] = n


@wp.kernel
def fill_slots(
    target: wp.array(dtype=wp.vec2),
    weight: wp.array(dtype=float),
    row_count: wp.array(dtype=int),
    face_id: wp.array(dtype=int),
    bary: wp.array(dtype=wp.vec3),
    face_class: wp.array(dtype=int),
    face_part: wp.array(dtype=int),
    of_part: wp.array(dtype=int),
    share: float,
    part_correlation: float,
    grid: int,
    stride: int,
    size: int,
    slots: int,
    out_face: wp.array(dtype=int),
    out_class: wp.array(dtype=int),
    out_kind: wp.array(dtype=int),
    out_bary: wp.array(dtype=wp.vec3),
    out_target: wp.array(dtype=wp.vec3),
    out_weight: wp.array(dtype=float),
    out_share: wp.array(dtype=float),
):
    """One thread per row of cells: its matches, of which a person has no more than ``slots``, go to the slots in order."""
    i = wp.tid()
    p = i / grid
    r = i - p * grid
    before = count_before(row_count, p, r, grid)
    rank = before[0]
    total = before[1]
    for s in range(total + r, slots, grid):  # the empty slots, shared among the rows
        out_weight[p * slots + s] = 0.0
        out_kind[p * slots + s] = _PLANE
        out_face[p * slots + s] = 0
        out_class[p * slots + s] = face_class[0]
    for c in range(grid):
        cell = i * grid + c
        if weight[cell] > 0.0:
            pixel = p * size * size + (r * stride + stride / 2) * size + c * stride + stride / 2
            o = p * slots + rank
            f = face_id[pixel]
            out_face[o] = f
            out_class[o] = face_class[f]
            out_kind[o] = _PIXEL
            out_bary[o] = bary[pixel]
            out_target[o] = wp.vec3(target[cell][0], target[cell][1], 0.0)
            out_weight[o] = weight[cell]
            together = of_part[p * NUM_JOINTS + face_part[f]]
            out_share[o] = share / (1.0 + float(together - 1) * part_correlation)
            rank += 1
