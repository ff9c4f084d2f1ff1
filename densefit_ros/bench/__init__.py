"""Benchmarks, each a command, and the results committed per device."""
