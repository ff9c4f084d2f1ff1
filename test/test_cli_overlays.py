"""``densefit run``: which overlays lie in the folder after it."""

# ruff: noqa: F401, F811 - fixtures of the other file
from __future__ import annotations

from test_cli_run import _pictures, _run, pipeline


def test_overlays_of_a_former_run_do_not_stay_beside_the_new_ones(tmp_path, pipeline):
    _run(pipeline, _pictures(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "out" / "overlay.mp4").write_bytes(b"of a video")
    _run(pipeline, _pictures(tmp_path / "other", ("d.jpg",)), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out" / "overlays").iterdir()] == ["d.jpg"]
    assert not (tmp_path / "out" / "overlay.mp4").exists()


def test_pictures_of_one_stem_keep_their_overlays(tmp_path, pipeline):
    _run(pipeline, _pictures(tmp_path / "in", ("a.jpg", "a.png")), tmp_path / "out")
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 2
