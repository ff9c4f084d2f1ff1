"""The mean of several runs' weights: a network, a checkpoint that exports, a line of the model card."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from densefit_ros.errors import AssetError, ConfigError  # noqa: E402
from densefit_ros.train.average import average_weights  # noqa: E402
from densefit_ros.train.commands import average  # noqa: E402
from densefit_ros.train.config import TrainConfig  # noqa: E402
from densefit_ros.train.export import load_trained  # noqa: E402
from densefit_ros.train.joint import JointNet  # noqa: E402

SMALL = {"regressor": {"widths": [8, 8, 16, 16, 16], "blocks": [1, 1, 1, 1], "neck": 8, "hidden": 32}}
SMALL |= {"displacement": {"rendering": [8, 8, 8, 16, 16]}}


def weights(seed):
    torch.manual_seed(seed)
    return JointNet(**SMALL).state_dict()


def test_the_mean_of_networks_keeps_the_last_ones_counts():
    first = {"a": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    last = {"a": torch.tensor([3.0, 6.0]), "n": torch.tensor(5)}
    mean = average_weights([first, last], [0.25, 0.75])
    assert mean["a"].tolist() == [2.5, 5.0] and mean["n"] == 5


@pytest.mark.parametrize("shares", [(0.5, 0.6), (1.0,), (-0.5, 1.5)])
def test_shares_that_make_no_mean_are_refused(shares):
    with pytest.raises(ConfigError, match="share of every run"):
        average_weights([{"a": torch.ones(1)}] * 2, shares)


def test_networks_that_differ_are_refused():
    with pytest.raises(AssetError, match="one shape"):
        average_weights([{"a": torch.ones(1)}, {"a": torch.ones(2)}], [0.5, 0.5])


def test_what_only_the_last_run_has_stays_its_own():
    mean = average_weights([{"a": torch.ones(1)}, {"a": torch.full((1,), 3.0), "own.last": torch.ones(2)}], [0.5, 0.5])
    assert mean["a"].item() == 2.0 and mean["own.last"].tolist() == [1.0, 1.0]
    with pytest.raises(AssetError, match="one shape"):
        average_weights([{"a": torch.ones(1), "own.last": torch.ones(2)}, {"a": torch.ones(1)}], [0.5, 0.5])


def test_an_averaged_run_is_validated_and_exports(tmp_path, capsys):
    made = [weights(1), weights(2)]
    for name, w in zip("ab", made):
        (tmp_path / name).mkdir()
        config = TrainConfig("joint", str(tmp_path / name), batch=2, made=4, validation_batches=1, network=SMALL)
        config.save(tmp_path / name / "config.json")
        record = {"weights": w, "network": JointNet(**SMALL).config, "task": "joint", "step": 3, "seed": 7, "commit": "x"}
        torch.save(record, tmp_path / name / "best.pt")
    out = tmp_path / "mean"
    assert average([f"{tmp_path / 'a'}=0.25", f"{tmp_path / 'b'}=0.75", "--out", str(out)]) == 0
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["average"] == {str(tmp_path / "a"): 0.25, str(tmp_path / "b"): 0.75}
    error_mm = provenance["metrics"]["mpjpe_mm"]
    assert error_mm > 0 and f"mpjpe_mm {error_mm:.4g}" in capsys.readouterr().out
    net, record = load_trained(out / "best.pt", "regressor")
    name = "trunk.up8.0.weight"
    expected = 0.25 * made[0][f"regressor.{name}"] + 0.75 * made[1][f"regressor.{name}"]
    torch.testing.assert_close(net.state_dict()[name], expected)
    assert record["metrics"] == provenance["metrics"]


def test_what_is_no_run_and_share_is_named(tmp_path):
    with pytest.raises(ConfigError, match="runs/a"):
        average(["runs/a", "--out", str(tmp_path)])
    with pytest.raises(AssetError, match="nothing"):
        average([f"{tmp_path / 'nothing'}=1", "--out", str(tmp_path)])
