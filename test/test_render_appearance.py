"""Learning a person's colours from images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.errors import ShapeError
from densefit_ros.geometry import so3
from densefit_ros.geometry.crop import image_from_crop, square_around
from densefit_ros.render.appearance import AppearanceOptions, neutral_appearance, update_appearance
from densefit_ros.render.protocol import Appearance
from densefit_ros.render.reference import bilinear
from densefit_ros.render.samples import rasterize_uv, texel_samples, vertex_samples
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.types import BodyParams, Camera

CAMERA = Camera(600.0, 600.0, 320.0, 240.0, 640, 480)
SIZE = 192


@pytest.fixture(scope="module")
def world():
    body = load_body()
    return body, WarpRenderer(body), vertex_samples(body)


def truth(body, seed: int = 0) -> Appearance:
    """Smooth colours, a different one for each person."""
    phase = np.random.default_rng(seed).uniform(0, 6, (3, 3))
    waves = np.sin(body.v_template @ (9 * np.random.default_rng(seed + 1).normal(size=(3, 3))) + phase[0])
    return Appearance(vertex_rgb=(0.5 + 0.35 * waves).astype(np.float32))


def view(body, yaw: float, arm: float = 0.9, x_m: float = 0.0):
    """Vertices (V,3) and crop of a person who turned by ``yaw``."""
    root = so3.log(so3.exp(np.array([np.pi, 0, 0])) @ so3.exp(np.array([0, yaw, 0])))
    joint = np.zeros((1, 23, 3), np.float32)
    joint[0, 15], joint[0, 16] = [0, 0, -arm], [0, 0, arm]
    params = BodyParams(np.zeros((1, 10), np.float32), root[None].astype(np.float32), joint, np.float32([[x_m, 0.2, 3]]))
    vertices = pose(body, params).vertices[0].astype(np.float32)
    uv = vertices[:, :2] / vertices[:, 2:] * CAMERA.fx + [CAMERA.cx, CAMERA.cy]
    low, high = uv.min(0), uv.max(0)
    return vertices, image_from_crop(square_around(np.r_[low, high - low], 1.2, aspect=1.0), SIZE)


def picture(renderer, vertices, affine, look, rng=None, sigma: float = 0.05) -> np.ndarray:
    """(SIZE,SIZE,3) uint8 of the person before noise."""
    rng = rng or np.random.default_rng(0)
    s = renderer.render(vertices[None], [look], CAMERA, affine[None], SIZE)
    image = np.where(s.face_id[0][..., None] >= 0, s.rgb[0], rng.random((SIZE, SIZE, 3)))
    return (255 * (image + sigma * rng.normal(size=image.shape))).clip(0, 255).astype(np.uint8)


def learn(world, look, true, views, seed: int = 0, change=lambda image, i: image):
    body, renderer, _ = world
    rng = np.random.default_rng(seed)
    for i, yaw in enumerate(views):
        vertices, affine = view(body, yaw, arm=0.9 + 0.3 * np.sin(i))
        image = change(picture(renderer, vertices, affine, true, rng), i)
        depth = renderer.render_depth(vertices[None], CAMERA, affine[None], SIZE)[1][0]
        look = update_appearance(body, look, vertices, image, affine, CAMERA, depth, SIZE)
    return look


TURN = np.linspace(0, 2 * np.pi, 12, endpoint=False)


def test_vertex_colours_are_recovered_from_noisy_views(world):
    body = world[0]
    true = truth(body)
    look = learn(world, neutral_appearance(body, 0), true, TURN)
    seen = look.weight > 1
    assert seen.mean() > 0.5
    error = np.abs(look.vertex_rgb - true.vertex_rgb)[seen].mean()
    assert error < 0.025  # noise of one image alone: 0.04
    assert look.vertex_rgb.dtype == look.weight.dtype == np.float32 and 0 <= look.vertex_rgb.min() and look.vertex_rgb.max() <= 1


def test_texture_is_recovered_from_noisy_views(world):
    body, renderer, _ = world
    true = truth(body)
    look = learn(world, neutral_appearance(body), true, TURN)
    assert look.texture.shape == (128, 128, 3) and look.weight.shape == (128, 128)
    vertices, affine = view(body, 0.4)
    expected = renderer.render(vertices[None], [true], CAMERA, affine[None], SIZE)
    got = renderer.render(vertices[None], [look], CAMERA, affine[None], SIZE)
    mask = expected.face_id[0] >= 0
    error = np.abs(got.rgb[0] - expected.rgb[0])[mask]
    assert error.mean() < 0.03 and np.quantile(error, 0.95) < 0.1


def test_an_occluder_is_turned_away_and_a_lasting_change_wins(world):
    body = world[0]
    true = truth(body)
    front = np.zeros(20)
    look = learn(world, neutral_appearance(body, 0), true, front)
    sure = look.weight > 2

    def magenta(image, i):
        image[SIZE // 3 : 2 * SIZE // 3] = [255, 0, 255]
        return image

    during = learn(world, look, true, np.zeros(5), 1, magenta)
    moved = np.abs(during.vertex_rgb - look.vertex_rgb)[sure]
    assert np.quantile(moved, 0.98) < 0.1 and moved.mean() < 0.02
    other = truth(body, 5)
    differs = sure & (np.abs(other.vertex_rgb - true.vertex_rgb).max(1) > 0.3)
    after = learn(world, look, other, np.zeros(70), 2)
    assert np.abs(after.vertex_rgb - other.vertex_rgb)[differs].mean() < 0.05
    soon = learn(world, look, other, np.zeros(5), 2)
    assert np.abs(soon.vertex_rgb - other.vertex_rgb)[differs].mean() > 0.2


def test_only_visible_vertices_learn(world):
    """One image: whatever gained weight is the surface in front at its pixel, by the ids of the faces."""
    body, renderer, _ = world
    vertices, affine = view(body, 1.2, arm=1.3)  # an arm hangs before the flank
    image = picture(renderer, vertices, affine, truth(body))
    s = renderer.render(vertices[None], [Appearance()], CAMERA, affine[None], SIZE)
    look = update_appearance(body, neutral_appearance(body, 0), vertices, image, affine, CAMERA, s.depth_m[0], SIZE)
    learnt = np.flatnonzero(look.weight > 0)
    assert len(learnt) > 800
    uv = vertices[learnt, :2] / vertices[learnt, 2:] * CAMERA.fx + [CAMERA.cx, CAMERA.cy]
    column, row = ((uv - affine[:, 2]) / affine[0, 0]).astype(int).T
    assert np.all(s.face_id[0, row, column] >= 0)
    # The rest position of what is rendered there is the rest position of the vertex.
    colour = s.vertex_colors[0, row, column]
    own = (body.v_template[learnt] - body.v_template.min(0)) / np.ptp(body.v_template, axis=0) * 0.9 + 0.1
    assert np.abs(colour - own)[:, :2].max() < 0.06
    facing = -(vertices[learnt] * smooth_normals_of(body, vertices)[learnt]).sum(1) / np.linalg.norm(vertices[learnt], axis=1)
    assert facing.min() > AppearanceOptions().min_facing - 1e-3


def smooth_normals_of(body, vertices):
    from densefit_ros.render.reference import smooth_normals

    return smooth_normals(vertices.astype(np.float64), body.faces)


@pytest.mark.parametrize("shift_px, leak", [(0.0, 0.0), (0.5, 0.02)])
def test_background_does_not_leak_in(world, shift_px, leak):
    """A green body before a magenta wall, in place and half a pixel out of place: share of samples that turn red."""
    body, renderer, _ = world
    green = Appearance(vertex_rgb=np.tile(np.float32([0, 1, 0]), (len(body.v_template), 1)))
    vertices, affine = view(body, 0.2)
    s = renderer.render(vertices[None], [green], CAMERA, affine[None], SIZE)
    image = np.where(s.face_id[0][..., None] >= 0, 255 * s.rgb[0], [255, 0, 255]).astype(np.uint8)
    shifted = vertices + np.float32([shift_px * affine[0, 0] * 3 / CAMERA.fx, 0, 0])
    depth = renderer.render_depth(shifted[None], CAMERA, affine[None], SIZE)[1][0]
    look = update_appearance(body, neutral_appearance(body, 0), shifted, image, affine, CAMERA, depth, SIZE)
    seen = look.weight > 0
    assert seen.mean() > 0.15
    assert np.mean(look.vertex_rgb[seen, 0] > 0.05) <= leak
    assert look.vertex_rgb[~seen, 0].mean() < 0.02  # guesses come from what was seen


def test_outside_the_image_nothing_is_learnt(world):
    body, renderer, _ = world
    vertices, affine = view(body, 0.0, x_m=-1.6)  # half of the person is left of the image
    image = picture(renderer, vertices, affine, truth(body))
    depth = renderer.render_depth(vertices[None], CAMERA, affine[None], SIZE)[1][0]
    look = update_appearance(body, neutral_appearance(body, 0), vertices, image, affine, CAMERA, depth, SIZE)
    u = vertices[:, 0] / vertices[:, 2] * CAMERA.fx + CAMERA.cx
    assert (look.weight > 0).any() and not (look.weight[u <= 1] > 0).any() and (u <= 0).mean() > 0.3


def test_guesses_follow_the_body_part(world):
    """Red trousers and a blue shirt, seen once from the front, are red and blue from behind."""
    body, _, samples = world
    red = np.isin(samples.part, [1, 2, 4, 5, 7, 8, 10, 11])
    true = Appearance(vertex_rgb=np.where(red[:, None], np.float32([1, 0, 0]), np.float32([0, 0, 1])))
    look = learn(world, neutral_appearance(body, 0), true, [0.0])
    hidden = look.weight == 0
    assert 0.4 < hidden.mean() < 0.9
    assert np.quantile(np.abs(look.vertex_rgb - true.vertex_rgb)[hidden].max(1), 0.8) < 0.3


def test_answers_are_new_and_bad_geometry_teaches_nothing(world):
    body, renderer, _ = world
    vertices, affine = view(body, 0.0)
    image = picture(renderer, vertices, affine, truth(body))
    depth = renderer.render_depth(vertices[None], CAMERA, affine[None], SIZE)[1][0]
    first = neutral_appearance(body, 0)
    second = update_appearance(body, first, vertices, image, affine, CAMERA, depth, SIZE)
    assert not first.weight.any() and np.all(first.vertex_rgb == 0.5) and second.weight.any()
    held = second.vertex_rgb.copy()
    third = update_appearance(body, second, vertices, 255 - image, affine, CAMERA, depth, SIZE)
    assert np.array_equal(second.vertex_rgb, held) and not np.array_equal(third.vertex_rgb, held)
    for broken in (np.full_like(vertices, np.nan), vertices * np.float32([1, 1, -1]), np.zeros_like(vertices)):
        same = update_appearance(body, second, broken, image, affine, CAMERA, depth, SIZE)
        assert np.array_equal(same.weight, second.weight)
        assert np.allclose(same.vertex_rgb[second.weight > 0], held[second.weight > 0])
    blank = update_appearance(body, Appearance(), vertices, image, affine, CAMERA, depth, SIZE)
    assert blank.texture is not None and blank.weight.any()
    unweighted = update_appearance(body, Appearance(vertex_rgb=first.vertex_rgb), vertices, image, affine, CAMERA, depth, SIZE)
    assert np.array_equal(unweighted.weight, second.weight)
    empty = update_appearance(body, first, vertices, image, affine, CAMERA, np.zeros((SIZE, SIZE), np.float32), SIZE)
    assert not empty.weight.any()


def test_wrong_shapes_are_named(world):
    body, renderer, _ = world
    vertices, affine = view(body, 0.0)
    image, depth, look = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.float32), neutral_appearance(body, 0)
    with pytest.raises(ShapeError, match="vertices"):
        update_appearance(body, look, vertices[1:], image, affine, CAMERA, depth, SIZE)
    with pytest.raises(ShapeError, match="uint8"):
        update_appearance(body, look, vertices, image.astype(np.float32), affine, CAMERA, depth, SIZE)
    with pytest.raises(ShapeError, match="depth"):
        update_appearance(body, look, vertices, image, affine, CAMERA, depth[1:], SIZE)
    with pytest.raises(ShapeError, match="vertex colours"):
        other = Appearance(vertex_rgb=np.zeros((7, 3), np.float32))
        update_appearance(body, other, vertices, image, affine, CAMERA, depth, SIZE)
    bare = dataclasses.replace(body, uv=None, uv_faces=None)
    assert neutral_appearance(bare).vertex_rgb is not None
    with pytest.raises(ShapeError, match="uv"):
        neutral_appearance(bare, 64)
    with pytest.raises(ShapeError, match="uv"):
        update_appearance(bare, neutral_appearance(body), vertices, image, affine, CAMERA, depth, SIZE)


def test_texel_centres_lie_where_the_uv_map_says(world):
    """Bilinear sampling of a texture painted with rest positions gives rest positions back."""
    body = world[0]
    samples = texel_samples(body, 192)
    rest = (body.v_template[samples.corner] * samples.bary[:, :, None]).sum(1)
    texture = rest[samples.fill_from].reshape(192, 192, 3)
    face = np.random.default_rng(0).integers(0, len(body.faces), 3000)
    bary = np.random.default_rng(1).dirichlet([1, 1, 1], 3000)
    uv = (body.uv[body.uv_faces[face]] * bary[:, :, None]).sum(1)
    expected = (body.v_template[body.faces[face]] * bary[:, :, None]).sum(1)
    error = np.linalg.norm(bilinear(texture, uv) - expected, axis=-1)
    assert np.median(error) < 0.002 and np.quantile(error, 0.95) < 0.02
    assert np.all(samples.bary >= 0) and np.allclose(samples.bary.sum(1), 1, atol=1e-5)


def test_uv_raster_covers_a_square_once():
    uv = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    for faces in ([[0, 1, 2], [0, 2, 3]], [[0, 2, 1], [0, 3, 2]]):  # either winding
        face, bary = rasterize_uv(uv, np.array(faces), 16)
        assert (face.reshape(16, 16) >= 0).sum() == 64 and np.all(face.reshape(16, 16)[4:12, 4:12] >= 0)
        at = (uv[np.array(faces)[face[face >= 0]]] * bary[face >= 0][:, :, None]).sum(1) * 16
        row, column = np.divmod(np.flatnonzero(face >= 0), 16)
        assert np.allclose(at, np.stack([column, row], -1) + 0.5)
