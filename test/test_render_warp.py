"""The Warp rasteriser against geometry that is known in closed form, and against bad input."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from render_helpers import CAMERA, WHOLE, mesh, plate, sphere

from densefit_ros.errors import ShapeError
from densefit_ros.geometry.camera import project
from densefit_ros.render.protocol import Appearance
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.types import Camera

GREY = Appearance()


def test_a_renderer_is_gone_with_its_last_reference():
    """Device memory is much: it does not wait for the garbage collector, which a node keeps away from its models."""
    vertices, faces = sphere(8, 8)
    body = mesh(vertices, faces)
    renderer = WarpRenderer(body)
    renderer.render_window((body.v_template + np.float32([0, 0, 4]))[None], [GREY], CAMERA)
    engine = weakref.ref(renderer._engine)
    gc.disable()
    try:
        del renderer
        assert engine() is None
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def ball():
    vertices, faces = sphere(120, 180)
    body = mesh(vertices, faces)
    return body, WarpRenderer(body)


def rays(camera: Camera) -> np.ndarray:
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    return np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones_like(x)], -1)


def test_sphere_depth_and_normals(ball):
    body, renderer = ball
    centre = np.array([0.2, -0.1, 4.0])
    out = renderer.render_window((body.v_template + centre.astype(np.float32))[None], [GREY], CAMERA)
    d = rays(CAMERA)
    a, b, c = (d * d).sum(-1), d @ centre, centre @ centre - 1
    disc = b * b - a * c
    z = (b - np.sqrt(np.maximum(disc, 0))) / a
    mask = out.face_id[0] >= 0
    # A sphere of chords is a little smaller than the ball: no pixel outside, and none missing well inside.
    assert not np.any(mask & (disc < 0))
    assert np.all(mask[disc > 0.05])
    inner = disc > 0.5
    assert np.abs(out.depth_m[0] - z)[inner].max() < 1.5e-3
    normal = d * z[..., None] - centre
    assert (out.normals[0] * normal).sum(-1)[inner].min() > 0.9995
    assert np.allclose(np.linalg.norm(out.normals[0][mask], axis=-1), 1, atol=1e-5)
    assert np.abs(out.normals[0][~mask]).max() == 0 and out.depth_m[0][~mask].max() == 0


def test_barycentrics_give_back_the_pixel(ball):
    """The surface point named by face and barycentrics projects onto the pixel's centre and has the rendered depth."""
    body, renderer = ball
    vertices = (body.v_template * np.float32([0.4, 0.9, 0.6]) + np.float32([0.1, 0, 2.2]))[None]
    affine = np.float32([[[0.8, 0, 70.3], [0, 0.8, 20.1]]])
    s = renderer.render(vertices, [GREY], CAMERA, affine, 256)
    mask = s.face_id[0] >= 0
    corners = vertices[0][body.faces[s.face_id[0][mask]]].astype(np.float64)
    point = (corners * s.bary[0][mask][:, :, None]).sum(1)
    row, column = np.nonzero(mask)
    uv_image = project(CAMERA, point)
    uv_crop = (uv_image - affine[0, :, 2]) / 0.8
    error = np.abs(uv_crop - np.stack([column + 0.5, row + 0.5], -1)).max(-1)
    assert np.percentile(error, 99) < 1e-4
    assert np.percentile(error, 99.9) < 2 / 256  # a centre that only the snapped triangle covers
    assert error.max() < 0.3  # slivers at the silhouette, thinner than the grid to which corners snap
    assert np.abs(point[:, 2] - s.depth_m[0][mask]).max() < 2e-5
    assert np.abs(s.bary[0][mask].sum(-1) - 1).max() < 1e-5 and s.bary[0].min() >= 0


def test_perspective_correct_on_a_slanted_plate():
    """Texture on a plate that recedes from 1 m to 5 m: half way up the picture is not half way along the plate."""
    body = plate()
    ramp = np.zeros((64, 64, 3), np.float32)
    ramp[..., 0] = (np.arange(64)[:, None] + 0.5) / 64  # red = v
    corners = np.float32([[-0.5, -0.5, 5], [0.5, -0.5, 5], [0.5, 0.5, 1], [-0.5, 0.5, 1], [0, 0, 9]])
    out = WarpRenderer(body).render_window(corners[None], [Appearance(texture=ramp)], CAMERA)
    d = rays(CAMERA)
    # Plane z = 1 + 4 (0.5 - y): t = 3 / (1 + 4 d_y); v = y + .5
    t = 3.0 / (1.0 + 4.0 * d[..., 1])
    v = d[..., 1] * t + 0.5
    mask = (out.face_id[0] >= 0) & (v > 0.02) & (v < 0.98)
    assert mask.sum() > 5000
    assert np.abs(out.rgb[0][..., 0] - v)[mask].max() < 2e-4
    assert np.abs(out.depth_m[0] - t)[mask].max() < 2e-4


def test_shared_edges_leave_no_gap_and_no_double():
    """A jittered grid, corners partly on pixel centres: drawn triangle by triangle, every pixel is covered once."""
    rng = np.random.default_rng(3)
    n = 7
    u, v = np.meshgrid(np.linspace(-8, 72, n), np.linspace(-8, 72, n))
    uv = np.stack([u, v], -1).reshape(-1, 2)
    inner = np.abs(uv - 32).max(-1) < 39
    uv[inner] += rng.uniform(-5, 5, (inner.sum(), 2))
    uv[inner] = np.where(rng.random((inner.sum(), 1)) < 0.5, np.floor(uv[inner]) + 0.5, uv[inner])
    camera = Camera(64.0, 64.0, 32.0, 32.0, 64, 64)
    z = 2.0
    vertices = np.concatenate([(uv - 32) / 64 * z, np.full((n * n, 1), z)], -1).astype(np.float32)
    quads = [(r * n + c, r * n + c + 1, (r + 1) * n + c, (r + 1) * n + c + 1) for r in range(n - 1) for c in range(n - 1)]
    faces = np.array([f for a, b, c, d in quads for f in ((a, c, b), (b, c, d))])
    template = vertices + np.arange(n * n)[:, None] * np.float32([0, 0, 1])  # not flat: rest positions give the colours
    renderer = WarpRenderer(mesh(template, faces))
    whole = renderer.render_window(vertices[None], [GREY], camera)
    assert np.all(whole.face_id >= 0)
    alone = np.full((len(faces), n * n, 3), np.nan, np.float32)  # person i has only face i
    for i, face in enumerate(faces):
        alone[i, face] = vertices[face]
    one_by_one = renderer.render_window(alone, [GREY] * len(faces), [camera] * len(faces), scene=np.arange(len(faces)))
    count = (one_by_one.face_id >= 0).sum(0)
    assert np.all(count == 1)
    assert np.array_equal(one_by_one.face_id.max(0), whole.face_id[0])


def test_nearer_surface_wins_and_back_faces_are_culled():
    body = plate(False)
    near, far = body.v_template + np.float32([0.2, 0, 2]), body.v_template + np.float32([0, 0, 3])
    red, blue = (Appearance(vertex_rgb=np.tile(np.float32(c), (5, 1))) for c in ([1, 0, 0], [0, 0, 1]))
    renderer = WarpRenderer(body)
    for order in ((0, 1), (1, 0)):
        people, looks = np.stack([near, far])[list(order)], [(red, blue)[i] for i in order]
        out = renderer.render_window(people, looks, CAMERA)
        inside = np.abs(out.depth_m[0] - 2) < 1e-5
        assert inside.sum() > 20000
        assert np.all(out.person_id[0][inside] == order.index(0))
        assert np.allclose(out.rgb[0][inside], [1, 0, 0])
        assert np.any(out.person_id[0] == order.index(1))
    turned = body.v_template * np.float32([-1, 1, -1]) + np.float32([0, 0, 2])
    assert np.all(renderer.render_window(turned[None], [GREY], CAMERA).face_id == -1)


def test_equal_depth_goes_to_the_lower_person():
    body = plate(False)
    vertices = np.stack([body.v_template + np.float32([0, 0, 2])] * 3)
    out = WarpRenderer(body).render_window(vertices, [GREY] * 3, CAMERA)
    assert set(np.unique(out.person_id)) == {-1, 0}


def test_crop_is_a_piece_of_the_window(ball):
    body, renderer = ball
    vertices = (body.v_template + np.float32([0.1, 0.2, 4]))[None]
    window = renderer.render_window(vertices, [GREY], CAMERA)
    crop = renderer.render(vertices, [GREY], CAMERA, np.float32([[[1, 0, 100], [0, 1, 40]]]), 128)
    piece = np.s_[0, 40:168, 100:228]
    # The principal point moves by whole pixels, but not without rounding: a corner may snap differently.
    assert np.mean(window.face_id[piece] != crop.face_id[0]) < 1e-3
    same = (window.face_id[piece] >= 0) & (crop.face_id[0] >= 0)
    assert np.abs(window.depth_m[piece] - crop.depth_m[0])[same].max() < 1e-4
    assert np.abs(window.normals[piece] - crop.normals[0])[same].max() < 1e-3


def test_persons_equal_one_by_one(ball):
    body, renderer = ball
    rng = np.random.default_rng(0)
    vertices = np.stack([body.v_template * s + np.float32([x, 0, 4]) for s, x in ((0.5, -1), (1, 0), (0.7, 0.6))])
    looks = [Appearance(vertex_rgb=rng.random(body.v_template.shape, np.float32)) for _ in range(3)]
    affine = np.float32([[[1.5, 0, -20], [0, 1.5, 5]], [[1.2, 0, 60], [0, 1.2, 0]], [[1, 0, 130], [0, 1, 60]]])
    cameras = [CAMERA, Camera(250, 250, 150, 110, 320, 240), CAMERA]
    together = renderer.render(vertices, looks, cameras, affine, 96)
    for p in range(3):
        alone = renderer.render(vertices[p : p + 1], looks[p : p + 1], cameras[p], affine[p : p + 1], 96)
        for name in ("face_id", "bary", "depth_m", "normals", "rgb", "vertex_colors"):
            assert np.array_equal(getattr(together, name)[p], getattr(alone, name)[0]), name
    face, depth = renderer.render_depth(vertices, cameras, affine, 96)
    assert np.array_equal(face, together.face_id) and np.array_equal(depth, together.depth_m)


def test_nothing_to_see_is_background(ball):
    body, renderer = ball
    shape = body.v_template.shape
    bad = np.stack([
        body.v_template - np.float32([0, 0, 4]),  # behind
        np.full(shape, np.nan, np.float32),
        np.full(shape, np.inf, np.float32),
        body.v_template + np.float32([50, 0, 4]),  # beside the image
        np.zeros(shape, np.float32),
        body.v_template * np.float32([1, 1, 0]) + np.float32([0, 0, 1e-20]),
    ])  # fmt: skip
    out = renderer.render(bad, [GREY] * len(bad), CAMERA, np.repeat(WHOLE, len(bad), 0), 200)
    assert np.all(out.face_id == -1)
    for name in ("bary", "depth_m", "normals", "rgb", "vertex_colors"):
        assert not getattr(out, name).any(), name
    none = renderer.render(np.zeros((0, *shape), np.float32), [], CAMERA, np.zeros((0, 2, 3)), 64)
    assert none.rgb.shape == (0, 64, 64, 3)
    empty = renderer.render_window(np.zeros((0, *shape), np.float32), [], CAMERA)
    assert empty.face_id.shape == (1, 240, 320) and np.all(empty.face_id == -1)
    bare = WarpRenderer(mesh(np.eye(3), np.zeros((0, 3))))
    assert np.all(bare.render_window(np.eye(3, dtype=np.float32)[None] + 1, [GREY], CAMERA).face_id == -1)


def test_a_nan_vertex_costs_only_its_own_triangles(ball):
    body, renderer = ball
    vertices = (body.v_template + np.float32([0, 0, 4]))[None].copy()
    before = renderer.render_window(vertices, [GREY], CAMERA)
    hit = body.faces[before.face_id[0, 118, 161]][0]
    vertices[0, hit] = np.nan
    after = renderer.render_window(vertices, [GREY], CAMERA)
    gone = (before.face_id[0] >= 0) & (after.face_id[0] < 0)
    assert 0 < gone.sum() < 60
    assert np.all(np.isin(before.face_id[0][gone], np.nonzero((body.faces == hit).any(-1))[0]))
    for name in ("bary", "depth_m", "normals", "rgb"):
        assert np.all(np.isfinite(getattr(after, name)))


def test_inside_the_near_plane_drops_triangles_not_the_frame():
    vertices, faces = sphere(20, 30)
    renderer = WarpRenderer(mesh(vertices, faces))
    around = renderer.render_window(vertices[None].astype(np.float32), [GREY], CAMERA)  # camera at the centre of the ball
    assert np.all(around.face_id == -1)  # its inside is all back faces
    grazing = renderer.render_window((vertices + [0, 0, 1.02])[None].astype(np.float32), [GREY], CAMERA)
    assert np.all(np.isfinite(grazing.depth_m)) and grazing.depth_m.max() < 2


def test_texture_orientation():
    """Golden: texel row 0 is at v = 0, column 0 at u = 0; the plate has uv (0,0) at its top left in the image."""
    texture = np.zeros((2, 2, 3), np.float32)
    texture[0, 0], texture[0, 1], texture[1, 0] = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    body = plate()
    out = WarpRenderer(body).render_window((body.v_template + np.float32([0, 0, 2]))[None], [Appearance(texture=texture)], CAMERA)
    rows, columns = np.nonzero(out.face_id[0] >= 0)
    (r0, r1), (c0, c1) = (rows.min(), rows.max()), (columns.min(), columns.max())
    rgb = out.rgb[0]
    # Outside the outermost texel centres the colour is clamped: a quarter of the plate's side.
    assert np.allclose(rgb[r0 + 5, c0 + 5], [1, 0, 0], atol=1e-5)
    assert np.allclose(rgb[r0 + 5, c1 - 5], [0, 1, 0], atol=1e-5)
    assert np.allclose(rgb[r1 - 5, c0 + 5], [0, 0, 1], atol=1e-5)
    assert np.allclose(rgb[r1 - 5, c1 - 5], [0, 0, 0], atol=1e-5)
    assert np.allclose(rgb[(r0 + r1) // 2, (c0 + c1) // 2], [0.25, 0.25, 0.25], atol=0.02)


def test_appearances_of_a_call_mix_and_change():
    body = plate()
    flat = np.full((8, 8, 3), 0.25, np.float32)
    renderer = WarpRenderer(body)
    vertices = np.repeat((body.v_template + np.float32([0, 0, 2]))[None], 3, 0)
    affine = np.repeat(WHOLE, 3, 0)
    looks = [Appearance(texture=flat), Appearance(vertex_rgb=np.full((5, 3), 0.75, np.float32)), GREY]

    def centre(order):
        return renderer.render(vertices, [looks[i] for i in order], CAMERA, affine, 200).rgb[:, 118, 161, 0].tolist()

    value = [0.25, 0.75, 0.5]
    for order in ((0, 1, 2), (2, 0, 1), (1, 1, 0), (0, 0, 0), (2, 1, 0)):
        assert np.allclose(centre(order), [value[i] for i in order]), order
    looks[1] = Appearance(texture=np.full((32, 32, 3), 0.125, np.float32))  # needs larger slots
    value[1] = 0.125
    assert np.allclose(centre((0, 1, 2)), value)


def test_answers_stay_while_they_are_held(ball):
    body, renderer = ball
    held, copies = [], []
    for i in range(6):
        vertices = (body.v_template * np.float32(0.3 + 0.1 * i) + np.float32([0, 0, 4]))[None]
        held.append(renderer.render(vertices, [GREY], CAMERA, WHOLE, 240).depth_m[0, 50:200])  # a view of a view
        copies.append(held[-1].copy())
    for a, b in zip(held, copies):
        assert np.array_equal(a, b)
    with pytest.raises(ValueError):
        held[0][0, 0] = 1.0
    used = {x.__array_interface__["data"][0] for x in held}
    held.clear()
    del a, b
    again = renderer.render(vertices, [GREY], CAMERA, WHOLE, 240).depth_m[0, 50:200]
    assert again.__array_interface__["data"][0] in used


def test_scenes_are_separate(ball):
    body, renderer = ball
    small, large = body.v_template * 0.3 + np.float32([0, 0, 2]), body.v_template + np.float32([0, 0, 5])
    people = np.stack([large, small, small])
    out = renderer.render_window(people, [GREY] * 3, [CAMERA, CAMERA], 320, 240, scene=np.array([0, 0, 1]))
    assert set(np.unique(out.person_id[0])) == {-1, 0, 1} and set(np.unique(out.person_id[1])) == {-1, 2}
    assert np.array_equal(out.person_id[0] == 1, out.person_id[1] == 2)


def test_wrong_shapes_are_named(ball):
    body, renderer = ball
    vertices = (body.v_template + np.float32([0, 0, 4]))[None]
    with pytest.raises(ShapeError, match="of another body"):
        renderer.render(vertices[:, :-1], [GREY], CAMERA, WHOLE, 64)
    with pytest.raises(ShapeError, match="one appearance per person"):
        renderer.render(vertices, [], CAMERA, WHOLE, 64)
    with pytest.raises(ShapeError, match="image_from_crop"):
        renderer.render(vertices, [GREY], CAMERA, WHOLE[0], 64)
    with pytest.raises(ShapeError, match="camera"):
        renderer.render(vertices, [GREY], [CAMERA, CAMERA], WHOLE, 64)
    with pytest.raises(ShapeError, match="no uv"):
        renderer.render(vertices, [Appearance(texture=np.zeros((4, 4, 3), np.float32))], CAMERA, WHOLE, 64)
    with pytest.raises(ShapeError, match="vertex colours"):
        renderer.render(vertices, [Appearance(vertex_rgb=np.zeros((4, 3), np.float32))], CAMERA, WHOLE, 64)
    with pytest.raises(ShapeError, match="scene"):
        renderer.render_window(vertices, [GREY], [CAMERA], scene=np.array([1]))
