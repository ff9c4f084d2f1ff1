"""For all tests."""

import signal

import pytest

# In a job that a shell started in the background SIGINT is ignored, and every process started from it inherits that: tests
# that end their processes with SIGINT would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _interruptible():
    """The main programs of this package ignore SIGINT once they end: called in the tests' own process, for all tests after."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)
