"""The networks that ship, made trainable again: the same function, with statistics that training can go on from."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densefit_ros.errors import AssetError, ConfigError  # noqa: E402
from densefit_ros.runtime.onnxruntime_backend import OnnxRuntime  # noqa: E402
from densefit_ros.runtime.picture import SEEN, SIZE_PX  # noqa: E402
from densefit_ros.train import commands  # noqa: E402
from densefit_ros.train.export import load_trained  # noqa: E402
from densefit_ros.train.finder import FinderSource  # noqa: E402
from densefit_ros.train.loop import to_tensors  # noqa: E402
from densefit_ros.train.restore import restore, restore_finder  # noqa: E402
from densefit_ros.train.sources import JointSource  # noqa: E402
from densefit_ros.weights import weights_path  # noqa: E402

FILES = [weights_path("regressor.onnx"), weights_path("displacement.onnx")]


@pytest.fixture(scope="module")
def batch():
    return JointSource(3, 24, subjects=24, starts=1).batch(0)


@pytest.fixture(scope="module")
def net(batch):
    return restore(*FILES, [batch])


def inputs(batch):
    t = to_tensors({name: batch[name] for name in ("image", "intrinsics", "rendering")}, "cpu")
    return t["image"], t["intrinsics"], t["rendering"]


def test_it_computes_what_the_files_do(net, batch):
    image, intrinsics, rendering = inputs(batch)
    with torch.inference_mode():
        answers, (flow, log_var, _) = net.eval()(image, intrinsics, rendering)
    beside = ((0, 0), (0, 0), (SEEN.start, SIZE_PX - SEEN.stop), (0, 0))  # the file takes squares, and cuts out what it sees
    regressed = OnnxRuntime(FILES[0])({"image": np.pad(image, beside), "intrinsics": intrinsics.numpy()})
    moved = OnnxRuntime(FILES[1])({**{n: regressed[n] for n in ("s4", "s8")}, "rendering": rendering.flatten(0, 1).numpy()})
    cells = slice(SEEN.start // 4, SEEN.stop // 4)
    got = dict(zip(net.regressor.OUTPUTS, answers))
    for name in ("rot6d_rows", "betas", "cam", "rot_log_var", "joints_uv", "s8"):
        np.testing.assert_allclose(got[name], regressed[name], atol=2e-3, err_msg=name)
    np.testing.assert_allclose(flow, moved["flow"][..., cells], atol=1e-2)
    np.testing.assert_allclose(log_var, moved["log_var"][..., cells], atol=1e-2)


def test_training_starts_from_true_statistics(net, batch):
    image, intrinsics, rendering = inputs(batch)
    with torch.no_grad():
        expected = net.eval()(image, intrinsics, rendering)[0][0]
        momenta = {m: m.momentum for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        for norm in momenta:
            norm.momentum = 0.0  # the fixture's statistics stay
        got = net.train()(image, intrinsics, rendering)[0][0]
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    # The batch is the one that the statistics were measured on, so normalising by it changes nothing.
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_filters_have_one_scale(net):
    rms = [m.weight.square().mean((1, 2, 3)).sqrt() for n, m in net.named_modules() if n.endswith("first.0")]
    np.testing.assert_allclose(torch.cat(rms).detach(), 0.05, rtol=1e-3)


def test_training_heads_know_the_features(net, batch):
    image, intrinsics, _ = inputs(batch)
    with torch.inference_mode():
        parts = net.eval().regressor(image, intrinsics, True)[-1]
    use = batch["body_part"] < 24
    right = (parts.argmax(1).numpy() == batch["body_part"])[use].mean()
    assert right > 0.5  # one in 24 by chance


def test_files_of_two_runs_are_refused(tmp_path):
    other = tmp_path / "displacement.onnx"
    data = FILES[1].read_bytes()
    at = data.index(b"densefit-trunk:") + len(b"densefit-trunk:")
    other.write_bytes(data[:at] + b"0" * 16 + data[at + 16 :])
    with pytest.raises(AssetError, match="another trunk"):
        restore(FILES[0], other, [])


def test_the_command_writes_a_checkpoint_that_exports(tmp_path, capsys):
    data = json.dumps({"subjects": 32, "count": 8})
    assert commands.restore(["--out", str(tmp_path), "--batches", "2", "--data", data]) == 0
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert [p.rsplit("/", 1)[1] for p in provenance["restored"]] == ["regressor.onnx", "displacement.onnx"]
    error_mm = provenance["metrics"]["mpjpe_mm"]
    assert 0 < error_mm < 200 and f"mpjpe_mm {error_mm:.4g}" in capsys.readouterr().out
    part, record = load_trained(tmp_path / "best.pt", "displacement")
    assert record["task"] == "displacement" and part.config["blocks"] == [1, 3, 2, 1]


def test_the_finder_computes_what_its_file_does(tmp_path):
    path = weights_path("finder.onnx")
    batch = FinderSource(3, 16, subjects=16).batch(0)
    net = restore_finder(path, [batch] * 8)
    file = OnnxRuntime(path)({"image": batch["image"][:3]})
    with torch.inference_mode():
        heat, box, seen = net.forward_guided(torch.from_numpy(batch["image"][:3]))
    np.testing.assert_allclose(heat, file["heat"], atol=5e-3)
    np.testing.assert_allclose(box, file["box"], atol=5e-3)
    person = batch["owner"][:3, 4::8, 4::8] >= 0
    assert seen[:, 0].numpy()[person].mean() > seen[:, 0].numpy()[~person].mean() + 1.0  # what only training asks for is learnt
    data = json.dumps({"subjects": 8, "count": 8})
    assert commands.restore(["--finder", "--out", str(tmp_path), "--batches", "1", "--data", data]) == 0
    assert load_trained(tmp_path / "best.pt")[1]["task"] == "finder"
    (tmp_path / "displacement.onnx").write_text("another network")
    assert commands.export([str(tmp_path / "best.pt"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "finder.onnx").is_file() and (tmp_path / "displacement.onnx").read_text() == "another network"
    for options, out in ((["--part", "regressor"], tmp_path), (["--part", "displacement"], tmp_path / "displacement.onnx")):
        with pytest.raises(ConfigError, match="holds the finder network alone"):
            commands.export([str(tmp_path / "best.pt"), *options, "--out", str(out)])
