"""``densefit run --bag``: bags made here, of both storages, whole and damaged, read and answered without ROS."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from densefit_ros import cli
from densefit_ros.errors import AssetError, ConfigError, DensefitError
from densefit_ros.offline.cameras import CameraChoice
from densefit_ros.ros import bagtypes
from densefit_ros.ros.bag import sink
from densefit_ros.ros.bag.run import BagOptions, main, run
from densefit_ros.ros.bag.sink import TYPES, build
from densefit_ros.ros.bagtypes import typestore
from densefit_ros.ros.handler import Handler

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "ros"))
from fake_engine import FakeEngine  # noqa: E402

STORE = typestore()
K = np.array([60.0, 0, 31.5, 0, 60.0, 23.5, 0, 0, 1])
START_NS = 1_700_000_000_000_000_000


def head(ns: int, frame_id: str = "optical") -> dict:
    return {"stamp": {"sec": ns // 10**9, "nanosec": ns % 10**9}, "frame_id": frame_id}


def image(ns: int, rgb: np.ndarray) -> tuple[str, dict]:
    h, w = rgb.shape[:2]
    values = {"header": head(ns), "height": h, "width": w, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * w}
    return "sensor_msgs/msg/Image", {**values, "data": rgb.reshape(-1)}


def jpeg(ns: int, rgb: np.ndarray) -> tuple[str, dict]:
    data = np.frombuffer(cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes(), np.uint8)
    return "sensor_msgs/msg/CompressedImage", {"header": head(ns), "format": "jpeg", "data": data}


def depth(ns: int, metres: float, shape=(48, 64)) -> tuple[str, dict]:
    data = np.full(shape, metres, np.float32).view(np.uint8).reshape(-1)
    values = {"height": shape[0], "width": shape[1], "encoding": "32FC1", "is_bigendian": 0, "step": 4 * shape[1]}
    return "sensor_msgs/msg/Image", {"header": head(ns), **values, "data": data}


def info(ns: int, k: np.ndarray = K, size=(64, 48)) -> tuple[str, dict]:
    roi = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
    values = {"height": size[1], "width": size[0], "distortion_model": "plumb_bob", "d": np.zeros(5), "k": k}
    more = {"r": np.eye(3).reshape(-1), "p": np.zeros(12), "binning_x": 0, "binning_y": 0, "roi": roi}
    return "sensor_msgs/msg/CameraInfo", {"header": head(ns), **values, **more}


def grey(value: int = 120) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


def write(path: Path, messages: list[tuple[str, int, tuple[str, dict]]], plugin=StoragePlugin.MCAP) -> Path:
    """A bag of (topic, recording time, (type, fields))."""
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for topic, ns, (kind, values) in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], ns, STORE.serialize_cdr(build(STORE, kind, values), kind))
    return path


def camera(count: int, step_ns: int = 33_000_000) -> list:
    """Images a millisecond before their recording; the first calibration comes after the first image."""
    out = []
    for i in range(count):
        ns = START_NS + i * step_ns
        out += [("/cam/image_raw", ns + 1_000_000, image(ns, grey())), ("/cam/camera_info", ns + 2_000_000, info(ns))]
    return out


def read(path: Path) -> dict[str, list]:
    with AnyReader([path]) as reader:
        out: dict[str, list] = {c.topic: [] for c in reader.connections}
        for connection, ns, data in reader.messages():
            out[connection.topic].append((ns, reader.deserialize(data, connection.msgtype)))
    return out


def stamp(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("form", ["folder", "file"])
def test_every_image_is_answered_with_its_own_stamp(tmp_path, plugin, form):
    bag = write(tmp_path / "in", camera(5), plugin)
    if form == "file":
        bag = next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    out = tmp_path / "sub" / ("out.mcap" if form == "file" else "out")
    summary = run(BagOptions(bag, out, progress=False, sqlite=plugin == StoragePlugin.SQLITE3), FakeEngine)
    assert (summary.images, summary.answered, summary.people, summary.faults) == (5, 5, 5, {})
    assert out.is_file() == (form == "file") and not list(out.parent.glob("*.unfinished"))
    if form == "folder":  # the newest that Humble reads: later ones name QoS in words
        assert yaml.safe_load((out / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["version"] == 8
    got = read(out)
    assert set(got) == set(TYPES) - {"/densefit/overlay"}
    bodies = got["/densefit/bodies"]
    assert [stamp(m) for _, m in bodies] == [START_NS + i * 33_000_000 for i in range(5)]
    assert [ns for ns, _ in bodies] == [START_NS + i * 33_000_000 + 1_000_000 for i in range(5)]
    assert all(m.header.frame_id == "optical" and m.bodies[0].id == "abcde" for _, m in bodies)
    np.testing.assert_allclose(bodies[0][1].bodies[0].transl, [0.2, 0.1, 3.0], rtol=1e-6)
    assert len(got["/densefit/topology"]) == 1 and len(got["/densefit/meshes"]) == len(got["/tf"]) == 5
    topology, mesh = got["/densefit/topology"][0][1], got["/densefit/meshes"][0][1].meshes[0]
    assert topology.vertex_count * 3 == len(mesh.vertices) and int(topology.faces.max()) < topology.vertex_count
    frames = {t.child_frame_id: t for t in got["/tf"][0][1].transforms}
    assert frames["body_abcde"].header.frame_id == "optical" and stamp(frames["head_abcde"]) == START_NS


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="no ROS here to compare with")
def test_ros_reads_what_was_written_and_would_have_said_the_same(tmp_path):
    from densefit_ros.msg import SmplBodyArray
    from rclpy.serialization import deserialize_message, serialize_message
    from std_msgs.msg import Header

    from densefit_ros.config import Config
    from densefit_ros.geometry.camera import camera_from_fov
    from densefit_ros.ros.messages import bodies_message, time_message
    from densefit_ros.types import Frame

    run(BagOptions(write(tmp_path / "in", camera(1)), tmp_path / "out", progress=False), FakeEngine)
    with AnyReader([tmp_path / "out"]) as reader:
        (data,) = (d for c, _, d in reader.messages() if c.topic == "/densefit/bodies")
    engine = FakeEngine(Config())
    result = engine.process(Frame(grey(), START_NS, camera_from_fov(64, 48, 60.0)))
    header = Header(stamp=time_message(START_NS), frame_id="optical")
    ours = serialize_message(bodies_message(result, header, engine.body.topology_id))
    assert deserialize_message(bytes(data), SmplBodyArray) == deserialize_message(ours, SmplBodyArray)


def test_compressed_images_with_an_overlay(tmp_path):
    messages = [("/cam/image/compressed", START_NS + i, jpeg(START_NS + i, grey())) for i in range(3)]
    bag = write(tmp_path / "in", [*messages, ("/cam/camera_info", START_NS + 9, info(START_NS))])
    summary = run(BagOptions(bag, tmp_path / "out", overlay=True, progress=False), FakeEngine)
    assert summary.answered == 3
    (_, picture), *_ = read(tmp_path / "out")["/densefit/overlay"]
    assert (picture.width, picture.height, picture.encoding) == (64, 48, "rgb8") and np.ptp(picture.data) > 20


def test_depth_that_was_recorded_later_than_its_image_is_found(tmp_path):
    messages = []
    for i in range(4):
        ns = START_NS + i * 33_000_000
        messages += [("/cam/image_raw", ns, image(ns, grey())), ("/cam/camera_info", ns, info(ns))]
        if i != 2:
            messages.append(("/cam/depth", ns + 80_000_000, depth(ns + 2_000_000, 3.0)))
    bag = write(tmp_path / "in", sorted(messages, key=lambda m: m[1]))
    options = BagOptions(bag, tmp_path / "out", image_topic="/cam/image_raw", depth_topic="/cam/depth", progress=False)
    summary = run(options, FakeEngine)
    scales = [m.bodies[0].scale_source for _, m in read(tmp_path / "out")["/densefit/bodies"]]
    assert scales == ["depth", "depth", "prior", "depth"] and summary.faults["depth"][0] == 1


def test_the_depth_of_the_image_before_is_not_taken_at_60_hz(tmp_path):
    messages = [("/cam/camera_info", START_NS, info(START_NS))]
    for i in range(6):
        ns = START_NS + i * 16_666_667
        messages += [("/cam/image_raw", ns, image(ns, grey())), ("/cam/depth", ns + 5_000_000, depth(ns, 1.0 + i))]
    bag, engines = write(tmp_path / "in", messages), []

    class Watching(FakeEngine):
        def process(self, frame, *args):
            engines.append(float(np.median(frame.depth_m)))
            return super().process(frame, *args)

    options = BagOptions(bag, tmp_path / "out", image_topic="/cam/image_raw", depth_topic="/cam/depth", progress=False)
    assert run(options, Watching).answered == 6
    assert engines == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_the_floor_goes_with_every_image(tmp_path):
    grounds = []

    class Watching(FakeEngine):
        def process(self, frame, *args):
            grounds.append(frame.ground)
            return super().process(frame, *args)

    arguments = ["--bag", str(write(tmp_path / "in", camera(2))), "--quiet", "--camera-pitch", "90"]
    with pytest.raises(ConfigError, match="nothing without --camera-height"):
        main([*arguments, "--out", str(tmp_path / "out")], Watching)
    assert main([*arguments, "--out", str(tmp_path / "out"), "--camera-height", "2.5"], Watching) == 0
    np.testing.assert_allclose(grounds, [[0, 0, -1, 2.5]] * 2, atol=1e-12)
    assert main([*arguments[:3], "--out", str(tmp_path / "plain")], Watching) == 0
    assert grounds[2:] == [None, None]


def test_settings_of_the_node_hold_for_bags(tmp_path, monkeypatch, capsys):
    """From a file and from the command line; what a bag cannot give is refused."""
    bag, file = write(tmp_path / "in", camera(2)), tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    use_sim_time: true\n    ros: {tf_links: false, rectified: 'yes'}\n")
    seen = []
    monkeypatch.setattr("densefit_ros.ros.bag.run.Handler", lambda *a, **k: seen.append(a[5]) or Handler(*a, **k))
    arguments = ["--bag", str(bag), "--out", str(tmp_path / "out"), "--quiet", "--config", str(file), "--fov", "60"]
    assert main([*arguments, "--set", "ros.tf_smpl_joints=true"], FakeEngine) == 0
    frames = {t.child_frame_id for t in read(tmp_path / "out")["/tf"][0][1].transforms}
    assert len(frames) == 25 and "smpl_pelvis_abcde" in frames and "head_abcde" not in frames
    assert seen == [True], "rectified: yes"
    with pytest.raises(ConfigError, match="ros.keypoints is hri, but a bag is read for images and depth alone"):
        main([*arguments, "--set", "ros.keypoints=hri"], FakeEngine)


def test_faults_are_skipped_counted_and_named(tmp_path):
    good = [("/cam/image_raw", START_NS + i, image(START_NS + i, grey())) for i in (1, 2, 3)]
    kind, short = image(START_NS + 4, grey())
    bad = [("/cam/image_raw", START_NS + 4, (kind, {**short, "data": short["data"][:100]}))]
    back = [("/cam/image_raw", START_NS + 5, image(START_NS + 2, grey()))]
    bag = write(tmp_path / "in", [*good, *bad, *back, ("/cam/camera_info", START_NS + 9, info(START_NS))])
    summary = run(BagOptions(bag, tmp_path / "out", progress=False), FakeEngine)
    assert (summary.images, summary.answered) == (5, 3)
    assert {k: n for k, (n, _) in summary.faults.items()} == {"image": 1, "stamp": 1}


def test_a_calibration_can_be_given(tmp_path):
    bag = write(tmp_path / "in", [m for m in camera(2) if m[0] == "/cam/image_raw"])
    with pytest.raises(AssetError, match="no camera_info beside /cam/image_raw .*--fov"):
        run(BagOptions(bag, tmp_path / "out", progress=False), FakeEngine)
    options = BagOptions(bag, tmp_path / "out", camera=CameraChoice(fov_deg=60.0), progress=False)
    options = dataclasses.replace(options, ros=dataclasses.replace(options.ros, fov_deg=60.0))
    assert run(options, FakeEngine).answered == 2
    choice = CameraChoice({"width": 64, "height": 48, "k": K, "d": np.zeros(5), "distortion_model": ""}, None, "file")
    assert run(BagOptions(bag, tmp_path / "out2", camera=choice, progress=False), FakeEngine).answered == 2


def test_what_a_bag_lacks_or_has_too_much_of_is_said(tmp_path):
    nothing = write(tmp_path / "nothing", [("/cam/camera_info", START_NS, info(START_NS))])
    with pytest.raises(AssetError, match="no image topic; it has /cam/camera_info"):
        run(BagOptions(nothing, tmp_path / "out"), FakeEngine)
    several = [*camera(1), ("/other/image", START_NS, image(START_NS, grey()))]
    several = write(tmp_path / "several", several)
    with pytest.raises(AssetError, match="several image topics: /cam/image_raw, /other/image; choose one with --image-topic"):
        run(BagOptions(several, tmp_path / "out"), FakeEngine)
    with pytest.raises(AssetError, match="--image-topic /cam/wrong is not in .*: /cam/image_raw, /other/image"):
        run(BagOptions(several, tmp_path / "out", image_topic="/cam/wrong"), FakeEngine)
    with pytest.raises(AssetError, match="no such bag"):
        run(BagOptions(tmp_path / "none", tmp_path / "out"), FakeEngine)
    with pytest.raises(AssetError, match="exists already"):
        run(BagOptions(several, several, image_topic="/cam/image_raw"), FakeEngine)
    zero = [("/cam/image_raw", START_NS, image(START_NS, grey())), ("/cam/camera_info", START_NS, info(START_NS, 0 * K))]
    zero = write(tmp_path / "zero", zero)
    for name in ("o.mcap", "out"):
        with pytest.raises(AssetError, match="not one image .*all zero"):
            run(BagOptions(zero, tmp_path / name, progress=False), FakeEngine)
    assert not (tmp_path / "out").exists() and not (tmp_path / "o.mcap").exists()


@pytest.mark.parametrize("fails", ["write", "close"])
def test_a_full_disk_is_named_and_no_later_run_removes_what_was_written(tmp_path, monkeypatch, fails):
    bag, out, written = write(tmp_path / "in", camera(6)), tmp_path / "out.mcap", []
    unfinished = tmp_path / "out.mcap.unfinished"

    class FullDisk(Writer):
        def write(self, *arguments):
            written.append(1)
            if fails == "write" and len(written) > 12:
                raise OSError(28, "No space left on device")
            super().write(*arguments)

        def close(self):
            super().close()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink, "Writer", FullDisk)
    words = f"out.mcap cannot be written .*No space left on device; what came before is in {unfinished}"
    with pytest.raises(AssetError, match=words):
        run(BagOptions(bag, out, progress=False), FakeEngine)
    assert not out.exists() and read(unfinished)["/densefit/bodies"]
    monkeypatch.undo()
    with pytest.raises(AssetError, match=f"{unfinished} exists already, of a run that did not end"):
        run(BagOptions(bag, out, progress=False), FakeEngine)
    assert read(unfinished)["/densefit/bodies"]


def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path, monkeypatch):
    def full(self, *arguments, **more):
        raise OSError(28, "No space left on device")

    bag = write(tmp_path / "in", camera(1))
    monkeypatch.setattr(Writer, "add_connection", full)
    with pytest.raises(AssetError, match="cannot write a bag to .*No space left"):
        run(BagOptions(bag, tmp_path / "out.mcap", progress=False), FakeEngine)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_options_that_do_not_go_together(tmp_path, capsys):
    for extra, words in ((["--sqlite3"], "--sqlite3 writes a folder"), (["--fov", "175"], "--fov: expected 1 to 170")):
        assert cli.main(["run", "--bag", str(tmp_path / "in"), "--out", str(tmp_path / "o.mcap"), *extra]) == cli.EXIT_ERROR
        assert words in capsys.readouterr().err


def test_a_pip_installation_carries_the_definitions_of_the_messages():
    """Where they are looked for without a checkout: under share/ of the prefix."""
    root = Path(__file__).resolve().parents[1]
    listed = "from setuptools import setup; import setuptools; setuptools.setup = lambda **k: print(k['data_files'])"
    code = f"{listed}; exec(compile(open('setup.py').read(), 'setup.py', 'exec'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    ((folder, files),) = ast.literal_eval(done.stdout)
    assert folder == f"share/{bagtypes.PACKAGE}/msg" and files == sorted(f"msg/{p.name}" for p in (root / "msg").glob("*.msg"))


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_bags_cut_off_or_damaged_anywhere_end_in_one_clear_error(tmp_path, plugin):
    whole = write(tmp_path / "whole", camera(12), plugin)
    file = next(p for p in whole.iterdir() if p.suffix in (".mcap", ".db3"))
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    for i, keep in enumerate(np.linspace(0, len(data) - 1, 12).astype(int)):
        cut = tmp_path / f"cut{i}{file.suffix}"
        cut.write_bytes(data[:keep])
        scrambled = tmp_path / f"scrambled{i}{file.suffix}"
        noise = bytearray(data)
        for at in rng.integers(0, len(data), 40):
            noise[at] ^= 0xFF
        scrambled.write_bytes(noise)
        for bad in (cut, scrambled):
            try:
                run(BagOptions(bad, tmp_path / f"{bad.stem}_out.mcap", progress=False), FakeEngine)
            except DensefitError as e:
                assert str(bad) in str(e) and "\n" not in str(e)
            else:
                assert bad is scrambled, "a bag without its end was taken for a whole one"


def test_command_line_with_the_real_pipeline_and_without_ros(tmp_path, capsys):
    """A synthetic walker, 640x480: every ROS package is blocked, as on a machine without ROS."""
    from densefit_ros.body.assets import load_body
    from densefit_ros.synth.sequence import demo_sequence

    sequence = demo_sequence(load_body())
    c = sequence.camera
    k = np.array([c.fx, 0, c.cx - 0.5, 0, c.fy, c.cy - 0.5, 0, 0, 1])
    messages = [("/cam/camera_info", START_NS, info(START_NS, k, (c.width, c.height)))]
    for i in range(6):
        ns = START_NS + i * 33_333_333
        messages.append(("/cam/image_raw", ns, image(ns, sequence.frame(i)[0])))
    bag, out = write(tmp_path / "in", messages), tmp_path / "out.mcap"
    code = f"""
import importlib.abc, sys
BLOCKED = {{"rclpy", "sensor_msgs", "std_msgs", "geometry_msgs", "builtin_interfaces", "visualization_msgs", "tf2_msgs",
           "diagnostic_msgs", "rcl_interfaces"}}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED or name == "densefit_ros.msg":
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
from densefit_ros.cli import main
sys.exit(main(["run", "--bag", {str(bag)!r}, "--out", {str(out)!r}, "--set", "regress.backend=network", "--set", "device=cpu"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "6 of 6 images answered" in done.stdout and "image/s" in done.stderr, "the progress is shown"
    got = read(out)
    people = [m.bodies for _, m in got["/densefit/bodies"]]
    assert sum(map(len, people)) >= 5, "the walker is found"
    truth = sequence.frame(5)[1].t_camera_root[0]
    assert np.linalg.norm(people[-1][0].transl - truth) < 0.6
    assert cli.main(["run", "--bag", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == cli.EXIT_ERROR
    assert "no such bag" in capsys.readouterr().err
