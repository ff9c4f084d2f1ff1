"""The frame as a whole, with both networks replaced by oracles of known error, so that its logic is tested apart from them."""

# ruff: noqa: F401, F811 - fixtures of the helpers
from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from pipeline_helpers import CAMERA, DT_NS, GarbageDisplacer, body, make, parts, pve_mm, run

from densefit_ros.body.model import pose
from densefit_ros.body.skin import Skinner
from densefit_ros.config import Config
from densefit_ros.errors import ShapeError
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import project
from densefit_ros.geometry.crop import extract, square_around
from densefit_ros.models import load_models
from densefit_ros.pipeline import initial_state, process
from densefit_ros.render.protocol import Appearance
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.runtime.picture import SIZE_PX
from densefit_ros.settings import with_overrides
from densefit_ros.steps.priors import scale_to_depth
from densefit_ros.track import motion
from densefit_ros.track import state as tracking
from densefit_ros.types import Detection, Estimate, Frame, Keypoints, TrackingState


def test_refinement_beats_the_first_estimate_and_tracks(parts, body):
    models, world = make(parts, body)
    _, results = run(models, world, 25)
    errors = []
    for i, r in enumerate(results):
        world.i = i
        (person,) = r.people
        errors.append([pve_mm(body, p, world.truth(0)) for p in (person.first_estimate, person.params)])
    first, refined = np.array(errors).T
    assert refined.mean() < 0.5 * first.mean()
    assert len({r.people[0].track_id for r in results}) == 1
    assert results[0].people[0].tracking_state is TrackingState.DETECTED
    assert all(r.people[0].tracking_state is TrackingState.TRACKED for r in results[1:])
    assert models.finder.calls == 1, "with everybody tracked the image is not searched"
    alone = []
    for i in range(5, 25):
        _, (result,) = run(models, world, 1, first=i)
        alone.append(pve_mm(body, result.people[0].params, world.truth(0)))
    assert refined[5:].mean() < 0.95 * np.mean(alone), "a warm-started frame is better than one that stands alone"
    assert {"find", "crop", "regress", "render", "displace", "decode", "fit", "track"} <= set(results[3].stage_ms)


def test_stamps_are_the_images_and_the_answer_is_reproducible(parts, body):
    again = []
    for _ in range(2):
        models, world = make(parts, body)
        _, results = run(models, world, 4)
        assert [r.stamp_ns for r in results] == [i * DT_NS for i in range(4)]
        again.append(results[-1].people[0].vertices)
    np.testing.assert_array_equal(*again)


def test_two_people_keep_their_names(parts, body):
    models, world = make(parts, body, people=2)
    _, results = run(models, world, 12)
    assert all(len(r.people) == 2 for r in results)
    left = [min(r.people, key=lambda p: p.joints[0, 0]).track_id for r in results]
    assert len(set(left)) == 1


def test_one_who_leaves_coasts_then_is_dropped_and_returns_under_a_new_name(parts, body):
    models, world = make(parts, body, **{"track.lost_after_s": 0.2, "track.reidentify_s": 0.0})
    state, results = run(models, world, 6)
    name = results[-1].people[0].track_id
    world.visible = set()
    state, gone = run(models, world, 12, state, 6)
    states = [[p.tracking_state for p in r.people] for r in gone]
    assert states[0] == [TrackingState.PREDICTED] and states[-1] == []
    assert all(np.isfinite(p.vertices).all() for r in gone for p in r.people)
    stated_m2 = [np.trace(p.joint_covariance, axis1=1, axis2=2) for r in (results[-1], *gone) for p in r.people]
    assert all((later > earlier).all() for earlier, later in zip(stated_m2, stated_m2[1:]))  # nobody looks
    world.visible = {0}
    _, back = run(models, world, 15, state, 18)
    assert back[-1].people and back[-1].people[0].track_id != name


def test_a_surer_false_box_does_not_keep_the_person_out(parts, body):
    models, world = make(parts, body)
    true = models.finder.detect

    def with_a_poster(rgb, enough=1):
        return [Detection(np.array([20, 20, 60, 120], np.float32), 0.99), *true(rgb, enough)]

    models.finder.detect = with_a_poster
    _, results = run(models, world, 3)
    assert [len(r.people) for r in results] == [1, 1, 1] and results[0].people[0].box_xywh[0] > 100


@pytest.mark.parametrize("reidentify_s", [0.0, 3.0])
def test_one_who_is_found_and_not_seen_is_nobody(parts, body, reidentify_s):
    """Whatever the setting for those who return."""
    models, world = make(parts, body, **{"track.reidentify_s": reidentify_s})

    _, results = run(dataclasses.replace(models, displacer=GarbageDisplacer(world, body, 30.0)), world, 4)
    assert [len(r.people) for r in results] == [0] * 4


def test_depth_moves_people_along_their_ray_wherever_the_model_has_its_pelvis(parts, body):
    """SMPL's lies 0.2 m below the origin, the free body's in it."""
    offset = np.array([0.0, -0.22, 0.03], np.float32)
    shifted = dataclasses.replace(
        body,
        v_template=body.v_template + offset,
        joint_template=body.joint_template + offset,
        joint_shapedirs=body.joint_shapedirs,
    )
    models, world = make((Skinner(shifted), WarpRenderer(shifted), parts[2]), shifted)
    params = world.truth(0)
    posed = pose(shifted, params)
    box = project(CAMERA, posed.vertices[0])
    square = square_around(np.r_[box.min(0), np.ptp(box, axis=0)], 1.2)
    frame = Frame(np.zeros((480, 640, 3), np.uint8), 0, CAMERA)
    crop = extract(frame.rgb, square[None], SIZE_PX)
    depth = 1.4 * models.renderer.render_window(posed.vertices.astype(np.float32), [Appearance()], CAMERA).depth_m[0]
    frame = dataclasses.replace(frame, depth_m=np.where(depth > 0, depth, np.nan).astype(np.float32))
    moved, _, known = scale_to_depth(models, params, [], frame, crop)
    before, after = posed.joints[0, 0], pose(shifted, moved).joints[0, 0]
    assert known.all() and after[2] == pytest.approx(1.4 * before[2], rel=0.02)
    np.testing.assert_allclose(project(CAMERA, after[None]), project(CAMERA, before[None]), atol=0.1)


def test_what_comes_with_a_frame_must_fit_it(parts, body):
    models, _ = make(parts, body)
    frame = Frame(np.zeros((480, 640, 3), np.uint8), 0, CAMERA)
    with pytest.raises(ShapeError, match="millimetres"):
        process(models, initial_state(), dataclasses.replace(frame, depth_m=np.full((480, 640), 3500, np.uint16)))
    for points in (
        Keypoints("coco", np.zeros((1, 17, 2)), np.ones((1, 17))),
        Keypoints("coco17", np.zeros((1, 17, 2)), np.ones((1, 16))),
        Keypoints("coco17", np.zeros((17, 2)), np.ones((1, 17))),
    ):
        with pytest.raises(ShapeError, match="keypoints"):
            process(models, initial_state(), dataclasses.replace(frame, keypoints=points))


def test_a_clock_that_goes_back_starts_afresh(parts, body):
    models, world = make(parts, body)
    state, results = run(models, world, 3, first=100)
    _, again = run(models, world, 2, state, first=0)
    assert again[0].people[0].track_id != results[-1].people[0].track_id
    assert again[0].people[0].tracking_state is TrackingState.DETECTED


def test_given_boxes_replace_the_finder(parts, body):
    models, world = make(parts, body)
    uv = project(CAMERA, pose(body, world.truth(0)).vertices[0])
    box = np.r_[uv.min(0), np.ptp(uv, axis=0)][None]
    frame = Frame(np.zeros((480, 640, 3), np.uint8), 0, CAMERA)
    assert len(process(models, initial_state(), frame, box)[1].people) == 1
    assert len(process(models, initial_state(), frame, np.zeros((0, 4)))[1].people) == 0
    assert models.finder.calls == 0
    with pytest.raises(ShapeError):
        process(models, initial_state(), frame, np.full((1, 4), np.nan))


def test_an_image_of_another_size_than_its_camera_is_refused(parts, body):
    models, _ = make(parts, body)
    with pytest.raises(ShapeError, match="camera"):
        process(models, initial_state(), Frame(np.zeros((240, 320, 3), np.uint8), 0, CAMERA))


def test_garbage_displacements_do_not_beat_the_prediction_out_of_place(parts, body):
    """Displacements drawn at random, claimed to be certain, of somebody who was well tracked: the person coasts."""
    models, world = make(parts, body)
    state, _ = run(models, world, 8)
    models = dataclasses.replace(models, displacer=GarbageDisplacer(world, body, 12.0))
    for i in range(8, 12):
        expected = pose(body, tracking.predicted(state.tracks[0], i * DT_NS).params)
        state, (result,) = run(models, world, 1, state, i)
        (person,) = result.people
        assert person.tracking_state is TrackingState.PREDICTED
        np.testing.assert_allclose(person.vertices, expected.vertices[0], atol=1e-4)
        assert np.isfinite(person.joint_covariance).all()


def test_texture_is_learnt_from_the_picture(parts, body):
    """The picture is evenly grey: the texture of what was seen becomes that grey."""
    models, world = make(parts, body)
    state, _ = run(models, world, 8)
    look = state.tracks[0].appearance
    colours = look.texture if look.texture is not None else look.vertex_rgb
    seen = look.weight > 1
    assert seen.mean() > 0.1
    np.testing.assert_allclose(colours[seen], 90 / 255, atol=0.02)


def test_prediction_is_used_when_nothing_is_seen(parts, body):
    models, world = make(parts, body)
    state, results = run(models, world, 15)
    before = results[-1].people[0].params
    world.visible = set()
    _, gone = run(models, world, 1, state, 15)
    after = gone[0].people[0].params
    turn = np.abs(motion.local_rotmats(after) - motion.local_rotmats(before)).max()
    assert 1e-4 < turn < 0.2, "the limbs moved on at their own speed"


def test_depth_fixes_the_distance_that_colour_leaves_open(parts, body):
    """An estimate 15 % too near, and the picture agrees with it: only the depth image knows better."""
    errors = {}
    for with_depth in (False, True):
        models, world = make(parts, body, **{"displace.enabled": False})
        models = dataclasses.replace(models, displacer=None)
        models.estimator.distance = 0.85
        state = initial_state()
        for i in range(8):
            world.i = i
            vertices = pose(body, world.truth(0)).vertices
            depth = models.renderer.render_window(vertices.astype(np.float32), [Appearance()], CAMERA).depth_m[0].copy()
            depth[::7] = np.nan
            frame = Frame(np.zeros((480, 640, 3), np.uint8), i * DT_NS, CAMERA, depth if with_depth else None)
            state, result = process(models, state, frame)
        (person,) = result.people
        errors[with_depth] = abs(person.params.t_camera_root[0, 2] - world.truth(0).t_camera_root[0, 2])
        assert person.scale_source == ("depth" if with_depth else "prior")
    assert errors[False] > 0.3 and errors[True] < 0.06


def test_depth_rights_a_body_that_leans_in_the_first_estimate(parts, body):
    """Towards the camera, which its distance alone does not show."""
    models, world = make(parts, body)
    models, true = dataclasses.replace(models, displacer=None), world.truth(0)
    turned = so3.log(so3.exp(np.array([[-0.3, 0.0, 0.0]])) @ so3.exp(true.root_rotvec.astype(np.float64)))
    leaning = dataclasses.replace(true, root_rotvec=turned.astype(np.float32))
    vertices = pose(body, true).vertices.astype(np.float32)
    depth = models.renderer.render_window(vertices, [Appearance()], CAMERA).depth_m[0]
    frame = Frame(np.zeros((480, 640, 3), np.uint8), 0, CAMERA, np.where(depth > 0, depth, np.nan).astype(np.float32))
    given = Estimate(leaning, np.ones(1, np.float32), source="external")
    (person,) = process(models, initial_state(), frame, estimates=given)[1].people
    assert pve_mm(body, person.params, true) < 0.5 * pve_mm(body, leaning, true)


@pytest.mark.parametrize("obstacle_m", [1.2, 2.2])
def test_who_is_half_hidden_stays_where_depth_had_the_person(parts, body, obstacle_m):
    """A counter in front of the lower 60 % of the body for ten frames."""
    models, world = make(parts, body)
    state, off_m = initial_state(), []
    for i in range(26):
        world.i = i
        vertices = pose(body, world.truth(0)).vertices.astype(np.float32)
        depth = models.renderer.render_window(vertices, [Appearance()], CAMERA).depth_m[0].copy()
        depth[depth == 0] = 6.0  # a wall
        if 8 <= i < 18:
            top, bottom = np.flatnonzero((depth < 5).any(1))[[0, -1]]
            depth[int(bottom - 0.6 * (bottom - top)) :] = obstacle_m
        state, result = process(models, state, Frame(np.zeros((480, 640, 3), np.uint8), i * DT_NS, CAMERA, depth))
        (person,) = result.people
        off_m.append(abs(person.params.t_camera_root[0, 2] - world.truth(0).t_camera_root[0, 2]))
        assert person.scale_source == "depth"
    assert max(off_m[4:]) < 0.06


def test_depth_of_another_size_or_without_a_person_in_it(parts, body):
    models, world = make(parts, body)
    frame = Frame(np.zeros((480, 640, 3), np.uint8), 0, CAMERA, np.full((240, 320), 2.0, np.float32))
    with pytest.raises(ShapeError, match="depth"):
        process(models, initial_state(), frame)
    nothing = dataclasses.replace(frame, depth_m=np.full((480, 640), np.nan, np.float32))
    (person,) = process(models, initial_state(), nothing)[1].people
    assert person.scale_source == "prior" and np.isfinite(person.vertices).all()


@pytest.mark.parametrize(
    ("setting", "matches"),
    [
        ({}, 300),
        ({"displace.max_points": 50}, 50),
        ({"fit.max_points": 60}, 60),
        ({"displace.max_sigma_px": 0.5}, 0),  # the oracle states 1 px
        ({"displace.sigma_scale": 20.0}, 0),
    ],
)
def test_displacements_are_decoded_as_the_settings_say(parts, body, setting, matches):
    models, world = make(parts, body, **setting)
    asked, fitter = [], parts[2]
    spy = SimpleNamespace(pose_prior=None, solve=lambda *a, **k: asked.append(a[2]) or fitter.solve(*a, **k))
    run(dataclasses.replace(models, fitter=spy), world, 1)
    assert len(asked[0]) == matches


def test_at_once_on_the_device_newcomers_are_looked_for_all_the_same(parts, body):
    models, world = make(parts, body, people=2)

    def measure(frame, tracks, config):
        raise LookupError("asked")

    models, world.visible = dataclasses.replace(models, device_frame=SimpleNamespace(name="spy", measure=measure)), {0}
    state, _ = run(models, world, 1)
    world.visible = {0, 1}
    state, (result,) = run(models, world, 1, state, first=10)
    assert len(result.people) == 2 and models.finder.calls == 2
    with pytest.raises(LookupError, match="asked"):  # with everybody here nothing speaks against it
        run(models, world, 1, state, first=11)


def test_the_fits_linear_algebra_is_kept_to_one_thread():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        load_models(with_overrides(Config(), {"regress.backend": "network", "detect.backend": "none", "displace.enabled": False}))
        threads = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    assert threads and set(threads) == {1}
