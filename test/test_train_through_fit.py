"""The loss of the body that a fit would make of displacements, and the derivatives that it is made of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densefit_ros.body.assets import load_body  # noqa: E402
from densefit_ros.body.joints import SMPL_FLIP  # noqa: E402
from densefit_ros.body.model import face_parts, pose  # noqa: E402
from densefit_ros.fit import reference  # noqa: E402
from densefit_ros.fit.layout import COL_BETA, COL_ROT  # noqa: E402
from densefit_ros.geometry import so3  # noqa: E402
from densefit_ros.synth.displacement import DisplacementPairs  # noqa: E402
from densefit_ros.train.sources import JointSource  # noqa: E402
from densefit_ros.train.through_fit import (  # noqa: E402
    CELLS,
    NAMES,
    POINTS,
    BodyMotion,
    FitLabeller,
    fit_loss,
    mirror_labels,
    step_between,
)
from densefit_ros.types import NUM_UNKNOWNS, BodyParams, Surface  # noqa: E402


def some_body(rng: np.random.Generator, persons: int = 2, scale: float = 0.4) -> BodyParams:
    return BodyParams(
        rng.normal(size=(persons, 10)),
        np.array([np.pi, 0, 0]) + 0.3 * rng.normal(size=(persons, 3)),
        scale * rng.normal(size=(persons, 23, 3)),
        np.array([0.1, -0.2, 3.0]) + 0.1 * rng.normal(size=(persons, 3)),
    )


def moved(body, start: BodyParams, step: np.ndarray) -> BodyParams:
    people = [reference.to_params(reference.retract(body, reference.from_params(start.person(i)), s)) for i, s in enumerate(step)]
    return BodyParams.stack(people)


def test_derivatives_are_those_of_the_fits_reference():
    rng, body = np.random.default_rng(1), load_body()
    start = some_body(rng)
    # Vertices that one joint carries alone: where several do, the loss takes a shorter way.
    alone = np.flatnonzero(body.skin_weight.max(1) > 0.999)[::97][:12]
    got = BodyMotion(body).at(
        start, np.broadcast_to(alone[None, :, None], (2, 12, 1)), np.ones((2, 12, 1)), pose(body, start).vertices[:, alone]
    )
    joints = BodyMotion(body).joints(start)
    for i in range(2):
        state = reference.from_params(start.person(i))
        posed = reference.forward(body, state)
        for k, vertex in enumerate(alone):
            weight, rest, by_beta = reference._skin(body, np.array([vertex]), state)
            _, expected = reference.combination(body, state, posed, weight, rest, by_beta)
            np.testing.assert_allclose(got[i, k], expected, atol=2e-3)
        for j in range(24):
            weight = np.eye(24)[j : j + 1]
            _, expected = reference.combination(
                body, state, posed, weight, posed.rest[j : j + 1], body.joint_shapedirs[j : j + 1]
            )
            np.testing.assert_allclose(joints[i, j], expected, atol=1e-5)


def test_points_between_joints_move_as_stated_but_for_a_few_percent():
    rng, body = np.random.default_rng(2), load_body()
    start = some_body(rng, 1)
    chosen = rng.choice(body.num_vertices, 300, replace=False)
    by_step = BodyMotion(body).at(
        start, chosen[None, :, None], np.ones((1, 300, 1)), pose(body, start).vertices[:, chosen].astype(np.float32)
    )
    step = 1e-3 * rng.normal(size=(1, NUM_UNKNOWNS))
    truth = pose(body, moved(body, start, step)).vertices - pose(body, start).vertices
    error = np.linalg.norm(by_step[0] @ step[0] - truth[0, chosen], axis=-1)
    assert error.mean() < 0.05 * np.linalg.norm(truth[0, chosen], axis=-1).mean()


def test_the_step_between_two_bodies_is_the_fits():
    rng, body = np.random.default_rng(3), load_body()
    start, step = some_body(rng), 0.2 * rng.normal(size=(2, NUM_UNKNOWNS))
    np.testing.assert_allclose(step_between(body, start, moved(body, start, step)), step, atol=1e-5)


def labels_of(seed: int = 4, noise: float = 0.05):
    """Labels of two starts seen as 56 x 32 cells of random faces, their unknown step, and the intrinsics."""
    rng, body = np.random.default_rng(seed), load_body()
    start = some_body(rng)
    truth = moved(body, start, noise * rng.normal(size=(2, NUM_UNKNOWNS)))
    face = rng.integers(0, body.num_faces, (2, 224, 224)).astype(np.int32)
    bary = rng.dirichlet([1, 1, 1], (2, 224, 224)).astype(np.float32)
    blank = np.zeros((2, 224, 224, 3), np.float32)
    surface = Surface(face, bary, blank[..., 0], blank, blank, blank, np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1)))
    valid = rng.random((2, 56, 32)) < 0.3
    intrinsics = np.array([[300, 310, 112, 112], [400, 390, 100, 120]], np.float32)
    labeller = FitLabeller(body, face_parts(body))
    pairs = DisplacementPairs(
        blank,
        np.zeros((2, 2, 56, 56)),
        valid,
        valid,
        surface,
        start,
        pose(body, start).vertices.astype(np.float32),
        np.zeros(2, bool),
    )
    labels = labeller.labels(rng, pairs, truth, intrinsics, valid, slice(12, 44))
    return body, start, truth, labels, surface, intrinsics, valid


def test_labels_say_how_pixels_and_bodies_move():
    body, start, _, labels, surface, intrinsics, valid = labels_of()
    assert labels["fit_cell"].shape == (2, CELLS) and labels["fit_body_by_step"].shape == (2, 24 + POINTS, 3, NUM_UNKNOWNS)
    rng = np.random.default_rng(5)
    step = 1e-3 * rng.normal(size=(2, NUM_UNKNOWNS))
    then, now = pose(body, moved(body, start, step)), pose(body, start)
    for i in range(2):
        cells = labels["fit_cell"][i]
        assert valid[i].reshape(-1)[cells].all() and len(set(cells)) == CELLS
        row, column = np.divmod(cells, 32)
        at = (i, 4 * row + 2, 4 * (column + 12) + 2)

        def pixels(posed, i=i, at=at):
            x = np.einsum("nk,nkc->nc", surface.bary[at], posed.vertices[i][body.faces[surface.face_id[at]]])
            return intrinsics[i, :2] * x[:, :2] / x[:, 2:]

        move = pixels(then) - pixels(now)
        got = labels["fit_pixel_by_step"][i].astype(np.float64) @ step[i]
        assert np.linalg.norm(got - move, axis=1).mean() < 0.06 * np.linalg.norm(move, axis=1).mean()
        joints = (then.joints - now.joints)[i]
        got = labels["fit_body_by_step"][i, :24].astype(np.float64) @ step[i]
        np.testing.assert_allclose(got, joints - joints[:1], atol=2e-5)


def tensors(labels):
    return {n: torch.from_numpy(np.ascontiguousarray(v)).float() for n, v in labels.items()}


def test_perfect_sure_displacements_leave_little_and_none_leave_the_start():
    *_, labels, _, _, _ = labels_of()
    target = torch.zeros(2, 2, 56, 32)
    sure, unsure = (torch.full((2, 1, 56, 32), v) for v in (-12.0, 12.0))
    assert float(fit_loss(target, sure, target, tensors(labels))[0]) < 0.1
    loss, mm = fit_loss(target, unsure, target, tensors(labels))
    assert 0.6 < float(loss) < 1.0 and float(mm) > 20  # the start's own error over itself and 20 mm


def test_an_error_that_a_part_shares_costs_more_than_one_that_changes_from_cell_to_cell():
    *_, labels, _, _, _ = labels_of()
    rng = np.random.default_rng(6)
    target, log_var = torch.zeros(2, 2, 56, 32), torch.full((2, 1, 56, 32), 2.0)
    labels = tensors(labels) | {"fit_step": torch.zeros(2, NUM_UNKNOWNS)}
    shared = torch.zeros(2, 2, 56, 32)
    sign_of_part = torch.from_numpy(rng.choice([-2.0, 2.0], (2, 24))).float()
    for i in range(2):
        shared[i].flatten(1)[:, labels["fit_cell"][i].long()] = sign_of_part[:, labels["fit_part"][i].long()]
    mixed = 2.0 * torch.from_numpy(rng.choice([-1.0, 1.0], (2, 2, 56, 32))).float()
    assert float(fit_loss(shared, log_var, target, labels)[1]) > 1.5 * float(fit_loss(mixed, log_var, target, labels)[1])


def test_the_gradient_reaches_displacements_and_variances_and_is_that_of_the_loss():
    *_, labels, _, _, _ = labels_of()
    labels = {n: v.double() for n, v in tensors(labels).items()}
    generator = torch.Generator().manual_seed(1)
    flow = torch.randn(2, 2, 56, 32, dtype=torch.float64, generator=generator).requires_grad_()
    log_var = torch.zeros(2, 1, 56, 32, dtype=torch.float64).requires_grad_()
    target = torch.zeros(2, 2, 56, 32, dtype=torch.float64)

    def loss(flow, log_var):
        return fit_loss(flow, log_var, target, labels)[0]

    loss(flow, log_var).backward()
    assert flow.grad.abs().sum() > 0 and log_var.grad.abs().sum() > 0
    # Differences of the mean step alone: robust weights are held on purpose, and are all 1 where variances are large.
    log_var.data += 9.0
    flow.grad = None
    loss(flow, log_var).backward()
    shift = torch.randn(2, 2, 56, 32, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        near = (loss(flow + 1e-3 * shift, log_var) - loss(flow - 1e-3 * shift, log_var)) / 2e-3
    assert float((flow.grad * shift).sum()) == pytest.approx(float(near), rel=0.02)


def test_nobody_costs_nothing():
    *_, labels, _, _, _ = labels_of()
    labels = tensors({**labels, "fit_cell": np.full_like(labels["fit_cell"], -1)})
    flow = torch.ones(2, 2, 56, 32, requires_grad=True)
    loss, _ = fit_loss(flow, torch.zeros(2, 1, 56, 32), torch.zeros(2, 2, 56, 32), labels)
    loss.backward()
    assert float(loss.detach()) == 0 and not flow.grad.any()


def test_mirrored_labels_are_those_of_the_mirrored_body():
    body, start, truth, labels, *_ = labels_of()
    flip = np.asarray(SMPL_FLIP)

    def mirrored(params: BodyParams) -> BodyParams:
        rotmat = so3.exp(params.rotvec)
        m = np.diag([-1.0, 1, 1])
        rotvec = so3.log(m @ rotmat[:, flip] @ m)
        # The rest pelvis lies a little beside the middle; what moves is the posed pelvis.
        return dataclasses.replace(
            params, root_rotvec=rotvec[:, 0], joint_rotvec=rotvec[:, 1:], t_camera_root=params.t_camera_root * [-1, 1, 1]
        )

    out = mirror_labels(labels, np.array([True, False]), 32)
    expected = step_between(body, mirrored(start), mirrored(truth))
    np.testing.assert_allclose(out["fit_step"][0], expected[0], atol=1e-5)
    joints = BodyMotion(body).joints(mirrored(start))
    joints = (joints - joints[:, :1])[0, flip]  # the order of points does not matter to the loss: it stays
    got = out["fit_body_by_step"][0, :24].astype(np.float32)
    np.testing.assert_allclose(got[..., :COL_BETA], joints[..., :COL_BETA], atol=5e-3)
    np.testing.assert_array_equal(out["fit_pixel_by_step"][0, :, 1, 0], -labels["fit_pixel_by_step"][0, :, 1, 0])
    np.testing.assert_array_equal(
        out["fit_pixel_by_step"][0, :, 0, COL_ROT : COL_ROT + 1], -labels["fit_pixel_by_step"][0, :, 0, COL_ROT : COL_ROT + 1]
    )
    row, column = np.divmod(labels["fit_cell"][0], 32)
    np.testing.assert_array_equal(out["fit_cell"][0], row * 32 + 31 - column)
    for name in NAMES:
        np.testing.assert_array_equal(out[name][1], labels[name][1])
        again = mirror_labels(out, np.array([True, False]), 32)[name]
        np.testing.assert_array_equal(again, labels[name])


def test_the_source_makes_labels_that_predict_its_true_flow():
    source = JointSource(seed=3, count=4, subjects=4, easy=1.0, size=96, starts=2)
    batch = source.augment(source.batch(0), np.random.default_rng(1))
    for k in range(2):
        cell, step = batch["fit_cell"][:, k], batch["fit_step"][:, k]
        for i in np.flatnonzero((cell >= 0).sum(1) > 20):
            own = cell[i][cell[i] >= 0]
            flow = batch["flow"][i, k].reshape(2, -1)[:, own].T.astype(np.float64)
            told = batch["fit_pixel_by_step"][i, k][: len(own)].astype(np.float64) @ step[i]
            length = np.linalg.norm(flow, axis=1).mean()
            assert np.linalg.norm(told - flow, axis=1).mean() < 0.35 * length + 0.3, (i, k)
