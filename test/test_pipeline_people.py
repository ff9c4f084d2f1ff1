"""Several people through the whole frame, painted into the picture: crossing, leaving and returning, being replaced."""

# ruff: noqa: F401, F811 - fixtures of the helpers
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pipeline_helpers import CAMERA, DT_NS, World, body, make, parts, truth_at

from densefit_ros.body.model import joint_transforms, pose
from densefit_ros.body.skin import Skinner
from densefit_ros.config import Config
from densefit_ros.errors import ShapeError
from densefit_ros.fit.solver import FitOptions, Fitter
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import box_of, camera_from_fov, mesh_box, project
from densefit_ros.pipeline import initial_state, process
from densefit_ros.render.protocol import Appearance
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.runtime.picture import SIZE_PX
from densefit_ros.settings import with_overrides
from densefit_ros.types import BodyParams, Detection, Estimate, Frame, TrackingState

RED, BLUE, GREEN = (0.8, 0.15, 0.1), (0.1, 0.2, 0.8), (0.1, 0.7, 0.15)


class Street(World):
    """People walk along x past one another; the second one is farther away."""

    speed_m = (0.0, 0.0)  # per frame
    start_m = (-0.7, 0.7)
    colors = [RED, BLUE]

    def truth(self, person: int):
        true = truth_at(self.i)
        place = np.array([[self.start_m[person] + self.speed_m[person] * self.i, 0.1, 3.4 + 0.7 * person]], np.float32)
        return dataclasses.replace(true, t_camera_root=place)

    def picture(self, body, renderer: WarpRenderer) -> np.ndarray:
        rgb = np.full((480, 640, 3), 90, np.uint8)
        seen = sorted(self.visible)
        if seen:
            vertices = np.concatenate([pose(body, self.truth(k)).vertices for k in seen]).astype(np.float32)
            shape = body.v_template.shape
            looks = [Appearance(vertex_rgb=np.broadcast_to(np.float32(self.colors[k]), shape).copy()) for k in seen]
            scene = renderer.render_window(vertices, looks, CAMERA)
            inside = scene.person_id[0] >= 0
            rgb[inside] = np.round(255 * scene.rgb[0][inside]).astype(np.uint8)
        return rgb


def street(parts, body, people: int, **overrides):
    models, _ = make(parts, body, people, **overrides)
    world = Street(people)
    for oracle in (models.finder, models.estimator, models.displacer):
        oracle.world = world
    return models, world


def walk(models, world, body, frames: range, state=None):
    state, results = state or initial_state(), []
    for world.i in frames:
        frame = Frame(world.picture(body, models.renderer), world.i * DT_NS, CAMERA)
        state, result = process(models, state, frame)
        results.append(result)
    return state, results


def test_people_who_cross_keep_their_names(parts, body):
    models, world = street(parts, body, 2, **{"track.lost_after_s": 1.0})
    world.speed_m = (0.03, -0.03)
    _, results = walk(models, world, body, range(48))
    assert len(results[8].people) == 2
    before = {p.track_id: float(p.joints[0, 0]) for p in results[8].people}
    after = {p.track_id: float(p.joints[0, 0]) for p in results[-1].people}
    assert before.keys() == after.keys(), "nobody was renamed"
    left, right = sorted(before, key=before.get)
    assert after[left] > 0.4 and after[right] < -0.4, "both went on in their direction"
    hidden = [p for r in results for p in r.people if p.tracking_state is TrackingState.PREDICTED]
    assert hidden, "while one is behind the other its track coasts"


@pytest.mark.parametrize("who, same", [(RED, True), (GREEN, False)])
def test_one_who_comes_back_is_recognised_by_the_colours(parts, body, who, same):
    """The person leaves; half a second after the loss somebody stands in the same place again."""
    models, world = street(parts, body, 1, **{"track.lost_after_s": 0.2})
    world.start_m = (0.0, 0.0)
    state, results = walk(models, world, body, range(8))
    name = results[-1].people[0].track_id
    world.visible = set()
    state, results = walk(models, world, body, range(8, 26), state)
    assert results[-1].people == () and [t.track_id for t in state.lost] == [name]
    world.visible, world.colors = {0}, [who]
    state, results = walk(models, world, body, range(26, 36), state)
    (person,) = results[-1].people
    assert (person.track_id == name) is same
    assert {p.track_id for r in results for p in r.people} == {person.track_id}, "the name is right from the first answer on"
    assert len(person.track_id) == 5 and person.track_id.isalpha() and person.track_id.islower()


@pytest.mark.parametrize("room", [1, 2])
def test_after_a_pause_of_the_stream_the_name_stays(parts, body, room):
    """The track ends in the very frame in which the person is found anew, some steps on."""
    models, world = street(parts, body, room, **{"track.lost_after_s": 0.5})
    world.visible, world.start_m = {0}, (-0.4, 0.0)
    state, results = walk(models, world, body, range(8))
    name = results[-1].people[0].track_id
    world.start_m = (0.35, 0.0)
    _, results = walk(models, world, body, range(38, 42), state)
    assert results[-1].people and {p.track_id for r in results for p in r.people} == {name}


def test_after_minutes_without_an_image_nobody_inherits_a_name(parts, body):
    """Somebody else stands in the same place: no frame between says that the first has gone."""
    models, world = street(parts, body, 1)
    world.start_m = (0.0, 0.0)
    state, results = walk(models, world, body, range(8))
    name = results[-1].people[0].track_id
    world.colors = [BLUE]
    _, results = walk(models, world, body, range(20_000, 20_006), state)
    (person,) = results[-1].people
    assert person.track_id != name


def test_who_coasts_stays_in_the_world_while_the_camera_turns(parts, body):
    """A head that turns at 1 rad/s: without its pose the body would be published, and looked for, where it was in the image."""
    models, world = street(parts, body, 1, **{"track.lost_after_s": 2.0})
    world.start_m = (0.0, 0.0)
    state, results = walk(models, world, body, range(8))
    before = results[-1].people[0].joints[0]
    world.visible = set()
    for i in range(8, 18):
        T = np.eye(4)
        T[:3, :3] = so3.exp(np.array([0.0, (i - 7) / 30, 0.0]))
        T[:3, 3] = 0.02 * (i - 7), 0.0, 0.0
        world.i = i
        first = dataclasses.replace(state, T_world_camera=np.eye(4), pose_ns=state.stamp_ns) if i == 8 else state
        frame = Frame(world.picture(body, models.renderer), i * DT_NS, CAMERA, T_world_camera=T)
        state, result = process(models, first, frame)
    (person,) = result.people
    assert person.tracking_state is TrackingState.PREDICTED and result.camera_motion_known
    assert not results[-1].camera_motion_known
    in_the_world = T[:3, :3] @ person.joints[0] + T[:3, 3]
    assert np.linalg.norm(in_the_world - before) < 0.03 and np.linalg.norm(person.joints[0] - before) > 0.5
    for wrong in (np.eye(3), np.diag([2.0, 1, 1, 1]), np.full((4, 4), np.nan)):
        with pytest.raises(ShapeError, match="T_world_camera"):
            process(models, state, dataclasses.replace(frame, stamp_ns=frame.stamp_ns + DT_NS, T_world_camera=wrong))


def test_after_the_window_even_the_same_person_is_new(parts, body):
    models, world = street(parts, body, 1, **{"track.lost_after_s": 0.2, "track.reidentify_s": 0.3})
    state, results = walk(models, world, body, range(6))
    name = results[-1].people[0].track_id
    world.visible = set()
    state, _ = walk(models, world, body, range(6, 30), state)
    assert state.lost == ()
    world.visible = {0}
    _, results = walk(models, world, body, range(30, 40), state)
    assert results[-1].people[0].track_id != name


def test_somebody_found_elsewhere_leaves_no_ghost(parts, body):
    """A jump while coasting: the finder sees the person in another place, the coasting track ends there and then."""
    models, world = street(parts, body, 2, **{"track.lost_after_s": 2.0, "detect.interval_s": 0.1})
    world.visible, world.start_m = {0}, (-0.4, 0.0)
    state, results = walk(models, world, body, range(8))
    name = results[-1].people[0].track_id
    world.visible = set()
    state, results = walk(models, world, body, range(8, 14), state)
    assert [p.tracking_state for p in results[-1].people] == [TrackingState.PREDICTED]
    world.visible, world.start_m = {0}, (0.35, 0.0)
    _, results = walk(models, world, body, range(14, 24), state)
    assert [p.track_id for p in results[-1].people] == [name]
    assert results[-1].people[0].joints[0, 0] > 0.2


class Queue:
    """Sixteen people side by side, each swaying at an own pace; found and estimated by where their boxes are."""

    name = "queue"

    def __init__(self, body) -> None:
        self.body, self.i = body, 0

    def truth(self, k: int):
        place = [0.75 * (k - 7.5) + 0.08 * np.sin(self.i / 5 + k), 0.1, 6.0 + 0.5 * (k % 2)]
        return dataclasses.replace(truth_at(self.i + 7 * k), t_camera_root=np.array([place], np.float32))

    def detect(self, rgb, enough: int = 1) -> list[Detection]:
        joints = joint_transforms(self.body, BodyParams.stack([self.truth(k) for k in range(16)]))[1]
        return [Detection(box_of(project(WIDE, j)), 0.9) for j in joints]

    size_px = SIZE_PX
    margin = None

    def estimate(self, crop, camera, warm=()) -> Estimate:
        centre = crop.image_from_crop @ [crop.size / 2, crop.size / 2, 1]
        boxes = np.stack([d.box_xywh for d in self.detect(None)])
        nearest = np.linalg.norm(boxes[:, :2] + boxes[:, 2:] / 2 - centre[:, None], axis=-1).argmin(1)
        sigma = np.full((len(nearest), 24), 0.1, np.float32)
        people = BodyParams.stack([self.truth(int(k)) for k in nearest])
        return Estimate(people, np.full(len(nearest), 0.9, np.float32), source="network", rot_sigma_rad=sigma)


WIDE = camera_from_fov(1280, 720, 100.0)


def test_sixteen_people_at_once(body):
    queue = Queue(body)
    config = with_overrides(Config(), {"track.max_people": 16, "detect.interval_s": 0.0, "displace.enabled": False})
    fitter = Fitter(body, max_persons=16, max_points=200, options=FitOptions(shape_sigma=float("inf")))
    street_models, _ = make((Skinner(body, max_persons=16), WarpRenderer(body), fitter), body)
    models = dataclasses.replace(street_models, config=config, finder=queue, estimator=queue, displacer=None)
    state, names = initial_state(), []
    for queue.i in range(8):
        frame = Frame(np.full((720, 1280, 3), 90, np.uint8), queue.i * DT_NS, WIDE)
        state, result = process(models, state, frame)
        joints = np.stack([p.joints[0] for p in result.people])
        truth = np.stack([joint_transforms(body, queue.truth(k))[1][0, 0] for k in range(16)])
        distance = np.linalg.norm(joints[:, None] - truth, axis=-1)
        assert sorted(distance.argmin(1).tolist()) == list(range(16)) and distance.min(1).max() < 0.15
        names.append([result.people[int(i)].track_id for i in distance.argmin(0)])
    assert all(n == names[0] for n in names) and len(set(names[0])) == 16


def test_boxes_span_the_points_that_are_known():
    uv = np.array([[3.0, 8.0], [np.nan, 2.0], [-1.0, 5.0], [7.0, np.inf], [2.0, 20.0]], np.float32)
    np.testing.assert_allclose(box_of(uv), [-1, 5, 4, 15])
    np.testing.assert_array_equal(box_of(np.full((4, 2), np.nan)), 0)


def test_a_hand_at_the_camera_does_not_blow_up_the_box(body):
    """Somebody reaches for the camera: what is nearer than a few centimetres would lie thousands of pixels away."""
    reaching = BodyParams.rest(1)
    reaching.root_rotvec[:, 0], reaching.joint_rotvec[0, 16, 1] = np.pi, 1.5
    camera = camera_from_fov(640, 480, 70.0)
    for distance_m in (0.8, 0.7, 0.6, 0.5):
        reaching.t_camera_root[:, 2] = distance_m
        box = mesh_box(camera, pose(body, reaching).vertices[0])
        assert 400 < box[3] and box[2:].max() < 10 * 640, (distance_m, box)
    reaching.t_camera_root[:, 2] = -2
    np.testing.assert_array_equal(mesh_box(camera, pose(body, reaching).vertices[0]), 0)


def test_a_foot_before_the_camera_does_not_take_the_window_along():
    points = np.array([[-0.2, -0.4, 1.0], [0.2, 0.4, 1.0], [0.05, 0.9, 0.11]], np.float32)
    x, y, w, h = mesh_box(CAMERA, points)
    plain = box_of(project(CAMERA, points))
    assert plain[3] > 4 * CAMERA.height and (y, y + h) == (pytest.approx(plain[1]), 3 * CAMERA.height)
    np.testing.assert_allclose([x, w], plain[[0, 2]], rtol=1e-5)
    np.testing.assert_allclose(mesh_box(CAMERA, points[:2]), box_of(project(CAMERA, points[:2])), rtol=1e-5)
