"""Losses: zero where they must be, smallest at the truth, honest about variances."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.body.joints import SMPL_FLIP, SMPL_PARENTS
from densefit_ros.body.model import joint_shares, outline_vertices, pose
from densefit_ros.geometry import so3
from densefit_ros.types import BodyParams

torch = pytest.importorskip("torch")

from densefit_ros.train.losses import (  # noqa: E402
    DisplacementWeights,
    RegressorWeights,
    attention_loss,
    displacement_loss,
    guide_loss,
    in_view,
    match_loss,
    part_loss,
    project_joints,
    regressor_loss,
)
from densefit_ros.train.torch_body import JointChain, SkinPoints, angle_between, rotmat_from_rot6d_rows  # noqa: E402

W = DisplacementWeights()


def chain(symmetric: bool = False) -> JointChain:
    rng = np.random.default_rng(0)
    template, dirs = rng.normal(0, 0.3, (24, 3)), rng.normal(0, 0.02, (24, 3, 10))
    if symmetric:
        flip = np.asarray(SMPL_FLIP)
        mirror = np.array([-1.0, 1, 1])
        template = 0.5 * (template + template[flip] * mirror)
        dirs = 0.5 * (dirs + dirs[flip] * mirror[:, None])
    return JointChain(template, dirs, np.asarray(SMPL_PARENTS))


def skin() -> SkinPoints:
    rng = np.random.default_rng(1)
    return SkinPoints(rng.normal(0, 0.3, (40, 3)), rng.normal(0, 0.02, (40, 3, 10)), rng.dirichlet(np.ones(24), 40))


def regressor_batch(persons: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    rot6d = torch.randn((persons, 24, 6), generator=generator)
    rotmat = rotmat_from_rot6d_rows(rot6d)
    betas = torch.randn((persons, 10), generator=generator)
    cam = torch.tensor([[0.02, -0.03, math.log(0.4)]]).repeat(persons, 1)
    intrinsics = torch.tensor([[3.0, 3.0, 0.3, 0.6]]).repeat(persons, 1)
    ray = rotmat_from_rot6d_rows(torch.tensor([[1.0, 0, 0, 0, 1, 0.05]])).repeat(persons, 1, 1)
    joints = chain().joints(rotmat, betas)
    batch = {
        "rotmat": rotmat,
        "betas": betas,
        "cam": cam,
        "intrinsics": intrinsics,
        "ray_rotmat": ray,
        "joints_z": joints[..., 2],
    }
    batch["joints_uv"] = project_joints(joints, cam, intrinsics, ray)
    batch["confidence"] = torch.ones(persons)
    batch["person"] = torch.ones(persons, dtype=torch.bool)
    outputs = {"rot6d_rows": rotmat[:, :, :2].flatten(2), "betas": betas, "cam": cam, "joints_uv": batch["joints_uv"]}
    outputs |= {"joints_z": batch["joints_z"], "rot_log_var": torch.full((persons, 24), -2.0)}
    outputs |= {"joints_log_var": torch.full((persons, 24), -4.0), "confidence": torch.full((persons,), 1 - 1e-6)}
    return outputs, batch


def test_the_truth_costs_nothing_but_its_variances():
    outputs, batch = regressor_batch()
    _, parts = regressor_loss(outputs, batch, chain(), skin(), RegressorWeights())
    for name in ("rotation", "joints", "skin", "betas", "pelvis_uv", "scale", "reprojection", "placed", "depth"):
        assert float(parts[name]) < 1e-4, name
    assert float(parts["mpjpe_mm"]) < 0.1


@pytest.mark.parametrize("name", ["rot6d_rows", "betas", "cam", "joints_uv", "joints_z"])
def test_every_output_is_pulled_to_its_truth(name):
    outputs, batch = regressor_batch()
    wrong = outputs[name] + 0.05 * torch.randn(outputs[name].shape, generator=torch.Generator().manual_seed(1))
    wrong.requires_grad_(True)
    total, _ = regressor_loss({**outputs, name: wrong}, batch, chain(), skin(), RegressorWeights())
    total.backward()
    assert torch.isfinite(wrong.grad).all()
    # Against the gradient lies the truth.
    assert float((wrong.grad * (wrong.detach() - outputs[name])).sum()) > 0


# Of the network's training-only heads, added by the task.
OF_HEADS = ("guide", "parts", "attention")


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(RegressorWeights) if f.name not in OF_HEADS])
def test_every_term_counts_with_its_weight(name):
    outputs, batch = regressor_batch()
    generator = torch.Generator().manual_seed(2)
    wrong = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in outputs.items()}
    wrong["confidence"] = torch.full((3,), 0.5)
    weight = getattr(RegressorWeights(), name)
    none, once, twice = (
        float(regressor_loss(wrong, batch, chain(), skin(), dataclasses.replace(RegressorWeights(), **{name: w}))[0])
        for w in (0.0, weight, 2 * weight)
    )
    assert abs(once - none) > 1e-4 and twice - once == pytest.approx(once - none, rel=1e-2, abs=1e-5)


def test_points_of_the_skin_lie_on_the_posed_body():
    body = load_body()
    rng = np.random.default_rng(5)
    params = BodyParams(
        rng.normal(0, 1, (3, 10)).astype(np.float32), rng.normal(0, 1, (3, 3)).astype(np.float32),
        rng.normal(0, 0.5, (3, 23, 3)).astype(np.float32), np.zeros((3, 3), np.float32),
    )  # fmt: skip
    vertices = outline_vertices(body, 64)
    points = SkinPoints(body.v_template[vertices], body.shapedirs[vertices], joint_shares(body, vertices))
    joints = JointChain(body.joint_template, body.joint_shapedirs, body.parents)
    rotmat = torch.from_numpy(so3.exp(params.rotvec).astype(np.float32))
    placed, posed = points.posed(joints, rotmat, torch.from_numpy(params.betas)), pose(body, params)
    np.testing.assert_allclose(placed[0].numpy(), posed.joints - posed.joints[:, :1], atol=1e-5)
    np.testing.assert_allclose(placed[1].numpy(), posed.vertices[:, vertices] - posed.joints[:, :1], atol=1e-5)


def test_a_belly_that_no_joint_shows_is_pulled_to_its_truth():
    outputs, batch = regressor_batch()
    flat = JointChain(np.zeros((24, 3)), np.zeros((24, 3, 10)), np.asarray(SMPL_PARENTS))
    wrong = (outputs["betas"] + 1.0).requires_grad_(True)
    _, parts = regressor_loss({**outputs, "betas": wrong}, batch, flat, skin(), RegressorWeights())
    assert float(parts["shape"]) > 0.01
    # Rotations are judged on the true shape: no bone may be shortened to make up for one.
    assert max(float(parts[name]) for name in ("joints", "skin", "rotation")) < 1e-6


def test_absent_people_teach_the_confidence_alone():
    outputs, batch = regressor_batch()
    batch["person"][:] = False
    batch["confidence"][:] = 0.0
    wrong = {k: (v + 0.3).requires_grad_(True) for k, v in outputs.items() if k != "confidence"}
    confidence = torch.full((3,), 0.7, requires_grad=True)
    total, _ = regressor_loss({**wrong, "confidence": confidence}, batch, chain(), skin(), RegressorWeights())
    total.backward()
    assert float(confidence.grad.min()) > 0
    assert all(v.grad is None or not v.grad.any() for v in wrong.values())


def test_the_best_rotation_variance_is_the_mean_squared_error_per_axis():
    outputs, batch = regressor_batch(persons=1)
    angle = 0.3
    turn = torch.from_numpy(so3.exp(np.array([0, angle, 0.0]))).float()
    outputs["rot6d_rows"] = (batch["rotmat"] @ turn)[:, :, :2].flatten(2)
    losses = []
    grid = np.linspace(-6, 0, 121)
    for log_var in grid:
        outputs["rot_log_var"] = torch.full((1, 24), float(log_var))
        losses.append(float(regressor_loss(outputs, batch, chain(), skin(), RegressorWeights())[0]))
    assert abs(grid[int(np.argmin(losses))] - math.log(angle**2 / 3)) < 0.06


def test_angles_have_finite_gradients_at_zero_and_at_pi():
    for angle in (0.0, 1e-4, 1.0, math.pi):
        rotation = torch.from_numpy(so3.exp(np.array([[0.0, 0, angle]]))).requires_grad_(True)
        value = angle_between(rotation, torch.eye(3, dtype=torch.float64)[None])
        value.sum().backward()
        assert abs(float(value.detach()) - angle) < 5e-3 and torch.isfinite(rotation.grad).all()


def field(persons=2, cells=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = 5 * torch.randn((persons, 2, cells, cells), generator=generator)
    valid = torch.ones((persons, cells, cells), dtype=torch.bool)
    return target, torch.zeros((persons, 1, cells, cells)), valid


def test_zero_displacement_reports_the_start_as_its_error():
    target, log_var, valid = field()
    _, parts = displacement_loss(torch.zeros_like(target), log_var, target, valid, valid, 1.0, W)
    assert abs(float(parts["epe_px"]) - float(parts["zero_px"])) < 1e-3


def test_invalid_cells_have_no_say():
    target, log_var, valid = field()
    valid[:, :2] = False
    flow, spread = torch.zeros_like(target).requires_grad_(True), log_var.clone().requires_grad_(True)
    displacement_loss(flow, spread, target, valid, valid, 1.0, W)[0].backward()
    assert not flow.grad[:, :, :2].any() and not spread.grad[:, :, :2].any()
    assert flow.grad[:, :, 2:].all() and spread.grad[:, :, 2:].all()


def test_the_best_variance_is_that_of_the_laplace_density():
    """With all errors of length r the likelihood is best at b = r / 2, whose variance per component is 3 b^2."""
    target, log_var, valid = field()
    r = 4.0
    flow = target + torch.tensor([r, 0.0])[None, :, None, None]
    best = math.log(3 * (r / 2) ** 2)
    slopes = []
    for offset in (-0.1, 0.0, 0.1):
        spread = (log_var + best + offset).requires_grad_(True)
        displacement_loss(flow, spread, target, valid, valid, 1.0, W)[0].backward()
        slopes.append(float(spread.grad.sum()))
    assert slopes[0] < -0.01 and abs(slopes[1]) < 1e-3 and slopes[2] > 0.01


def test_hidden_cells_are_told_apart_by_their_variance_rather_than_pulled():
    target, log_var, valid = field()
    hidden = torch.zeros_like(valid)
    pulls = []
    for visible in (valid, hidden):
        flow = torch.zeros_like(target).requires_grad_(True)
        displacement_loss(flow, log_var, target, valid, visible, 0.0, W)[0].backward()
        pulls.append(float(flow.grad.norm()))
    assert pulls[1] < 0.5 * pulls[0]


def test_small_starts_count_more_per_pixel():
    """One pixel of harm on a perfect start costs more than on one that is 20 px off."""
    _, log_var, valid = field(persons=1)
    costs = []
    for length in (0.0, 20.0):
        target = torch.zeros((1, 2, 4, 4))
        target[:, 0] = length
        flow = target.clone()
        flow[:, 1] += 1.0
        costs.append(float(displacement_loss(flow, log_var[:1], target, valid, valid, 0.0, W)[0]))
    assert costs[0] > 5 * costs[1]


def test_mirroring_people_commutes_with_posing_them():
    from densefit_ros.train.sources import mirror

    body = chain(symmetric=True)
    _, batch = regressor_batch()
    joints = body.joints(batch["rotmat"], batch["betas"])
    batch["joints_uv"] = project_joints(joints, batch["cam"], batch["intrinsics"], batch["ray_rotmat"])
    batch["joints_z"] = joints[..., 2]
    arrays = {k: v.numpy() for k, v in batch.items()} | {
        "image": np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    }
    which = np.array([True, False, True])
    out = mirror(arrays, which)
    t = {k: torch.from_numpy(v) for k, v in out.items()}
    joints = body.joints(t["rotmat"], t["betas"])
    np.testing.assert_allclose(project_joints(joints, t["cam"], t["intrinsics"], t["ray_rotmat"]), out["joints_uv"], atol=2e-4)
    np.testing.assert_allclose(joints[..., 2], out["joints_z"], atol=1e-5)
    np.testing.assert_array_equal(out["image"][0], arrays["image"][0][:, ::-1])
    np.testing.assert_array_equal(out["rotmat"][1], arrays["rotmat"][1])
    twice = mirror(out, which)
    for name in arrays:
        np.testing.assert_allclose(twice[name], arrays[name], atol=1e-6, err_msg=name)


def test_attention_is_drawn_to_the_joints_and_joints_outside_have_no_say():
    uv = torch.zeros((1, 24, 2))
    uv[0, 0] = torch.tensor([0.25, -0.125])  # column 5.5, row 2.5 of an 8 x 8 grid
    uv[0, 1] = torch.tensor([0.7, 0.0])
    logits = torch.zeros((1, 24, 8, 8), requires_grad=True)
    attention_loss(logits, uv, torch.ones(1, dtype=torch.bool)).backward()
    strongest = np.unravel_index(int(torch.argmin(logits.grad[0, 0])), (8, 8))
    assert strongest in {(2, 5), (2, 6), (3, 5), (3, 6)}
    assert not logits.grad[0, 1].any() and logits.grad[0, 2].any()
    assert float(attention_loss(logits, uv, torch.zeros(1, dtype=torch.bool)).detach()) == 0.0


def test_attention_on_the_middle_columns_keeps_to_the_square():
    uv = torch.zeros((1, 24, 2))
    uv[0, 0] = torch.tensor([0.1875, -0.0625])  # column 5 of the square's 8, of which the middle 4 are seen: column 3; row 3
    uv[0, 1] = torch.tensor([0.3, 0.0])  # in the square, beside what is seen
    logits = torch.zeros((1, 24, 8, 4), requires_grad=True)
    attention_loss(logits, uv, torch.ones(1, dtype=torch.bool)).backward()
    assert np.unravel_index(int(torch.argmin(logits.grad[0, 0])), (8, 4)) == (3, 3)
    assert not logits.grad[0, 1].any() and logits.grad[0, 2].any()
    assert in_view(uv, 0.5)[0, :2].tolist() == [True, False] and in_view(uv, 1.0)[0, :2].all()


def test_the_guide_knows_the_person_by_its_colours():
    colour = torch.zeros((1, 3, 4, 4))
    colour[:, :, 1:3] = 0.5
    perfect = torch.cat([torch.where(colour[:, :1] > 0, 20.0, -20.0), colour], 1)
    assert float(guide_loss(perfect, colour)) < 1e-6
    elsewhere = perfect.clone()
    elsewhere[:, 1:, 0] = 9.0  # colours off the person do not matter
    assert float(guide_loss(elsewhere, colour)) < 1e-6
    assert float(guide_loss(-perfect, colour)) > 10


def test_parts_count_only_where_the_person_is_seen():
    part = torch.full((1, 4, 4), 24, dtype=torch.uint8)
    part[0, 1, 2] = 7
    logits = torch.zeros((1, 24, 4, 4), requires_grad=True)
    part_loss(logits, part).backward()
    assert logits.grad[0, 7, 1, 2] < 0 < logits.grad[0, 6, 1, 2]
    assert int((logits.grad != 0).sum()) == 24
    assert float(part_loss(logits, torch.full_like(part, 24))) == 0.0


def test_match_loss_is_the_cross_entropy_over_all_cells():
    generator = torch.Generator().manual_seed(4)
    persons, rows, columns = 3, 6, 4
    query, key = (torch.randn((persons, rows * columns, 5), generator=generator, requires_grad=True) for _ in range(2))
    flow = 8 * torch.randn((persons, 2, 2 * rows, 2 * columns), generator=generator)
    valid = torch.rand((persons, 2 * rows, 2 * columns), generator=generator) < 0.6
    valid[1] = False  # nobody there
    visible = torch.rand(valid.shape, generator=generator) < 0.8
    loss = match_loss(query, key, flow, valid, visible)
    log_p = (query @ key.transpose(1, 2)).log_softmax(-1)
    terms = []
    for p in range(persons):
        for r in range(rows):
            for c in range(columns):
                u, v = c + flow[p, 0, 2 * r + 1, 2 * c + 1] / 8, r + flow[p, 1, 2 * r + 1, 2 * c + 1] / 8
                if not (valid & visible)[p, 2 * r + 1, 2 * c + 1] or not (-0.5 < u < columns - 0.5 and -0.5 < v < rows - 0.5):
                    continue
                du, dv = torch.arange(columns) - u, torch.arange(rows) - v
                target = (-0.5 * (dv[:, None] ** 2 + du[None] ** 2)).flatten().softmax(0)
                terms.append(-(target * log_p[p, r * columns + c]).sum())
    assert len(terms) > 10
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    assert float(match_loss(query, key, flow, valid & False, visible)) == 0.0


def test_mirrored_pairs_keep_picture_rendering_and_flow_together():
    from densefit_ros.train.sources import JointSource, mirror_pairs, mirrored_colour

    source = JointSource(seed=5, count=2, size=96, easy=1.0, subjects=4, starts=1, degrees=8.0)
    made = source.batch(0)
    pairs = {name: made[name][:, 0] for name in ("rendering", "flow", "valid", "visible")}
    pairs |= {"image": made["image"], "colour": source.body_colour(source.crops(0), 4)}
    which = np.array([True, False])
    out = mirror_pairs(pairs, which)
    out["colour"][which] = mirrored_colour(pairs["colour"][which][..., ::-1])

    def agreement(batch, i):
        """Mean difference between a cell's body colour and the picture's body colour where the flow sends it."""
        rows, columns = np.nonzero(batch["valid"][i] & batch["visible"][i])
        flow = batch["flow"][i].astype(np.float32)[:, rows, columns] / 4
        u, v = np.round(columns + flow[0]).astype(int), np.round(rows + flow[1]).astype(int)
        ok = (u >= 0) & (u < 24) & (v >= 0) & (v < 24)
        there = batch["colour"][i].astype(np.float32)[:, v[ok], u[ok]]
        own = batch["rendering"][i].astype(np.float32)[4 * rows[ok] + 2, 4 * columns[ok] + 2, 7:10].T
        return np.abs(there - own)[:, there.any(0)].mean()

    assert agreement(pairs, 0) < 0.06
    assert agreement(out, 0) < 0.06
    unmoved = dict(out, flow=pairs["flow"], colour=pairs["colour"])
    assert agreement(unmoved, 0) > 2 * agreement(out, 0)  # the measure sees a rendering mirrored beside a picture that is not
    twice = mirror_pairs(out, which)
    for name in set(pairs) - {"colour"}:
        np.testing.assert_array_equal(out[name][1], pairs[name][1], err_msg=name)
        inner = (slice(None), slice(None), slice(2, -2)) if name in ("image", "rendering") else Ellipsis
        np.testing.assert_allclose(twice[name][inner], pairs[name][inner], atol=2e-3, err_msg=name)
