"""Building engines against the parts of the API that TensorRT 8.5 to 11 share, played by a small stand-in.

The stand-in checks the calls' order and arguments; what NVIDIA's library makes of them runs where there is a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from densefit_ros.errors import AssetError, BackendUnavailable, ConfigError
from densefit_ros.runtime.tensorrt_backend import MAX_BATCH, TensorRTRuntime, build_engine


class Recorder:
    """What the builder was told."""

    def __init__(self):
        self.flags, self.profiles, self.network_flags, self.workspace = [], [], None, 0


def fake_trt(told: Recorder, version="8.5.2", explicit_flag=True, half=True, readable=True, buildable=True):
    tensors = [
        SimpleNamespace(name="image", shape=(-1, 192, 192, 3)),
        SimpleNamespace(name="rendering", shape=(-1, 192, 192, 10)),
    ]
    network = SimpleNamespace(num_inputs=2, get_input=lambda i: tensors[i])
    config = SimpleNamespace(
        set_memory_pool_limit=lambda pool, size: setattr(told, "workspace", size),
        set_flag=told.flags.append,
        add_optimization_profile=lambda profile: told.profiles.append(profile.shapes),
    )

    def profile():
        shapes = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, low, best, high: shapes.update({name: (low, best, high)}))

    def create_network(flags):
        told.network_flags = flags
        return network

    builder = SimpleNamespace(
        create_network=create_network,
        create_builder_config=lambda: config,
        create_optimization_profile=profile,
        build_serialized_network=lambda n, c: b"engine" if buildable else None,
    )
    error = SimpleNamespace(desc=lambda: "Unsupported operator Foo")
    parser = SimpleNamespace(parse=lambda data: readable, num_errors=1, get_error=lambda i: error)
    return SimpleNamespace(
        __version__=version,
        Builder=lambda logger: builder,
        OnnxParser=lambda n, logger: parser,
        NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0) if explicit_flag else SimpleNamespace(),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        BuilderFlag=SimpleNamespace(FP16="fp16") if half else SimpleNamespace(),
    )


@pytest.fixture
def onnx_file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"onnx")
    return str(path)


def test_an_engine_takes_one_to_sixteen_people_in_half_precision(onnx_file):
    told = Recorder()
    assert build_engine(fake_trt(told), None, onnx_file, "fp16", MAX_BATCH) == b"engine"
    assert told.network_flags == 1 and told.flags == ["fp16"] and told.workspace > 0
    assert told.profiles == [
        {
            "image": ((1, 192, 192, 3), (1, 192, 192, 3), (16, 192, 192, 3)),
            "rendering": ((1, 192, 192, 10), (1, 192, 192, 10), (16, 192, 192, 10)),
        }
    ]


def test_versions_without_the_explicit_batch_flag_get_none(onnx_file):
    told = Recorder()
    build_engine(fake_trt(told, "10.3", explicit_flag=False), None, onnx_file, "fp32", 4)
    assert told.network_flags == 0 and told.flags == []


def test_versions_without_half_precision_say_what_to_do(onnx_file):
    with pytest.raises(BackendUnavailable, match="precision fp32"):
        build_engine(fake_trt(Recorder(), "11.0", half=False), None, onnx_file, "fp16", 4)


def test_a_network_that_cannot_be_read_or_built_is_named(onnx_file):
    with pytest.raises(AssetError, match=r"net\.onnx.*Unsupported operator Foo"):
        build_engine(fake_trt(Recorder(), readable=False), None, onnx_file, "fp32", 4)
    with pytest.raises(AssetError, match=r"net\.onnx.*could not build"):
        build_engine(fake_trt(Recorder(), buildable=False), None, onnx_file, "fp32", 4)


def test_unknown_precision_is_a_configuration_error(onnx_file):
    with pytest.raises(ConfigError, match="int4"):
        TensorRTRuntime(onnx_file, precision="int4")


@pytest.mark.gpu
def test_engine_agrees_with_onnxruntime(tmp_path):
    """On a machine with TensorRT: the shipped displacement network, half precision, twice (built, then from the cache)."""
    pytest.importorskip("tensorrt")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from densefit_ros.runtime.onnxruntime_backend import OnnxRuntime
    from densefit_ros.weights import weights_path

    path = weights_path("displacement.onnx")
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.integers(0, 256, (3, 192, 192, 3)).astype(np.uint8),
        "rendering": rng.random((3, 192, 192, 10)).astype(np.float32),
    }
    expected = OnnxRuntime(path)(inputs)
    for _ in range(2):
        got = TensorRTRuntime(path, cache_dir=tmp_path)(inputs)
        assert float(np.abs(got["flow"] - expected["flow"]).mean()) < 0.1
    assert len(list(tmp_path.glob("*.engine"))) == 1
