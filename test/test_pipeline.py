"""The frame as a whole, with both networks replaced by oracles of known error, so that its logic is tested apart from them."""

# ruff: noqa: F401, F811 - fixtures of the helpers
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pipeline_helpers import CAMERA, DT_NS, GarbageDisplacer, body, make, parts, pve_mm, run

from densefit_ros.body.model import pose
from densefit_ros.body.skin import Skinner
from densefit_ros.config import Config
from densefit_ros.errors import ShapeError
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
from densefit_ros.types import Detection, Frame, Keypoints, TrackingState


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
    """Displacements drawn at random, claimed to be certain: the guard and the priors keep the body near the estimate."""
    models, world = make(parts, body)

    models = dataclasses.replace(models, displacer=GarbageDisplacer(world, body, 12.0))
    _, results = run(models, world, 10)
    for i, r in enumerate(results):
        world.i = i
        for person in r.people:
            first, refined = (pve_mm(body, p, world.truth(0)) for p in (person.first_estimate, person.params))
            assert refined < first + 15
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


def test_the_fits_linear_algebra_is_kept_to_one_thread():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        load_models(with_overrides(Config(), {"regress.backend": "network", "detect.backend": "none", "displace.enabled": False}))
        threads = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    assert threads and set(threads) == {1}
