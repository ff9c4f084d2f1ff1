"""The demo's sequence and random ones: truth, determinism, smoothness."""

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.errors import ConfigError
from densefit_ros.geometry.camera import project
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.synth import preview
from densefit_ros.synth.engine import DEMO_SUBJECT, HELDOUT_SUBJECT, TRAIN_SUBJECTS
from densefit_ros.synth.sequence import demo_sequence, heldout_engine, random_sequence


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def demo(body):
    return demo_sequence(body)


def test_demo_has_the_promised_format(demo):
    assert len(demo) == 300 and demo.fps == 30.0
    assert (demo.camera.width, demo.camera.height) == (640, 480)
    rgb, params = demo.frame(0)
    assert rgb.shape == (480, 640, 3) and rgb.dtype == np.uint8 and len(params) == 1
    assert demo.render(3).stamp_ns == 100_000_000
    assert demo.subject >= DEMO_SUBJECT > HELDOUT_SUBJECT > TRAIN_SUBJECTS


def test_demo_frames_are_pure_functions_of_their_index(body, demo):
    a, _ = demo.frame(40)
    demo.frame(7)
    b, _ = demo.frame(40)
    np.testing.assert_array_equal(a, b)
    c, _ = demo_sequence(body).frame(40)
    np.testing.assert_array_equal(a, c)


def test_demo_truth_projects_onto_the_person(body, demo):
    for i in range(0, 300, 50):
        shot = demo.render(i)
        joints = project(demo.camera, pose(body, shot.params).joints[0])
        inside = ((joints > 1) & (joints < np.array([639, 479]))).all(1)
        u, v = joints[inside].astype(int).T
        assert inside.sum() >= 20
        assert (shot.visible_face[v, u] >= 0).mean() > 0.9
        z = shot.depth_m[shot.visible_face >= 0]
        assert abs(np.median(z) - shot.params.t_camera_root[0, 2]) < 0.3


def test_demo_person_moves_smoothly_and_stays_in_view(body, demo):
    posed = pose(body, demo.params)
    speed = np.linalg.norm(np.diff(posed.joints, axis=0), axis=-1) * demo.fps
    assert speed.max() < 7.0  # m/s, of a waving hand
    pelvis_speed = np.linalg.norm(np.diff(posed.joints[:, 0], axis=0), axis=-1) * demo.fps
    assert pelvis_speed.max() < 1.8 and np.ptp(posed.joints[:, 0, 0]) > 1.0
    jolt = np.abs(np.diff(posed.joints, n=2, axis=0)).max()
    assert jolt < 0.06
    pelvis = project(demo.camera, posed.joints[:, 0])
    assert pelvis[:, 0].min() > 40 and pelvis[:, 0].max() < 600


def test_feet_stay_near_the_ground(body, demo):
    low = pose(body, demo.params).vertices
    # The camera is 1.25 m above the ground and tilted down by 6 degrees.
    s, c = np.sin(np.radians(6)), np.cos(np.radians(6))
    below = (low[..., 1] * c + low[..., 2] * s).max(1)
    assert np.abs(below - 1.25).max() < 0.05


def test_of_people_near_the_camera_the_head_is_seen_and_the_feet_are_not(body):
    engine = heldout_engine(body)
    seen = []
    for seed in range(12):
        sequence = random_sequence(engine, seed, 4, near=True)
        joints = pose(body, sequence.params).joints
        uv = project(sequence.camera, joints.reshape(-1, 3)).reshape(joints.shape[:2] + (2,))
        seen.append(((uv >= 0) & (uv < (640, 480))).all(-1).mean(0))
    seen = np.mean(seen, 0)
    assert seen[15] > 0.85 and seen[[7, 8]].max() < 0.15  # head, ankles


def test_random_sequences_differ_by_seed_only(body):
    engine = heldout_engine(body, WarpRenderer(body), [])
    a, b, c = (random_sequence(engine, s, 8) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.frame(5)[0], b.frame(5)[0])
    assert a.subject == b.subject and a.subject >= HELDOUT_SUBJECT
    assert np.abs(a.params.betas - c.params.betas).max() > 0.1
    seen = [(random_sequence(engine, s, 6).render(3).visible_face >= 0).mean() for s in range(6)]
    assert min(seen) > 0.004 and np.median(seen) > 0.03
    with pytest.raises(ConfigError, match="frames"):
        random_sequence(engine, 0, 1)


def test_preview_writes_a_sheet(tmp_path, monkeypatch):
    monkeypatch.delenv("DENSEFIT_BACKGROUNDS", raising=False)
    path = tmp_path / "sheet.png"
    assert preview.main(["--out", str(path), "--count", "4", "--size", "96"]) == 0
    assert path.stat().st_size > 10_000
    with pytest.raises(ConfigError, match="picture"):
        preview.main(["--out", str(tmp_path / "sheet")])
