"""The displacement network's definition."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from densefit_ros.displace.network import LOG_VAR_MAX, LOG_VAR_MIN, DisplacementNet, RenderingConv  # noqa: E402

SMALL = {"fine": 8, "neck": 8, "rendering": (8, 8, 8, 16, 16)}


def inputs(persons=2, size=64, fine=8, cells=16):
    generator = torch.Generator().manual_seed(1)
    s4 = torch.rand((persons, fine, size // 4, size // 4), generator=generator)
    s8 = torch.rand((persons, cells, size // 8, size // 8), generator=generator)
    rendering = torch.rand((persons, size, size, 11), generator=generator)
    rendering[..., 10] = 1
    rendering[:, : size // 2] = 0
    return s4, s8, rendering


def test_a_fresh_network_leaves_everything_where_it_is():
    flow, log_var = DisplacementNet()(*inputs(fine=32, cells=96))
    assert flow.shape == (2, 2, 16, 16) and log_var.shape == (2, 1, 16, 16)
    assert not flow.any()
    assert 3.0 < float(torch.exp(0.5 * log_var.detach()).mean()) < 8.0  # px


def test_size_is_within_the_budget():
    parameters = sum(p.numel() for p in DisplacementNet().parameters())
    assert parameters < 1.7e6  # 3.4 MB of half precision: the trunk is the regressor's


def test_log_variance_is_bounded_for_any_weights():
    net = DisplacementNet(**SMALL)
    torch.nn.init.normal_(net.head.weight, std=1e3)
    log_var = net(*inputs())[1]
    assert float(log_var.detach().min()) >= LOG_VAR_MIN - 1e-5 and float(log_var.detach().max()) <= LOG_VAR_MAX + 1e-5


def test_filters_normalise_the_rendering():
    torch.manual_seed(0)
    conv, rendering = DisplacementNet().render2[0], inputs()[2]
    mask = rendering[..., 10:]
    rgb, depth, normals, colours = rendering[..., 0:3], rendering[..., 3:4], rendering[..., 4:7], rendering[..., 7:10]
    planes = torch.cat([(rgb - 0.45 * mask) * 4, depth / 0.3, normals, (colours - 0.5 * mask) * 3, mask], -1)
    expected = torch.nn.functional.conv2d(planes.permute(0, 3, 1, 2), conv.weight, stride=2, padding=1)
    torch.testing.assert_close(conv(rendering.permute(0, 3, 1, 2)), expected, atol=1e-4, rtol=1e-4)
    back = RenderingConv.as_normalised(RenderingConv.as_it_comes(conv.weight))
    torch.testing.assert_close(back, conv.weight, atol=1e-5, rtol=1e-5)


def test_folding_the_normalisation_changes_nothing():
    torch.manual_seed(0)
    net = DisplacementNet(**SMALL)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    for _ in range(3):
        net(*inputs())
    net.eval()
    before = [x.detach() for x in net(*inputs())]
    state = {k: v for k, v in net.state_dict().items()}
    after = net.finish()(*inputs())
    for b, a in zip(before, after):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    names = set(net.state_dict())
    assert "render4.0.bias" in names and not any("running" in n for n in names) and len(names) < len(state)
    assert names == set(DisplacementNet(**SMALL, fused=True).state_dict())


def test_columns_that_nobody_looked_at_are_left_where_they_are_with_the_largest_variance():
    torch.manual_seed(0)
    net = DisplacementNet(**SMALL).eval()
    torch.nn.init.normal_(net.head.weight, std=0.1)
    s4, s8, rendering = inputs()
    s4, s8 = s4[..., 4:12].contiguous(), s8[..., 2:6].contiguous()  # 32 of 64 columns
    with torch.inference_mode():
        flow, log_var = net(s4, s8, rendering[:, :, 16:48])
        alone = net.answer(s4, s8, rendering[:, :, 16:48])
    assert flow.shape == (2, 2, 16, 16) and alone[0].shape == (2, 2, 16, 8)
    beside = [0, 1, 2, 3, 12, 13, 14, 15]
    assert not flow[..., beside].any() and (log_var[..., beside] == LOG_VAR_MAX).all() and alone[0].any()
    for all_columns, seen in zip((flow, log_var), alone):
        torch.testing.assert_close(all_columns[..., 4:12], seen)


def test_the_match_in_training_reads_what_it_reads_when_exported():
    torch.manual_seed(0)
    net = DisplacementNet(**SMALL)
    query, key, value = torch.randn((2, 12, 7)), torch.randn((2, 12, 7)), torch.randn((2, 12, 4))
    torch.testing.assert_close(net.train()._read(query, key, value), net.eval()._read(query, key, value), atol=1e-5, rtol=1e-5)
