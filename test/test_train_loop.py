"""The loop: data by seed alone, exact resume, best weights kept, command line."""

from __future__ import annotations

import csv
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from densefit_ros.errors import AssetError, ConfigError, DensefitError
from densefit_ros.runtime.picture import check_pair  # noqa: E402
from densefit_ros.train.config import TrainConfig
from densefit_ros.train.data import Loader, SourceSpec

torch = pytest.importorskip("torch")

from densefit_ros.train.commands import export  # noqa: E402
from densefit_ros.train.export import load_trained  # noqa: E402
from densefit_ros.train.joint import JointTask  # noqa: E402
from densefit_ros.train.loop import Trainer, load_weights  # noqa: E402
from densefit_ros.train.plots import plot_run, read_csv  # noqa: E402
from densefit_ros.train.tasks import displacement_metrics, displacement_metrics_of  # noqa: E402

SMALL = {"regressor": {"widths": [8, 8, 8, 8, 8], "neck": 16, "hidden": 16}}


class ToySource:
    """Pictures of a bright square, renderings of it elsewhere: the flow is the same all over."""

    def __init__(self, seed: int, count: int = 4, fail_at: int = -1) -> None:
        self.seed, self.count, self.fail_at = seed, count, fail_at

    def batch(self, index: int) -> dict[str, np.ndarray]:
        if index == self.fail_at:
            raise ValueError("no more people")
        rng = np.random.default_rng([self.seed, index])
        n, h, w = self.count, 64, 96  # no square: of one the network would see the middle columns
        image = np.full((n, h, w, 3), 60, np.uint8)
        rendering = np.zeros((n, h, w, 11), np.float16)
        flow = np.zeros((n, 2, h // 4, w // 4), np.float16)
        valid = np.zeros((n, h // 4, w // 4), bool)
        for i in range(n):
            dx, dy = rng.integers(-6, 7, 2)
            image[i, 20 + dy : 44 + dy, 20 + dx : 44 + dx] = 220
            rendering[i, 20:44, 20:44] = 0.8
            flow[i, 0], flow[i, 1] = dx, dy
            valid[i, 5:11, 5:11] = True
        return {
            "image": image,
            "rendering": rendering[:, None],
            "flow": flow[:, None],
            "valid": valid[:, None],
            "visible": valid[:, None],
            "id": np.full(n, index),
        }

    def augment(self, batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {**batch, "image": np.clip(batch["image"] + rng.integers(-3, 4), 0, 255).astype(np.uint8)}


class ToyTask(JointTask):
    """Displacements alone, trunk included: squares have no joints."""

    def loss(self, net, batch, progress):
        return self._displacement_loss(net.displace(net.regressor.trunk(batch["image"]), batch["rendering"]), batch, progress)

    def validate(self, net, batches, device):
        return displacement_metrics_of(net, batches, device)


def spec(seed=1, **kwargs):
    return SourceSpec("test_train_loop", "ToySource", {"seed": seed, **kwargs})


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parent))


def take(loader, n):
    out = []
    for batch in loader:
        out.append(batch)
        if len(out) == n:
            break
    loader.close()
    return out


def same(a, b):
    return all(np.array_equal(x[k], y[k]) for x, y in zip(a, b) for k in x)


def test_batches_depend_on_seed_and_step_alone():
    whole = take(Loader(spec(), 7, chunk=3, reuse=2), 14)
    for start in (1, 3, 6, 11):
        assert same(take(Loader(spec(), 7, chunk=3, reuse=2, start=start), 3), whole[start : start + 3]), start
    assert not same(take(Loader(spec(2), 7, chunk=3, reuse=2), 1), whole[:1])


def test_each_made_sample_is_used_reuse_times():
    batches = take(Loader(spec(), 7, chunk=3, reuse=2), 6)
    used = np.concatenate([b["id"] for b in batches])
    assert np.array_equal(np.bincount(used), [8, 8, 8])
    first = np.concatenate([b["id"] for b in batches[:3]])
    assert np.array_equal(np.bincount(first), [4, 4, 4])  # every pass sees everything once
    assert len(set(batches[0]["id"].tolist())) > 1  # and batches are mixed


def test_workers_make_the_same_batches():
    assert same(take(Loader(spec(), 7, 2, 1, workers=2, start=1), 5), take(Loader(spec(), 7, 2, 1, start=1), 5))


def test_a_failing_worker_is_reported_with_its_reason():
    with pytest.raises(DensefitError, match="no more people"):
        take(Loader(spec(fail_at=1), 7, 1, 1, workers=1), 3)


def test_workers_end_with_a_trainer_that_was_killed():
    code = (
        "import time, multiprocessing as m; from test_train_loop import spec; from densefit_ros.train.data import Loader\n"
        "if __name__ == '__main__':\n"
        "    loader = Loader(spec(), 7, 2, 1, workers=1); next(iter(loader))\n"
        "    print(m.active_children()[0].pid, flush=True); time.sleep(60)"
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "trainer.py"
        script.write_text(code)
        paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        trainer = subprocess.Popen(
            [sys.executable, script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        try:
            assert select.select([trainer.stdout], [], [], 300)[0], "the trainer says nothing"
            worker = Path("/proc") / trainer.stdout.readline().strip()
            assert worker.name.isdigit() and worker.exists()
        finally:
            trainer.kill()
            trainer.wait()
        end = time.monotonic() + 30
        while worker.exists() and time.monotonic() < end:
            time.sleep(0.2)
        assert not worker.exists()


def config(out, **kwargs):
    values = {"task": "displacement", "out": str(out), "steps": 8, "batch": 4, "made": 4, "chunk": 2, "bf16": False}
    values |= {"validation_batches": 2, "validate_minutes": 100.0, "log_steps": 2, "lr": 5e-3, "network": SMALL}
    return TrainConfig(**{**values, **kwargs})


def trainer(out, **kwargs):
    return Trainer(config(out, **kwargs), ToyTask(spec(), spec(seed=99), None, None), say=lambda line: None)


def test_learning_lowers_the_error(tmp_path):
    metrics = trainer(tmp_path, steps=120, ema=0.9).run()
    assert metrics["epe_ratio"] < 0.6


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, optimizer):
    whole = trainer(tmp_path / "whole", optimizer=optimizer)
    whole.run()
    first = trainer(tmp_path / "cut", optimizer=optimizer)
    for batch in Loader(first.task.spec, first.config.seed, 2, 2):
        if first.step == 5:
            break
        first.train_step(batch)
    first.save()
    second = trainer(tmp_path / "cut", optimizer=optimizer)
    assert second.step == 5
    second.run()
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[name]), name
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name


def test_muon_moves_all_directions_of_a_filter_and_leaves_heads_to_adamw(tmp_path):
    moved = {}
    for name in ("adamw", "muon"):
        t = trainer(tmp_path / name, optimizer=name, lr=1e-3)
        before = {k: v.detach().clone() for k, v in t.net.named_parameters()}
        t.train_step(ToySource(1).batch(0))
        moved[name] = {k: v.detach() - before[k] for k, v in t.net.named_parameters()}
    head, filters = "displacement.head.weight", "displacement.both8.0.weight"
    torch.testing.assert_close(moved["muon"][head], moved["adamw"][head])
    spread = {name: torch.linalg.svdvals(m[filters].flatten(1)) for name, m in moved.items()}
    assert spread["adamw"][0] > 2.5 * spread["adamw"].median() and spread["muon"][0] < 1.7 * spread["muon"].median()
    with pytest.raises(ConfigError, match="adamw, muon, got 'sgd'"):
        trainer(tmp_path, optimizer="sgd")


def kept_after(t, step: int, score: float) -> int:
    """The step of the weights in best.pt after a validation at ``step``."""
    t.step, t.task.validate = step, lambda *_: {"score": score}
    t.validate()
    return torch.load(t.out / "best.pt", weights_only=True)["step"]


def test_only_better_weights_are_kept_in_later_sittings_too(tmp_path):
    first = trainer(tmp_path, minutes=9.0, steps=0)
    assert [kept_after(first, step, score) for step, score in ((1, 0.5), (2, 0.9), (3, 0.4))] == [1, 1, 3]
    first.elapsed_s = 360.0
    first.save()
    second = trainer(tmp_path, minutes=9.0, steps=0)
    assert second.progress() == pytest.approx(2 / 3)
    assert kept_after(second, 9, 0.45) == 3


def test_a_run_saves_and_validates_from_time_to_time(tmp_path, monkeypatch):
    """A minute a step."""
    from densefit_ros.train import loop

    t = trainer(tmp_path, steps=7, checkpoint_minutes=2.0, validate_minutes=3.0)
    saved, validated = [], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 60.0 * t.step))
    monkeypatch.setattr(t, "save", lambda: saved.append(t.step))
    monkeypatch.setattr(t, "validate", lambda: validated.append(t.step))
    t.run()
    assert saved == [2, 4, 6, 7] and validated == [3, 6, 7]


def test_a_checkpoint_that_is_cut_short_leaves_the_one_before(tmp_path, monkeypatch):
    t = trainer(tmp_path)
    t.save()
    before = (tmp_path / "last.pt").read_bytes()

    def full_disk(state, path):
        Path(path).write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError):
        t.save()
    assert (tmp_path / "last.pt").read_bytes() == before


def test_another_seed_does_not_resume(tmp_path):
    trainer(tmp_path).save()
    with pytest.raises(AssetError, match="seed 1, this run has 2"):
        trainer(tmp_path, seed=2)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"task": "regressor"}, "task 'displacement', now 'regressor'"),
        ({"lr": 1e-4, "batch": 2}, "batch 4, now 2; lr 0.005, now 0.0001"),
        ({"network": {**SMALL, "displacement": {"rendering": (8, 8, 8, 8, 16)}}}, "network"),
        ({"data": {"subjects": 3}}, "data {}, now {'subjects': 3}"),
    ],
)
def test_other_settings_do_not_resume(tmp_path, changes, said):
    trainer(tmp_path).save()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(AssetError, match="holds a run of other settings") as raised:
        trainer(tmp_path, **changes)
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_resumed_run_may_be_longer_and_keeps_its_first_commit(tmp_path, monkeypatch):
    from densefit_ros.train import loop

    for n, step in (("first", 5), ("second", 6), ("first", 7)):
        monkeypatch.setattr(loop, "commit", lambda n=n: n)
        t = trainer(tmp_path, minutes=float(step), log_steps=step)
        t.step = step
        t.save()
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert (record["commit"], record["resumed_by"]) == ("first", ["second"]) and record["config"]["minutes"] == 7.0


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(AssetError, match="last.pt"):
        trainer(tmp_path)


def test_a_broken_batch_is_skipped_not_learned(tmp_path):
    t = trainer(tmp_path)
    batch = ToySource(1).batch(0)
    before = {k: v.clone() for k, v in t.net.named_parameters()}
    batch["flow"] = np.full_like(batch["flow"], np.nan)
    said = t.train_step(batch)
    assert said["skipped"] == 1.0 and np.isfinite(list(said.values())).all()  # it does not spoil a row of the log
    assert all(torch.equal(before[k], v) for k, v in t.net.named_parameters())
    # What reaches the running statistics does not stay in them, nor in the average.
    batch = ToySource(1).batch(0)
    batch["rendering"] = np.full_like(batch["rendering"], np.nan)
    assert t.train_step(batch)["skipped"] == 1.0 and t.train_step(ToySource(1).batch(1))["skipped"] == 0.0
    for net in (t.net, t.average):
        assert all(torch.isfinite(v).all() for v in net.state_dict().values())


def test_a_run_leaves_its_records(tmp_path):
    trainer(tmp_path).run()
    assert TrainConfig.load(tmp_path / "config.json") == config(tmp_path)
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record["config"]["seed"] == 1 and record["commit"]
    log = read_csv(tmp_path / "log.csv")
    assert log["step"] == [2, 4, 6, 8] and {"loss", "epe_px", "lr", "samples_per_s"} <= set(log)
    with (tmp_path / "validation.csv").open() as f:
        assert "epe_ratio" in next(csv.reader(f))
    assert plot_run(tmp_path).stat().st_size > 5000


def test_export_of_the_best_weights(tmp_path, capsys):
    network = {"regressor": {"widths": [8, 32, 8, 8, 8], "hidden": 16}}  # as wide as the contract where it says so
    trainer(tmp_path, steps=2, network=network).run()
    assert export([str(tmp_path / "best.pt"), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("agree to") == 2
    stored = {t.name: (t.data_type, len(t.dims)) for t in onnx.load(str(tmp_path / "regressor.onnx")).graph.initializer}
    filters = {name: kind for name, (kind, dims) in stored.items() if name.endswith("weight") and dims > 1}
    assert filters["trunk.stem.0.weight"] == onnx.TensorProto.FLOAT16 and len(set(filters.values())) == 1
    assert stored["trunk.stem.0.bias"] == (onnx.TensorProto.FLOAT, 1)
    assert export([str(tmp_path / "best.pt"), "--part", "regressor", "--out", str(tmp_path / "alone.onnx")]) == 0
    check_pair(tmp_path / "alone.onnx", tmp_path / "displacement.onnx")
    check_pair(tmp_path / "regressor.onnx", tmp_path / "displacement.onnx")
    assert export([str(tmp_path / "best.pt"), "--part", "displacement", "--out", str(tmp_path / "folder")]) == 0
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["displacement.onnx"]
    with pytest.raises(ConfigError, match="say which with --part"):
        export([str(tmp_path / "best.pt"), "--out", str(tmp_path / "both.onnx")])
    nets = {part: load_trained(tmp_path / "best.pt", part) for part in ("regressor", "displacement")}
    for _, record in nets.values():
        assert record["seed"] == 1 and record["metrics"]["score"] > 0
    own = {f"{part}.{name}" for part, (net, _) in nets.items() for name in net.state_dict()}
    assert set(load_weights(tmp_path / "best.pt")) == own
    with pytest.raises(AssetError, match="best.pt"):
        load_trained(tmp_path / "last.pt")


def test_learning_rate_warms_up_and_ends_low(tmp_path):
    t = trainer(tmp_path, steps=100, warmup=0.1, lr=1.0)
    rates = []
    for t.step in range(101):
        rates.append(t.learning_rate())
    assert rates[0] < 0.05 and max(rates) == pytest.approx(1.0, abs=0.02) and rates[-1] == pytest.approx(0.01, abs=1e-3)
    assert int(np.argmax(rates)) == 10


def test_bad_configurations_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="segmentation"):
        TrainConfig(task="segmentation", out="x")
    with pytest.raises(ConfigError):
        TrainConfig(task="regressor", out="x", device="tpu")
    for name in ("log_steps", "validation_batches", "processes"):
        with pytest.raises(ConfigError, match=f"{name} expects 1 or more"):
            TrainConfig(task="regressor", out="x", **{name: 0})
    (tmp_path / "c.json").write_text('{"task": "regressor", "out": "x", "learning": 1}')
    with pytest.raises(ConfigError, match="learning"):
        TrainConfig.load(tmp_path / "c.json")


def test_command_line_reaches_the_configuration():
    from densefit_ros.train.main import _parser, config_from_args

    args = _parser().parse_args(
        ["regressor", "--minutes", "5", "--no-bf16", "--network", '{"hidden": 64}', "--data", '{"subjects": 3}']
    )
    c = config_from_args(args)
    assert (c.task, c.minutes, c.bf16, c.network, c.data) == ("regressor", 5.0, False, {"hidden": 64}, {"subjects": 3})
    assert c.out == "runs/regressor"
    with pytest.raises(ConfigError, match="--data"):
        config_from_args(_parser().parse_args(["regressor", "--data", "{"]))


def test_metrics_tell_harm_on_good_starts_from_help_on_bad_ones():
    valid = np.ones((2, 4, 4), bool)
    target = np.zeros((2, 2, 4, 4), np.float32)
    target[1, 0] = 10.0
    flow = target.copy()
    flow[0, 1] += 1.0
    m = displacement_metrics(flow, np.zeros((2, 4, 4), np.float32), target, valid, valid)
    assert m["epe_small_px"] == pytest.approx(1.0) and m["zero_small_px"] == 0.0
    assert m["epe_large_px"] == 0.0 and m["zero_large_px"] == pytest.approx(10.0)
    assert m["epe_ratio"] == pytest.approx(0.1) and m["z2"] == pytest.approx(0.25)
