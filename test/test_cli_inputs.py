"""What the offline twin reads: pictures, videos, cameras, boxes."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from densefit_ros.errors import AssetError, CameraError
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.geometry.lens import lens_of
from densefit_ros.offline.cameras import CameraChoice, read_camera
from densefit_ros.offline.results import _plain, read_boxes
from densefit_ros.offline.sources import FrameClock, open_source
from densefit_ros.viz.video import VideoWriter


def _picture(path, shade=100, size=(40, 60)):
    cv2.imwrite(str(path), np.full((*size, 3), (shade, 10, 200), np.uint8))
    return path


def _clip(path, frames=5):
    with VideoWriter(path, 12.0) as video:
        for i in range(frames):
            video.write(np.full((48, 64, 3), 20 * i, np.uint8))
    return path


def _calibration(**changes):
    tree = {
        "image_width": 640,
        "image_height": 480,
        "camera_name": "head",
        "camera_matrix": {"rows": 3, "cols": 3, "data": [500.0, 0, 319.5, 0, 510.0, 239.5, 0, 0, 1]},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
    }
    return {**tree, **changes}


def _write(path, tree):
    path.write_text(yaml.safe_dump(tree))
    return path


def test_numbered_pictures_come_as_they_count(tmp_path):
    for name in ("frame_10.jpg", "frame_2.jpg", "frame_1.jpg", "7.jpg", "a.jpg"):
        _picture(tmp_path / name)
    assert [i.file for i in open_source(tmp_path)] == ["7.jpg", "a.jpg", "frame_1.jpg", "frame_2.jpg", "frame_10.jpg"]


def test_a_folder_gives_its_pictures_in_order(tmp_path):
    for name, shade in (("b.png", 30), ("a.jpg", 60), ("c.JPG", 90)):
        _picture(tmp_path / name, shade)
    (tmp_path / "notes.txt").write_text("x")
    source = open_source(tmp_path)
    items = list(source)
    assert [i.file for i in items] == ["a.jpg", "b.png", "c.JPG"] and source.count == 3 and not source.is_video
    assert items[1].rgb.shape == (40, 60, 3)
    assert items[1].rgb[0, 0].tolist() == [200, 10, 30]  # RGB, not OpenCV's BGR


def test_damaged_pictures_are_named_and_the_rest_goes_on(tmp_path):
    _picture(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "fake.jpg").write_bytes(b"no picture at all")
    whole = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "cut.png").write_bytes(whole[:40])
    _picture(tmp_path / "tiny.png", size=(3, 3))
    found = {i.file: i for i in open_source(tmp_path)}
    assert found["good.png"].rgb is not None
    for name, word in (("empty.png", "empty"), ("fake.jpg", "not a picture"), ("cut.png", "damaged"), ("tiny.png", "too small")):
        assert found[name].rgb is None and word in found[name].problem and name in found[name].problem


def test_a_video_gives_its_frames_and_rate(tmp_path):
    source = open_source(_clip(tmp_path / "clip.mp4"))
    items = list(source)
    assert source.is_video and source.fps == pytest.approx(12.0) and source.count == 5
    assert [i.index for i in items] == list(range(5)) and {i.file for i in items} == {"clip.mp4"}
    assert [int(i.rgb.mean()) for i in items] == pytest.approx([0, 20, 40, 60, 80], abs=4)


def _gif(path, lasting_ms):
    """A video whose frames come irregularly."""
    pictures = [Image.fromarray(np.full((48, 64, 3), 20 * i, np.uint8)) for i in range(len(lasting_ms))]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=lasting_ms, loop=0)
    return path


def test_frames_are_shown_when_the_file_says(tmp_path):
    source = open_source(_gif(tmp_path / "clip.gif", [40, 40, 200, 40, 120, 40]))
    items = list(source)
    assert [i.stamp_ns // 1_000_000 for i in items] == [0, 40, 80, 280, 320, 440]
    assert not any(i.problem for i in items), "an intact file of irregular frames is not a damaged one"


class _Capture:
    """OpenCV's, of a file that says ``fps``, ``count`` frames and when each is shown (ms)."""

    def __init__(self, fps, count, ms):
        self._fps, self._count, self._ms = fps, count, iter(ms)

    def get(self, what):
        told = {cv2.CAP_PROP_FPS: self._fps, cv2.CAP_PROP_FRAME_COUNT: self._count}
        return told[what] if what in told else next(self._ms)


@pytest.mark.parametrize(
    "fps, count, ms, expected_ms, duration_s",
    [
        (25.0, 4, (0.0, 40.0, 80.0, 120.0), (0, 40, 80, 120), 0.16),
        (25.0, 4, (500.0, 540.0, 700.0), (0, 40, 200), 0.16),  # begins late
        (25.0, 4, (0.0, 0.0, 0.0), (0, 40, 80), 0.16),  # says nothing
        (25.0, 4, (0.0, 40.0, 20.0, 120.0), (0, 40, 80, 120), 0.16),  # goes back
        (1000.0, 2000, (0.0, 100.0), (0, 100), 2.0),  # what OpenCV makes of irregular frames: 2 s
        (0.0, -5, (0.0, 0.0), (0, 1000 / 30), 0.0),  # a stream
    ],
)
def test_clocks_of_files(fps, count, ms, expected_ms, duration_s):
    clock = FrameClock(_Capture(fps, count, ms))
    assert [clock.read() * 1e-6 for _ in ms] == pytest.approx(expected_ms) and clock.duration_s == pytest.approx(duration_s)


def test_a_picture_by_another_name(tmp_path):
    _picture(tmp_path / "a.png").rename(tmp_path / "frame")
    (item,) = open_source(tmp_path / "frame")
    assert item.rgb.shape == (40, 60, 3)


def test_input_that_is_none(tmp_path):
    with pytest.raises(AssetError, match="no such file"):
        open_source(tmp_path / "missing.mp4")
    with pytest.raises(AssetError, match="found nothing"):
        open_source(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"0" * 2000)
    with pytest.raises(AssetError, match="damaged"):
        open_source(tmp_path / "clip.mp4")
    with pytest.raises(AssetError, match="live cameras"):
        open_source("/dev/null")


def test_ros_calibration_shifts_pixel_centres(tmp_path):
    choice = read_camera(_write(tmp_path / "camera.yaml", _calibration()))
    camera = choice.for_size(640, 480).camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500, 510, 320, 240)
    half = choice.for_size(320, 240)
    assert (half.camera.fx, half.camera.cx, half.camera.cy) == pytest.approx((250, 160, 120))
    # A dumped CameraInfo message has flat names.
    flat = {"width": 640, "height": 480, "k": _calibration()["camera_matrix"]["data"], "d": []}
    assert read_camera(_write(tmp_path / "flat.yaml", flat)).for_size(640, 480).camera == camera


def _matrix(camera):
    """K with centres at integers."""
    return np.array([[camera.fx, 0, camera.cx - 0.5], [0, camera.fy, camera.cy - 0.5], [0, 0, 1]])


def test_boxes_and_given_estimates_pass_the_lens(tmp_path):
    from densefit_ros.offline.cameras import Calibrated
    from densefit_ros.offline.results import _box_in_picture

    bent = Calibrated(camera_from_fov(640, 480, 70.0), None, False)
    bent = dataclasses.replace(bent, lens=lens_of("plumb_bob", [-0.3, 0.08, 0.0, 0.0, 0.0], _matrix(bent.camera)))
    rng = np.random.default_rng(0)
    xyz = rng.uniform([-1.2, -0.9, 2.0], [1.2, 0.9, 2.4], (500, 3))
    taken, plain = bent.to_picture(xyz), project(bent.camera, xyz)
    box = np.r_[taken.min(0), np.ptp(taken, axis=0)][None]
    x, y, w, h = bent.boxes_from_picture(box)[0]
    assert x <= plain[:, 0].min() + 1 and y <= plain[:, 1].min() + 1
    assert x + w >= plain[:, 0].max() - 1 and y + h >= plain[:, 1].max() - 1 and w > box[0, 2] + 10
    np.testing.assert_allclose(_box_in_picture(SimpleNamespace(vertices=xyz), bent), box[0], atol=0.1)
    straight = dataclasses.replace(bent, lens=None)
    np.testing.assert_array_equal(straight.boxes_from_picture(box), box)


def test_a_camera_file_as_ros2_topic_echo_writes_it(tmp_path):
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(_calibration()) + "---\n")
    assert read_camera(path).calibration["width"] > 0
    path.write_text(yaml.safe_dump({**_calibration(), "distortion_coefficients": 0.1}))
    with pytest.raises(CameraError, match="camera.yaml: distortion model .* 1 numbers"):
        read_camera(path)


def test_lens_distortion_is_removed_and_put_back(tmp_path):
    d = [-0.25, 0.08, 0.001, -0.002, 0.0]
    tree = _calibration(distortion_coefficients={"data": d})
    lens = read_camera(_write(tmp_path / "camera.yaml", tree)).for_size(640, 480)
    points = np.array([[0.5, 0.3, 2.0], [-0.6, -0.4, 2.0], [0, 0, 3.0], [0, 0, -1.0]])
    k = np.array(tree["camera_matrix"]["data"]).reshape(3, 3)
    seen = lens.to_picture(points)
    assert np.isnan(seen[3]).all()
    expected = cv2.projectPoints(points[:3, None], np.zeros(3), np.zeros(3), k, np.array(d))[0][:, 0] + 0.5
    assert seen[:3] == pytest.approx(expected)
    assert np.abs(seen[:2] - project(lens.camera, points[:2])).max() > 3  # the lens does matter here
    picture = np.zeros((480, 640, 3), np.uint8)
    cv2.circle(picture, tuple(np.round(seen[0] - 0.5).astype(int).tolist()), 4, (255, 255, 255), -1)
    rows, columns = np.nonzero(lens.rectify(picture)[..., 0] > 100)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(tuple(project(lens.camera, points[0])), abs=0.7)


def test_without_a_calibration_a_field_of_view_is_assumed_and_said():
    assert CameraChoice().for_size(640, 480).assumed
    given = CameraChoice(fov_deg=90.0).for_size(640, 480)
    assert not given.assumed and given.camera.fx == pytest.approx(400)  # half the diagonal of 800


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"camera_matrix": {"data": [0.0] * 9}}, "all zero"),
        ({"camera_matrix": {"data": [500, 0, 1]}}, "9 finite numbers"),
        ({"camera_matrix": {"data": "none"}}, "numbers"),
        ({"distortion_model": "mystery", "distortion_coefficients": {"data": [0.1, 0, 0, 0]}}, "mystery"),
        ({"image_width": 0}, "image_width"),
    ],
)
def test_a_bad_calibration_is_named(tmp_path, changes, word):
    with pytest.raises(CameraError, match=word):
        read_camera(_write(tmp_path / "camera.yaml", _calibration(**changes)))


def test_files_that_are_no_calibration(tmp_path):
    with pytest.raises(CameraError, match="image_width"):
        read_camera(_write(tmp_path / "a.yaml", {"fit": 3}))
    (tmp_path / "b.yaml").write_text("[1, 2")
    with pytest.raises(CameraError, match="b.yaml"):
        read_camera(tmp_path / "b.yaml")
    with pytest.raises(CameraError, match="cannot read"):
        read_camera(tmp_path / "missing.yaml")
    with pytest.raises(CameraError, match="640x480 px, the picture has 1000x300"):
        read_camera(_write(tmp_path / "c.yaml", _calibration())).for_size(1000, 300)


def test_boxes_by_file_name(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"photos/a.jpg": [[1, 2, 30, 40], [5, 6, 7, 8]], "b.jpg": []}))
    boxes = read_boxes(path, {"a.jpg", "b.jpg", "c.jpg"})
    assert boxes["a.jpg"].shape == (2, 4) and boxes["b.jpg"].shape == (0, 4)


@pytest.mark.parametrize(
    "content, word",
    [
        ("[1, 2]", "expected {file name"),
        ("{", "cannot read boxes"),
        ('{"a.jpg": [[1, 2, 3]]}', "a.jpg"),
        ('{"a.jpg": [[1, 2, 3, 0]]}', "positive sizes"),
        ('{"a.jpg": [["x", 2, 3, 4]]}', "a.jpg"),
        ('{"a.jpg": 7}', "a.jpg"),
        ('{"a.jpg": [[1, 2, 3, 4, 0.9], [1, 2, 3, 4, 0.9], [1, 2, 3, 4, 0.9], [1, 2, 3, 4, 0.9]]}', "x, y, w, h"),
        ('{"in/a.jpg": [[1, 2, 3, 4]], "out/a.jpg": []}', "two pictures are called a.jpg"),
        ('{"z.jpg": [[1, 2, 3, 4]]}', "none of its file names"),
    ],
)
def test_bad_boxes_are_named(tmp_path, content, word):
    path = tmp_path / "boxes.json"
    path.write_text(content)
    with pytest.raises(AssetError, match=word):
        read_boxes(path, {"a.jpg"})


def test_results_hold_no_nan():
    line = json.dumps(_plain(np.array([[1.23456789, np.nan]]), 3), allow_nan=False)
    assert json.loads(line) == [[1.235, None]]
