"""TensorRT against a stand-in that plays the API of version 8.5 and that of 11, engines included.

The stand-in checks the calls' order and arguments and, as an engine, doubles its input; what NVIDIA's library makes of the
calls runs where there is a GPU.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import tensorrt_stand_in as stand_in

from densefit_ros.errors import AssetError, BackendUnavailable, ConfigError
from densefit_ros.runtime import cache_file, onnx_prepare, tensorrt_backend, tensorrt_build
from densefit_ros.runtime.factory import make_runtime
from densefit_ros.runtime.protocol import MAX_BATCH
from densefit_ros.runtime.tensorrt_backend import TensorRTRuntime, quantised_path
from densefit_ros.runtime.tensorrt_build import build_engine

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
GENERATIONS = ("8.5.2", "8.6.1", "10.0.1", "10.3.0", "11.2.0")


@pytest.fixture
def network(tmp_path):
    return stand_in.write_network(tmp_path / "net.onnx")


@pytest.fixture(params=GENERATIONS)
def trt(request, monkeypatch):
    """tensorrt of one generation, with torch as if it had a GPU."""
    module = stand_in.make(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    stand_in.pretend_cuda(monkeypatch, torch)
    return module


def test_an_engine_takes_one_to_sixteen_people(trt, network):
    assert build_engine(trt, None, network, "fp16", MAX_BATCH)
    built = trt.told.builds[-1]
    assert built.profile == {"image": ((1, 8, 8, 3), (1, 8, 8, 3), (16, 8, 8, 3))}
    assert built.explicit_batch == trt.__version__.startswith(("8", "10"))
    assert built.workspace > 0
    trt.told.batch = 1  # exported for one person: another profile is an error
    assert build_engine(trt, None, network, "fp16", MAX_BATCH)
    assert trt.told.builds[-1].profile == {"image": ((1, 8, 8, 3),) * 3}
    ops = [(n.op_type, n.input[0]) for n in onnx.load_from_string(built.graph).graph.node]
    assert ops[0] == ("Cast", "image")  # bytes are cast before anything else


def test_precision_is_a_flag_up_to_10_and_in_the_graph_from_11_on(trt, network):
    build_engine(trt, None, network, "fp16", 4)
    built = trt.told.builds[-1]
    kinds = {t.data_type for t in onnx.load_from_string(built.graph).graph.initializer}
    if trt.__version__.startswith("11"):
        assert built.flags == [] and onnx.TensorProto.FLOAT16 in kinds
    else:
        assert built.flags == ["FP16"] and onnx.TensorProto.FLOAT16 not in kinds
    assert built.tf32, "half precision was asked for"
    build_engine(trt, None, network, "fp32", 4)
    assert trt.told.builds[-1].flags == [] and not trt.told.builds[-1].tf32, "ten bits of mantissa are no fp32"


def test_int8_builds_the_quantised_network_and_nothing_else(trt, network, tmp_path):
    with pytest.raises(BackendUnavailable, match="build-engine --precision int8"):
        TensorRTRuntime(network, "int8", tmp_path)
    quantised = quantised_path(network, tmp_path)
    quantised.write_bytes(b"quantised")
    TensorRTRuntime(network, "int8", tmp_path)
    built = trt.told.builds[-1]
    assert built.graph == b"quantised"
    assert built.flags == ([] if trt.__version__.startswith("11") else ["INT8", "FP16"])


def test_a_cached_engine_is_not_built_again_and_a_foreign_or_stale_one_is(trt, network, tmp_path, monkeypatch, caplog):
    def load():
        return TensorRTRuntime(network, cache_dir=tmp_path)

    load()
    load()
    assert len(trt.told.builds) == 1
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Another GPU")
    load()
    assert len(trt.told.builds) == 2  # another machine's engine has another name, and stays
    # An Orin NX says that it is an Orin of capability 8.7, as an AGX does.
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=8))
    load()
    assert len(trt.told.builds) == 3
    stand_in.write_network(network, factor=3.0)
    load()
    assert len(trt.told.builds) == 4  # other weights
    engine = next(p for p in sorted(tmp_path.glob("*.engine"), key=lambda p: p.stat().st_mtime_ns)[::-1])
    engine.write_bytes(engine.read_bytes()[:-3])
    load()
    assert len(trt.told.builds) == 5 and "damaged or incomplete" in caplog.text
    trt.told.refuse = 1  # the header fits, the library says no: a driver update does that
    load()
    assert len(trt.told.builds) == 6 and "refused the stored one" in caplog.text
    trt.told.refuse = 2
    with pytest.raises(BackendUnavailable, match="just built"):
        load()


def test_what_the_builder_measured_is_kept(trt, network, tmp_path):
    TensorRTRuntime(network, "fp16", tmp_path)
    TensorRTRuntime(network, "fp32", tmp_path)
    assert [b.timings for b in trt.told.builds] == [b"", b"measured"]
    (timings,) = tmp_path.glob("timings-*.cache")
    for factor, content in ((5.0, b"of another machine"), (7.0, b"noise")):
        timings.write_bytes(content)
        stand_in.write_network(network, factor=factor)
        TensorRTRuntime(network, "fp16", tmp_path)
        assert trt.told.builds[-1].timings == b"" and timings.read_bytes() == b"measured"


def test_a_folder_that_cannot_be_written_costs_a_line_in_the_log_and_no_engine(trt, network, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    runtime = TensorRTRuntime(network, cache_dir=tmp_path / "file" / "cache")
    image = np.ones((1, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(runtime({"image": image})["twice"], 2.0 * image.transpose(0, 3, 1, 2))
    for what in ("the engine", "what the builder measured"):
        assert f"{what} cannot be kept in {tmp_path / 'file' / 'cache'}" in caplog.text
    assert "DENSEFIT_CACHE" in caplog.text


def test_a_full_disk_leaves_no_halves(trt, network, tmp_path, monkeypatch, caplog):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_file.os, "replace", full)
    cache = tmp_path / "cache"
    TensorRTRuntime(network, cache_dir=cache)
    assert "No space left" in caplog.text and not list(cache.iterdir())


def test_two_writers_of_one_file_do_not_share_a_partial_one(tmp_path, monkeypatch):
    """Even with the same process id, as in two containers."""
    partial, replace = [], cache_file.os.replace
    monkeypatch.setattr(cache_file.os, "replace", lambda source, target: partial.append(source) or replace(source, target))
    for content in (b"one", b"two"):
        cache_file.write_whole(tmp_path / "x.engine", content)
    assert len(set(partial)) == 2 and [p.read_bytes() for p in tmp_path.iterdir()] == [b"two"]


def test_a_quantised_network_that_cannot_be_kept_is_an_error(network, tmp_path):
    (tmp_path / "file").write_text("in the way")
    feeds = [{"image": np.ones((4, 8, 8, 3), np.uint8)}]
    with pytest.raises(AssetError, match="int8 form of .* cannot be written to .*file/cache"):
        onnx_prepare.quantise(network, tmp_path / "file" / "cache" / "q.onnx", feeds)


def test_a_long_build_says_that_it_is_alive(trt, network, monkeypatch, caplog):
    monkeypatch.setattr(tensorrt_build, "HEARTBEAT_S", 0.01)
    trt.told.build_s = 0.08
    with caplog.at_level(logging.WARNING):
        build_engine(trt, None, network, "fp32", 4)
    beats = [r.message for r in caplog.records if "so far" in r.message]
    assert beats and all("net.onnx" in b for b in beats)
    assert any("tactics 2/5" in b for b in beats) == (not trt.__version__.startswith("8"))
    assert "built the TensorRT engine" in caplog.records[-1].message


def test_passes_run_on_the_callers_memory_and_stream(trt, network, tmp_path):
    runtime = TensorRTRuntime(network, cache_dir=tmp_path)
    image = torch.randint(0, 100, (2, 8, 8, 3), dtype=torch.uint8)
    out = torch.zeros((2, 3, 8, 8))
    run_pass = runtime.bind({"image": image}, {"twice": out}, stream=77)
    run_pass()
    np.testing.assert_array_equal(out.numpy(), 2 * image.numpy().transpose(0, 3, 1, 2))
    image.fill_(5)  # the same addresses again: nothing is bound anew
    run_pass()
    assert float(out.max()) == 10 and trt.told.streams == [77, 77] and trt.told.contexts == 1


def test_calls_with_arrays_give_what_the_engine_computes(trt, network, tmp_path):
    runtime = TensorRTRuntime(network, cache_dir=tmp_path)
    assert runtime.name == "tensorrt:fp16" and str(runtime.inputs["image"]) == "uint8(P,8,8,3)"
    for persons in (1, 3, 1):
        image = np.random.default_rng(persons).integers(0, 100, (persons, 8, 8, 3)).astype(np.uint8)
        got = runtime({"image": image})
        np.testing.assert_array_equal(got["twice"], 2.0 * image.transpose(0, 3, 1, 2))
    # One per batch size, where a version lets two of them use the one profile.
    assert trt.told.contexts == (1 if trt.__version__.startswith("8.5") else 2)
    assert trt.told.builds[-1].sharing == trt.__version__.startswith("8.6")
    crowd = np.random.default_rng(0).integers(0, 100, (2 * MAX_BATCH + 3, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(runtime({"image": crowd})["twice"], 2.0 * crowd.transpose(0, 3, 1, 2))  # in turns
    trt.told.fails = True
    with pytest.raises(BackendUnavailable, match="failed on the device"):
        runtime({"image": image})
    trt.told.shapes_refused = True
    with pytest.raises(BackendUnavailable, match="does not take these shapes"):
        runtime({"image": np.zeros((7, 8, 8, 3), np.uint8)})


def test_contexts_of_one_stream_work_in_the_same_memory(trt, network, tmp_path):
    """The frame has dozens of them; each with its own would take what the largest batch needs, dozens of times."""
    runtime, memory = TensorRTRuntime(network, cache_dir=tmp_path), trt.told.memory
    images = [torch.full((n, 8, 8, 3), n, dtype=torch.uint8) for n in (1, 2, 4)]
    outs = [torch.zeros((len(image), 3, 8, 8)) for image in images]
    passes = [runtime.bind({"image": i}, {"twice": o}, stream=77) for i, o in zip(images, outs)]
    assert len(set(memory)) == 1 and len(memory) == (1 if trt.__version__.startswith("8.5") else 3)
    other = runtime.bind({"image": images[0]}, {"twice": outs[0]}, stream=78)  # may run at the same time
    assert len(set(memory)) == (1 if trt.__version__.startswith("8.5") else 2)
    del runtime  # passes keep what they work in
    for run_pass in (*passes, other):
        run_pass()
    assert [float(o.max()) for o in outs] == [2, 4, 8]


def test_a_shape_that_the_engine_leaves_open_is_asked_of_a_context_or_refused(trt, network, tmp_path, monkeypatch):
    """Memory is made by the shapes: with a guess the engine would write past its end."""
    trt.told.left_open = True
    runtime = TensorRTRuntime(network, cache_dir=tmp_path)
    assert str(runtime.outputs["twice"]) == "float32(P,3,8,8)"
    image = np.full((5, 8, 8, 3), 3, np.uint8)
    np.testing.assert_array_equal(runtime({"image": image})["twice"], np.full((5, 3, 8, 8), 6, np.float32))
    for said in ((3, 4), (-1, -1)):  # as many as there are images, or still nothing
        trt.told.channels = said
        with pytest.raises(BackendUnavailable, match="cannot tell the shape of 'twice'"):
            TensorRTRuntime(network, cache_dir=tmp_path)
    monkeypatch.setattr("densefit_ros.runtime.factory.cuda_device_count", lambda: 1)
    assert make_runtime(network, "auto", "auto", cache_dir=tmp_path).device == "cpu", "another backend may well run it"


def test_a_network_that_cannot_be_read_or_built_is_named(trt, network, tmp_path, caplog):
    trt.told.readable = False
    with pytest.raises(BackendUnavailable, match=r"net\.onnx.*Unsupported operator Foo"):
        build_engine(trt, None, network, "fp32", 4)
    trt.told.readable, trt.told.buildable = True, False
    caplog.clear()
    with pytest.raises(BackendUnavailable, match=r"net\.onnx.*could not build"):
        build_engine(trt, None, network, "fp32", 4)
    assert "built" not in caplog.text
    with pytest.raises(AssetError, match="not found"):
        TensorRTRuntime(tmp_path / "none.onnx", cache_dir=tmp_path)
    network.write_bytes(b"noise")
    with pytest.raises(AssetError, match=r"net\.onnx"):
        TensorRTRuntime(network, cache_dir=tmp_path)


def test_a_tensorrt_that_does_not_start_is_no_reason_to_stop(trt, network, tmp_path, monkeypatch):
    """The driver is older than the library: its constructors give null pointers."""
    trt.told.starts = False
    with pytest.raises(BackendUnavailable, match="newer NVIDIA driver"):
        TensorRTRuntime(network, cache_dir=tmp_path)
    with pytest.raises(BackendUnavailable, match="newer NVIDIA driver"):
        build_engine(trt, None, network, "fp32", 4)
    monkeypatch.setattr("densefit_ros.runtime.factory.cuda_device_count", lambda: 1)
    assert make_runtime(network, "auto", "auto", cache_dir=tmp_path).device == "cpu"


def test_unknown_precision_is_a_configuration_error(network):
    with pytest.raises(ConfigError, match="int4"):
        TensorRTRuntime(network, precision="int4")


def test_the_key_covers_all_that_an_engine_depends_on():
    assert {f.name for f in dataclasses.fields(tensorrt_backend.EngineKey)} == {
        "onnx_sha256", "gpu", "compute_capability", "tensorrt", "precision", "max_batch", "recipe",
    }  # fmt: skip


def test_build_engine_command(trt, network, tmp_path, monkeypatch, capsys):
    from densefit_ros.cli import build_engine as command
    from densefit_ros.cli import calibration

    asked = []
    monkeypatch.setattr(calibration, "network_of", lambda inputs: inputs)
    monkeypatch.setattr(
        calibration, "feeds", lambda network, crops, _: asked.append(crops) or iter([{"image": np.ones((4, 8, 8, 3), np.uint8)}])
    )
    arguments = [str(network), "--cache", str(tmp_path / "c"), "--precision", "int8", "--crops", "4"]
    for _ in range(2):
        assert command.main(arguments) == 0
    assert asked == [4] and len(trt.told.builds) == 1  # once, then kept
    assert "tensorrt:int8 ready" in capsys.readouterr().out


def test_build_engine_without_tensorrt_names_the_hint(network, monkeypatch, capsys):
    from densefit_ros import cli

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert cli.main(["build-engine", str(network)]) == cli.EXIT_ERROR
    assert "install NVIDIA TensorRT" in capsys.readouterr().err


def test_without_a_gpu_tensorrt_says_so(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="CUDA device"):
        TensorRTRuntime(network)


# On a GPU against ONNX Runtime on the CPU: mean difference over the outputs' cells.  Displacements are in crop px.
TOLERANCE = {"fp32": 0.01, "fp16": 0.1, "int8": 0.6}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", TOLERANCE)
def test_engine_agrees_with_onnxruntime(tmp_path, precision):
    """The shipped displacement network on crops of synthetic people, twice (built, then from the cache)."""
    pytest.importorskip("tensorrt")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from densefit_ros.cli import build_engine as command
    from densefit_ros.cli.calibration import feeds, network_of
    from densefit_ros.runtime.onnxruntime_backend import OnnxRuntime
    from densefit_ros.weights import weights_path

    path = weights_path("displacement.onnx")
    reference = OnnxRuntime(path)
    inputs = next(feeds(network_of(set(reference.inputs)), 8))
    expected = reference(inputs)
    if precision == "int8":
        command.quantise(path, tmp_path, 64)
    for _ in range(2):
        got = TensorRTRuntime(path, precision, tmp_path)(inputs)
        assert float(np.abs(got["flow"] - expected["flow"]).mean()) < TOLERANCE[precision]
    assert len(list(tmp_path.glob("*.engine"))) == 1
