"""Where people are in the image, and their windows of it.  The same numbers as geometry/crop.py and geometry/camera.py."""

from __future__ import annotations

import warp as wp

from ..geometry.camera import NEAR_M, REACH

wp.set_module_options({"enable_backward": False})

PARTS = 64  # threads that share a sum over one person
_PARTS = wp.constant(PARTS)
_NEAR_M = wp.constant(NEAR_M)
_REACH = wp.constant(REACH)
_FAR = wp.constant(1.0e30)
vec3ub = wp.vec3ub


@wp.kernel
def box_parts(
    vertices: wp.array(dtype=wp.vec3),
    num_vertices: int,
    outline: wp.array(dtype=int),
    count: int,
    camera: wp.array(dtype=wp.vec4),
    width: int,
    height: int,
    out: wp.array(dtype=wp.vec4),
):
    """Boxes (low u, low v, high u, high v) of every PARTS-th vertex of a person's outline, not far beyond the image."""
    i = wp.tid()
    p = i / _PARTS
    k = camera[p]
    box = wp.vec4(_FAR, _FAR, -_FAR, -_FAR)
    for j in range(i - p * _PARTS, count, _PARTS):
        x = vertices[p * num_vertices + outline[j]]
        if x[2] > _NEAR_M and wp.isfinite(x[0]) and wp.isfinite(x[1]):
            u = wp.clamp(k[0] * x[0] / x[2] + k[2], -_REACH * float(width), (1.0 + _REACH) * float(width))
            w = wp.clamp(k[1] * x[1] / x[2] + k[3], -_REACH * float(height), (1.0 + _REACH) * float(height))
            box = wp.vec4(wp.min(box[0], u), wp.min(box[1], w), wp.max(box[2], u), wp.max(box[3], w))
    out[i] = box


@wp.kernel
def windows(
    parts: wp.array(dtype=wp.vec4),
    camera: wp.array(dtype=wp.vec4),
    margin: wp.array(dtype=float),
    aspect: float,
    size: int,
    affine: wp.array(dtype=wp.vec3),
    crop_camera: wp.array(dtype=wp.vec4),
    intrinsics: wp.array(dtype=wp.vec4),
):
    """Square window of each person, who fits its middle columns: scale and origin (px), its camera, and that over the side."""
    p = wp.tid()
    box = wp.vec4(_FAR, _FAR, -_FAR, -_FAR)
    for j in range(_PARTS):
        b = parts[p * _PARTS + j]
        box = wp.vec4(wp.min(box[0], b[0]), wp.min(box[1], b[1]), wp.max(box[2], b[2]), wp.max(box[3], b[3]))
    if box[0] > box[2]:
        box = wp.vec4(0.0, 0.0, 0.0, 0.0)
    side = wp.max(wp.max((box[2] - box[0]) / aspect, box[3] - box[1]), 2.0) * margin[0]
    s = side / float(size)
    x0 = 0.5 * (box[0] + box[2]) - 0.5 * side
    y0 = 0.5 * (box[1] + box[3]) - 0.5 * side
    k = camera[p]
    own = wp.vec4(k[0] / s, k[1] / s, (k[2] - x0) / s, (k[3] - y0) / s)
    affine[p] = wp.vec3(s, x0, y0)
    crop_camera[p] = own
    intrinsics[p] = own / float(size)


@wp.func
def area_mean(image: wp.array(dtype=vec3ub), width: int, x: int, y: int, factor: int):
    """Mean of a factor x factor block with its first pixel at (x, y), in whole grey levels."""
    total = wp.vec3(0.0, 0.0, 0.0)
    for r in range(factor):
        row = (y + r) * width + x
        for c in range(factor):
            q = image[row + c]
            total = total + wp.vec3(float(q[0]), float(q[1]), float(q[2]))
    total = total / float(factor * factor)
    return wp.vec3(wp.rint(total[0]), wp.rint(total[1]), wp.rint(total[2]))


@wp.kernel
def crop_pixels(
    image: wp.array(dtype=vec3ub),
    width: int,
    height: int,
    size: int,
    affine: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=vec3ub),
):
    """Bilinear samples, from block means where a window shrinks twice or more; the border's colour goes on outside."""
    i = wp.tid()
    p = i / (size * size)
    row = (i - p * size * size) / size
    column = i - p * size * size - row * size
    a = affine[p]
    side = a[0] * float(size)
    factor = wp.max(int(a[0]), 1)
    # The part of the image that block means are taken of: as geometry/crop.py cuts it.
    x0 = wp.max(int(a[1]) - factor, 0)
    y0 = wp.max(int(a[2]) - factor, 0)
    w = (wp.min(int(a[1] + side) + 2 * factor, width) - x0) / factor
    h = (wp.min(int(a[2] + side) + 2 * factor, height) - y0) / factor
    if factor < 2 or w < 2 or h < 2:
        factor = 1
        x0 = 0
        y0 = 0
        w = width
        h = height
    u = ((float(column) + 0.5) * a[0] + a[1] - float(x0)) / float(factor) - 0.5
    v = ((float(row) + 0.5) * a[0] + a[2] - float(y0)) / float(factor) - 0.5
    fu = wp.floor(u)
    fv = wp.floor(v)
    du = u - fu
    dv = v - fv
    c0 = wp.clamp(int(fu), 0, w - 1)
    c1 = wp.clamp(int(fu) + 1, 0, w - 1)
    r0 = wp.clamp(int(fv), 0, h - 1)
    r1 = wp.clamp(int(fv) + 1, 0, h - 1)
    top = area_mean(image, width, x0 + c0 * factor, y0 + r0 * factor, factor) * (1.0 - du)
    top = top + area_mean(image, width, x0 + c1 * factor, y0 + r0 * factor, factor) * du
    bottom = area_mean(image, width, x0 + c0 * factor, y0 + r1 * factor, factor) * (1.0 - du)
    bottom = bottom + area_mean(image, width, x0 + c1 * factor, y0 + r1 * factor, factor) * du
    q = top * (1.0 - dv) + bottom * dv
    out[i] = vec3ub(wp.uint8(wp.rint(q[0])), wp.uint8(wp.rint(q[1])), wp.uint8(wp.rint(q[2])))


@wp.kernel
def depth_parts(face_id: wp.array(dtype=int), depth_m: wp.array(dtype=float), pixels: int, out: wp.array(dtype=wp.vec2)):
    """Sum of depths and number of covered pixels, over every PARTS-th pixel of a person."""
    i = wp.tid()
    p = i / _PARTS
    total = wp.vec2(0.0, 0.0)
    for j in range(i - p * _PARTS, pixels, _PARTS):
        if face_id[p * pixels + j] >= 0:
            total = total + wp.vec2(depth_m[p * pixels + j], 1.0)
    out[i] = total


@wp.kernel
def mean_depth(parts: wp.array(dtype=wp.vec2), out: wp.array(dtype=float)):
    p = wp.tid()
    total = wp.vec2(0.0, 0.0)
    for j in range(_PARTS):
        total = total + parts[p * _PARTS + j]
    out[p] = total[0] / wp.max(total[1], 1.0)


@wp.kernel
def pack_rendering(
    face_id: wp.array(dtype=int),
    depth_m: wp.array(dtype=float),
    normals: wp.array(dtype=wp.vec3),
    rgb: wp.array(dtype=wp.vec3),
    colors: wp.array(dtype=wp.vec3),
    mean_m: wp.array(dtype=float),
    side: int,
    width: int,
    first: int,
    depth_limit_m: float,
    out: wp.array(dtype=float),
):
    """The displacement network's third input, the rendering's columns from ``first`` on, as displace/displacer.py packs it."""
    i = wp.tid()
    o = 11 * i
    line = i / width
    at = line * side + first + i - line * width
    if face_id[at] < 0:
        for c in range(11):
            out[o + c] = 0.0
        return
    own = rgb[at]
    n = normals[at]
    point = colors[at]
    for c in range(3):
        out[o + c] = own[c]
        out[o + 4 + c] = n[c]
        out[o + 7 + c] = point[c]
    out[o + 3] = wp.clamp(depth_m[at] - mean_m[line / side], -depth_limit_m, depth_limit_m)
    out[o + 10] = 1.0
