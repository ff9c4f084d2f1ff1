"""Kernels of the rasteriser.  The same source runs on CPU and CUDA.

Four passes over flat arrays: project the vertices; normal of every face, then of every vertex; scatter every triangle
into the depth buffer; resolve every pixel.  Persons are numbered p, scenes (depth buffers) s; person p draws into scene
``scene[p]`` with its own intrinsics.

Coverage is exact: vertices snap to 1/256 px, edge functions are 64-bit integers, and of two triangles that share an edge
exactly one owns a pixel centre on it.  A depth buffer entry packs (far-to-near 1/z, person * F + face), so the nearest
surface wins and equal depths go to the lower person and face: the image does not depend on the order of threads.
"""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})

# Positions are dropped beyond this: 2^21 px * 256 = 2^29 keeps products of differences inside 64 bits.
COORDINATE_LIMIT_PX = wp.constant(wp.float32(2097152.0))
EMPTY_KEY = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))
INV_DEPTH_TOP = wp.constant(wp.int64(0x7F800000))  # bits of +inf: above those of every finite 1/z
LOW_WORD = wp.constant(wp.int64(0xFFFFFFFF))


@wp.func
def snap(x: wp.float32):
    # Toward zero is as good as to nearest for a shared vertex, and needs no call of floor on the CPU.
    return wp.int32(x * 256.0)


@wp.kernel
def project_vertices(
    points: wp.array(dtype=wp.vec3),
    intrinsics: wp.array(dtype=wp.vec4),
    num_vertices: wp.int32,
    near_m: wp.float32,
    screen: wp.array(dtype=wp.vec3),
    snapped: wp.array(dtype=wp.vec2i),
):
    i = wp.tid()
    x = points[i]
    k = intrinsics[i // num_vertices]
    # 1/z = 0 marks a vertex that no triangle may use.  NaN fails every comparison, so it ends here too.
    uvw = wp.vec3(0.0, 0.0, 0.0)
    q = wp.vec2i(0, 0)
    if x[2] > near_m:
        w = 1.0 / x[2]
        u = k[0] * x[0] * w + k[2]
        v = k[1] * x[1] * w + k[3]
        if wp.abs(u) < COORDINATE_LIMIT_PX and wp.abs(v) < COORDINATE_LIMIT_PX:
            uvw = wp.vec3(u, v, w)
            q = wp.vec2i(snap(u), snap(v))
    screen[i] = uvw
    snapped[i] = q


@wp.kernel
def face_normals(
    points: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    num_faces: wp.int32,
    num_vertices: wp.int32,
    normals: wp.array(dtype=wp.vec3),
):
    i = wp.tid()
    p = i // num_faces
    t = faces[i - p * num_faces]
    base = p * num_vertices
    a = points[base + t[0]]
    n = wp.cross(points[base + t[1]] - a, points[base + t[2]] - a)
    # A NaN vertex must not spoil the normals of its neighbours.
    if wp.dot(n, n) < 1.0e30:
        normals[i] = n
    else:
        normals[i] = wp.vec3(0.0, 0.0, 0.0)


@wp.kernel
def vertex_normals(
    face_normal: wp.array(dtype=wp.vec3),
    ring_start: wp.array(dtype=wp.int32),
    ring_face: wp.array(dtype=wp.int32),
    num_faces: wp.int32,
    num_vertices: wp.int32,
    normals: wp.array(dtype=wp.vec3),
):
    i = wp.tid()
    p = i // num_vertices
    v = i - p * num_vertices
    base = p * num_faces
    n = wp.vec3(0.0, 0.0, 0.0)
    for j in range(ring_start[v], ring_start[v + 1]):
        n = n + face_normal[base + ring_face[j]]  # cross products: weighted by area
    normals[i] = wp.normalize(n)


@wp.func
def owns(dx: wp.int64, dy: wp.int64):
    # Of an edge's two directions exactly one owns it; the other's edge function is lowered below zero on the line.
    if dy < wp.int64(0) or (dy == wp.int64(0) and dx > wp.int64(0)):
        return wp.int64(0)
    return wp.int64(-1)


@wp.kernel
def scatter_triangles(
    screen: wp.array(dtype=wp.vec3),
    snapped: wp.array(dtype=wp.vec2i),
    faces: wp.array(dtype=wp.vec3i),
    scene: wp.array(dtype=wp.int32),
    num_faces: wp.int32,
    num_vertices: wp.int32,
    width: wp.int32,
    height: wp.int32,
    keys: wp.array(dtype=wp.int64),
):
    i = wp.tid()
    p = i // num_faces
    t = faces[i - p * num_faces]
    base = p * num_vertices
    a = snapped[base + t[0]]
    # Faces are counter-clockwise from outside; b and c swapped make front faces positive in rows that count downwards.
    b = snapped[base + t[2]]
    c = snapped[base + t[1]]
    # Culling before the bounding box: its branch is predictable, that of an empty box is not (0.30 against 0.35 ms).
    abx = wp.int64(b[0] - a[0])
    aby = wp.int64(b[1] - a[1])
    bcx = wp.int64(c[0] - b[0])
    bcy = wp.int64(c[1] - b[1])
    cax = wp.int64(a[0] - c[0])
    cay = wp.int64(a[1] - c[1])
    area = cax * aby - abx * cay
    if area <= wp.int64(0):
        return  # seen from behind, or no area
    # First and last pixel whose centre lies inside the bounding box.
    x0 = wp.max((wp.min(a[0], wp.min(b[0], c[0])) + 127) >> 8, 0)
    x1 = wp.min((wp.max(a[0], wp.max(b[0], c[0])) - 128) >> 8, width - 1)
    y0 = wp.max((wp.min(a[1], wp.min(b[1], c[1])) + 127) >> 8, 0)
    y1 = wp.min((wp.max(a[1], wp.max(b[1], c[1])) - 128) >> 8, height - 1)
    if x0 > x1 or y0 > y1:
        return
    wa = screen[base + t[0]][2]
    wb = screen[base + t[2]][2]
    wc = screen[base + t[1]][2]
    if wa == 0.0 or wb == 0.0 or wc == 0.0:
        return
    w_min = wp.min(wa, wp.min(wb, wc))
    w_max = wp.max(wa, wp.max(wb, wc))
    # Edge functions at the first centre; one pixel is 256 units.
    px = wp.int64(x0 * 256 + 128)
    py = wp.int64(y0 * 256 + 128)
    bias_ab = owns(abx, aby)
    bias_bc = owns(bcx, bcy)
    bias_ca = owns(cax, cay)
    e_ab = abx * (py - wp.int64(a[1])) - aby * (px - wp.int64(a[0])) + bias_ab
    e_bc = bcx * (py - wp.int64(b[1])) - bcy * (px - wp.int64(b[0])) + bias_bc
    e_ca = cax * (py - wp.int64(c[1])) - cay * (px - wp.int64(c[0])) + bias_ca
    inv_area = 1.0 / wp.float32(area)
    slope_b = (wb - wa) * inv_area
    slope_c = (wc - wa) * inv_area
    pixel_row = (scene[p] * height + y0) * width
    for _y in range(y0, y1 + 1):
        f_ab = e_ab
        f_bc = e_bc
        f_ca = e_ca
        for x in range(x0, x1 + 1):
            if (f_ab | f_bc | f_ca) >= wp.int64(0):
                w = wp.clamp(wa + wp.float32(f_ca) * slope_b + wp.float32(f_ab) * slope_c, w_min, w_max)
                key = ((INV_DEPTH_TOP - wp.int64(wp.cast(w, wp.int32))) << wp.int64(32)) | wp.int64(i)
                if key < keys[pixel_row + x]:
                    wp.atomic_min(keys, pixel_row + x, key)
            f_ab = f_ab - wp.int64(256) * aby
            f_bc = f_bc - wp.int64(256) * bcy
            f_ca = f_ca - wp.int64(256) * cay
        e_ab = e_ab + wp.int64(256) * abx
        e_bc = e_bc + wp.int64(256) * bcx
        e_ca = e_ca + wp.int64(256) * cax
        pixel_row = pixel_row + width


@wp.func
def perspective_bary(a: wp.vec3, b: wp.vec3, c: wp.vec3, u: wp.float32, v: wp.float32):
    """Barycentrics on the surface of the point seen at (u, v), and its 1/z in the last place; corners are (u, v, 1/z)."""
    ax = a[0] - u
    ay = a[1] - v
    bx = b[0] - u
    by = b[1] - v
    cx = c[0] - u
    cy = c[1] - v
    # Front faces have negative area in rows that count downwards.  A centre that only the snapped triangle covers gives
    # a slightly negative share: to zero.
    sa = wp.max(cx * by - bx * cy, 0.0)
    sb = wp.max(ax * cy - cx * ay, 0.0)
    sc = wp.max(bx * ay - ax * by, 0.0)
    total = sa + sb + sc
    if total <= 0.0:
        sa = 1.0
        sb = 1.0
        sc = 1.0
        total = 3.0
    pa = sa * a[2]
    pb = sb * b[2]
    pc = sc * c[2]
    w = pa + pb + pc
    inv = 1.0 / w
    return wp.vec4(pa * inv, pb * inv, pc * inv, w / total)


@wp.func
def sample_texture(texels: wp.array(dtype=wp.vec3), start: wp.int32, size: wp.int32, uv: wp.vec2):
    """Bilinear, texel centres at half-integers, clamped at the border."""
    top = wp.float32(size - 1)
    x = wp.clamp(uv[0] * wp.float32(size) - 0.5, 0.0, top)
    y = wp.clamp(uv[1] * wp.float32(size) - 0.5, 0.0, top)
    x0 = wp.int32(x)
    y0 = wp.int32(y)
    fx = x - wp.float32(x0)
    fy = y - wp.float32(y0)
    x1 = wp.min(x0 + 1, size - 1)
    r0 = start + y0 * size
    r1 = start + wp.min(y0 + 1, size - 1) * size
    upper = texels[r0 + x0] * (1.0 - fx) + texels[r0 + x1] * fx
    lower = texels[r1 + x0] * (1.0 - fx) + texels[r1 + x1] * fx
    return upper * (1.0 - fy) + lower * fy


@wp.kernel
def resolve_pixels(
    keys: wp.array(dtype=wp.int64),
    screen: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    vertex_normal: wp.array(dtype=wp.vec3),
    vertex_color: wp.array(dtype=wp.vec3),
    uv: wp.array(dtype=wp.vec2),
    uv_faces: wp.array(dtype=wp.vec3i),
    colors_of: wp.array(dtype=wp.vec3),
    color_start: wp.array(dtype=wp.int32),
    texture_size: wp.array(dtype=wp.int32),
    num_faces: wp.int32,
    num_vertices: wp.int32,
    width: wp.int32,
    height: wp.int32,
    run: wp.int32,
    count: wp.int32,
    person_id: wp.array(dtype=wp.int32),
    face_id: wp.array(dtype=wp.int32),
    bary: wp.array(dtype=wp.vec3),
    depth_m: wp.array(dtype=wp.float32),
    normals: wp.array(dtype=wp.vec3),
    rgb: wp.array(dtype=wp.vec3),
    colors: wp.array(dtype=wp.vec3),
):
    first = wp.tid() * run
    for i in range(first, wp.min(first + run, count)):
        key = keys[i]
        if key == EMPTY_KEY:
            # What was background stays untouched: most pixels, and writing 60 bytes each is what costs.
            if face_id[i] >= 0:
                zero = wp.vec3(0.0, 0.0, 0.0)
                person_id[i] = -1
                face_id[i] = -1
                bary[i] = zero
                depth_m[i] = 0.0
                normals[i] = zero
                rgb[i] = zero
                colors[i] = zero
        else:
            keys[i] = EMPTY_KEY
            g = wp.int32(key & LOW_WORD)
            p = g // num_faces
            f = g - p * num_faces
            t = faces[f]
            base = p * num_vertices
            row = i // width
            b = perspective_bary(
                screen[base + t[0]],
                screen[base + t[1]],
                screen[base + t[2]],
                wp.float32(i - row * width) + 0.5,
                wp.float32(row % height) + 0.5,
            )
            person_id[i] = p
            face_id[i] = f
            bary[i] = wp.vec3(b[0], b[1], b[2])
            depth_m[i] = 1.0 / b[3]
            normals[i] = wp.normalize(
                vertex_normal[base + t[0]] * b[0] + vertex_normal[base + t[1]] * b[1] + vertex_normal[base + t[2]] * b[2]
            )
            colors[i] = vertex_color[t[0]] * b[0] + vertex_color[t[1]] * b[1] + vertex_color[t[2]] * b[2]
            start = color_start[p]
            size = texture_size[p]
            if size > 0:
                s = uv_faces[f]
                rgb[i] = sample_texture(colors_of, start, size, uv[s[0]] * b[0] + uv[s[1]] * b[1] + uv[s[2]] * b[2])
            else:
                rgb[i] = colors_of[start + t[0]] * b[0] + colors_of[start + t[1]] * b[1] + colors_of[start + t[2]] * b[2]


@wp.kernel
def resolve_depth(
    keys: wp.array(dtype=wp.int64),
    screen: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    num_faces: wp.int32,
    num_vertices: wp.int32,
    width: wp.int32,
    height: wp.int32,
    run: wp.int32,
    count: wp.int32,
    person_id: wp.array(dtype=wp.int32),
    face_id: wp.array(dtype=wp.int32),
    depth_m: wp.array(dtype=wp.float32),
):
    first = wp.tid() * run
    for i in range(first, wp.min(first + run, count)):
        key = keys[i]
        if key == EMPTY_KEY:
            if face_id[i] >= 0:
                person_id[i] = -1
                face_id[i] = -1
                depth_m[i] = 0.0
        else:
            keys[i] = EMPTY_KEY
            g = wp.int32(key & LOW_WORD)
            p = g // num_faces
            f = g - p * num_faces
            t = faces[f]
            base = p * num_vertices
            row = i // width
            b = perspective_bary(
                screen[base + t[0]],
                screen[base + t[1]],
                screen[base + t[2]],
                wp.float32(i - row * width) + 0.5,
                wp.float32(row % height) + 0.5,
            )
            person_id[i] = p
            face_id[i] = f
            depth_m[i] = 1.0 / b[3]
