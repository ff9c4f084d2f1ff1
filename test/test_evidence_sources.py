from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from scipy.io import savemat

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.errors import AssetError, ShapeError
from densefit_ros.eval import metrics
from densefit_ros.evidence import densepose
from densefit_ros.evidence.keypoints import of_boxes, read_openpose
from densefit_ros.fit.options import Anchor
from densefit_ros.fit.solver import Fitter
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.types import BodyParams, Keypoints

CAMERA = camera_from_fov(256, 256, 50.0)


@functools.lru_cache(maxsize=1)
def _body():
    return load_body()


@functools.lru_cache(maxsize=1)
def _chart():
    return densepose.body_chart(_body())


def _person(seed: int = 0, degrees: float = 12.0) -> BodyParams:
    rng = np.random.default_rng(seed)
    root = so3.log(so3.exp(np.array([np.pi, 0, 0])) @ so3.exp(np.array([0, 0.6, 0])))
    joints = np.radians(degrees) * rng.normal(size=(1, 23, 3)) / np.sqrt(3)
    return BodyParams(*(np.asarray(a, np.float32) for a in (np.zeros((1, 10)), root[None], joints, [[0.05, 0.1, 2.6]])))


def _iuv(params):
    from densefit_ros.render.protocol import Appearance

    posed = pose(_body(), params)
    scene = WarpRenderer(_body()).render_window(posed.vertices, [Appearance()], CAMERA)
    return posed, _chart().encode(scene.face_id[0], scene.bary[0])


# -- OpenPose ---------------------------------------------------------------------------------------------------------


def _openpose(path, people):
    path.write_text(json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": np.ravel(p).tolist()} for p in people]}))
    return path


def test_openpose_files_are_read_in_our_pixels(tmp_path):
    points = np.random.default_rng(0).uniform(1, 200, (2, 25, 3))
    points[..., 2] /= 200
    points[0, 4] = 0
    found = read_openpose(_openpose(tmp_path / "img_01_keypoints.json", points))
    assert found.set_name == "openpose25"
    assert found.uv == pytest.approx(points[..., :2] + 0.5, abs=1e-4)
    assert found.confidence[0, 4] == 0 and found.confidence == pytest.approx(points[..., 2], abs=1e-6)


def test_an_empty_scene_has_nobody(tmp_path):
    assert read_openpose(_openpose(tmp_path / "a.json", [])).uv.shape == (0, 25, 2)


@pytest.mark.parametrize(
    "text, word",
    [
        ("{", "cannot read"),
        ("[]", "people"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "person 0"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "got 1"),
        ('{"people": [{}]}', "person 0"),
        ('{"people": [{"pose_keypoints_2d": "abc"}]}', "person 0"),
    ],
)
def test_bad_openpose_files_are_named(tmp_path, text, word):
    path = tmp_path / "bad_keypoints.json"
    path.write_text(text)
    with pytest.raises(AssetError, match=word) as e:
        read_openpose(path)
    assert "bad_keypoints.json" in str(e.value)


def test_people_go_to_their_boxes():
    uv = np.zeros((3, 17, 2), np.float32)
    uv[0] += [50, 50]
    uv[1] += [150, 60]
    uv[2] += [155, 65]  # a fragment of person 1's neighbour in the same box
    confidence = np.ones((3, 17), np.float32)
    confidence[2, 4:] = 0
    boxes = np.array([[130, 40, 40, 40], [300, 300, 20, 20], [30, 30, 40, 40]])
    out = of_boxes(Keypoints("coco17", uv, confidence), boxes)
    assert out.uv[0, 0] == pytest.approx([150, 60]) and out.uv[2, 0] == pytest.approx([50, 50])
    assert (out.confidence[1] == 0).all()
    # Who has too few points in a box for having it takes it from nobody.
    uv, confidence = np.zeros((2, 10, 2), np.float32), np.ones((2, 10), np.float32)
    uv[0, :6] += 50  # in both boxes with six of ten points, in the first with the others too
    uv[0, 6:] += [20, 50]
    uv[1, :4] += [20, 50]  # four of ten in the first box
    uv[1, 4:] += 900
    both = of_boxes(Keypoints("coco17", uv, confidence), np.array([[0, 0, 100, 100], [40, 0, 100, 100]]))
    assert both.uv[0, 0] == pytest.approx([50, 50]) and (both.confidence[1] == 0).all()


# -- DensePose --------------------------------------------------------------------------------------------------------


def test_chart_answers_with_the_place_it_was_asked_about():
    posed, iuv = _iuv(_person())
    matches = densepose.to_correspondences(iuv, 0, _chart(), densepose.DenseposeOptions(max_points=2000))
    assert len(matches) > 500
    corners = _body().faces[matches.face]
    points = np.einsum("nk,nkc->nc", matches.bary, posed.vertices[0][corners])
    error = np.linalg.norm(project(CAMERA, points) - matches.target_uv, axis=1)
    assert np.median(error) < 1.0 and np.percentile(error, 95) < 4.0
    assert set(np.unique(iuv[..., 0])) <= set(range(25)) and len(np.unique(iuv[..., 0])) > 15


def test_a_window_is_placed_in_the_full_image():
    _, iuv = _iuv(_person())
    whole = densepose.to_correspondences(iuv, 0, _chart())
    moved = densepose.to_correspondences(iuv, 3, _chart(), origin_px=(100, 50), scale=2.0)
    assert moved.target_uv == pytest.approx(2 * whole.target_uv + [100, 50], abs=1e-3)
    assert (moved.person == 3).all()
    assert moved.sqrt_weight[0] == pytest.approx(whole.sqrt_weight[0] / 2, rel=1e-3)


def test_noisy_densepose_pulls_a_body_into_place():
    truth = _person(1)
    posed, iuv = _iuv(truth)
    rng = np.random.default_rng(5)
    covered = iuv[..., 0] > 0
    noisy = iuv.astype(np.int64)
    noisy[..., 1:] += np.round(6 * rng.normal(size=(*covered.shape, 2))).astype(np.int64)
    wrong = covered & (rng.random(covered.shape) < 0.03)
    noisy[wrong, 0] = rng.integers(1, 25, wrong.sum())
    noisy = np.where(covered[..., None], np.clip(noisy, 0, 255), 0).astype(np.uint8)
    options = densepose.DenseposeOptions(border_px=0)  # lone wrong pixels would erode everything round them
    matches = densepose.to_correspondences(noisy, 0, _chart(), options)
    start = _person(1, degrees=0.0)
    start = BodyParams(start.betas, start.root_rotvec, 0.4 * truth.joint_rotvec, start.t_camera_root + np.float32(0.03))
    fitter = Fitter(_body(), max_persons=1)
    fitted = fitter.solve(start, CAMERA, matches, anchors=[Anchor(start, rot_sigma_rad=0.3)], iterations=12).params
    before, after = (metrics.pve_mm(pose(_body(), p).vertices, posed.vertices)[0] for p in (start, fitted))
    assert after < 0.5 * before


def test_iuv_images_of_another_kind():
    with pytest.raises(ShapeError, match="uint8 IUV"):
        densepose.to_correspondences(np.zeros((8, 8), np.uint8), 0, _chart())
    with pytest.raises(ShapeError, match="another order"):
        densepose.to_correspondences(np.full((8, 8, 3), 200, np.uint8), 0, _chart())
    assert len(densepose.to_correspondences(np.zeros((8, 8, 3), np.uint8), 0, _chart())) == 0


def _mat(path, body, **changes):
    """A file of DensePose's layout over the faces of ``body``: seams duplicate every vertex."""
    chart = densepose.body_chart(body)
    vertex = body.faces.ravel()
    tree = {
        "All_vertices": vertex[None] + 1,
        "All_Faces": np.arange(len(vertex)).reshape(-1, 3) + 1,
        "All_FaceIndices": chart.face_part[:, None],
        "All_U_norm": (chart.corner_uv[..., 0].reshape(-1, 1) % 1.0),
        "All_V_norm": chart.corner_uv[..., 1].reshape(-1, 1),
    }
    savemat(str(path), {k: v for k, v in {**tree, **changes}.items() if v is not None})
    return path


def test_the_projects_own_chart_file(tmp_path):
    body = _body()
    order = np.argsort(np.random.default_rng(0).random((body.num_faces, 3)), axis=1)  # its corners come in any order
    vertex = np.take_along_axis(body.faces, order, 1).ravel()
    uv = np.take_along_axis(_chart().corner_uv, order[..., None], 1).reshape(-1, 2)
    path = _mat(tmp_path / "UV_Processed.mat", body, All_vertices=vertex[None] + 1, All_U_norm=uv[:, :1], All_V_norm=uv[:, 1:])
    chart = densepose.read_chart(path, body)
    assert not chart.periodic_u and np.array_equal(chart.face_part, _chart().face_part)
    assert chart.corner_uv == pytest.approx(_chart().corner_uv, abs=1e-6)
    # The released file lacks two triangles of the toes.
    charted = np.arange(body.num_faces) >= 2
    faces, parts = np.arange(len(vertex)).reshape(-1, 3)[charted] + 1, _chart().face_part[charted, None]
    path = _mat(path, body, All_vertices=vertex[None] + 1, All_U_norm=uv[:, :1], All_V_norm=uv[:, 1:], All_Faces=faces,
                All_FaceIndices=parts)  # fmt: skip
    assert np.array_equal(densepose.read_chart(path, body).face_part, np.where(charted, _chart().face_part, 0))


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"All_U_norm": None}, "All_U_norm"),
        ({"All_FaceIndices": np.ones((3, 1))}, "do not fit"),
        ({"All_FaceIndices": np.full((13776, 1), 99)}, "out of range"),
    ],
)
def test_bad_charts_are_named(tmp_path, changes, word):
    with pytest.raises(AssetError, match=word):
        densepose.read_chart(_mat(tmp_path / "chart.mat", _body(), **changes), _body())
    with pytest.raises(AssetError, match="cannot read"):
        (tmp_path / "text.mat").write_text("no chart")
        densepose.read_chart(tmp_path / "text.mat", _body())
