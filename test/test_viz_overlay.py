from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.errors import ShapeError
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.render.warp_renderer import WarpRenderer
from densefit_ros.types import BodyParams
from densefit_ros.viz import overlay
from densefit_ros.viz.video import VideoWriter

CAMERA = camera_from_fov(320, 240, 60.0)


@functools.lru_cache(maxsize=1)
def _scene():
    """Two standing people, the second half behind the first."""
    body = load_body()
    one = BodyParams.rest(1)
    people = BodyParams(
        np.zeros((2, 10), np.float32),
        np.tile(np.array([[np.pi, 0, 0]], np.float32), (2, 1)),
        np.zeros((2, 23, 3), np.float32),
        np.array([[0, 0, 4.0], [0.25, 0, 5.0]], np.float32),
    )
    assert len(one) == 1
    return body, pose(body, people), WarpRenderer(body)


def test_the_mesh_covers_the_person_and_nothing_else():
    body, posed, renderer = _scene()
    rgb = np.full((240, 320, 3), 90, np.uint8)
    before = rgb.copy()
    out = overlay.draw_mesh(rgb, body, posed.vertices[:1], CAMERA, renderer=renderer)
    assert np.array_equal(rgb, before)
    changed = (out != rgb).any(-1)
    uv = project(CAMERA, posed.vertices[0])
    rows, columns = np.nonzero(changed)
    assert abs(rows.min() - uv[:, 1].min()) < 1.5 and abs(rows.max() + 1 - uv[:, 1].max()) < 1.5
    assert abs(columns.min() - uv[:, 0].min()) < 1.5 and abs(columns.max() + 1 - uv[:, 0].max()) < 1.5
    chest = project(CAMERA, posed.joints[0, 9]).astype(int)
    assert changed[chest[1], chest[0]]


def test_the_nearer_person_is_in_front_in_any_order():
    body, posed, renderer = _scene()
    rgb = np.zeros((240, 320, 3), np.uint8)
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    a = overlay.draw_mesh(rgb, body, posed.vertices, CAMERA, colors, alpha=1.0, renderer=renderer)
    b = overlay.draw_mesh(rgb, body, posed.vertices[::-1], CAMERA, colors[::-1], alpha=1.0, renderer=renderer)
    assert np.array_equal(a, b)
    chest = project(CAMERA, posed.joints[0, 9]).astype(int)
    assert a[chest[1], chest[0], 0] > 80 and a[chest[1], chest[0], 2] == 0
    assert (a[..., 2] > 80).any()


def test_nobody_leaves_the_image_as_it_is():
    body, posed, renderer = _scene()
    rgb = np.full((240, 320, 3), 7, np.uint8)
    assert np.array_equal(overlay.draw_mesh(rgb, body, posed.vertices[:0], CAMERA, renderer=renderer), rgb)
    with pytest.raises(ShapeError, match="320 x 240"):
        overlay.draw_mesh(rgb[:100], body, posed.vertices, CAMERA, renderer=renderer)


def test_colors_belong_to_ids():
    assert np.array_equal(overlay.color_of("abcde"), overlay.color_of("abcde"))
    assert len({tuple(overlay.color_of(f"id{i}")) for i in range(60)}) == len(overlay.PALETTE)


def test_panels_share_one_height():
    a, b = np.zeros((100, 50, 3), np.uint8), np.zeros((200, 100, 3), np.uint8)
    row = overlay.side_by_side([a, b], ["input", "mesh"])
    assert row.shape == (100, 50 + 4 + 50, 3)
    assert (row[:30, :50] > 0).any()  # the label
    with pytest.raises(ShapeError):
        overlay.side_by_side([])


@pytest.mark.parametrize("fps", [10.0, 29.97, 60000 / 1001, 66.667, 90.123, 119.837, 240000 / 1001, 700.3])
def test_rates_that_the_codec_has_no_clock_for_are_rounded(tmp_path, fps):
    with VideoWriter(tmp_path / "clip.mp4", fps) as video:
        video.write(np.zeros((60, 80, 3), np.uint8))
    assert cv2.VideoCapture(str(tmp_path / "clip.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-3)


def test_frames_stay_until_the_next_one_comes(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10.0) as video:
        for at_s, frames in ((0.0, 1), (0.1, 2), (0.5, 6), (0.51, 7), (0.52, 8), (0.9, 10), (7200.0, 20)):
            video.write(np.zeros((60, 80, 3), np.uint8), at_s)
            assert video.frames == frames, at_s


def test_video_plays_back(tmp_path):
    path = tmp_path / "sub" / "clip.mp4"
    shades = [30, 120, 220]
    with VideoWriter(path, 25.0) as video:
        for s in shades:
            video.write(np.full((61, 81, 3), (s, 0, 255 - s), np.uint8))
        with pytest.raises(ShapeError, match="80 x 60"):
            video.write(np.zeros((30, 30, 3), np.uint8))
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25.0)
    seen = []
    while True:
        ok, bgr = capture.read()
        if not ok:
            break
        assert bgr.shape == (60, 80, 3)
        seen.append(bgr[..., 2].mean())
    assert seen == pytest.approx(shades, abs=8)
