"""Crops and displacement pairs: labels agree with the pictures they belong to."""

import importlib.util
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.between import part_way
from densefit_ros.body.model import pose, rest_joints
from densefit_ros.errors import AssetError, ConfigError
from densefit_ros.geometry import so3
from densefit_ros.geometry.crop import columns_seen
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.synth import backgrounds, cameras, displacement, perturb
from densefit_ros.synth.backgrounds import Backgrounds, load_backgrounds
from densefit_ros.synth.cameras import CropOptions
from densefit_ros.synth.clothing import skin
from densefit_ros.synth.crops import make_crops
from densefit_ros.synth.displacement import STRIDE_PX, make_pairs
from densefit_ros.synth.engine import SynthEngine
from densefit_ros.synth.lighting import Sensor
from densefit_ros.synth.scenery import draw_false_limbs
from densefit_ros.types import BodyParams


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def engine(body):
    cv2.setNumThreads(1)
    return SynthEngine(body, WarpRenderer(body), load_backgrounds("train", []), subjects=6, texture_size=128)


@pytest.fixture(scope="module")
def batch(engine):
    return make_crops(np.random.default_rng(0), engine, 12, 192)


def quiet(engine, **changes):
    """The same engine without what hides people."""
    plain = dict(negative_share=0.0, crowd_share=0.0, occluder_share=0.0, carried_share=0.0, visible_box_share=0.0)
    engine.options = CropOptions(**(plain | changes))
    return engine


@pytest.fixture(autouse=True)
def _restore(engine):
    yield
    engine.options = CropOptions()


def test_same_seed_same_crops_whatever_was_made_before(engine, batch):
    make_crops(np.random.default_rng(77), engine, 3, 96)
    again = make_crops(np.random.default_rng(0), engine, 12, 192)
    np.testing.assert_array_equal(batch.rgb, again.rgb)
    np.testing.assert_array_equal(batch.visible_face, again.visible_face)
    np.testing.assert_array_equal(batch.params.joint_rotvec, again.params.joint_rotvec)


def test_fields_fit_together(body, batch):
    p = len(batch)
    assert batch.rgb.shape == (p, 192, 192, 3) and batch.rgb.dtype == np.uint8
    assert batch.visible_face.min() >= -1 and batch.visible_face.max() < body.num_faces
    assert batch.confidence.dtype == np.float32 and ((0 <= batch.confidence) & (batch.confidence <= 1)).all()
    assert not (batch.labelled & (batch.confidence < 0.3)).any()
    for camera, row in zip(batch.crop_cameras, batch.intrinsics):
        np.testing.assert_allclose((camera.fx, camera.fy, camera.cx, camera.cy), row, rtol=1e-5)
    assert (batch.visible_face[~batch.inside] == -1).all()


def test_joints_are_those_of_the_parameters(body, batch):
    posed = pose(body, batch.params)
    np.testing.assert_allclose(batch.joints_m, posed.joints, atol=2e-5)
    k = batch.intrinsics[:, None]
    uv = posed.joints[..., :2] / posed.joints[..., 2:] * k[..., :2] + k[..., 2:]
    front = posed.joints[..., 2] > 0.2
    np.testing.assert_allclose(batch.joints_px[front], uv[front], rtol=1e-4, atol=0.02)


def test_own_skinning_equals_the_reference(body, engine):
    rng = np.random.default_rng(3)
    b = make_crops(rng, engine, 3, 64)
    vertices, joints = skin(engine.wardrobe, b.params, [None] * 3)
    posed = pose(body, b.params)
    np.testing.assert_allclose(vertices, posed.vertices, atol=2e-5)
    np.testing.assert_allclose(joints, posed.joints, atol=2e-5)


def test_clothes_cover_the_body_and_skirts_keep_weights(body, engine):
    seen_skirt = False
    for subject in range(40):
        clothes = engine.subject(subject).clothes
        offset = clothes.offset_m.astype(np.float32)
        assert np.isfinite(offset).all()
        outward = np.einsum("vc,vc->v", offset, engine.wardrobe.points.normal)
        if clothes.weights is None:
            assert np.linalg.norm(offset, axis=1).max() < 0.17 and outward.min() > -0.02
        else:
            seen_skirt = True
            np.testing.assert_allclose(clothes.weights.sum(1), 1, atol=1e-5)
            assert clothes.weights.min() >= 0
    assert seen_skirt
    engine._cache.clear()


def test_visible_pixels_show_the_person_and_negatives_none(engine):
    engine = quiet(engine)
    b = make_crops(np.random.default_rng(5), engine, 8, 128)
    assert b.labelled.mean() > 0.7 and (b.visible_share[b.labelled] > 0.15).all()
    engine = quiet(engine, negative_share=1.0)
    n = make_crops(np.random.default_rng(5), engine, 8, 128)
    assert not n.labelled.any() and n.confidence.max() < 0.5 and n.confidence.mean() < 0.2


def test_flow_is_zero_on_the_truth_and_exact_on_a_shift(body, engine):
    engine = quiet(engine)
    b = make_crops(np.random.default_rng(6), engine, 4, 192)
    pairs = make_pairs(np.random.default_rng(0), engine, b, b.params)
    assert pairs.valid.any((1, 2)).all()
    length = np.abs(pairs.flow).max(1)[pairs.valid]
    assert np.sort(length)[-4] < 0.05 and length.max() < 0.3  # a face seen edge-on may lose digits
    assert pairs.visible[b.labelled].sum() > 0.6 * (pairs.valid[b.labelled]).sum()
    shift = np.array([0.05, -0.03, 0], np.float32)
    moved = replace(b.params, t_camera_root=b.params.t_camera_root + shift)
    pairs = make_pairs(np.random.default_rng(0), engine, b, moved)
    half = STRIDE_PX // 2
    z = pairs.surface.depth_m[:, half::STRIDE_PX, half::STRIDE_PX]
    for i in range(4):
        on = pairs.valid[i]
        expected = -shift[:2, None] * b.intrinsics[i, :2, None] / z[i][on]
        np.testing.assert_allclose(pairs.flow[i][:, on], expected, atol=0.08)


def test_renderings_are_zero_beside_the_body(engine, batch):
    start = perturb.disturb(np.random.default_rng(1), batch.params, rest_joints(engine.body, batch.params.betas)[:, 0])
    pairs = make_pairs(np.random.default_rng(1), engine, batch, start)
    s, covered = pairs.surface, pairs.surface.face_id >= 0
    assert s.rgb.shape == (12, 192, 192, 3) and s.rgb.dtype == np.float32
    for plane in (s.rgb, s.depth_m, s.vertex_colors):
        assert (plane[~covered] == 0).all()
    assert (s.vertex_colors[covered] > 0).all() and (s.depth_m[covered] > 0).all() and s.rgb.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(s.normals[covered], axis=1), 1, atol=1e-3)
    assert not (pairs.visible & ~pairs.valid).any()
    assert not pairs.visible[batch.visible_share == 0].any()


def test_live_textures_have_the_colours_of_the_picture(engine):
    """Or are the grey of somebody just found; true colours are far from a picture's light and exposure."""
    engine = quiet(engine)
    b = make_crops(np.random.default_rng(9), engine, 12, 128)
    half, far = STRIDE_PX // 2, {}
    for live in (0.0, 1.0):
        pairs = make_pairs(np.random.default_rng(3), engine, b, b.params, live=live)
        rgb = pairs.surface.rgb[:, half::STRIDE_PX, half::STRIDE_PX]
        picture = b.rgb[:, half::STRIDE_PX, half::STRIDE_PX] / 255
        grey = np.array([np.ptp(rgb[i][pairs.valid[i]]) < 1e-3 for i in range(12)])
        difference = [np.abs(rgb[i] - picture[i])[pairs.visible[i]].mean() for i in np.flatnonzero(~grey & b.labelled)]
        far[live] = grey.mean(), np.mean(difference)
    assert 0.2 < far[1.0][0] < 0.7 and far[1.0][1] < 0.5 * far[0.0][1], far


def test_live_textures_were_learnt_where_the_start_is_still_wrong(engine, monkeypatch):
    """As a track's are: a body ten centimetres beside the truth has the picture's colours there, more than the truth's."""
    monkeypatch.setattr(displacement, "_LEARNT_DEG", 0.0)
    engine = quiet(engine)
    b = make_crops(np.random.default_rng(9), engine, 12, 128)
    moved = replace(b.params, t_camera_root=b.params.t_camera_root + np.float32([0.1, 0, 0]))
    half, far = STRIDE_PX // 2, {}
    for name, share in (("live", part_way), ("truth", lambda truth, start, share: truth)):
        monkeypatch.setattr(displacement, "part_way", share)
        pairs = make_pairs(np.random.default_rng(3), engine, b, moved, live=1.0)
        rgb = pairs.surface.rgb[:, half::STRIDE_PX, half::STRIDE_PX]
        picture = b.rgb[:, half::STRIDE_PX, half::STRIDE_PX] / 255
        learnt = [i for i in np.flatnonzero(b.labelled) if np.ptp(rgb[i][pairs.valid[i]]) > 1e-3]
        far[name] = np.mean([np.abs(rgb[i] - picture[i])[pairs.valid[i]].mean() for i in learnt])
    assert far["live"] < 0.8 * far["truth"], far


def test_part_of_the_way_between_two_bodies(body):
    rng = np.random.default_rng(4)
    a, b = (BodyParams(*(np.float32(0.4 * rng.normal(size=s)) for s in ((3, 10), (3, 3), (3, 23, 3), (3, 3)))) for _ in range(2))
    for share, end in ((0.0, a), (1.0, b)):
        got = part_way(a, b, np.full(3, share))
        np.testing.assert_allclose(got.joint_rotvec, end.joint_rotvec, atol=1e-6)
        np.testing.assert_allclose(got.t_camera_root, end.t_camera_root, atol=1e-6)
    half = so3.exp(part_way(a, b, np.full(3, 0.5)).root_rotvec.astype(np.float64))
    ends = [so3.exp(x.root_rotvec.astype(np.float64)) for x in (a, b)]
    np.testing.assert_allclose(so3.angle_between(ends[0], half), so3.angle_between(half, ends[1]), atol=1e-6)


def test_another_person_in_front_makes_points_invisible(engine):
    engine = quiet(engine)
    b = make_crops(np.random.default_rng(8), engine, 2, 192)
    free = make_pairs(np.random.default_rng(0), engine, b, b.params).visible
    hidden_face = b.visible_face.copy()
    hidden_face[:, :, :96] = -1
    hidden = make_pairs(np.random.default_rng(0), engine, replace(b, visible_face=hidden_face), b.params).visible
    assert free[:, :, :20].any() and not hidden[:, :, :20].any()
    np.testing.assert_array_equal(free[:, :, 26:], hidden[:, :, 26:])


def test_false_limbs_are_behind_the_person_and_where_limbs_could_be(engine):
    engine = quiet(engine)
    b = make_crops(np.random.default_rng(8), engine, 4, 192)
    for i in range(4):
        drawn = np.zeros((192, 192))
        for seed in range(20):
            image = np.full((192, 192, 3), 0.5, np.float32)
            worn = np.tile(np.float32([[0.9, 0.1, 0.1]]), (5, 1))
            draw_false_limbs(np.random.default_rng(seed), image, engine.backgrounds, b.joints_px[i], worn)
            drawn += (np.abs(image - 0.5) > 0.02).any(2)
            assert np.isfinite(image).all() and image.min() >= 0 and image.max() < 1.6
        limbs = drawn.sum() / 20
        assert 100 < limbs < 12000, limbs
        rows, columns = np.nonzero(drawn)
        middle = b.joints_px[i, [16, 17, 18, 19, 1, 2]].mean(0)
        off = np.average(np.stack([columns, rows], 1) - middle, axis=0, weights=drawn[rows, columns])
        assert np.linalg.norm(off) < 0.25 * np.ptp(b.joints_px[i, :, 1]) + 10, off
    # Whatever stands behind them, people are drawn over it.
    plain, behind = (make_crops(np.random.default_rng(8), quiet(engine, false_limbs_share=share), 4, 192) for share in (0.0, 1.0))
    np.testing.assert_array_equal(plain.visible_face, behind.visible_face)
    assert not np.array_equal(plain.rgb, behind.rgb)


def test_disturbance_sizes(body):
    rng = np.random.default_rng(0)
    n = 300
    params = BodyParams(
        np.zeros((n, 10)), rng.normal(0, 1, (n, 3)), rng.normal(0, 0.5, (n, 23, 3)), np.tile([0.0, 0.0, 3.0], (n, 1))
    )
    rest = np.tile(body.joint_template[0], (n, 1))
    none = perturb.disturb(np.random.default_rng(1), params, rest, degrees=0.0)
    np.testing.assert_allclose(so3.exp(none.joint_rotvec), so3.exp(params.joint_rotvec), atol=1e-5)
    np.testing.assert_allclose(none.t_camera_root, params.t_camera_root, atol=1e-5)
    ten = perturb.disturb(np.random.default_rng(1), params, rest, degrees=10.0)
    angle = np.degrees(so3.angle_between(so3.exp(params.joint_rotvec), so3.exp(ten.joint_rotvec.astype(np.float64))))
    assert 5 < np.sqrt((angle**2).mean()) < 16
    drawn = perturb.disturb(np.random.default_rng(2), params, rest)
    angle = np.degrees(so3.angle_between(so3.exp(params.joint_rotvec), so3.exp(drawn.joint_rotvec.astype(np.float64)))).mean(1)
    assert (angle < 3).mean() > 0.25 and (angle > 8).mean() > 0.15
    again = perturb.disturb(np.random.default_rng(2), params, rest)
    np.testing.assert_array_equal(drawn.joint_rotvec, again.joint_rotvec)


def test_corrupted_textures_stay_colours(engine):
    look = engine.subject(1).appearance()
    kinds = [perturb.corrupt_appearance(np.random.default_rng(s), look, engine.atlas).texture for s in range(30)]
    assert all(k.min() >= 0 and k.max() <= 1 and k.dtype == np.float32 for k in kinds)
    assert 1 <= sum(float(np.ptp(k)) == 0 for k in kinds) <= 14  # some tracks have no texture yet
    vertex = perturb.corrupt_appearance(np.random.default_rng(3), type(look)(vertex_rgb=np.full((700, 3), 0.3, np.float32)), None)
    assert vertex.vertex_rgb.shape == (700, 3)


@pytest.mark.parametrize("name", ["Pictures", "textures", "logos"])
def test_a_directory_may_be_called_anything(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for file in ("a.png", "logo.png", "pic3.png", "tropic.png"):
        cv2.imwrite(str(folder / file), np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))
    assert [p.name for p in backgrounds.directory_pictures(folder)] == ["a.png", "tropic.png"]


def test_sizes_of_one_picture_go_together(tmp_path):
    """Were each in a split of its own, nearly every wallpaper would be in both."""
    for i in range(12):
        folder = tmp_path / f"Wall{i}" / "contents" / "images"
        folder.mkdir(parents=True)
        for size in ("1080x1920", "2560x1440", "3840x2160", "5120x2880"):
            shade = np.random.default_rng(i).integers(0, 255, (120, 160, 3), np.uint8)
            cv2.imwrite(str(folder / f"{size}.png"), shade)
    images = {s: load_backgrounds(s, [tmp_path]).images for s in ("train", "heldout")}
    seen = {s: {zlib.crc32(i.tobytes()) for i in images[s]} for s in images}
    assert not seen["train"] & seen["heldout"]


def test_held_out_pictures_do_not_depend_on_what_is_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "sklearn" else find(name, *a))
    with pytest.raises(AssetError, match="china.jpg of scikit-learn is missing.*pip install scikit-learn"):
        load_backgrounds("heldout", [])
    assert len(load_backgrounds("train", [])) and backgrounds.packaged_picture("motorcycle_left.png").size  # the demo's


def test_background_splits_share_nothing(tmp_path, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    tmp_path = tmp_path / "one" / "two" / "three"  # the last parts of the name decide: without the number of the test run
    tmp_path.mkdir(parents=True)
    for i in range(30):
        cv2.imwrite(str(tmp_path / f"p{i}.png"), picture)
    split = {p: backgrounds.split_of(p) for p in backgrounds.directory_pictures(tmp_path)}
    assert len(split) == 30 and set(split.values()) == {"train", "heldout"}
    names = {s: {p.name for p, k in backgrounds.packaged_pictures() if k == s} for s in backgrounds.SPLITS}
    assert not names["train"] & names["heldout"] and not names["demo"] & names["train"]
    assert "astronaut.png" not in set.union(*names.values())
    plain = len(load_backgrounds("train", []))
    monkeypatch.setenv(backgrounds.ENVIRONMENT, str(tmp_path))
    assert len(load_backgrounds("train")) == plain + list(split.values()).count("train")
    monkeypatch.chdir(tmp_path)
    assert {p: backgrounds.split_of(Path(p.name)) for p in split} == split, "the spelling of a path is no part of it"
    for name in ("train", "heldout"):  # a folder may say it
        (tmp_path / name).mkdir()
        assert {backgrounds.split_of(tmp_path / name / p.name) for p in split} == {name}
    with pytest.raises(AssetError, match="not a directory"):
        load_backgrounds("train", [tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssetError, match="holds no picture"):
        load_backgrounds("heldout", [tmp_path / "empty"])
    with pytest.raises(ConfigError, match="split"):
        load_backgrounds("test")
    with pytest.raises(AssetError, match="at least one"):
        Backgrounds([])


def test_squares_are_jittered_as_promised():
    rng, options = np.random.default_rng(0), CropOptions(visible_box_share=0.0)
    box, camera = np.array([200.0, 100, 80, 240]), cameras.sample_camera(rng)
    squares = np.array([cameras.crop_square(rng, box, camera, options) for _ in range(400)])
    ideal = 240 * options.margin
    side = squares[:, 2] / ideal
    assert options.scale_low - 0.001 <= side.min() < 0.9 and 1.18 < side.max() <= options.scale_high + 0.001
    centre = (squares[:, :2] + squares[:, 2:] / 2 - [240, 220]) / ideal
    assert 0.06 < np.abs(centre).max() <= options.centre_jitter + 1e-4
    assert cameras.square_quality(squares[0], squares[0]) == pytest.approx(1)
    wrong = [cameras.square_quality(cameras.wrong_square(rng, box), np.array([96, 76, 288, 288.0])) for _ in range(100)]
    assert max(wrong) < 0.35


def test_people_fit_the_columns_that_networks_see(engine):
    crops = make_crops(np.random.default_rng(5), quiet(engine, centre_jitter=0.0, scale_low=1.0, scale_high=1.0), 24, 224)
    columns = columns_seen(224)
    whole = crops.labelled & (crops.joints_m[..., 2] > 0.5).all(1)
    u, v = crops.joints_px[whole, :, 0], crops.joints_px[whole, :, 1]
    assert whole.sum() > 15 and (u >= columns.start).all() and (u < columns.stop).all() and (v >= 0).all() and (v < 224).all()
    # Most stand: they are as tall as the crop; the others, as wide as its columns.
    filled = np.maximum(np.ptp(u, axis=1) / (columns.stop - columns.start), np.ptp(v, axis=1) / 224)
    assert np.median(filled) > 0.75 and np.median(np.ptp(v, axis=1)) > 150
    assert (crops.visible_face[:, :, : columns.start] == -1).all() and (crops.visible_face[:, :, columns.stop :] == -1).all()


def test_coarse_pictures_have_the_noise_of_fewer_pixels():
    """Neighbouring pixels of a flat picture err alike where they were blown up from fewer."""
    sensor, flat, correlations = Sensor(), np.full((96, 96, 3), 0.5, np.float32), {}
    for share in (0.0, 1.0):
        seen = []
        for seed in range(60):
            out = sensor.expose(np.random.default_rng(seed), flat, share)
            assert out.shape == flat.shape and out.dtype == np.uint8
            error = out.astype(np.float32) - out.mean((0, 1))
            if error.std() > 1.5:  # with noise worth the name
                seen.append((error[:, 1:] * error[:, :-1]).mean() / (error**2).mean())
        assert len(seen) > 20
        correlations[share] = np.percentile(seen, 25)  # half of the noise is coarse by itself
    assert correlations[1.0] > correlations[0.0] + 0.2


def test_crisp_pictures_are_sharp_and_quiet():
    sensor, edge, flat = Sensor(), np.full((96, 96, 3), 0.3, np.float32), np.full((96, 96, 3), 0.5, np.float32)
    edge[:, 48:] = 0.6
    steps, noise = {}, {}
    for crisp in (False, True):
        out = [sensor.expose(np.random.default_rng(seed), edge, 0.5, crisp).astype(np.float32).mean((0, 2)) for seed in range(60)]
        steps[crisp] = np.mean([abs(o[48] - o[47]) / abs(o[80:].mean() - o[:16].mean()) for o in out])
        grey = [sensor.expose(np.random.default_rng(seed), flat, 0.0, crisp) for seed in range(60)]
        noise[crisp] = np.median([g.std((0, 1)).mean() for g in grey])
    assert steps[True] > 1.05 > 0.9 > steps[False] and noise[True] < 0.7 * noise[False]
    bank = load_backgrounds("train", [])
    cuts = [bank.scene(np.random.default_rng(k), 224, crisp) for crisp in (False, True) for k in range(40)]
    detail = [cv2.Laplacian(c, cv2.CV_32F).std() for c in cuts]
    assert np.median(detail[40:]) > 1.3 * np.median(detail[:40])
