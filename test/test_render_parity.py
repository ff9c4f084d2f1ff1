"""Fast renderers against the plain one, and the comparison itself."""

from __future__ import annotations

import numpy as np
import pytest
from render_helpers import CAMERA, boundary_band, compare, mesh, sphere

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.geometry import so3
from densefit_ros.render.factory import make_renderer, warp_sees_cuda
from densefit_ros.render.protocol import Appearance
from densefit_ros.render.reference import ReferenceRenderer
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.types import BodyParams, Surface

# Largest differences away from edges, about ten times what was measured.  Within a triangle everything is linear, so a
# pixel that goes to the neighbouring triangle (corners snap to 1/256 px) changes normals at creases most.
TOLERANCE = {"depth_m": 3e-4, "normals": 0.02, "rgb": 2e-3, "vertex_colors": 1e-3}


def people():
    """Three posed bodies with crops: frontal walk, side view bent over, from behind and close."""
    body = load_body()
    joint = np.zeros((3, 23, 3), np.float32)
    joint[0, [0, 3, 16]] = [[-0.6, 0, 0], [0.5, 0, 0], [0, 0, 1.1]]
    joint[1, [0, 1, 2, 5, 15, 16]] = [[-0.9, 0, 0], [-0.9, 0, 0], [0.7, 0, 0], [0.5, 0, 0], [0.2, -0.9, 0], [0.2, 0.9, 0]]
    yaw = (0.3, 1.4, 2.9)
    root = np.stack([so3.log(so3.exp(np.array([np.pi, 0, 0])) @ so3.exp(np.array([0, y, 0]))) for y in yaw])
    t = np.float32([[0, 0.2, 3], [0.3, 0.2, 2.5], [-0.2, 0.3, 2]])
    params = BodyParams(np.zeros((3, 10), np.float32), root.astype(np.float32), joint, t)
    vertices = pose(body, params).vertices.astype(np.float32)
    affine = []
    for v in vertices:
        uv = v[:, :2] / v[:, 2:] * [CAMERA.fx, CAMERA.fy] + [CAMERA.cx, CAMERA.cy]
        low, high = uv.min(0), uv.max(0)
        side = (high - low).max() * 1.1 / 128
        affine.append([[side, 0, (low + high)[0] / 2 - 64 * side], [0, side, (low + high)[1] / 2 - 64 * side]])
    rng = np.random.default_rng(0)
    coarse = rng.random((16, 16, 3), np.float32)
    texture = np.kron(coarse, np.ones((16, 16, 1), np.float32))
    smooth = 0.5 + 0.4 * np.sin(8 * body.v_template)
    look = [
        Appearance(texture=texture if body.uv is not None else None),
        Appearance(vertex_rgb=smooth.astype(np.float32)),
        Appearance(),
    ]
    return body, vertices, look, np.float32(affine)


@pytest.fixture(scope="module")
def scene():
    body, vertices, look, affine = people()
    return body, vertices, look, affine, ReferenceRenderer(body).render(vertices, look, CAMERA, affine, 128)


def check(answer: Surface, expected: Surface) -> None:
    for p in range(len(expected.face_id)):
        parity = compare(answer, expected, p)
        assert parity.inside > 800
        assert parity.mask_flips_inside == 0
        for name, error in parity.inside_error.items():
            assert error < TOLERANCE[name], (p, name)
        assert parity.inside_depth_max < 0.02
        assert parity.flip_share < 0.005 and abs(parity.flip_bias) < 0.003, p
        both = (answer.face_id[p] >= 0) & (expected.face_id[p] >= 0)
        assert np.mean(answer.face_id[p][both] != expected.face_id[p][both]) < 0.01


def test_warp_on_cpu_equals_the_reference(scene):
    body, vertices, look, affine, expected = scene
    check(WarpRenderer(body, "cpu").render(vertices, look, CAMERA, affine, 128), expected)


def test_transfers_as_on_cuda_change_nothing(scene):
    """The path that copies to and from the device, taken on the CPU."""
    body, vertices, look, affine, _ = scene
    direct = WarpRenderer(body, "cpu").render(vertices, look, CAMERA, affine, 128)
    renderer = WarpRenderer(body, "cpu")
    renderer._engine.on_host = renderer._engine.slots.on_host = False
    renderer._engine.run = 1
    for persons in (1, 3, 2):
        part = renderer.render(vertices[:persons], look[:persons], CAMERA, affine[:persons], 128)
        for name in ("face_id", "bary", "depth_m", "normals", "rgb", "vertex_colors"):
            assert np.array_equal(getattr(part, name), getattr(direct, name)[:persons]), name
        assert np.array_equal(renderer.render_depth(vertices[:persons], CAMERA, affine[:persons], 128)[1], part.depth_m)


def test_kernels_compile_for_cuda(tmp_path):
    """No GPU is needed for that, and the depth test must be one hardware atomic."""
    import warp as wp

    from densefit_ros.render import appearance_kernels, warp_kernels

    if not hasattr(wp, "compile_aot_module"):
        pytest.skip("this Warp cannot compile without a device")
    for module in (warp_kernels, appearance_kernels):
        wp.compile_aot_module(module, arch=86, use_ptx=True, module_dir=tmp_path)
    ptx = b"".join(p.read_bytes() for p in tmp_path.glob("*.ptx"))
    for kernel in (b"scatter_triangles", b"resolve_pixels", b"fuse_image"):
        assert b".entry " + kernel in ptx
    assert b"atom.global.min.s64" in ptx
    assert b".local " not in ptx  # no array lives in local memory


@pytest.mark.gpu
@pytest.mark.skipif(not warp_sees_cuda(), reason="needs a CUDA device")
def test_warp_on_cuda_equals_the_reference_and_the_cpu(scene):
    body, vertices, look, affine, expected = scene
    renderer = make_renderer(body, "warp", "cuda")
    answer = renderer.render(vertices, look, CAMERA, affine, 128)
    check(answer, expected)
    again = renderer.render(vertices, look, CAMERA, affine, 128)
    for name in ("face_id", "depth_m", "normals", "rgb"):  # atomics in any order, same image
        assert np.array_equal(getattr(answer, name), getattr(again, name))
    cpu = WarpRenderer(body, "cpu").render(vertices, look, CAMERA, affine, 128)
    assert np.mean(cpu.face_id != answer.face_id) < 1e-3


@pytest.mark.gpu
def test_nvdiffrast_equals_the_reference_and_warp_on_both_devices(scene):
    pytest.importorskip("nvdiffrast")
    body, vertices, look, affine, expected = scene
    answer = make_renderer(body, "nvdiffrast", "cuda").render(vertices, look, CAMERA, affine, 128)
    check(answer, expected)
    for device in ("cpu", "cuda"):
        check(answer, make_renderer(body, "warp", device).render(vertices, look, CAMERA, affine, 128))


def ball_surface(shift: float = 0.0) -> Surface:
    vertices, faces = sphere(60, 90)
    body = mesh(vertices, faces)
    v = (body.v_template + np.float32([shift, 0, 4]))[None]
    return WarpRenderer(body).render(v, [Appearance()], CAMERA, np.float32([[[2, 0, 30], [0, 2, -10]]]), 128)


def test_the_band_surrounds_silhouettes_and_depth_jumps():
    face = np.full((9, 12), -1)
    face[2:7, 2:10] = 0
    depth = np.where(face >= 0, 2.0, 0.0)
    depth[2:7, 6:10] = 3.0
    edge = boundary_band(face, depth, radius=0)
    assert edge[4, 5] and edge[4, 6] and not edge[4, 4] and not edge[4, 7]  # both sides of the jump
    assert edge[2, 3] and edge[1, 3] and not edge[3, 3] and not edge[0, 3]  # both sides of the silhouette
    band = boundary_band(face, depth)
    assert band[3, 3] and band[0, 3] and band[4, 4] and not band[0, 0]


def test_the_comparison_passes_itself_and_catches_faults():
    a = ball_surface()
    same = compare(a, a)
    assert same.flip_share == 0 and same.flip_bias == 0 and same.mask_flips_inside == 0
    assert max(same.inside_error.values()) == 0 and same.inside > 1000
    # Half a pixel of shift: two sides flip in opposite ways, so no bias, but many flips, and depth off.
    shifted = compare(a, ball_surface(4 / CAMERA.fx))
    assert shifted.flip_share > 0.05 and abs(shifted.flip_bias) < 0.01
    assert shifted.inside_error["depth_m"] > TOLERANCE["depth_m"]
    # A renderer that loses the silhouette's outermost pixels: bias.
    thin = Surface(*(v.copy() for v in (a.face_id, a.bary, a.depth_m, a.normals, a.rgb, a.vertex_colors)), a.image_from_crop)
    rows = np.nonzero((a.face_id[0] >= 0).any(1))[0]
    for r in rows:
        thin.face_id[0, r, np.nonzero(a.face_id[0, r] >= 0)[0][0]] = -1
    assert compare(a, thin).flip_bias > 0.01
    # A hole: its rim makes a band of its own, its middle counts as flipped inside.
    hole = Surface(*(v.copy() for v in (a.face_id, a.bary, a.depth_m, a.normals, a.rgb, a.vertex_colors)), a.image_from_crop)
    hole.face_id[0, 60:68, 60:68] = -1
    assert compare(a, hole).mask_flips_inside > 10
