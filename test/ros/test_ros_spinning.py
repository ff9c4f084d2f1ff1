"""How the processes of the node and the recorder end."""

import functools
import threading
import time
import types

import pytest

from densefit_ros.demo import recorder
from densefit_ros.ros import node, spinning

pytestmark = pytest.mark.ros


@pytest.fixture
def ended(monkeypatch):
    """What was closed; signals and the executor are not the real ones."""
    closed = []
    monkeypatch.setattr(spinning.rclpy, "try_shutdown", lambda: None)
    monkeypatch.setattr(spinning.signal, "signal", lambda number, action: closed.append(action))
    monkeypatch.setattr(spinning, "_ends_soon", functools.partial(spinning._ends_soon, wait_s=0.1))
    its_node = types.SimpleNamespace(
        close=lambda: closed.append("close"), destroy_node=lambda: closed.append("node"), failed=False
    )
    monkeypatch.setattr(node, "_start", lambda *_: its_node)
    monkeypatch.setattr(recorder.rclpy, "init", lambda args: None)
    monkeypatch.setattr(recorder.rclpy, "create_node", lambda name: its_node)
    monkeypatch.setattr(recorder, "Recorder", lambda *_: types.SimpleNamespace(close=its_node.close, error=""))
    return closed


def executor(error: Exception | type[BaseException]) -> type:
    class Executor:
        def add_node(self, node):
            pass

        def spin_once(self, timeout_sec):
            raise error

    return Executor


MAINS = {"node": lambda: node.main([]), "recorder": lambda: recorder.main(["--bag", "x"])}


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("main", MAINS)
def test_a_signal_that_breaks_the_taking_of_a_message_is_an_orderly_end(monkeypatch, ended, main, ends):
    """The error comes first, the shutdown a moment later; an error without a shutdown is one."""
    asked = []
    # A shutdown that comes is seen at once; on a busy machine a tenth of a second may pass before it is looked for.
    wait = functools.partial(spinning._ends_soon, wait_s=10.0 if ends else 0.1)
    monkeypatch.setattr(spinning, "_ends_soon", wait)
    monkeypatch.setattr(spinning.rclpy, "ok", lambda: asked.append(1) or not (ends and len(asked) > 4))
    error = RuntimeError("Unable to convert call argument '0' to Python object")
    monkeypatch.setattr(spinning, "SingleThreadedExecutor", executor(error))
    if ends:
        assert MAINS[main]() == 0
    else:
        with pytest.raises(RuntimeError, match="convert"):
            MAINS[main]()
    ignored = spinning.signal.SIG_IGN
    assert ended == [ignored, "close", "node", ignored], "a second SIGINT must not come between"


@pytest.mark.parametrize("main", MAINS)
def test_ctrl_c_is_an_orderly_end(monkeypatch, ended, main):
    monkeypatch.setattr(spinning.rclpy, "ok", lambda: True)
    monkeypatch.setattr(spinning, "SingleThreadedExecutor", executor(KeyboardInterrupt))
    assert MAINS[main]() == 0 and ended[1:3] == ["close", "node"]


def test_a_process_whose_waits_return_ends_when_ros_does(monkeypatch, ended):
    """Every wait is bounded, so that a signal which no wait has noticed is."""
    waits = []

    class Executor(executor(RuntimeError)):
        def spin_once(self, timeout_sec):
            waits.append(timeout_sec)

    monkeypatch.setattr(spinning, "SingleThreadedExecutor", Executor)
    monkeypatch.setattr(spinning.rclpy, "ok", lambda: len(waits) < 3)
    for main in MAINS.values():
        waits.clear()
        assert main() == 0 and len(waits) == 3 and max(waits) <= 1.0


class Writer:
    """A bag whose disk is full from the third message on."""

    def __init__(self, path, version, storage_plugin):
        self.written = []

    def open(self):
        pass

    def add_connection(self, topic, kind, typestore, offered_qos_profiles):
        return topic

    def write(self, connection, stamp_ns, data):
        self.written.append(data)
        if len(self.written) == 3:
            raise OSError(28, "No space left on device")

    def close(self):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("slow", [False, True])
def test_a_recording_that_cannot_be_written_ends_with_one_line(monkeypatch, capsys, slow):
    """A full disk; and one that takes nothing while messages come and come."""
    gate = threading.Event()
    if slow:
        monkeypatch.setattr(Writer, "write", lambda *_: gate.wait(10))
        monkeypatch.setattr(recorder, "WAITING", 5)
    monkeypatch.setattr(recorder, "Writer", Writer)
    callbacks, waits, made, real = [], [], [], recorder.Recorder

    class Executor(executor(RuntimeError)):
        def spin_once(self, timeout_sec):
            waits.append(1)
            for n in range(20):
                callbacks[0](str(n).encode())
            end = time.monotonic() + 5
            while not made[0].error and time.monotonic() < end:
                time.sleep(0.001)
            gate.set()

    clock = types.SimpleNamespace(now=lambda: types.SimpleNamespace(nanoseconds=5))
    stub = types.SimpleNamespace(
        get_clock=lambda: clock,
        create_subscription=lambda kind, topic, callback, qos, raw: callbacks.append(callback),
        create_publisher=lambda *_: object(),
        destroy_node=lambda: None,
    )
    monkeypatch.setattr(recorder, "Recorder", lambda *a: made.append(real(*a)) or made[0])

    monkeypatch.setattr(recorder.rclpy, "init", lambda args: None)
    monkeypatch.setattr(recorder.rclpy, "create_node", lambda name: stub)
    monkeypatch.setattr(spinning.rclpy, "ok", lambda: len(waits) < 5)
    monkeypatch.setattr(spinning.rclpy, "try_shutdown", lambda: None)
    monkeypatch.setattr(spinning.signal, "signal", lambda *_: None)
    monkeypatch.setattr(spinning, "SingleThreadedExecutor", Executor)
    assert recorder.main(["--bag", "x"]) == 1 and len(waits) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recorder: error: ")
    assert ("the disk is too slow: 5 messages wait" in line) if slow else ("No space left on device" in line)
    assert not made[0]._thread.is_alive() and (slow or len(made[0]._writer.written) == 3)


def test_a_transition_that_is_not_allowed_is_refused_and_no_more():
    """Before Kilted rclpy raises out of the service, which would end the node."""
    said = []

    def raising(request, response):
        raise spinning.rclpy_implementation.RCLError("Transition is not registered.\n at rcl_lifecycle.c:401")

    response = spinning.refusing(raising, said.append)(None, types.SimpleNamespace(success=True))
    assert response.success is False and said == [
        "the state cannot change so now: Transition is not registered. at rcl_lifecycle.c:401"
    ]
    assert spinning.refusing(lambda request, response: response, said.append)(None, "as it is") == "as it is"
