"""Wrong inputs end in one line and exit status 2, whatever the command."""

from __future__ import annotations

import json

import pytest
import warp

from densefit_ros import cli

needs_no_gpu = pytest.mark.skipif(warp.is_cuda_available(), reason="a GPU is here")
SMALL = {"widths": [8, 8, 8, 8, 8], "blocks": [1, 1, 1, 1], "neck": 8, "hidden": 16}
TINY_FIT = ("bench", "fit", "--no-baselines", "--points", "60", "--persons", "1", "--repeats", "1", "--problems", "1")


def _fails(capsys, *arguments: object) -> str:
    assert cli.main([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and err.splitlines()[-1].startswith(f"densefit {arguments[0]}: error: ")
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--batch", "0"), "batch >= 2"),
        (("--made", "0"), "made to be a multiple of batch, got 0 and 8"),
        (("--data", "[1]"), "--data expects a JSON object, got [1]"),
        (("--data", '{"backgroundz": []}'), "--data: RegressorSource takes backgrounds, "),
        (("--network", "3"), "--network expects a JSON object, got 3"),
        (("--network", '{"sizze": 3}'), '--network {"sizze": 3}: '),
        (("--init", "nowhere.pt"), "nowhere.pt: "),
        (("--out", "/proc/run"), "/proc/run: No such file or directory"),
        (("--device", "cuda"), "torch sees no CUDA device"),
    ],
)
def test_training(tmp_path, capsys, monkeypatch, arguments, said):
    torch = pytest.importorskip("torch")
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    monkeypatch.chdir(tmp_path)
    assert said in _fails(capsys, "train", "regressor", "--out", "run", "--network", json.dumps(SMALL), *arguments)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from densefit_ros.regress.network import RegressorNet

    torch.save({"weights": RegressorNet(**SMALL).state_dict()}, tmp_path / "best.pt")
    said = _fails(capsys, "train", "finder", "--init", tmp_path / "best.pt", "--out", tmp_path / "run")
    assert f"--init {tmp_path / 'best.pt'}: expected weights of a finder network" in said


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("train", "card", "--runs", "r", "--evaluation", "missing.json", "--card", "card.md"), "missing.json: No such file"),
        (("train", "card", "--runs", "r", "--evaluation", "card.md", "--card", "missing.md"), "missing.md: No such file"),
        (("train", "card", "--runs", "r", "--evaluation", "card.md", "--card", "card.md"), "card.md: expected the JSON that"),
        (("bench", "covariance", "--sequences", "0"), "--sequences: expected 1 or more"),
        ((*TINY_FIT, "--out", "/proc/fit.json"), "/proc"),
        ((*TINY_FIT, "--out", "/dev/full"), "No space left on device"),
        pytest.param((*TINY_FIT, "--device", "cuda"), "Warp sees no CUDA device", marks=needs_no_gpu),
    ],
)
def test_measurements_and_documents(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "card.md").write_text("a card")
    assert said in _fails(capsys, *arguments)
