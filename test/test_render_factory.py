"""Choice of renderer, and the conventions of nvdiffrast checked against a stand-in that keeps to its documentation."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from render_helpers import CAMERA, compare, mesh, plate, sphere

from densefit_ros.errors import BackendUnavailable, ConfigError, ShapeError
from densefit_ros.render import nvdiffrast_renderer
from densefit_ros.render.factory import make_renderer, warp_sees_cuda
from densefit_ros.render.protocol import Appearance
from densefit_ros.render.warp_renderer import WarpRenderer


def test_auto_is_warp():
    renderer = make_renderer(mesh(*sphere(6, 8)))
    assert renderer.name == "warp" and renderer.device == ("cuda" if warp_sees_cuda() else "cpu")
    assert make_renderer(mesh(*sphere(6, 8)), "warp", "cpu").device == "cpu"


def test_named_backends_do_not_fall_back(monkeypatch):
    body = mesh(*sphere(6, 8))
    with pytest.raises(BackendUnavailable, match="CUDA only"):
        make_renderer(body, "nvdiffrast", "cpu")
    monkeypatch.setitem(sys.modules, "nvdiffrast", None)
    with pytest.raises(BackendUnavailable, match=r"(?s)nvdiffrast.*non-commercial"):
        make_renderer(body, "nvdiffrast")
    monkeypatch.setattr("densefit_ros.render.factory.warp_sees_cuda", lambda: False)
    with pytest.raises(BackendUnavailable, match="driver"):
        make_renderer(body, "warp", "cuda")
    assert make_renderer(body, "auto", "auto").device == "cpu"
    for bad in (("pyrender", "auto"), ("warp", "tpu")):
        with pytest.raises(ConfigError):
            make_renderer(body, *bad)


def documented_nvdiffrast(torch):
    """rasterize, interpolate and texture as nvdiffrast documents them, on the CPU, slowly."""

    class Context:
        def __init__(self, device=None):
            self.device = device

    def rasterize(context, pos, tri, resolution, ranges=None, grad_db=True):
        assert isinstance(context, Context) and pos.dtype == torch.float32 and tri.dtype == torch.int32
        assert pos.is_contiguous() and tri.is_contiguous() and pos.shape[2] == 4
        h, w = resolution
        out = np.zeros((len(pos), h, w, 4), np.float32)
        x, y = np.meshgrid((np.arange(w) + 0.5) * 2 / w - 1, (np.arange(h) + 0.5) * 2 / h - 1)  # row 0 is the bottom
        pixel = np.stack([x, y, np.ones_like(x)], -1)
        for b, clip in enumerate(pos.double().numpy()):
            nearest = np.full((h, w), np.inf)
            for i, face in enumerate(tri.numpy()):
                corner = clip[face]
                m = corner[:, [0, 1, 3]]
                if abs(np.linalg.det(m)) < 1e-14:
                    continue
                s = pixel @ np.linalg.inv(m)
                zw = (s @ corner[:, 2]) / np.where(np.abs(s @ corner[:, 3]) > 0, s @ corner[:, 3], 1)
                win = (s >= 0).all(-1) & (zw >= -1) & (zw <= 1) & (zw < nearest)
                nearest[win] = zw[win]
                share = s[win] / s[win].sum(-1, keepdims=True)
                out[b][win] = np.concatenate([share[:, :2], zw[win][:, None], np.full((len(share), 1), i + 1)], -1)
        return torch.from_numpy(out), torch.zeros_like(torch.from_numpy(out))

    def interpolate(attr, rast, tri):
        assert attr.dtype == torch.float32 and attr.is_contiguous() and rast.is_contiguous() and attr.ndim == 3
        attr = attr.expand(len(rast), -1, -1)
        face = rast[..., 3].long() - 1
        b = torch.stack([rast[..., 0], rast[..., 1], 1 - rast[..., 0] - rast[..., 1]], -1)
        person = torch.arange(len(rast))[:, None, None, None]
        out = (attr[person, tri.long()[face.clamp(min=0)]] * b[..., None]).sum(-2) * (face >= 0)[..., None]
        return out, out[..., :0]

    def texture(tex, uv, filter_mode="auto", boundary_mode="wrap"):
        assert filter_mode == "linear" and boundary_mode == "clamp" and tex.ndim == 4 and uv.shape[-1] == 2
        h, w = tex.shape[1:3]
        x = (uv[..., 0] * w - 0.5).clamp(0, w - 1)
        y = (uv[..., 1] * h - 0.5).clamp(0, h - 1)
        x0, y0 = x.long(), y.long()
        x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
        n = torch.arange(len(tex))[:, None, None]
        fx, fy = (x - x0)[..., None], (y - y0)[..., None]
        top = tex[n, y0, x0] * (1 - fx) + tex[n, y0, x1] * fx
        return top * (1 - fy) + (tex[n, y1, x0] * (1 - fx) + tex[n, y1, x1] * fx) * fy

    return SimpleNamespace(RasterizeCudaContext=Context, rasterize=rasterize, interpolate=interpolate, texture=texture)


@pytest.fixture()
def stand_in(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(nvdiffrast_renderer, "load_backend", lambda: (torch, documented_nvdiffrast(torch)))
    return lambda body: nvdiffrast_renderer.NvdiffrastRenderer(body, "cpu")


def test_nvdiffrast_conventions_give_warps_image(stand_in):
    vertices, faces = sphere(12, 18)
    body = mesh(vertices, faces)
    rng = np.random.default_rng(0)
    people = np.stack(
        [body.v_template * s + np.float32(t) for s, t in (([0.5, 1, 0.4], [0, 0.1, 4]), ([1, 0.4, 0.6], [0.5, -0.3, 3]))]
    )
    people[1, 5] = np.nan
    people[1, 40, 2] = 0.01
    looks = [Appearance(vertex_rgb=rng.random(vertices.shape, np.float32)), Appearance()]
    affine = np.float32([[[3, 0, 20], [0, 3, -5]], [[4.5, 0, 30], [0, 4.5, -60]]])
    ours = WarpRenderer(body).render(people, looks, CAMERA, affine, 72)
    theirs = stand_in(body).render(people, looks, CAMERA, affine, 72)
    for p in range(2):
        parity = compare(theirs, ours, p)
        assert parity.inside > 90 and parity.mask_flips_inside == 0 and parity.flip_share < 0.02
        assert max(parity.inside_error.values()) < 5e-3
        both = (ours.face_id[p] >= 0) & (theirs.face_id[p] >= 0)
        same = both & (ours.face_id[p] == theirs.face_id[p])
        assert same.sum() > 0.99 * both.sum()
        assert np.median(np.abs(ours.bary[p] - theirs.bary[p])[same]) < 1e-4
    face, depth = stand_in(body).render_depth(people, CAMERA, affine, 72)
    assert np.array_equal(face, theirs.face_id) and np.array_equal(depth, theirs.depth_m)
    assert theirs.face_id.dtype == np.int32 and theirs.face_id.min() == -1
    assert np.all(theirs.rgb[theirs.face_id < 0] == 0) and np.all(np.isfinite(theirs.normals))


def test_nvdiffrast_texture_is_the_right_way_up(stand_in):
    body = plate()
    texture = np.random.default_rng(1).random((4, 4, 3), np.float32)
    looks = [Appearance(texture=texture), Appearance(texture=np.kron(texture, np.ones((2, 2, 1), np.float32))), Appearance()]
    vertices = np.repeat((body.v_template + np.float32([0.05, 0.1, 2]))[None], 3, 0)
    affine = np.repeat(np.float32([[[2.5, 0, 60], [0, 2.5, 20]]]), 3, 0)
    ours = WarpRenderer(body).render(vertices, looks, CAMERA, affine, 80)
    theirs = stand_in(body).render(vertices, looks, CAMERA, affine, 80)
    both = (ours.face_id >= 0) & (theirs.face_id >= 0)
    assert both[0].sum() > 2000 and np.mean((ours.face_id >= 0) != (theirs.face_id >= 0)) < 1e-3
    assert np.abs(ours.rgb - theirs.rgb)[both].max() < 2e-3


def test_nvdiffrast_edge_cases(stand_in):
    body = mesh(*sphere(6, 8))
    renderer = stand_in(body)
    none = renderer.render(np.zeros((0, *body.v_template.shape)), [], CAMERA, np.zeros((0, 2, 3)), 16)
    assert none.rgb.shape == (0, 16, 16, 3) and none.face_id.dtype == np.int32
    face, depth = renderer.render_depth(np.zeros((0, *body.v_template.shape)), CAMERA, np.zeros((0, 2, 3)), 16)
    assert face.shape == depth.shape == (0, 16, 16)
    affine = np.float32([[[20, 0, 0], [0, 20, 0]]])
    behind = renderer.render((body.v_template - np.float32([0, 0, 4]))[None], [Appearance()], CAMERA, affine, 16)
    assert np.all(behind.face_id == -1) and not behind.depth_m.any()
    with pytest.raises(ShapeError, match="no uv"):
        look = Appearance(texture=np.zeros((2, 2, 3), np.float32))
        renderer.render((body.v_template + np.float32([0, 0, 4]))[None], [look], CAMERA, affine, 16)
