"""A small TensorRT for tests: the API of 8.5, 10 or 11 as documented, and one engine, which doubles its image."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper


@dataclass
class Build:
    """What one build was told."""

    graph: bytes = b""
    flags: list = field(default_factory=list)
    profile: dict = field(default_factory=dict)
    explicit_batch: bool = False
    workspace: int = 0
    timings: bytes = b""
    sharing: bool = False  # of one profile by several contexts
    tf32: bool = True


@dataclass
class Told:
    """What happened, and what is to happen."""

    builds: list = field(default_factory=list)
    streams: list = field(default_factory=list)
    contexts: int = 0
    memory: list = field(default_factory=list)  # where contexts were told to work
    left_open: bool = False  # the engine does not say how many channels come out
    channels: tuple = (3, 3)  # what a context says instead, for one and for more images
    readable: bool = True
    buildable: bool = True
    build_s: float = 0.0
    refuse: int = 0  # this many engines are refused when they are read
    fails: bool = False  # execution fails
    shapes_refused: bool = False
    batch: int = -1  # first dimension of the network's input
    starts: bool = True  # the runtime and the builder

    def start(self):
        if not self.starts:
            raise TypeError("pybind11::init(): factory function returned nullptr")


def write_network(path: Path, factor: float = 2.0) -> Path:
    """image uint8 (P,8,8,3) -> twice float32 (P,3,8,8), transposed as bytes, as exporters write it, then a convolution."""
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[[0, 1, 2], [0, 1, 2]] = factor
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "weight"], ["twice"]),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["P", 8, 8, 3])],
        [helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["P", 3, 8, 8])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def pretend_cuda(monkeypatch, torch) -> None:
    """Let torch answer as on a machine with one GPU, with plain memory behind it."""
    empty = torch.empty
    stream = SimpleNamespace(cuda_stream=1, synchronize=lambda: None)

    class Nothing:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 7))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Orin")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=16))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: Nothing())
    monkeypatch.setattr(torch, "empty", lambda shape, dtype=None, device=None, pin_memory=False: empty(shape, dtype=dtype))


MEMORY_BYTES = 4096  # that a context works in


class _Context:
    def __init__(self, told, profile):
        self._told, self._shape, self._address, self.active_optimization_profile = told, {}, {}, profile
        self._memory = None

    def _set_memory(self, address, size=MEMORY_BYTES):
        assert address and size >= MEMORY_BYTES, "device memory is too small"
        self._memory = address
        self._told.memory.append(address)

    def get_tensor_shape(self, name):
        batch, *rest = self._shape["image"]
        return (batch, *rest) if name == "image" else (batch, self._told.channels[batch > 1], 8, 8)

    def set_optimization_profile_async(self, profile, stream):
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name, shape):
        assert self.active_optimization_profile == 0, "all calls fail until a valid profile index has been set"
        if self._told.shapes_refused:
            return False
        self._shape[name] = shape
        return True

    def set_tensor_address(self, name, address):
        self._address[name] = address
        return True

    def execute_async_v3(self, stream):
        if self._told.fails:
            return False
        assert set(self._address) == {"image", "twice"}  # every tensor, input or output, needs an address
        assert self._memory, "device memory was not set"
        ctypes.memset(self._memory, 7, MEMORY_BYTES)  # it must be somebody's
        self._told.streams.append(stream)
        shape = self._shape["image"]
        count = int(np.prod(shape))
        image = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self._address["image"])).reshape(shape)
        out = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self._address["twice"]))
        out.reshape(shape[0], 3, 8, 8)[:] = 2.0 * image.transpose(0, 3, 1, 2)
        return True


class _Engine:
    num_io_tensors = 2

    def __init__(self, trt):
        self._trt, self._contexts = trt, 0

    def get_tensor_name(self, index):
        return ("image", "twice")[index]

    def get_tensor_mode(self, name):
        return self._trt.TensorIOMode.INPUT if name == "image" else self._trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return (-1, 8, 8, 3) if name == "image" else (-1, -1 if self._trt.told.left_open else 3, 8, 8)

    def get_tensor_dtype(self, name):
        return self._trt.DataType.UINT8 if name == "image" else self._trt.DataType.FLOAT

    def _create(self, context):
        told = self._trt.told
        told.contexts += 1
        if self._trt.__version__.startswith("8.") and told.builds and not told.builds[-1].sharing:
            assert self._contexts == 0, "Profile 0 has been chosen by another IExecutionContext"
        self._contexts += 1
        taken = self._trt.__version__.startswith("8.") and self._contexts > 1
        return context(self._trt.told, -1 if taken else 0)


class _ContextUpTo100(_Context):
    device_memory = property(None, _Context._set_memory)


class _ContextFrom101(_Context):
    def set_device_memory(self, memory, size):
        self._set_memory(memory, size)


class _EngineUpTo9(_Engine):
    device_memory_size = MEMORY_BYTES

    def create_execution_context_without_device_memory(self):
        return self._create(_ContextUpTo100)


class _Engine100(_Engine):
    device_memory_size = MEMORY_BYTES

    def create_execution_context(self, strategy):
        assert strategy == "user managed"
        return self._create(_ContextUpTo100)


class _EngineFrom101(_Engine):
    device_memory_size_v2 = MEMORY_BYTES

    def create_execution_context(self, strategy):
        assert strategy == "user managed"
        return self._create(_ContextFrom101)


def make(version: str) -> ModuleType:
    """The module ``tensorrt`` of one version; what it is told is in ``told``."""
    generation = int(version.split(".")[0])
    kind = _EngineUpTo9 if generation < 10 else _Engine100 if version.startswith("10.0.") else _EngineFrom101
    told = Told()
    trt = ModuleType("tensorrt")
    trt.__version__, trt.told = version, told

    class Logger:
        WARNING = 2

        def __init__(self, level):
            pass

    class Config:
        def __init__(self):
            self.build, self.cache, self.progress_monitor = Build(), None, None

        def set_memory_pool_limit(self, pool, size):
            self.build.workspace = size

        def set_flag(self, flag):
            self.build.flags.append(flag)

        def clear_flag(self, flag):
            assert flag == "TF32"
            self.build.tf32 = False

        def set_preview_feature(self, feature, on):
            assert feature == "sharing"
            self.build.sharing = on

        def add_optimization_profile(self, profile):
            self.build.profile = profile.shapes

        def create_timing_cache(self, stored):
            return None if stored == b"noise" else bytes(stored)

        def set_timing_cache(self, cache, ignore_mismatch):
            assert ignore_mismatch is False
            if cache is None:
                raise TypeError("set_timing_cache(): incompatible function arguments")
            if cache not in (b"", b"measured"):
                return False
            self.cache = self.build.timings = cache
            return True

        def get_timing_cache(self):
            return SimpleNamespace(serialize=lambda: b"measured")

    class Profile:
        def __init__(self):
            self.shapes = {}

        def set_shape(self, name, low, best, high):
            self.shapes[name] = (low, best, high)

    class Builder:
        def __init__(self, logger):
            told.start()

        def create_network(self, flags):
            image = SimpleNamespace(name="image", shape=(told.batch, 8, 8, 3))
            return SimpleNamespace(num_inputs=1, get_input=lambda i: image, flags=flags, graph=b"")

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            monitor = config.progress_monitor
            if monitor is not None:
                monitor.phase_start("tactics", None, 5)
                monitor.step_complete("tactics", 1)
            time.sleep(told.build_s)
            if monitor is not None:
                monitor.phase_finish("tactics")
            if not told.buildable:
                return None
            config.build.graph, config.build.explicit_batch = network.graph, bool(network.flags)
            told.builds.append(config.build)
            return b"engine"

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, logger):
            self._network = network

        def parse(self, graph):
            self._network.graph = graph
            return told.readable

        def get_error(self, index):
            return SimpleNamespace(desc=lambda: "Unsupported operator Foo")

    class Runtime:
        def __init__(self, logger):
            told.start()

        def deserialize_cuda_engine(self, stored):
            if told.refuse:
                told.refuse -= 1
                return None
            assert stored == b"engine"
            return kind(trt)

    trt.Logger, trt.Builder, trt.OnnxParser, trt.Runtime = Logger, Builder, OnnxParser, Runtime
    trt.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    trt.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    trt.DataType = SimpleNamespace(FLOAT="float", HALF="half", INT8="int8", INT32="int32", UINT8="uint8")
    weak = generation <= 10  # precision flags and calibrators are gone in 11
    trt.BuilderFlag = SimpleNamespace(FP16="FP16", INT8="INT8", TF32="TF32") if weak else SimpleNamespace(TF32="TF32")
    if not version.startswith("8.5"):
        trt.PreviewFeature = SimpleNamespace(PROFILE_SHARING_0806="sharing")
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0) if weak else SimpleNamespace()
    if generation >= 10:
        trt.ExecutionContextAllocationStrategy = SimpleNamespace(STATIC="static", USER_MANAGED="user managed")
        trt.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    return trt
