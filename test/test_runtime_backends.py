"""Runtimes: the same answers from one file, and one clear error for each thing that can be wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from densefit_ros.config import load_config
from densefit_ros.displace.contract import DISPLACEMENT_CONTRACT, GRID
from densefit_ros.errors import AssetError, BackendUnavailable, ConfigError, ShapeError
from densefit_ros.regress.contract import REGRESSOR_CONTRACT
from densefit_ros.runtime import factory
from densefit_ros.runtime.engine_cache import file_sha256
from densefit_ros.runtime.factory import make_runtime
from densefit_ros.runtime.onnxruntime_backend import OnnxRuntime
from densefit_ros.runtime.picture import SEEN, SIZE_PX, check_pair, trunk_mark
from densefit_ros.runtime.protocol import TensorSpec, check_contract

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small random networks of both kinds, exported once."""
    from densefit_ros.displace.network import DisplacementNet
    from densefit_ros.regress.network import RegressorNet
    from densefit_ros.train.export import export

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    nets = {
        "displacement": DisplacementNet(rendering=(8, 8, 16, 16, 16)),
        "regressor": RegressorNet(widths=(8, 32, 16, 16, 16), blocks=(1, 1, 1, 1), hidden=32, own=8),
    }
    for name, net in nets.items():
        for module in net.modules():  # statistics as after training, or folding them would go untested
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
        torch.nn.init.normal_(net.head.weight if name == "displacement" else net.own.last, std=0.1)
        export(net, name, folder / f"{name}.onnx", {"seed": "0"})
    return {name: (folder / f"{name}.onnx", net.eval()) for name, net in nets.items()}


def _inputs(persons: int, network: str = "displacement") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(persons)
    if network == "regressor":
        image = rng.integers(0, 256, (persons, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
        return {"image": image, "intrinsics": np.tile(np.float32([3, 3, 0.5, 0.5]), (persons, 1))}
    shapes = {name: (persons, *spec.shape[1:]) for name, spec in DISPLACEMENT_CONTRACT.inputs.items()}
    return {name: rng.random(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("network", ["displacement", "regressor"])
@pytest.mark.parametrize("persons", [1, 3])
def test_all_runtimes_give_the_trained_modules_answer(files, network, persons):
    path, net = files[network]
    inputs = _inputs(persons, network)
    with torch.inference_mode():
        expected = net(*(torch.from_numpy(v) for v in inputs.values()))
    for backend in ("onnxruntime", "torch"):
        runtime = make_runtime(path, backend, "cpu")
        got = runtime(inputs)
        for (name, value), truth in zip(got.items(), expected):
            assert value.dtype == np.float32 and value.shape[0] == persons, name
            np.testing.assert_allclose(value, truth.numpy(), atol=2e-3, err_msg=f"{backend} {name}")


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_bound_passes_work_on_the_callers_memory(files, backend):
    runtime = make_runtime(files["displacement"][0], backend, "cpu")
    inputs = _inputs(2)
    flow = np.full((2, 2, GRID, GRID), np.nan, np.float32)
    run_pass = runtime.bind(inputs, {"flow": flow}, stream=0)
    for shift in (0.0, 0.3):
        inputs["s8"] += np.float32(shift)  # in place: the pass reads it where it is
        run_pass()
        np.testing.assert_allclose(flow, runtime(inputs)["flow"], atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_in_fp32_keeps_cudnn_from_ten_bits_of_mantissa(files, precision, monkeypatch):
    """In every pass, called or bound; and the process's flags are as they were."""
    runtime, inputs, seen = make_runtime(files["displacement"][0], "torch", "cpu", precision=precision), _inputs(1), []
    cudnn, names = torch.backends.cudnn, ("enabled", "benchmark", "benchmark_limit", "deterministic", "allow_tf32")
    monkeypatch.setattr(cudnn, "benchmark", True)  # not what cudnn.flags() takes by itself
    before = [getattr(cudnn, name) for name in names]
    assert before[-1], "torch allows it by default"
    runtime.network.register_forward_pre_hook(lambda *_: seen.append([getattr(cudnn, name) for name in names]))
    runtime(inputs)
    runtime.bind(inputs, {"flow": np.zeros((1, 2, GRID, GRID), np.float32)}, stream=0)()
    assert seen == 2 * [[*before[:-1], precision != "fp32"]]
    assert [getattr(cudnn, name) for name in names] == before


def test_persons_do_not_influence_each_other(files):
    runtime = make_runtime(files["displacement"][0], "onnxruntime", "cpu")
    both = _inputs(2)
    alone = runtime({k: v[1:] for k, v in both.items()})
    np.testing.assert_allclose(runtime(both)["flow"][1:], alone["flow"], atol=1e-4)


def test_files_meet_their_contracts_and_not_each_others(files):
    check_contract(OnnxRuntime(files["displacement"][0]), DISPLACEMENT_CONTRACT)
    check_contract(OnnxRuntime(files["regressor"][0]), REGRESSOR_CONTRACT)
    with pytest.raises(AssetError, match="displacement.onnx.*'image'"):
        check_contract(OnnxRuntime(files["displacement"][0]), REGRESSOR_CONTRACT)


def test_files_of_two_trunks_are_no_pair(tmp_path):
    one, same, other = tmp_path / "one.onnx", tmp_path / "same.onnx", tmp_path / "other.onnx"
    weights = {"stem": np.arange(6.0).reshape(2, 3), "up": np.ones(2)}
    for path, scale in ((one, 1.0), (same, 1.0), (other, 1.001)):
        mark = trunk_mark({name: scale * value for name, value in weights.items()})
        path.write_bytes(b"\x08\x07 trunk " + mark.encode() + b" \xff")
    check_pair(one, same)
    with pytest.raises(AssetError, match="one training run"):
        check_pair(one, other)
    other.write_bytes(b"no mark")
    with pytest.raises(AssetError, match="no mark"):
        check_pair(one, other)


def test_metadata_names_the_network(files):
    meta = OnnxRuntime(files["regressor"][0]).metadata
    assert meta["network"] == "regressor" and '"fused": true' in meta["config"] and meta["seed"] == "0"


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
@pytest.mark.parametrize("damage", ["truncated", "noise", "missing", "pointer"])
def test_a_damaged_file_is_named(files, tmp_path, backend, damage):
    whole = files["displacement"][0].read_bytes()
    path = tmp_path / "broken.onnx"
    content = {
        "truncated": whole[: len(whole) // 2],
        "noise": np.random.default_rng(0).bytes(4000),
        "pointer": b"version https://git-lfs\noid sha256:00\nsize 1\n",
    }
    if damage != "missing":
        path.write_bytes(content[damage])
    with pytest.raises(AssetError, match="broken.onnx") as caught:
        make_runtime(path, backend, "cpu")
    assert "\n" not in str(caught.value)


def test_a_provider_that_does_not_start_is_not_a_damaged_file(files, monkeypatch, tmp_path):
    import onnxruntime

    real = onnxruntime.InferenceSession

    def session(path, options=None, providers=(), **rest):
        if providers[0] != "CPUExecutionProvider":
            raise RuntimeError("CUDA_PATH is set but CUDA wasn't able to be loaded")
        return real(path, options, providers=providers, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match="cannot start its CUDAExecutionProvider: CUDA_PATH is set"):
        OnnxRuntime(files["displacement"][0], "cuda")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(AssetError, match="noise.onnx"):
        OnnxRuntime(tmp_path / "noise.onnx", "cuda")


def test_a_gpu_that_nobody_named_leaves_the_networks_where_they_can_run(files, monkeypatch):
    """A driver is there, and the packages are those that pip installs by default: networks run on the CPU."""
    from densefit_ros import models

    monkeypatch.setattr("densefit_ros.runtime.factory.cuda_device_count", lambda: 1)
    assert models._runtime(load_config(), files["displacement"][0], "cuda").device == "cpu"
    named = load_config(None, {"device": "cuda"})
    with pytest.raises(BackendUnavailable, match="onnxruntime has no CUDAExecutionProvider"):
        models._runtime(named, files["displacement"][0], "cuda")


def test_wrong_inputs_are_refused_with_their_shape(files):
    runtime = make_runtime(files["displacement"][0], "onnxruntime", "cpu")
    good = _inputs(1)
    with pytest.raises(ShapeError, match=rf"rendering.*float32\(P,{SIZE_PX},{SEEN.stop - SEEN.start},11\)"):
        runtime({**good, "rendering": good["rendering"][:, :96]})
    with pytest.raises(ShapeError, match="float32"):
        runtime({**good, "s8": good["s8"].astype(np.float64)})
    with pytest.raises(ShapeError, match="missing"):
        runtime({"s8": good["s8"]})
    with pytest.raises(ShapeError, match="persons"):
        runtime({**good, "rendering": np.repeat(good["rendering"], 2, 0)})
    with pytest.raises(ShapeError, match="empty"):
        runtime({k: v[:0] for k, v in good.items()})


def test_a_network_of_another_version_runs_everywhere_but_in_torch(files, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(files["displacement"][0]))
    config = next(p for p in model.metadata_props if p.key == "config")
    config.value = config.value.replace("{", '{"layers_of_old": 3, ', 1)
    onnx.save(model, str(tmp_path / "old.onnx"))
    with pytest.raises(BackendUnavailable, match=r"old\.onnx.*layers_of_old.*install"):
        make_runtime(tmp_path / "old.onnx", "torch", "cpu")
    monkeypatch.setattr(factory, "cpu_has_bf16", lambda: False)
    assert make_runtime(tmp_path / "old.onnx", "auto", "cpu").name == "onnxruntime:cpu"


def test_unknown_names_are_configuration_errors(files):
    path = files["displacement"][0]
    with pytest.raises(ConfigError, match="ncnn"):
        make_runtime(path, "ncnn")
    with pytest.raises(ConfigError, match="tpu"):
        make_runtime(path, "auto", "tpu")
    with pytest.raises(ConfigError, match="cuda only"):
        make_runtime(path, "tensorrt", "cpu")


def test_a_named_backend_that_is_missing_raises_with_the_hint(files, monkeypatch):
    path = files["displacement"][0]
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime"):
        make_runtime(path, "onnxruntime", "cpu")
    with pytest.raises(BackendUnavailable, match=r"(?i)tensorrt.*install"):
        monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
        make_runtime(path, "tensorrt")


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime-tensorrt", "onnxruntime", "torch"])
def test_every_gpu_runtime_by_name_fails_with_a_hint_without_a_gpu(files, backend):
    if factory.cuda_device_count():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendUnavailable, match="install"):
        make_runtime(files["displacement"][0], backend, "cuda")


def test_onnxruntimes_providers_get_their_options_and_stream(files, monkeypatch, tmp_path, caplog):
    """A stand-in of the session: which providers are asked for, and what a bound pass hands over."""
    import types

    import onnx

    asked, bound = [], {}

    class Binding:
        def bind_input(self, *arguments):
            bound[arguments[0]] = arguments[1:]

        bind_output = bind_input

    class Session:
        def __init__(self, path, options=None, providers=(), enable_fallback=0):
            if options is None:  # to read what its inputs are
                return
            assert not enable_fallback, "a session without its options would queue elsewhere"
            asked.append(list(providers))
            if partly and "trt_profile_min_shapes" in providers[0][1]:
                raise RuntimeError("EP_FAIL: Following input(s) has no associated shape profiles provided: Cast_0")

        def get_providers(self):
            return [p if isinstance(p, str) else p[0] for p in asked[-1]]

        def get_provider_options(self):
            return {p[0]: p[1] if knows_streams else {} for p in asked[-1] if not isinstance(p, str)}

        def get_inputs(self):
            return [types.SimpleNamespace(name="image", shape=["P", 4], type="tensor(uint8)")]

        def get_outputs(self):
            return [types.SimpleNamespace(name="flow", shape=["P", 4], type="tensor(float)")]

        def io_binding(self):
            return Binding()

        def run_with_iobinding(self, binding, options):
            bound["sync"] = options.get_run_config_entry("disable_synchronize_execution_providers")

    import onnxruntime

    knows_streams, partly = True, False
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    whole = onnx.load(files["displacement"][0])
    monkeypatch.setattr("densefit_ros.runtime.onnx_prepare.folded", lambda path: whole)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: bound.update(preloaded=True), raising=False)
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    runtime = OnnxRuntime(files["displacement"][0], "tensorrt", precision="fp16", cache_dir=tmp_path)
    assert [p if isinstance(p, str) else p[0] for p in asked[0]] == every
    kept = Path(asked[0][0][1]["trt_engine_cache_path"])
    assert kept.parent == tmp_path and file_sha256(files["displacement"][0])[:16] in kept.name and "-fp16-" in kept.name
    assert asked[0][0][1]["trt_fp16_enable"] == "True"
    # One engine for all batches: without these each batch larger than any before would build one, mid-run.
    shapes = {
        "trt_profile_min_shapes": "image:1x4",
        "trt_profile_opt_shapes": "image:1x4",
        "trt_profile_max_shapes": "image:16x4",
    }
    assert shapes.items() <= asked[0][0][1].items() and "use_tf32" not in asked[0][1][1]
    (tmp_path / "file").write_text("in the way")
    OnnxRuntime(files["displacement"][0], "tensorrt", cache_dir=tmp_path / "file" / "cache")
    assert asked.pop()[0][1] == {"trt_fp16_enable": "True", **shapes} and "the engine cannot be kept in" in caplog.text
    partly = True  # what TensorRT does not take parts the network, and what lies between has no profile
    OnnxRuntime(files["displacement"][0], "tensorrt", cache_dir=tmp_path / "file" / "cache")
    assert asked.pop()[0][1] == {"trt_fp16_enable": "True"} and asked.pop()[0][1] == {"trt_fp16_enable": "True", **shapes}
    assert "does not take all of it" in caplog.text
    partly = False
    image, flow = torch.zeros((2, 4), dtype=torch.uint8), torch.zeros((2, 4))
    runtime.bind({"image": image}, {"flow": flow}, stream=99)()
    assert [p[1]["user_compute_stream"] for p in asked[1][:2]] == ["99", "99"]
    assert bound["image"] == ("cuda", 0, np.dtype("uint8"), (2, 4), image.data_ptr())
    assert bound["flow"][-1] == flow.data_ptr() and bound["sync"] == "1"
    runtime.bind({"image": image}, {"flow": flow}, stream=99)
    assert len(asked) == 2 and bound["preloaded"]  # one session per stream
    OnnxRuntime(files["displacement"][0], "cuda", precision="fp32")
    assert asked[-1][0] == ("CUDAExecutionProvider", {"use_tf32": "0"}), "ten bits of mantissa are no fp32"
    knows_streams = False  # 1.17, whose CUDA provider has no such option
    with pytest.raises(BackendUnavailable, match="does not queue on a stream of ours"):
        runtime.bind({"image": image}, {"flow": flow}, stream=100)


def test_auto_falls_back_and_says_so_once(files, monkeypatch, caplog):
    path = files["displacement"][0]
    monkeypatch.setattr(factory, "cuda_device_count", lambda: 1)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    monkeypatch.setattr(
        "densefit_ros.runtime.onnxruntime_backend.PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "NoSuchProvider"}
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(factory, "_told", set())
    monkeypatch.setattr(factory, "cpu_has_bf16", lambda: False)
    with caplog.at_level(logging.WARNING):
        first = make_runtime(path, "auto")
        make_runtime(path, "auto")
    assert first.name == "onnxruntime:cpu"
    assert len([r for r in caplog.records if "not available" in r.message]) == 1
    with pytest.raises(BackendUnavailable):
        make_runtime(path, "auto", "cuda")


def test_specs_print_as_users_read_them():
    assert str(TensorSpec((None, 2, 48, 48), "float32")) == "float32(P,2,48,48)"
