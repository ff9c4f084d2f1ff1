"""Weights taken over from other checkpoints, and trunks that grow without changing what they compute."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from train_helpers import inputs  # noqa: E402

from densefit_ros.detect.finder_network import FinderNet  # noqa: E402
from densefit_ros.train import grow  # noqa: E402
from densefit_ros.train.grow import take_over  # noqa: E402
from densefit_ros.train.joint import JointNet  # noqa: E402

SMALL = {"widths": (8, 8, 16, 16, 16), "blocks": (1, 1, 1, 1), "neck": 8}
LARGE = {"widths": (8, 8, 24, 32, 48), "blocks": (1, 2, 3, 2), "neck": 8}


@pytest.fixture
def quiet_blocks(monkeypatch):
    """New blocks say nothing at first, so that what else grows can be seen to change nothing."""
    monkeypatch.setattr(grow, "FIRST_GAMMA", 0.0)


def net(trunk):
    return JointNet({**trunk, "hidden": 32}, {"rendering": (8, 8, 8, 16, 16), "blocks": (1, 1, 1, 0)}).eval()


def trained(trunk):
    """Running statistics and residual scales as training leaves them: nothing cancels by chance."""
    made = net(trunk)
    generator = torch.Generator().manual_seed(3)
    for name, value in made.state_dict().items():
        if value.dtype.is_floating_point:
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + noise if "running_var" in name or name.endswith("1.weight") else 0.3 * (noise - 0.5))
    return made


def test_a_grown_trunk_computes_the_same(quiet_blocks):
    before, after = trained(SMALL), net(LARGE)
    take_over(after, before.state_dict())
    with torch.inference_mode():
        expected, got = before(*inputs()), after(*inputs())
    for a, b in zip(expected[0] + expected[1], got[0] + got[1]):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_heads_of_the_joints_own_begin_at_nothing(quiet_blocks):
    before = trained({**SMALL, "own": 0})
    after = JointNet({**SMALL, "hidden": 32, "own": 8}, {"rendering": (8, 8, 8, 16, 16), "blocks": (1, 1, 1, 0)}).eval()
    take_over(after, before.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(before(*inputs())[0], after(*inputs())[0])
    after(*inputs())[0][0].sum().backward()
    assert after.regressor.own.last.grad.abs().sum() > 0


def test_additions_change_no_output_that_there_was(quiet_blocks):
    before = trained(SMALL)
    weights = {n: v for n, v in before.state_dict().items() if ".parts." not in n}
    more = {"rendering": (8, 8, 8, 16, 16), "blocks": (2, 3, 2, 1)}
    after = JointNet({**SMALL, "hidden": 32}, more).eval()
    take_over(after, weights)
    with torch.inference_mode():
        expected, got = before(*inputs())[1], after(*inputs())[1]
    for a, b in zip(expected, got):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_deeper_finder_finds_the_same(quiet_blocks):
    before, after = FinderNet((8, 8, 16, 16, 16), (1, 1, 1, 1), 8).eval(), FinderNet((8, 8, 16, 16, 16), (1, 2, 3, 2), 8).eval()
    take_over(after, before.state_dict())
    picture = torch.randint(0, 255, (1, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(before(picture), after(picture))
    with pytest.raises(ValueError, match="down32"):
        take_over(FinderNet((8, 8, 16, 16, 32), (1, 1, 1, 1), 8), before.state_dict())


def test_new_channels_learn_something_of_their_own():
    """Under AdamW, which moves copies alike whatever share of them is read."""
    after = net(LARGE).train()
    take_over(after, trained(SMALL).state_dict())
    filters = dict(after.named_parameters())["regressor.trunk.stages.2.0.0.weight"]
    before = filters.detach().flatten(1).clone()
    optimizer = torch.optim.AdamW(after.parameters(), lr=1e-3)
    for _ in range(4):
        regressed, moved = after(*inputs())
        loss = sum(x.float().square().mean() for x in (*regressed, *moved[:2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learnt = filters.detach().flatten(1) - before
    new = learnt[16:]
    assert (new.norm(dim=1) > 0.5 * learnt[:16].norm(dim=1).mean()).all()  # they are read since the first step
    alike = torch.nn.functional.cosine_similarity(new[:, None], learnt[None], dim=-1)
    alike[torch.arange(len(new)), 16 + torch.arange(len(new))] = 0
    assert float(alike.max()) < 0.9


def test_blocks_that_are_new_begin_with_a_say():
    after = net(LARGE)
    take_over(after, trained(SMALL).state_dict())
    gamma = dict(after.named_parameters())["regressor.trunk.stages.3.2.second.1.weight"]
    torch.testing.assert_close(gamma.detach(), torch.full_like(gamma, grow.FIRST_GAMMA))


def test_parts_are_taken_out_of_and_put_into_joint_checkpoints():
    joint, other = trained(SMALL), trained(SMALL)
    for value in other.state_dict().values():
        value.add_(1)
    alone = net(SMALL).regressor
    take_over(alone, joint.state_dict())
    torch.testing.assert_close(alone.maps.weight, joint.regressor.maps.weight)
    take_over(joint, other.regressor.state_dict())
    torch.testing.assert_close(joint.regressor.trunk.stem[0].weight, other.regressor.trunk.stem[0].weight)
    assert not torch.equal(joint.displacement.query.weight, other.displacement.query.weight)
    take_over(joint, other.displacement.state_dict())
    torch.testing.assert_close(joint.displacement.query.weight, other.displacement.query.weight)


@pytest.mark.parametrize(
    ("trunk", "said"),
    [
        ({**LARGE, "widths": (8, 8, 8, 16, 16)}, "at least 16 channels, got 8"),
        ({**LARGE, "widths": (8, 16, 16, 16, 16)}, "stage 0 of the trunk may not grow"),
        ({**SMALL, "neck": 16}, "differ otherwise"),
    ],
)
def test_what_cannot_grow_is_said(trunk, said):
    with pytest.raises((ValueError, RuntimeError), match=said):
        take_over(net(trunk), trained(SMALL).state_dict())
