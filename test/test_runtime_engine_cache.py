"""Engine files: only what was built for this very machine and network is used."""

from __future__ import annotations

import dataclasses

import pytest

from densefit_ros.runtime.engine_cache import EngineKey, default_cache_dir, file_sha256, read_engine, write_engine

KEY = EngineKey("ab" * 32, "NVIDIA Jetson AGX Orin", "8.7", "8.5.2", "fp16", 16)


def test_an_engine_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "cache" / KEY.file_name("regressor")
    write_engine(path, KEY, b"\x00engine\n\xff")
    assert read_engine(path, KEY) == (b"\x00engine\n\xff", "")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("onnx_sha256", "cd" * 32),
        ("gpu", "NVIDIA H100"),
        ("compute_capability", "9.0"),
        ("tensorrt", "10.3.0"),
        ("precision", "fp32"),
        ("max_batch", 4),
    ],
)
def test_a_foreign_or_stale_engine_is_told_apart_with_its_reason(tmp_path, field, value):
    path = tmp_path / "x.engine"
    write_engine(path, KEY, b"engine")
    other = dataclasses.replace(KEY, **{field: value})
    engine, reason = read_engine(path, other)
    assert engine is None and field in reason and str(value) in reason
    assert other.file_name("x") != KEY.file_name("x")


@pytest.mark.parametrize(
    "content", [b"", b"elf", b"densefit-engine-1\n", b"densefit-engine-1\n{not json}\nxx", b"densefit-engine-1\n[]\nx"]
)
def test_a_damaged_file_is_never_used(tmp_path, content):
    path = tmp_path / "x.engine"
    path.write_bytes(content)
    engine, reason = read_engine(path, KEY)
    assert engine is None and reason


def test_half_a_write_is_noticed(tmp_path):
    path = tmp_path / "x.engine"
    write_engine(path, KEY, b"engine" * 100)
    path.write_bytes(path.read_bytes()[:-7])
    assert read_engine(path, KEY) == (None, "damaged or incomplete")
    assert read_engine(tmp_path / "none.engine", KEY) == (None, "not built yet")


def test_the_cache_lives_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DENSEFIT_CACHE", raising=False)
    assert default_cache_dir() == tmp_path / "densefit"
    monkeypatch.setenv("DENSEFIT_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"


def test_the_digest_is_of_the_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
