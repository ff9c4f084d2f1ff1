"""For all tests."""

import signal

# In a job that a shell started in the background SIGINT is ignored, and every process started from it inherits that: tests
# that end their processes with SIGINT would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
