"""Kernels that fold one image into the colours of a person.  The same source runs on CPU and CUDA."""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.struct
class Fusion:
    """Numbers of one call; see AppearanceOptions."""

    intrinsics: wp.vec4  # fx, fy, cx, cy of the crop
    low: wp.vec2  # crop px: where the image begins and ends inside the crop
    high: wp.vec2
    size: wp.int32
    min_facing: wp.float32
    margin_px: wp.int32
    depth_tolerance_m: wp.float32
    color_sigma: wp.float32
    prior_weight: wp.float32
    max_weight: wp.float32
    forget: wp.float32


@wp.func
def pixel(image: wp.array(dtype=wp.vec3ub), i: wp.int32):
    c = image[i]
    return wp.vec3(wp.float32(c[0]), wp.float32(c[1]), wp.float32(c[2])) * (1.0 / 255.0)


@wp.func
def bilinear_pixel(image: wp.array(dtype=wp.vec3ub), size: wp.int32, u: wp.float32, v: wp.float32):
    top = wp.float32(size - 1)
    x = wp.clamp(u - 0.5, 0.0, top)
    y = wp.clamp(v - 0.5, 0.0, top)
    x0 = wp.int32(x)
    y0 = wp.int32(y)
    fx = x - wp.float32(x0)
    fy = y - wp.float32(y0)
    x1 = wp.min(x0 + 1, size - 1)
    r0 = y0 * size
    r1 = wp.min(y0 + 1, size - 1) * size
    upper = pixel(image, r0 + x0) * (1.0 - fx) + pixel(image, r0 + x1) * fx
    lower = pixel(image, r1 + x0) * (1.0 - fx) + pixel(image, r1 + x1) * fx
    return upper * (1.0 - fy) + lower * fy


@wp.kernel
def fuse_image(
    f: Fusion,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    corner: wp.array(dtype=wp.vec3i),
    bary: wp.array(dtype=wp.vec3),
    image: wp.array(dtype=wp.vec3ub),
    nearest: wp.array(dtype=wp.float32),
    farthest: wp.array(dtype=wp.float32),
    rgb: wp.array(dtype=wp.vec3),
    weight: wp.array(dtype=wp.float32),
):
    i = wp.tid()
    t = corner[i]
    b = bary[i]
    n = normals[t[0]] * b[0] + normals[t[1]] * b[1] + normals[t[2]] * b[2]
    x = points[t[0]] * b[0] + points[t[1]] * b[1] + points[t[2]] * b[2]
    # -n.x > min |x| |n| without the roots; NaN fails.
    toward = -wp.dot(n, x)
    norms = wp.dot(x, x) * wp.dot(n, n)
    if toward > 0.0 and toward * toward > f.min_facing * f.min_facing * norms:
        facing = toward / wp.sqrt(norms)
        z = x[2]
        if z > 0.0:
            m = wp.float32(f.margin_px)
            u = f.intrinsics[0] * x[0] / z + f.intrinsics[2]
            v = f.intrinsics[1] * x[1] / z + f.intrinsics[3]
            if u > f.low[0] + m and v > f.low[1] + m and u < f.high[0] - m and v < f.high[1] - m:
                j = wp.int32(v) * f.size + wp.int32(u)
                # Depth changes along the surface by the tangent of its angle per pixel's width: allow for the way to the
                # far end of the window.  Nearer is an occluder, farther is what lies behind an edge of this surface,
                # none (nearest is 0) the background.
                tangent = wp.sqrt(1.0 - wp.min(facing * facing, 1.0)) / facing
                allowed = f.depth_tolerance_m + (m + 0.7) * tangent * z / f.intrinsics[0]
                seen = nearest[j] > 0.0 and z - nearest[j] < allowed and farthest[j] - z < allowed
                if seen:
                    c = rgb[i]
                    w = weight[i]
                    y = bilinear_pixel(image, f.size, u, v)
                    a = facing * facing
                    if w > 0.0:
                        # Geman-McClure, wide while little is known.
                        d = y - c
                        s2 = f.color_sigma * f.color_sigma * (1.0 + f.prior_weight / w)
                        g = 1.0 / (1.0 + wp.dot(d, d) / s2)
                        trust = g * g
                        # What contradicts is not averaged in, but it takes away confidence: what lasts wins in the end.
                        w = w * (1.0 - f.forget * (1.0 - trust))
                        a = a * trust
                        rgb[i] = c + d * (a / (w + a))
                        weight[i] = wp.min(w + a, f.max_weight)
                    else:
                        rgb[i] = y
                        weight[i] = a


@wp.kernel
def spread_guess(
    weight: wp.array(dtype=wp.float32),
    neighbor_start: wp.array(dtype=wp.int32),
    neighbor: wp.array(dtype=wp.int32),
    rgb: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=wp.vec3),
):
    """Colour of what was never seen: the mean of its neighbours (a step of Laplace's equation)."""
    i = wp.tid()
    c = rgb[i]
    if weight[i] == 0.0:
        begin = neighbor_start[i]
        end = neighbor_start[i + 1]
        if end > begin:
            total = wp.vec3(0.0, 0.0, 0.0)
            for j in range(begin, end):
                total = total + rgb[neighbor[j]]
            c = total / wp.float32(end - begin)
    out[i] = c
