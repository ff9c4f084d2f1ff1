"""Both networks around one trunk, and processes that take steps together."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from train_helpers import inputs, no_fit  # noqa: E402

from densefit_ros.errors import AssetError, ConfigError, DensefitError  # noqa: E402
from densefit_ros.regress.decode import ray_rotation  # noqa: E402
from densefit_ros.train.export import load_trained  # noqa: E402
from densefit_ros.train.joint import JointNet, JointTask  # noqa: E402
from densefit_ros.train.parallel import run_together  # noqa: E402

TRUNK = {"widths": (8, 8, 16, 16, 16), "blocks": (1, 1, 1, 1), "neck": 8}
SMALL = {"regressor": {**TRUNK, "hidden": 32}, "displacement": {"rendering": (8, 8, 8, 16, 16)}}


def test_joint_answers_are_those_of_the_separate_networks():
    net = JointNet(**SMALL).eval()
    torch.nn.init.normal_(net.displacement.head.weight, std=0.1)
    image, intrinsics, rendering = inputs()
    with torch.inference_mode():
        answers, (flow, log_var, _) = net(image, intrinsics, rendering)
        for got, alone in zip(answers, net.regressor(image, intrinsics)):
            torch.testing.assert_close(got, alone)
        seen = net.regressor.trunk(image)
        for person in range(2):
            own = slice(person, person + 1)
            for start in range(2):
                alone = net.displacement(seen.s4[own], seen.s8[own], rendering[own, start])
                for got, expected in zip((flow, log_var), alone):
                    torch.testing.assert_close(got[2 * person + start], expected[0, ..., 4:12], atol=1e-4, rtol=1e-4)


def test_displacements_alone_leave_the_regressor_as_it_is():
    task = JointTask(None, None, None, None, displacement_only=True)
    net = task.network(SMALL)
    before = copy.deepcopy(net.state_dict())
    image, _, rendering = inputs()
    batch = {"image": image, "rendering": rendering, "flow": torch.ones((2, 2, 2, 16, 8))}
    batch |= {name: torch.ones((2, 2, 16, 8), dtype=torch.bool) for name in ("valid", "visible")}
    batch |= no_fit(2, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    net.train()
    for _ in range(2):
        optimizer.zero_grad()
        task.loss(net, batch, 0.5)[0].backward()
        optimizer.step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("regressor."), name


def test_either_network_is_taken_out_of_a_joint_checkpoint(tmp_path):
    net = JointNet(**SMALL).eval()
    record = {
        "task": "joint",
        "network": net.config,
        "weights": net.state_dict(),
        "step": 1,
        "metrics": {},
        "commit": "",
        "seed": 1,
    }
    torch.save(record, tmp_path / "best.pt")
    image, intrinsics, rendering = inputs()
    regressor, theirs = load_trained(tmp_path / "best.pt", "regressor")
    displacement, own = load_trained(tmp_path / "best.pt", "displacement")
    assert own["task"] == "displacement" and own["trunk"] == theirs["trunk"]
    torch.testing.assert_close(regressor(image, intrinsics)[0], net.regressor(image, intrinsics)[0])
    seen = net.regressor.trunk(image)
    torch.testing.assert_close(*(n(seen.s4, seen.s8, rendering[:, 0])[1] for n in (displacement, net.displacement)))
    with pytest.raises(AssetError, match="say which"):
        load_trained(tmp_path / "best.pt")


def test_joint_batches_stay_consistent_when_mirrored():
    from densefit_ros.train.sources import JointSource
    from densefit_ros.weights import weights_path

    source = JointSource(
        seed=5, count=4, size=64, easy=1.0, subjects=4, regressor=str(weights_path("regressor.onnx")), estimated=1.0
    )
    batch = source.batch(0)
    assert batch["rendering"].shape == (4, 2, 64, 32, 11) and batch["flow"].shape == (4, 2, 2, 16, 8)
    rng = np.random.default_rng(3)
    out = source.augment(batch, np.random.default_rng(3))
    which = rng.random(4) < 0.5
    assert which.any() and not which.all()
    np.testing.assert_allclose(out["cam"][:, :2], out["joints_uv"][:, 0], atol=1e-5)  # the pelvis stays the pelvis
    rays = ray_rotation(out["intrinsics"].astype(np.float64))
    np.testing.assert_allclose(rays, out["ray_rotmat"], atol=1e-6)  # of the centre that the shift by a pixel leaves
    mirror = np.diag([-1.0, 1.0, 1.0])
    in_camera = [b["ray_rotmat"] @ b["rotmat"][:, 0] for b in (batch, out)]
    np.testing.assert_allclose(in_camera[1][which], mirror @ in_camera[0][which] @ mirror, atol=1e-5)
    np.testing.assert_array_equal(out["rendering"][~which], batch["rendering"][~which])
    for i in np.flatnonzero(which):
        covered, before = out["rendering"][i, ..., 10] > 0, batch["rendering"][i, ..., 10] > 0
        np.testing.assert_array_equal(covered[:, :, 1:], before[:, :, ::-1][:, :, :-1])
        # Column x of the picture goes where the joint at x goes: S - x.
        np.testing.assert_allclose(out["joints_uv"][i, 0, 0] - 1 / 64, -batch["joints_uv"][i, 0, 0], atol=1e-6)


def test_colours_that_were_learnt_from_a_picture_change_with_it():
    from densefit_ros.train.sources import JointSource

    source = JointSource(seed=5, count=12, size=64, easy=1.0, subjects=4, starts=1, live=0.9)
    batch = source.batch(0)
    learnt = batch["learnt"][:, 0]
    assert learnt.any() and not learnt.all()
    # Pictures of the renderings themselves: they stay alike where the colours come from the picture.
    batch["image"] = (255 * batch["rendering"][:, 0, ..., :3].astype(np.float32)).round().astype(np.uint8)
    out = source.augment(batch, np.random.default_rng(3))
    rendering = out["rendering"][:, 0].astype(np.float32)
    covered = rendering[..., 10] > 0
    grey = np.array([not np.ptp(image, axis=-1).any() for image in out["image"]])
    assert (grey & learnt).any() and not grey[learnt].all()  # who loses colour loses that of the texture as well
    apart = np.array([np.abs(rendering[i, ..., :3] - out["image"][i] / 255)[covered[i]].max() for i in range(12)])
    assert apart[learnt].max() < 0.012 and np.median(apart[~learnt]) > 0.02
    assert not rendering[~covered].any()


def test_what_a_frame_leaves_of_estimates_is_less_and_another_error():
    from densefit_ros.train.sources import JointSource
    from densefit_ros.weights import weights_path

    files = {"regressor": str(weights_path("regressor.onnx")), "displacement": str(weights_path("displacement.onnx"))}
    source = JointSource(seed=5, count=6, size=224, easy=1.0, subjects=4, starts=1, left=1.0, **files)
    former = JointSource(seed=5, count=6, size=224, easy=1.0, subjects=4, starts=1, estimated=0.8, **files)
    off = {"left": [], "as they are": []}
    for index in range(2):
        batches = {"left": source.batch(index), "as they are": former.batch(index)}
        for name, b in batches.items():
            seen = b["valid"][:, 0] & b["visible"][:, 0]
            off[name].append(np.linalg.norm(b["flow"][:, 0].astype(np.float32), axis=1)[seen])
    left, former_off = (np.concatenate(off[n]) for n in ("left", "as they are"))
    assert np.median(left) < 0.75 * np.median(former_off)
    with pytest.raises(ConfigError, match="expected regressor and displacement"):
        JointSource(seed=5, count=6, size=224, subjects=4, left=0.5)
    # In easy batches as often as in others: spread evenly, a fifth of all would be easy ones with the true texture.
    some = JointSource(seed=5, count=6, size=224, easy=0.4, subjects=4, starts=1, left=0.2, **files)
    chosen = [some.is_easy(i) for i in range(400) if some.is_left(i)]
    assert 50 < len(chosen) < 115 and 0.25 < np.mean(chosen) < 0.55


def test_every_other_easy_batch_has_the_true_texture(monkeypatch):
    from densefit_ros.train import sources

    given: list[bool] = []
    pairs = sources.make_pairs

    def spy(rng, engine, crops, start, looks, live):
        given.append(looks is not None)
        return pairs(rng, engine, crops, start, looks, live)

    monkeypatch.setattr(sources, "make_pairs", spy)
    for easy in (0.5, 1.0):
        source = sources.JointSource(seed=5, count=2, size=64, easy=easy, subjects=4, starts=1)
        given.clear()
        for index in range(8):
            source.batch(index)
        worn = [g for index, g in enumerate(given) if source.is_easy(index)]
        assert sum(worn) == len(worn) // 2 and sum(given) == sum(worn), easy


def test_a_finder_steps_on_the_batch_that_was_asked_for():
    from densefit_ros.train.config import TrainConfig
    from densefit_ros.train.data import Loader
    from densefit_ros.train.finder import make_finder_task

    c = TrainConfig(task="finder", out="", batch=2, made=4, data={"subjects": 4})
    loader = Loader(make_finder_task(c).spec, c.seed, chunk=1, reuse=1, split=c.made // c.batch)
    assert len(next(iter(loader))["image"]) == 2


def _gradients(scale, peers):
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(1))]
    for p in parameters[:2]:
        p.grad = torch.full_like(p, scale * (peers.rank + 1))
    clock = peers.average(parameters, 10.0 * peers.rank)
    return [p.grad for p in parameters], clock


def test_peers_average_gradients_and_clocks():
    gradients, clock = run_together(2, _gradients, 2.0)
    assert clock == 5.0 and gradients[2] is None
    for g in gradients[:2]:
        np.testing.assert_array_equal(g, 3.0)


def _gone(scale, peers):
    if peers.rank:
        os._exit(3)
    return _gradients(scale, peers)


def test_a_process_that_ends_in_the_middle_is_named():
    with pytest.raises(DensefitError, match=r"1 training processes failed \(exit codes \[3\]\)"):
        run_together(2, _gone, 2.0)


def _boom():
    raise RuntimeError("this process cannot start")


class _Unloadable:
    def __reduce__(self):
        return _boom, ()


def test_a_process_that_cannot_start_ends_the_run_at_once():
    with pytest.raises(DensefitError, match="1 training processes failed"):
        run_together(2, _gradients, _Unloadable())
