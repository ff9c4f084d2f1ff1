"""Crop regressors of others, as tiny ONNX files made here: constant answers in every form, and inputs that can be read back."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from smpl_like import smpl_file

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import pose
from densefit_ros.config import Config, CropNetworkConfig, load_config
from densefit_ros.errors import AssetError, ConfigError, ShapeError
from densefit_ros.geometry import so3
from densefit_ros.geometry.camera import camera_from_fov, project
from densefit_ros.geometry.crop import extract, square_around
from densefit_ros.models import load_models
from densefit_ros.regress.crop_network import CropNetwork
from densefit_ros.runtime.factory import make_runtime
from densefit_ros.types import BodyParams

CAMERA = camera_from_fov(640, 480, 55.0)
SIZE = 32


@functools.lru_cache(maxsize=1)
def _body():
    return load_body(smpl_file())


def _rotvecs():
    rng = np.random.default_rng(2)
    root = so3.log(so3.exp(np.array([np.pi, 0, 0])) @ so3.exp(np.array([0, 0.5, 0.1])))
    return np.concatenate([root[None], 0.2 * rng.normal(size=(23, 3))])


BETAS = np.linspace(-1, 1, 10)
WEAK = np.array([0.9, 0.05, -0.1])


def _file(path, outputs, shape=("P", 3, SIZE, SIZE), dtype=TensorProto.FLOAT, box=False):
    """Answers ``outputs`` to every crop, and ``seen``: the mean of what each channel was given."""
    inputs = [helper.make_tensor_value_info("pixels", dtype, shape)]
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    nodes = [helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("ReduceMean", ["x"], ["seen"], axes=axes, keepdims=0))
    nodes.append(helper.make_node("ReduceMean", ["seen"], ["one"], axes=[1], keepdims=1))  # (P,1), to repeat the answers
    nodes.append(helper.make_node("Mul", ["one", "zero"], ["nothing"]))
    if box:
        inputs.append(helper.make_tensor_value_info("box", TensorProto.FLOAT, ("P", 3)))
        nodes.append(helper.make_node("Identity", ["box"], ["box_seen"]))
    constants = [numpy_helper.from_array(np.zeros(1, np.float32), "zero")]
    for name, value in outputs.items():
        flat = np.asarray(value, np.float32).reshape(1, -1)
        constants.append(numpy_helper.from_array(flat, f"{name}_value"))
        shaped = (-1, *np.shape(value)) if np.ndim(value) else (-1, 1)
        constants.append(numpy_helper.from_array(np.array(shaped, np.int64), f"{name}_shape"))
        nodes.append(helper.make_node("Add", ["nothing", f"{name}_value"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
    names = [*outputs, "seen", *(["box_seen"] if box else [])]
    ranks = {n: np.ndim(v) + 1 if np.ndim(v) else 2 for n, v in outputs.items()}
    declared = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * ranks.get(n, 2)) for n in names]
    graph = helper.make_graph(nodes, "tiny", inputs, declared, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _crop(count=2):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    boxes = [square_around([100 + 150 * i, 80, 90, 240], 1.2) for i in range(count)]
    return extract(rgb, np.array(boxes), 192)


def _rotations(form, rotvecs):
    m = so3.exp(rotvecs)
    return {
        "rotmat": m,
        "rot6d_rows": m[:, :2].reshape(-1, 6),
        "rot6d_columns": np.concatenate([m[:, :, 0], m[:, :, 1]], -1),
        "rot6d_interleaved": m[:, :, :2].reshape(-1, 6),
        "rotvec": rotvecs,
    }[form]


def _network(path, **options):
    return CropNetwork(_body(), make_runtime(path, "onnxruntime", "cpu"), CropNetworkConfig(**{"camera": "cam", **options}))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("form", ["rotmat", "rot6d_rows", "rot6d_columns", "rot6d_interleaved", "rotvec"])
def test_every_form_of_rotation(tmp_path, form, split):
    rotvecs = _rotvecs()
    r = _rotations(form, rotvecs)
    outputs = {"pose": r[1:], "orient": r[:1]} if split else {"pose": r}
    path = _file(tmp_path / "n.onnx", {**outputs, "betas": BETAS, "cam": WEAK})
    estimate = _network(path, rotations=form, root="orient" if split else "").estimate(_crop(), CAMERA)
    assert len(estimate.params) == 2 and estimate.source == "custom"
    for i in range(2):
        got = so3.exp(np.concatenate([estimate.params.root_rotvec[i : i + 1], estimate.params.joint_rotvec[i]]))
        assert got == pytest.approx(so3.exp(rotvecs), abs=1e-5)
        assert estimate.params.betas[i] == pytest.approx(BETAS, abs=1e-6)
    assert (estimate.confidence == 1).all() and (estimate.rot_sigma_rad == np.float32(0.2)).all()


def test_weak_perspective_places_the_body_in_its_crop(tmp_path):
    path = _file(tmp_path / "n.onnx", {"pose": _rotvecs(), "betas": BETAS, "cam": WEAK})
    crop = _crop()
    params = _network(path, rotations="rotvec").estimate(crop, CAMERA).params
    for i in range(2):
        x = pose(_body(), BodyParams(BETAS[None], _rotvecs()[None, 0], _rotvecs()[None, 1:], np.zeros((1, 3)))).joints[0]
        side = 192 * crop.image_from_crop[i, 0, 0]
        middle = crop.image_from_crop[i, :, 2] + side / 2
        # The source's own weak perspective, about the plane of the translation; perspective adds a few per cent.
        weak = middle + side / 2 * WEAK[0] * (x[:, :2] + WEAK[1:])
        uv = project(CAMERA, pose(_body(), params.person(i)).joints[0])
        z = params.t_camera_root[i, 2] + x[:, 2:]
        exact = params.t_camera_root[i, 2] / z * (weak - [CAMERA.cx, CAMERA.cy]) + [CAMERA.cx, CAMERA.cy]
        assert np.abs(uv - exact).max() < 0.5


def test_a_full_camera_is_taken_over_or_moved_to_our_focal_length(tmp_path):
    t = np.array([0.2, 0.1, 6.0])
    path = _file(tmp_path / "n.onnx", {"pose": _rotvecs(), "betas": BETAS, "cam": t})
    same = _network(path, rotations="rotvec", camera_kind="full").estimate(_crop(1), CAMERA).params
    assert same.t_camera_root[0] == pytest.approx(t)
    moved = _network(path, rotations="rotvec", camera_kind="full", focal_px=2 * CAMERA.fx).estimate(_crop(1), CAMERA).params
    pelvis = _body().joint_template[0] + _body().joint_shapedirs[0] @ BETAS
    assert (moved.t_camera_root[0] + pelvis)[2] == pytest.approx((t + pelvis)[2] / 2, rel=1e-4)
    assert (moved.t_camera_root[0] + pelvis)[:2] == pytest.approx((t + pelvis)[:2], abs=1e-4)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_pixels_are_normalised_as_the_settings_say(tmp_path, layout, channels):
    shape = ("P", 3, SIZE, SIZE) if layout == "nchw" else ("P", SIZE, SIZE, 3)
    path = _file(tmp_path / "n.onnx", {"pose": _rotvecs(), "betas": BETAS, "cam": WEAK}, shape)
    network = _network(path, rotations="rotvec", layout=layout, channels=channels, mean="0.1, 0.2, 0.3", std="0.5 0.25 2")
    crop = _crop()
    pixels = network._pixels(crop.rgb, network.runtime.inputs["pixels"])
    seen = network.runtime({"pixels": pixels})["seen"]
    mean = crop.rgb.mean((1, 2)) / 255
    expected = ((mean if channels == "rgb" else mean[:, ::-1]) - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2]
    assert seen == pytest.approx(expected, abs=0.02)


def test_an_oblong_input_sees_the_middle_and_bytes_stay_bytes(tmp_path):
    path = _file(tmp_path / "n.onnx", {"pose": _rotvecs(), "betas": BETAS, "cam": WEAK}, ("P", 3, 256, 192), TensorProto.UINT8)
    network = _network(path, rotations="rotvec")
    crop = _crop(1)
    rgb = np.zeros_like(crop.rgb)
    rgb[:, :, 24:168] = 200  # the middle three quarters
    pixels = network._pixels(rgb, network.runtime.inputs["pixels"])
    assert pixels.shape == (1, 3, 256, 192) and pixels.dtype == np.uint8
    assert (pixels[:, :, :, 3:-3] == 200).all()
    network.estimate(crop, CAMERA)


def test_a_single_person_file_answers_everybody(tmp_path):
    path = _file(tmp_path / "n.onnx", {"pose": _rotvecs(), "betas": BETAS, "cam": WEAK, "sure": 0.25}, (1, 3, SIZE, SIZE))
    estimate = _network(path, rotations="rotvec", confidence="sure").estimate(_crop(3), CAMERA)
    assert len(estimate.params) == 3 and estimate.confidence == pytest.approx([0.25] * 3)


def test_who_overflows_is_nobody_and_costs_nobody(tmp_path):
    path = _file(tmp_path / "n.onnx", {"pose": _rotvecs(), "betas": BETAS, "cam": WEAK})
    network = _network(path, rotations="rotvec")
    whole, run = network.estimate(_crop(2), CAMERA), network.runtime
    for broken in ([1], [0, 1]):

        class Overflowing:
            inputs, outputs, path, name = run.inputs, run.outputs, run.path, run.name

            def __call__(self, inputs, broken=broken):
                outputs = run(inputs)
                outputs["betas"] = np.array(outputs["betas"])
                outputs["betas"][broken] = np.inf
                return outputs

        network.runtime = Overflowing()
        got = network.estimate(_crop(2), CAMERA)
        fine = [i for i in range(2) if i not in broken]
        np.testing.assert_array_equal(got.params.rows(fine).t_camera_root, whole.params.rows(fine).t_camera_root)
        assert np.isnan(got.params.betas[broken]).all() and (got.confidence[broken] == 0).all()
        assert (got.confidence[fine] == 1).all()


@pytest.mark.parametrize("scaling", ["plain", "cliff"])
def test_the_crops_place_is_fed_where_it_is_asked_for(tmp_path, scaling):
    path = _file(tmp_path / "n.onnx", {"pose": _rotvecs(), "betas": BETAS, "cam": WEAK}, box=True)
    network = _network(path, rotations="rotvec", box_input="box", box_scaling=scaling)
    asked = []
    runtime = network.runtime

    class Spy:
        inputs, outputs, path, name = runtime.inputs, runtime.outputs, runtime.path, runtime.name

        def __call__(self, inputs):
            asked.append(inputs["box"])
            return runtime(inputs)

    network.runtime = Spy()
    network.estimate(_crop(), CAMERA)
    side = 240 * 1.2
    info = np.array([[145 - 320, 200 - 240, side], [295 - 320, 200 - 240, side]]) / CAMERA.fx
    if scaling == "cliff":
        info = np.column_stack([2.8 * info[:, :2], (info[:, 2] - 0.24) / 0.06])
    assert asked[0] == pytest.approx(info, abs=1e-4)


def test_what_does_not_fit_is_named(tmp_path):
    good = {"pose": _rotvecs(), "betas": BETAS, "cam": WEAK}
    path = _file(tmp_path / "n.onnx", good)
    with pytest.raises(AssetError, match="'thetas'"):
        _network(path, pose="thetas")
    with pytest.raises(AssetError, match="input 'image'"):
        _network(path, image_input="image")
    with pytest.raises(ConfigError, match="three numbers"):
        _network(path, mean="0.5")
    with pytest.raises(ConfigError, match="positive"):
        _network(path, std="1 0 1")
    with pytest.raises(ShapeError, match="24 x 9"):
        _network(path, rotations="rotmat").estimate(_crop(1), CAMERA)
    with pytest.raises(AssetError, match="box_input"):
        _network(_file(tmp_path / "box.onnx", good, box=True))
    with pytest.raises(ConfigError, match="input_height"):
        _network(_file(tmp_path / "free.onnx", good, ("P", 3, "h", "w")))
    assert _network(tmp_path / "free.onnx", input_height=64, input_width=48)._width == 48
    short = _file(tmp_path / "short.onnx", {**good, "betas": BETAS[:5]})
    with pytest.raises(ShapeError, match="10 betas"):
        _network(short, rotations="rotvec").estimate(_crop(1), CAMERA)


def test_the_tracker_runs_with_it(tmp_path):
    path = _file(tmp_path / "n.onnx", {"pose": _rotvecs(), "betas": BETAS, "cam": WEAK})
    overrides = {"regress.backend": "custom", "displace.enabled": "false", "detect.backend": "none", "device": "cpu"}
    with pytest.raises(ConfigError, match="regress.onnx"):
        load_models(load_config(None, overrides))
    names = {"regress.custom.rotations": "rotvec", "regress.custom.camera": "cam"}
    models = load_models(load_config(None, {**overrides, "regress.onnx": str(path), **names}))
    assert models.estimator.name.startswith("custom (")
    assert Config().regress.custom.rotations == "rotmat"  # unchanged
