"""The list of training photographs, and the script that gathers them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "gather_backgrounds.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gather_backgrounds", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_names_each_picture_once_and_every_package_with_its_version(script):
    lines = script.LIST.read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    assert len(rows) > 250 and all(len(r) == 4 for r in rows)
    assert {r[3] for r in rows} == {"train", "heldout"}
    assert len({r[0] for r in rows}) == len({r[2] for r in rows}) == len(rows) and rows == sorted(rows)
    versions = [line for line in lines if re.fullmatch(r"#   \S+ \d\S*", line)]
    assert {line.split()[1] for line in versions} == {r[1] for r in rows}


def test_pictures_of_any_depth_become_small_colour_pictures(script, tmp_path, monkeypatch, capsys):
    rng, root = np.random.default_rng(0), tmp_path / "root"
    stored = {
        "grey.png": rng.integers(0, 255, (40, 60), np.uint8),
        "deep.png": rng.integers(0, 65535, (40, 60, 3), np.uint16),
        "clear.png": rng.integers(0, 255, (40, 60, 4), np.uint8),
        "large.jpg": rng.integers(0, 255, (900, 1800, 3), np.uint8),
    }
    (root / "pack" / "usr").mkdir(parents=True)
    for name, picture in stored.items():
        cv2.imwrite(str(root / "pack" / "usr" / name), picture)
    splits = dict.fromkeys(stored, "train") | {"deep.png": "heldout"}
    rows = [f"{Path(name).stem}\tpack\tusr/{name}\t{split}" for name, split in splits.items()]
    (tmp_path / "list.tsv").write_text("# head\n" + "\n".join(rows) + "\n")
    monkeypatch.setattr(script, "LIST", tmp_path / "list.tsv")
    monkeypatch.setattr("sys.argv", ["gather", str(root), "--out", str(tmp_path / "out")])
    assert script.main() == 0 and "4 pictures" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "out" / "heldout").iterdir()] == ["deep.jpg"]
    got = {p.stem: cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in (tmp_path / "out").rglob("*.jpg")}
    assert {n: g.shape for n, g in got.items()} == {
        **dict.fromkeys(("grey", "deep", "clear"), (40, 60, 3)),
        "large": (550, 1100, 3),
    }
    assert abs(got["deep"].mean() - 127) < 6
    (root / "pack" / "usr" / "grey.png").unlink()
    with pytest.raises(SystemExit, match="1 of 4 listed files are not below .*usr/grey.png"):
        script.main()
