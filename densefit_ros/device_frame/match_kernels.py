"""Displacement fields to matches in fixed slots: displace/decode.py with a place for everybody, used or not.

A person's candidates lie in rows of ``grid``: the cells' matches in the picture, then the planes in depth of every other
cell in each direction, a quarter as many.  A slot without a match is a plane of weight 0 at the body's first face: see
fit/resident.py.
"""

# ruff: noqa: UP018 - Warp takes a plain literal for a constant
from __future__ import annotations

import warp as wp

from ..fit.layout import KIND_PIXEL, KIND_PLANE, KIND_ROOT_PLANE

_PIXEL, _PLANE, _ROOT_PLANE = wp.constant(KIND_PIXEL), wp.constant(KIND_PLANE), wp.constant(KIND_ROOT_PLANE)
NUM_JOINTS = wp.constant(24)
wp.set_module_options({"enable_backward": False})


@wp.func
def on_surface(face_id: wp.array(dtype=int), depth_m: wp.array(dtype=float), base: int, row: int, column: int, size: int,
               depth_edge_m: float):  # fmt: skip
    """The pixel shows the body, away from depth edges."""
    near = float(1.0e30)
    far = float(-1.0e30)
    for dr in range(-1, 2):
        for dc in range(-1, 2):
            j = base + (row + dr) * size + column + dc
            if face_id[j] >= 0:
                near = wp.min(near, depth_m[j])
                far = wp.max(far, depth_m[j])
    return face_id[base + row * size + column] >= 0 and far - near <= depth_edge_m


@wp.func
def pixel_of(candidate: int, grid: int, stride: int, size: int):
    """Pixel of the crop at which a candidate is read."""
    row = candidate / grid
    column = candidate - row * grid
    if candidate >= grid * grid:
        own = candidate - grid * grid
        row = 2 * (own / (grid / 2)) + 1
        column = 2 * (own - (own / (grid / 2)) * (grid / 2)) + 1
    return (row * stride + stride / 2) * size + column * stride + stride / 2


@wp.func
def through_centre(affine: wp.vec3, camera: wp.vec4, size: int):
    """Unit ray through the centre of a window."""
    u = affine[0] * 0.5 * float(size) + affine[1]
    v = affine[0] * 0.5 * float(size) + affine[2]
    return wp.normalize(wp.vec3((u - camera[2]) / camera[0], (v - camera[3]) / camera[1], 1.0))


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
    out_target: wp.array(dtype=wp.vec3),
    out_weight: wp.array(dtype=float),
):
    """Target (full-image px) and weight (1/px) of each cell, 0 where it is no match.

    limits: most sigma and sigma's factor in the picture, the same in depth.
    """
    i = wp.tid()
    cells = grid * grid
    p = i / cells
    cell = i - p * cells
    r = cell / grid
    c = cell - r * grid
    row = r * stride + stride / 2
    column = c * stride + stride / 2
    base = p * size * size
    o = p * (cells + cells / 4) + cell
    out_weight[o] = 0.0
    if active[p] == 0 or not on_surface(face_id, depth_m, base, row, column, size, depth_edge_m):
        return
    sigma = wp.exp(0.5 * log_var[i]) * limits[1]
    u = float(column) + 0.5 + flow[2 * p * cells + cell]
    v = float(row) + 0.5 + flow[(2 * p + 1) * cells + cell]
    side = float(size)
    # Written so that NaN fails.
    if not (sigma <= limits[0] and u >= 0.0 and u < side and v >= 0.0 and v < side):
        return
    a = affine[p]
    # What the window shows of the image ends where the target's own pixel does.
    x = a[0] * (wp.floor(u) + 0.5) + a[1]
    y = a[0] * (wp.floor(v) + 0.5) + a[2]
    if x < 0.0 or x >= float(width) or y < 0.0 or y >= float(height):
        return
    out_target[o] = wp.vec3(a[0] * u + a[1], a[0] * v + a[2], 0.0)
    out_weight[o] = 1.0 / (wp.max(sigma, 1.0e-6) * a[0])


@wp.kernel
def judge_depths(
    deeper_m: wp.array(dtype=float),
    log_var: wp.array(dtype=float),
    face_id: wp.array(dtype=int),
    depth_m: wp.array(dtype=float),
    affine: wp.array(dtype=wp.vec3),
    camera: wp.array(dtype=wp.vec4),
    t: wp.array(dtype=wp.vec3),
    grid: int,
    stride: int,
    size: int,
    depth_edge_m: float,
    limits: wp.array(dtype=float),
    active: wp.array(dtype=int),
    out_target: wp.array(dtype=wp.vec3),
    out_weight: wp.array(dtype=float),
):
    """Point of the plane (m from the body's translation) and weight (1/m) of every other cell, 0 where it is none."""
    i = wp.tid()
    cells = grid * grid
    p = i / (cells / 4)
    own = i - p * (cells / 4)
    r = 2 * (own / (grid / 2)) + 1
    c = 2 * (own - (own / (grid / 2)) * (grid / 2)) + 1
    row = r * stride + stride / 2
    column = c * stride + stride / 2
    base = p * size * size
    o = p * (cells + cells / 4) + cells + own
    out_weight[o] = 0.0
    if active[p] == 0 or not on_surface(face_id, depth_m, base, row, column, size, depth_edge_m):
        return
    cell = p * cells + r * grid + c
    sigma = wp.exp(0.5 * log_var[cell]) * limits[3]
    if not (limits[2] > 0.0 and sigma <= limits[2]):  # written so that NaN fails
        return
    a = affine[p]
    k = camera[p]
    z = depth_m[base + row * size + column]
    x = (a[0] * (float(column) + 0.5) + a[1] - k[2]) / k[0] * z
    y = (a[0] * (float(row) + 0.5) + a[2] - k[3]) / k[1] * z
    out_target[o] = wp.vec3(x, y, z) - t[p] + deeper_m[cell] * through_centre(a, k, size)
    out_weight[o] = 1.0 / wp.max(sigma, 1.0e-4)


@wp.kernel
def count_rows(weight: wp.array(dtype=float), grid: int, out: wp.array(dtype=int)):
    """Matches in each row of cells."""
    i = wp.tid()
    n = int(0)  # noqa: UP018 - Warp takes a plain 0 for a constant
    for c in range(grid):
        if weight[i * grid + c] > 0.0:
            n += 1
    out[i] = n


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
    """Candidates of each part of the body, those in the picture and those in depth apart; one thread per person and part."""
    i = wp.tid()
    p = i / NUM_JOINTS
    part = i - p * NUM_JOINTS
    cells = grid * grid
    pixels = int(0)  # noqa: UP018
    planes = int(0)  # noqa: UP018
    for cell in range(cells + cells / 4):
        if weight[p * (cells + cells / 4) + cell] > 0.0:
            if face_part[face_id[p * size * size + pixel_of(cell, grid, stride, size)]] == part:
                if cell < cells:
                    pixels += 1
                else:
                    planes += 1
    out[2 * i] = pixels
    out[2 * i + 1] = planes


@wp.kernel
def fill_slots(
    target: wp.array(dtype=wp.vec3),
    weight: wp.array(dtype=float),
    row_count: wp.array(dtype=int),
    face_id: wp.array(dtype=int),
    bary: wp.array(dtype=wp.vec3),
    affine: wp.array(dtype=wp.vec3),
    camera: wp.array(dtype=wp.vec4),
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
    out_normal: wp.array(dtype=wp.vec3),
    out_weight: wp.array(dtype=float),
    out_share: wp.array(dtype=float),
):
    """One thread per row of candidates: its matches go to the person's slots in order; more than ``slots`` are thinned
    evenly."""
    i = wp.tid()
    rows = grid + grid / 4
    p = i / rows
    r = i - p * rows
    rank = int(0)  # noqa: UP018
    total = int(0)  # noqa: UP018
    for j in range(rows):
        n = row_count[p * rows + j]
        if j < r:
            rank += n
        total += n
    kept = wp.min(total, slots)
    for s in range(kept + r, slots, rows):  # the empty slots, shared among the rows
        out_weight[p * slots + s] = 0.0
        out_kind[p * slots + s] = _PLANE
        out_face[p * slots + s] = 0
        out_class[p * slots + s] = face_class[0]
    for c in range(grid):
        cell = i * grid + c
        if weight[cell] > 0.0:
            slot = rank
            if total > slots:
                # Slot s holds the match of rank round(s (total - 1) / (slots - 1)); no rank is asked for twice.
                slot = (rank * (slots - 1) + (total - 1) / 2) / (total - 1)
                if (2 * slot * (total - 1) + slots - 1) / (2 * (slots - 1)) != rank:
                    slot = -1
            if slot >= 0:
                in_depth = int(r >= grid)
                pixel = p * size * size + pixel_of(r * grid + c, grid, stride, size)
                o = p * slots + slot
                f = face_id[pixel]
                out_face[o] = f
                out_class[o] = face_class[f]
                out_kind[o] = wp.where(in_depth == 1, _ROOT_PLANE, _PIXEL)
                together = of_part[2 * (p * NUM_JOINTS + face_part[f]) + in_depth]
                out_share[o] = share / (1.0 + float(together - 1) * part_correlation)
                out_bary[o] = bary[pixel]
                out_target[o] = target[cell]
                out_normal[o] = through_centre(affine[p], camera[p], size)
                out_weight[o] = weight[cell]
            rank += 1
