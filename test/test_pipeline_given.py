"""First estimates, boxes and keypoints of other programs, through the whole frame with oracles for networks."""

# ruff: noqa: F401, F811 - fixtures of the helpers
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pipeline_helpers import CAMERA, DT_NS, GarbageDisplacer, body, make, parts, pve_mm, run

from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.errors import ShapeError
from densefit_ros.evidence import densepose
from densefit_ros.geometry.camera import project
from densefit_ros.geometry.crop import extract, square_around
from densefit_ros.pipeline import initial_state, process
from densefit_ros.regress.carried import CarriedEstimator
from densefit_ros.render.protocol import Appearance
from densefit_ros.runtime.picture import SIZE_PX
from densefit_ros.steps import find
from densefit_ros.types import BodyParams, DisplacementField, Estimate, Frame, Keypoints, TrackingState

GREY = np.full((480, 640, 3), 90, np.uint8)


class Counting:
    """An estimator that counts the windows it is asked about."""

    def __init__(self, inner) -> None:
        self.inner, self.name, self.size_px, self.margin, self.windows = inner, inner.name, inner.size_px, inner.margin, 0

    def estimate(self, crop, camera, warm=()):
        self.windows += len(crop.rgb)
        return self.inner.estimate(crop, camera, warm)


def disturbed(world, people, seed: int = 0, deg: float = 8.0, confidence: float = 0.9) -> Estimate:
    """What another regressor says: the truth with noise, people in the order given."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in people:
        true = world.truth(k)
        noise = rng.normal(size=(1, 24, 3)).astype(np.float32) * np.float32(np.deg2rad(deg))
        rows.append(
            BodyParams(
                np.zeros((1, 10), np.float32),
                true.root_rotvec + noise[:, 0],
                true.joint_rotvec + noise[:, 1:],
                true.t_camera_root,
            )
        )
    return Estimate(BodyParams.stack(rows), np.full(len(rows), confidence, np.float32), source="external")


def play(models, world, frames, given):
    """``given(i)`` are the estimates of frame i, or None."""
    state, results = initial_state(), []
    for i in range(frames):
        world.i = i
        state, result = process(models, state, Frame(GREY, i * DT_NS, CAMERA), estimates=given(i))
        results.append(result)
    return results


def test_given_estimates_are_refined_and_nothing_of_ours_is_asked(parts, body):
    models, world = make(parts, body, people=2)
    models = dataclasses.replace(models, estimator=Counting(models.estimator))
    results = play(models, world, 12, lambda i: disturbed(world, [1, 0], seed=i))  # in any order
    assert models.finder.calls == 0 and models.estimator.windows == 0
    assert [len(r.people) for r in results] == [2] * 12
    assert {p.source for r in results for p in r.people} == {"external"}
    assert len({p.track_id for r in results for p in r.people}) == 2
    world.i = 11
    for person in results[-1].people:
        k = int(np.argmin([np.linalg.norm(person.params.t_camera_root - world.truth(k).t_camera_root) for k in (0, 1)]))
        first, refined = (pve_mm(body, p, world.truth(k)) for p in (person.first_estimate, person.params))
        assert refined < 0.5 * first


def test_who_is_not_given_is_estimated_by_ourselves(parts, body):
    models, world = make(parts, body, people=2)
    (result,) = play(models, world, 1, lambda i: None)
    assert len(result.people) == 2
    estimator = Counting(models.estimator)
    models = dataclasses.replace(models, estimator=estimator)
    results = play(models, world, 4, lambda i: disturbed(world, [0]) if i else None)
    sources = [sorted(p.source for p in r.people) for r in results]
    assert sources == [["network", "network"]] + [["external", "network"]] * 3
    assert estimator.windows == 2 + 3


def test_between_the_estimates_of_a_slow_regressor_displacements_carry(parts, body):
    """regress.backend external at a sixth of the rate: the track lives on, measured, and stays better than the estimates."""
    models, world = make(parts, body)
    models = dataclasses.replace(models, estimator=CarriedEstimator(), finder=None)
    estimate_errors = []

    def given(i):
        estimate = disturbed(world, [0], seed=i)
        estimate_errors.append(pve_mm(body, estimate.params, world.truth(0)))
        return estimate if i % 6 == 0 else None

    results = play(models, world, 30, given)
    assert len({p.track_id for r in results for p in r.people}) == 1 and all(len(r.people) == 1 for r in results)
    assert [r.people[0].source for r in results] == ["external" if i % 6 == 0 else "track" for i in range(30)]
    assert all(r.people[0].tracking_state is TrackingState.TRACKED for r in results[1:])
    errors = []
    for i, r in enumerate(results):
        world.i = i
        errors.append(pve_mm(body, r.people[0].params, world.truth(0)))
    assert np.mean(errors[6:]) < 0.5 * np.mean(estimate_errors)


def test_who_is_carried_and_gone_is_dropped(parts, body):
    models, world = make(parts, body, **{"track.lost_after_s": 0.2})
    models = dataclasses.replace(models, estimator=CarriedEstimator(), finder=None)
    state, _ = process(models, initial_state(), Frame(GREY, 0, CAMERA), estimates=disturbed(world, [0]))
    models = dataclasses.replace(models, displacer=None)  # nothing looks at the image any more
    for i in range(1, 10):
        state, result = process(models, state, Frame(GREY, i * DT_NS, CAMERA))
        assert all(p.tracking_state is TrackingState.PREDICTED for p in result.people)
    assert not result.people


class FewCellsDisplacer:
    """Sure of ``cells`` cells, which stay where they are rendered, and of nothing else."""

    class runtime:
        name = "few"

    def __init__(self, cells: int) -> None:
        self.cells = cells

    def look(self, rgb, mirrored=()):
        return None

    def predict(self, crop, surface, seen=None) -> DisplacementField:
        side = crop.size // 4
        unsure = np.full((len(crop.rgb), 1, side, side), 20.0, np.float32)
        rows, columns = np.nonzero(surface.face_id[0, 2::4, 2::4] >= 0)
        unsure[0, 0, rows[: self.cells], columns[: self.cells]] = 0.0
        return DisplacementField(np.zeros((len(crop.rgb), 2, side, side), np.float32), unsure, 4)


@pytest.mark.parametrize("cells", [0, 3])
def test_a_few_matches_do_not_keep_a_ghost(parts, body, cells):
    """Whatever body is bent to three cells agrees with them."""
    models, world = make(parts, body, **{"track.lost_after_s": 0.2})
    models = dataclasses.replace(models, estimator=CarriedEstimator(), finder=None)
    state, _ = process(models, initial_state(), Frame(GREY, 0, CAMERA), estimates=disturbed(world, [0]))
    models = dataclasses.replace(models, displacer=FewCellsDisplacer(cells))
    for i in range(1, 10):
        state, result = process(models, state, Frame(GREY, i * DT_NS, CAMERA))
        assert all(p.tracking_state is TrackingState.PREDICTED for p in result.people)
    assert not result.people


def test_the_surest_estimate_gets_the_only_place_wherever_it_stands(parts, body):
    models, world = make(parts, body)
    crowd = disturbed(world, [0] * 5)
    crowd.params.t_camera_root[:4, 0] += np.float32([-1.5, -0.8, 0.8, 1.5])
    crowd.confidence[:] = 0.4, 0.4, 0.4, 0.4, 0.99
    _, result = process(models, initial_state(), Frame(GREY, 0, CAMERA), estimates=crowd)
    assert [p.confidence for p in result.people] == [pytest.approx(0.99)]


def test_bodies_behind_the_camera_take_nobodys_place(parts, body):
    models, world = make(parts, body)
    models = dataclasses.replace(models, estimator=CarriedEstimator(), finder=None)
    several = disturbed(world, [0] * 4)
    several.params.t_camera_root[:3, 2] = -4.0
    _, result = process(models, initial_state(), Frame(GREY, 0, CAMERA), estimates=several)
    assert [p.source for p in result.people] == ["external"]


def test_given_estimates_do_not_vouch_for_the_joints_of_others(parts, body):
    """The regressor has no place for the joints of whom the second box holds, and says so."""
    models, world = make(parts, body, people=2)
    inner = models.estimator

    class Vague(Counting):
        def estimate(self, crop, camera, warm=()):
            return dataclasses.replace(inner.estimate(crop, camera, warm), uv_sigma=np.full((len(crop.rgb), 24), 0.3, np.float32))

    models = dataclasses.replace(models, estimator=Vague(inner))
    boxes = []
    for k in (0, 1):
        uv = project(CAMERA, pose(body, world.truth(k)).vertices[0])
        boxes.append(np.r_[uv.min(0), np.ptp(uv, axis=0)])
    _, result = process(models, initial_state(), Frame(GREY, 0, CAMERA), np.array(boxes), disturbed(world, [1]))
    assert [p.source for p in result.people] == ["external"]


def test_directions_of_other_people_are_refused(parts, body):
    models, _ = make(parts, body)
    keypoints = Keypoints(
        "coco17", np.zeros((2, 17, 2), np.float32), np.ones((2, 17), np.float32), np.zeros((1, 17, 3), np.float32)
    )
    with pytest.raises(ShapeError, match="direction_xyz"):
        process(models, initial_state(), Frame(GREY, 0, CAMERA, keypoints=keypoints))


def test_nobody_given_means_nobody_new(parts, body):
    models, world = make(parts, body)
    none = Estimate(BodyParams.rest(0), np.zeros(0, np.float32), source="external")
    assert not process(models, initial_state(), Frame(GREY, 0, CAMERA), estimates=none)[1].people
    assert not process(models, initial_state(), Frame(GREY, 0, CAMERA), estimates=disturbed(world, [0], confidence=0.1))[1].people
    assert models.finder.calls == 0


def test_boxes_beside_estimates_bring_those_whom_the_estimates_miss(parts, body):
    models, world = make(parts, body, people=2)
    boxes = []
    for k in (0, 1):
        uv = project(CAMERA, pose(body, world.truth(k)).vertices[0])
        boxes.append(np.r_[uv.min(0), np.ptp(uv, axis=0)])
    _, result = process(models, initial_state(), Frame(GREY, 0, CAMERA), np.array(boxes), disturbed(world, [1]))
    assert sorted(p.source for p in result.people) == ["external", "network"]


@pytest.mark.parametrize("displacements", ["none", "rejected"])
def test_given_keypoints_are_evidence_for_given_estimates(parts, body, displacements):
    """The keypoints alone pull a wrong arm of the estimate straight."""
    models, world = make(parts, body)
    if displacements == "none":
        models = dataclasses.replace(models, displacer=None)
    else:
        models = dataclasses.replace(models, displacer=GarbageDisplacer(world, body, 30.0))
    estimate = disturbed(world, [0], deg=0.0)
    estimate.params.joint_rotvec[0, 17, 1] += 0.6
    points = landmark_positions(body.landmarks["coco17"], pose(body, world.truth(0)))
    keypoints = Keypoints("coco17", project(CAMERA, points).astype(np.float32), np.ones((1, 17), np.float32))
    wrist = body.landmarks["coco17"].names.index("left_wrist")

    def error_px(params):
        return np.linalg.norm(
            project(CAMERA, landmark_positions(body.landmarks["coco17"], pose(body, params)))[0] - keypoints.uv[0], axis=-1
        )

    _, result = process(models, initial_state(), Frame(GREY, 0, CAMERA, keypoints=keypoints), estimates=estimate)
    (person,) = result.people
    assert person.source == "external"
    assert error_px(person.params)[wrist] < 0.5 * error_px(estimate.params)[wrist]


def test_a_densepose_map_is_evidence_beside_displacements(parts, body):
    """Which are sure of nothing here."""
    models, world = make(parts, body)
    chart, estimate = densepose.body_chart(body), disturbed(world, [0])
    models = dataclasses.replace(models, displacer=FewCellsDisplacer(0), chart=chart)
    vertices = pose(body, world.truth(0)).vertices.astype(np.float32)
    scene = models.renderer.render_window(vertices, [Appearance()], CAMERA)
    frame = Frame(GREY, 0, CAMERA, iuv=chart.encode(scene.face_id[0], scene.bary[0]))
    (person,) = process(models, initial_state(), frame, estimates=estimate)[1].people
    first, refined = (pve_mm(body, p, world.truth(0)) for p in (estimate.params, person.params))
    assert refined < 0.6 * first


def test_estimates_that_are_no_bodies_are_refused(parts, body):
    models, world = make(parts, body)
    estimate = disturbed(world, [0])
    estimate.params.t_camera_root[0, 2] = np.nan
    with pytest.raises(ShapeError, match="finite"):
        process(models, initial_state(), Frame(GREY, 0, CAMERA), estimates=estimate)


@pytest.mark.parametrize(("margin", "sides"), [(None, (210.0, 385.875)), (1.2, (240.0, 252.0))])
def test_sources_get_the_windows_that_they_were_made_for(parts, body, margin, sides):
    """The networks' own leave columns unseen; a margin is one of whole squares."""
    models, _ = make(parts, body)
    models.estimator.size_px, models.estimator.margin = 96, margin
    boxes = np.array([[100, 100, 90, 200], [200, 200, 210, 100]], np.float32)
    rgb = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    squares = [square_around(b, models.config.render.crop_margin) for b in boxes]
    crop = extract(rgb, np.array(squares), SIZE_PX)
    cut = find.windows(models.estimator, crop, boxes, rgb, models.config.render.crop_margin)
    assert cut.size == 96
    np.testing.assert_allclose(cut.image_from_crop[:, 0, 0] * 96, np.array(sides), rtol=1e-5)
    middle = cut.image_from_crop[:, :, :2] @ [48, 48] + cut.image_from_crop[:, :, 2]
    np.testing.assert_allclose(middle, boxes[:, :2] + boxes[:, 2:] / 2, rtol=1e-5)
    models.estimator.size_px, models.estimator.margin = SIZE_PX, None
    assert find.windows(models.estimator, crop, boxes, rgb, 1.05) is crop


def test_textures_are_learnt_from_every_third_image(parts, body):
    models, world = make(parts, body)
    state, learnt = initial_state(), []
    for i in range(10):
        state, _ = run(models, world, 1, state, i)
        learnt.append(state.tracks[0].learnt_ns)
    assert learnt == [DT_NS * (i - i % 3) for i in range(10)]
    bare, world = make(parts, body, **{"track.appearance": False})
    assert run(bare, world, 3)[0].tracks[0].learnt_ns is None


def test_people_take_turns_in_being_learnt(parts, body):
    models, world = make(parts, body, people=2)
    state, last, most = initial_state(), {}, 0
    for i in range(12):
        state, _ = run(models, world, 1, state, i)
        now = {t.track_id: t.learnt_ns for t in state.tracks}
        assert i or list(now.values()) == [0, 0]  # newcomers at once, since names are decided now
        most = max(most, sum(now[k] != last[k] for k in now) if i else 0)
        last = now
    assert len(last) == 2 and most == 1
    assert all(stamp >= DT_NS * 8 for stamp in last.values())
