"""The synthetic depth camera: what it loses, how far it is off, and that the videos' frames have it."""

import numpy as np

from densefit_ros.body.assets import load_body
from densefit_ros.eval.synthetic import SyntheticVideo
from densefit_ros.synth import depth_camera
from densefit_ros.synth.depth_camera import measured


def scene(person_m: float) -> np.ndarray:
    depth = np.zeros((240, 320), np.float32)
    depth[40:200, 100:220] = person_m
    return depth


def test_noise_grows_with_the_square_of_the_distance_and_all_is_off_by_the_scale():
    for person_m in (1.0, 3.0):
        out = measured(scene(person_m), 5.0, 1.01, np.random.default_rng(2))
        inside = out[50:190, 110:210]
        known = inside[inside > 0]
        assert 0.9 < len(known) / inside.size < 1.0
        assert abs(known.mean() / person_m - 1.01) < 0.002
        assert abs(known.std() / (depth_camera.NOISE_PER_M2 * person_m**2) - 1) < 0.15
        assert abs(np.median(out[:30][out[:30] > 0]) - 5.05) < 0.03


def test_edges_and_what_is_far_are_lost():
    out = measured(scene(2.0), 5.0, 1.0, np.random.default_rng(3))
    assert (out[60:180, 98:102] == 0).all() and (out[60:180, 105:110] > 0).mean() > 0.9
    assert not measured(scene(2.0), 12.0, 1.0, np.random.default_rng(3))[:30].any()


def test_a_videos_frames_have_depth_of_their_own_camera():
    video = SyntheticVideo(load_body(), 60, 3)
    first = video[0]
    depth, truth = first.depth_m(), first.truth.vertices_m
    np.testing.assert_array_equal(depth, SyntheticVideo(load_body(), 60, 3)[0].depth_m())
    assert depth.shape == first.image().shape[:2]
    u, v = np.array([first.box_xywh[0] + first.box_xywh[2] / 2, first.box_xywh[1] + 0.4 * first.box_xywh[3]]).astype(int)
    near = depth[v - 8 : v + 8, u - 8 : u + 8]
    assert abs(np.median(near[near > 0]) - truth[:, 2].mean()) < 0.35
    assert not np.array_equal(depth, video[1].depth_m())
