"""What the solver promises: recovery, monotone cost, batch equals loop, warm starts, calibrated covariance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fit_helpers import CAMERA, body, draw_around, make_matches, perturb, random_params, realistic_params, vertex_error_mm

from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.errors import ConfigError, ShapeError
from densefit_ros.fit import linear
from densefit_ros.fit.lift import lift
from densefit_ros.fit.options import ROUGH, Anchor, Claim, FitOptions, PoseGaussian
from densefit_ros.fit.priors import make_prior
from densefit_ros.fit.solver import Fitter
from densefit_ros.geometry.camera import project
from densefit_ros.types import BodyParams, Correspondences, FitStatus, Keypoints

INF = float("inf")


def _of_person(m: Correspondences, i: int) -> Correspondences:
    k = m.person == i
    return Correspondences(np.zeros(k.sum(), np.int32), m.face[k], m.bary[k], m.target_uv[k], m.sqrt_weight[k])


def test_recovers_random_poses_from_fifteen_degrees():
    rng = np.random.default_rng(11)
    b, truth = body(), realistic_params(rng, 100)
    start = perturb(rng, truth, 15.0, t=0.03)
    assert vertex_error_mm(b, start, truth).mean() > 150
    options = replace(ROUGH, robust_scale=100.0, robust_start=100.0, shape_sigma=30.0, limit_sigma_rad=INF, tolerance=1e-7)
    fitter = Fitter(b, max_persons=5, max_points=400, options=options)
    matches, recovered = make_matches(rng, b, truth, 400), 0
    for first in range(0, 100, 5):
        part = slice(first, first + 5)
        several = BodyParams(*(getattr(start, n)[part] for n in ("betas", "root_rotvec", "joint_rotvec", "t_camera_root")))
        mine = Correspondences.concat(
            [replace(_of_person(matches, first + i), person=np.full(400, i, np.int32)) for i in range(5)]
        )
        result = fitter.solve(several, CAMERA, mine, iterations=20)
        recovered += sum(vertex_error_mm(b, result.params.person(i), truth.person(first + i))[0] < 1.0 for i in range(5))
        assert (np.diff(result.cost, axis=1) <= 1e-6 * result.cost[:, :1]).all()
    assert recovered >= 95


def test_batch_equals_loop():
    rng = np.random.default_rng(1)
    b, truth = body(), random_params(rng, 3)
    start, matches = perturb(rng, truth, 4.0), make_matches(rng, b, truth, 150, 1.0)
    anchor = Anchor(start, 0.1, 0.3, 0.05)
    fitter = Fitter(b, max_persons=3, max_points=200)
    batch = fitter.solve(start, CAMERA, matches, anchors=[anchor])
    shuffled = rng.permutation(len(matches))
    mixed = Correspondences(*(getattr(matches, n)[shuffled] for n in ("person", "face", "bary", "target_uv", "sqrt_weight")))
    again = fitter.solve(start, CAMERA, mixed, anchors=[anchor])
    for i in range(3):
        one = fitter.solve(start.person(i), CAMERA, _of_person(matches, i), anchors=[replace(anchor, params=start.person(i))])
        for name in ("betas", "root_rotvec", "joint_rotvec", "t_camera_root"):
            np.testing.assert_array_equal(getattr(one.params, name)[0], getattr(batch.params, name)[i])
        np.testing.assert_allclose(one.cost[0], batch.cost[i], rtol=1e-6)
        np.testing.assert_allclose(one.joint_covariance[0], batch.joint_covariance[i], rtol=1e-3, atol=1e-9)
    assert np.abs(vertex_error_mm(b, again.params, batch.params)).max() < 0.1  # only the order of float32 sums differs


def test_device_only_solver_agrees_with_lapack():
    rng = np.random.default_rng(2)
    b, truth = body(), random_params(rng, 2)
    start, matches = perturb(rng, truth, 4.0), make_matches(rng, b, truth, 200, 1.0)
    results = [
        Fitter(b, max_persons=2, max_points=200, options=FitOptions(linear=name)).solve(start, CAMERA, matches)
        for name in ("lapack", "tile")
    ]
    np.testing.assert_allclose(results[0].cost, results[1].cost, rtol=1e-3)
    assert vertex_error_mm(b, results[0].params, results[1].params).max() < 0.5


def test_a_step_that_leads_uphill_is_no_convergence(monkeypatch):
    """Where a matrix cannot be factored CUDA gives numbers, and they may say that the model rises."""
    rng, real, calls = np.random.default_rng(2), linear.step, []

    def step(gram, cur, damping, out):
        real(gram, cur, damping, out)
        if not calls:
            out *= -1
        calls.append(damping.copy())

    monkeypatch.setattr(linear, "step", step)
    b, truth = body(), random_params(rng, 1)
    start, matches = perturb(rng, truth, 4.0), make_matches(rng, b, truth, 200, 1.0)
    fitter = Fitter(b, max_persons=1, max_points=200, options=FitOptions(linear="lapack", guard=False))
    result = fitter.solve(start, CAMERA, matches, iterations=6)
    assert len(calls) > 1 and calls[1] > calls[0], "the first step was rejected, the next was damped more"
    assert result.accepted[0] > 0 and vertex_error_mm(b, result.params, truth)[0] < 0.5 * vertex_error_mm(b, start, truth)[0]


def test_recording_a_fit_compiles_nothing_but_the_fit(monkeypatch):
    """Warp compiles every module of the process before a recording, with drivers before CUDA 12.3, unless told not to."""
    from densefit_ros.fit import solver

    told, real = [], solver.wp.ScopedCapture
    monkeypatch.setattr(solver.wp, "ScopedCapture", lambda **rest: told.append(rest) or real(**rest))
    rng, b = np.random.default_rng(2), body()
    truth = random_params(rng, 1)
    Fitter(b, max_persons=1, max_points=64).solve(truth, CAMERA, make_matches(rng, b, truth, 50, 1.0))
    assert told and all(rest["force_module_load"] is False for rest in told)


def test_a_warm_start_needs_no_more_iterations_than_a_cold_one():
    rng = np.random.default_rng(3)
    b, truth = body(), random_params(rng, 10, 0.2)
    matches = make_matches(rng, b, truth, 300, 1.0)
    fitter = Fitter(b, max_persons=10, max_points=300, options=FitOptions(guard=False, damping=1e-3))

    def iterations(degrees):
        cost = fitter.solve(perturb(rng, truth, degrees), CAMERA, matches, iterations=15).cost
        return (cost > 1.01 * cost[:, -1:]).sum(1)  # steps until within a hundredth of the final cost

    assert iterations(1.0).mean() <= iterations(12.0).mean()


def test_more_evidence_and_anchors_pull_as_told():
    rng = np.random.default_rng(4)
    b, truth = body(), random_params(rng, 1, 0.2)
    other = perturb(rng, truth, 5.0, beta=0.3, t=0.02)
    fitter = Fitter(b, max_persons=1, max_points=300, options=FitOptions(guard=False, min_matches=0, shape_sigma=INF))
    free = fitter.solve(other, CAMERA, make_matches(rng, b, truth, 300), iterations=8)
    held = fitter.solve(other, CAMERA, make_matches(rng, b, truth, 300), anchors=[Anchor(other, 1e-3, 1e-3, 1e-3)], iterations=8)
    assert vertex_error_mm(b, free.params, truth)[0] < 0.2 * vertex_error_mm(b, other, truth)[0]
    assert vertex_error_mm(b, held.params, other)[0] < 0.1 * vertex_error_mm(b, other, truth)[0]
    # Two equal anchors and nothing else: the middle.
    a, c = random_params(rng, 1, 0.05), None
    c = draw_around(rng, a, 0.05, 0.2, 0.05)
    both = fitter.solve(
        a, CAMERA, Correspondences.empty(), anchors=[Anchor(a, 0.1, 1.0, 0.1), Anchor(c, 0.1, 1.0, 0.1)], iterations=8
    )
    np.testing.assert_allclose(both.params.t_camera_root, (a.t_camera_root + c.t_camera_root) / 2, atol=1e-4)
    np.testing.assert_allclose(both.params.joint_rotvec, (a.joint_rotvec + c.joint_rotvec) / 2, atol=3e-3)


def test_keypoints_alone_lift_a_body_from_the_rest_pose():
    """2D keypoints and scale-free directions, from a T-pose three metres away: what lifting a detector needs."""
    rng = np.random.default_rng(5)
    b, truth = body(), realistic_params(rng, 12)
    marks = b.landmarks["mediapipe33"]
    xyz = landmark_positions(marks, pose(b, truth))
    keypoints = Keypoints(
        "mediapipe33", project(CAMERA, xyz + 0.0), np.repeat(marks.placed[None].astype(float), 12, 0), 0.7 * (xyz - xyz[:, :1])
    )
    from densefit_ros.fit.lift import lift

    result = lift(Fitter(b, max_persons=12, max_points=8, options=ROUGH), keypoints, CAMERA)
    joints = pose(b, result.params).joints
    error = np.linalg.norm((joints - joints[:, :1]) - (pose(b, truth).joints - pose(b, truth).joints[:, :1]), axis=-1)
    uv = project(CAMERA, landmark_positions(marks, pose(b, result.params)))
    assert np.median(np.abs(uv - keypoints.uv)[:, marks.placed]) < 3.0
    assert np.median(error.mean(1)) < 0.06
    assert (result.status <= FitStatus.MAX_ITERATIONS).mean() >= 0.9


def test_covariance_is_calibrated():
    """Starts drawn from the anchor, noise from the weights: the squared normalised joint error averages one."""
    rng = np.random.default_rng(6)
    b, truth = body(), random_params(rng, 60, 0.25)
    start = draw_around(rng, truth, 0.1, 0.5, 0.05)
    options = FitOptions(shape_sigma=INF, limit_sigma_rad=INF, guard=False)
    fitter = Fitter(b, max_persons=60, max_points=400, options=options)
    for claimed in (1.0, 2.0):  # overconfident weights are found out by the residuals
        matches = make_matches(rng, b, truth, 400, 2.0)
        matches = replace(matches, sqrt_weight=np.full(len(matches), 1.0 / claimed))
        result = fitter.solve(start, CAMERA, matches, anchors=[Anchor(start, 0.1, 0.5, 0.05)], iterations=6)
        error = pose(b, result.params).joints - pose(b, truth).joints
        per_axis = (error**2 / np.einsum("pjaa->pja", result.joint_covariance)).mean((0, 1))
        assert (per_axis > 0.7).all() and (per_axis < 1.5).all(), per_axis
        full = np.einsum("pja,pjab,pjb->pj", error, np.linalg.inv(result.joint_covariance.astype(float)), error) / 3
        assert 0.7 < full.mean() < 1.5


def test_information_is_symmetric_positive_and_reports_what_is_unseen():
    rng = np.random.default_rng(7)
    b, truth = body(), random_params(rng, 1, 0.2)
    fitter = Fitter(b, max_persons=1, max_points=300)
    result = fitter.solve(truth, CAMERA, make_matches(rng, b, truth, 300, 1.0), anchors=[Anchor(truth, 0.2, 1.0, 0.1)])
    h = result.information[0].astype(float)
    np.testing.assert_array_equal(h, h.T)
    assert np.linalg.eigvalsh(h / np.sqrt(np.outer(h.diagonal(), h.diagonal()))).min() > -1e-5
    blind = fitter.solve(truth, CAMERA, Correspondences.empty(), anchors=[Anchor(truth, 0.2, 1.0, 0.1)])
    trace = [np.trace(r.joint_covariance[0], axis1=1, axis2=2) for r in (result, blind)]
    assert (trace[0] < trace[1]).all()
    assert result.inlier_share[0] > 0.95


def test_a_claim_changes_the_covariance_and_nothing_else():
    """A quarter of the precision is twice the standard deviation; betas are no surer than the claim says."""
    b, truth = body(), random_params(np.random.default_rng(8), 3, 0.2)
    fitter = Fitter(b, max_persons=3, max_points=100, options=FitOptions(shape_sigma=INF, limit_sigma_rad=INF, guard=False))
    rot, t = np.linspace(0.05, 0.2, 72).reshape(3, 24), np.full((3, 3), 0.1)

    def solve(*anchors: Anchor, matches: Correspondences | None = None):
        return fitter.solve(truth, CAMERA, matches or Correspondences.empty(), anchors=anchors)

    steadying = Anchor(truth, 2 * rot, INF, 2 * t, claim=Claim(share=0.5))  # a second anchor: the first stays as it is
    claimed = solve(Anchor(truth, rot, 0.3, t, claim=Claim(share=0.25, betas_sigma=0.9)), steadying)
    meant = solve(Anchor(truth, 2 * rot, 0.9, 2 * t), Anchor(truth, 2 * rot * np.sqrt(2), INF, 2 * t * np.sqrt(2)))
    np.testing.assert_allclose(claimed.joint_covariance, meant.joint_covariance, rtol=2e-3)
    humble = solve(Anchor(truth, rot, 0.9, t, claim=Claim(betas_sigma=0.3)))  # surer than it is it does not become
    np.testing.assert_allclose(humble.joint_covariance, solve(Anchor(truth, rot, 0.9, t)).joint_covariance, rtol=1e-6)
    matches = make_matches(np.random.default_rng(9), b, truth, 100, 1.0)
    plain, wide = (
        solve(Anchor(truth, rot, 0.3, t), matches=matches),
        solve(Anchor(truth, rot, 0.3, t, Claim(0.1)), matches=matches),
    )
    np.testing.assert_array_equal(plain.params.joint_rotvec, wide.params.joint_rotvec)
    np.testing.assert_array_equal(plain.information, wide.information)
    assert (np.linalg.eigvalsh(wide.joint_covariance - plain.joint_covariance) > -1e-7).all()
    for bad in ({"share": -0.1}, {"share": 1.1}, {"betas_sigma": -1.0}, {"share": float("nan")}):
        with pytest.raises(ShapeError, match="claim"):
            Claim(**bad)


def test_evidence_that_shares_its_errors_counts_less_in_the_covariance_only():
    rng = np.random.default_rng(10)
    b, truth = body(), random_params(rng, 1, 0.2)
    start, matches = perturb(rng, truth, 3.0), make_matches(rng, b, truth, 300, 1.0)
    anchor = Anchor(start, 0.1, 1.0, 0.1)
    full, part = (
        Fitter(b, max_persons=1, max_points=300, options=FitOptions(covariance_share=share)).solve(
            start, CAMERA, matches, anchors=[anchor]
        )
        for share in (1.0, 0.05)
    )
    np.testing.assert_array_equal(full.params.joint_rotvec, part.params.joint_rotvec)
    blind = Fitter(b, max_persons=1, max_points=300).solve(start, CAMERA, Correspondences.empty(), anchors=[anchor])
    trace = [np.trace(r.joint_covariance[0], axis1=1, axis2=2) for r in (full, part, blind)]
    assert (trace[0] < trace[1]).all() and (trace[1] < trace[2]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 0},
        {"covariance_share": 0.0},
        {"robust_scale": -1.0},
        {"robust_scale": INF},
        {"robust_start": INF},
        {"damping_max": -1.0},
        {"keypoint_sigma_px": 0.0},
        {"robust_factor": 0.0},
        {"part_correlation": 2.0},
        {"dtype": "half"},
        {"linear": "magic"},
    ],
)
def test_bad_options_are_told(change):
    with pytest.raises(ConfigError):
        FitOptions(**change)


def test_arrays_that_do_not_fit_are_told():
    rng = np.random.default_rng(8)
    b, truth = body(), random_params(rng, 2)
    fitter = Fitter(b, max_persons=2, max_points=16)
    with pytest.raises(ShapeError, match="max_persons"):
        fitter.solve(random_params(rng, 3), CAMERA, Correspondences.empty())
    matches = make_matches(rng, b, truth, 8)
    with pytest.raises(ShapeError, match="another body"):
        fitter.solve(truth, CAMERA, replace(matches, face=matches.face + 10**6))
    with pytest.raises(ShapeError, match="keypoint sets"):
        fitter.solve(truth, CAMERA, matches, keypoints=Keypoints("dog12", np.zeros((2, 12, 2)), np.zeros((2, 12))))
    with pytest.raises(ShapeError, match="coco17"):
        fitter.solve(truth, CAMERA, matches, keypoints=Keypoints("coco17", np.zeros((2, 12, 2)), np.zeros((2, 12))))
    with pytest.raises(ShapeError, match="anchor for 2"):
        fitter.solve(truth, CAMERA, matches, anchors=[Anchor(random_params(rng, 1))])
    with pytest.raises(ShapeError, match="of an anchor that fit"):
        fitter.solve(truth, CAMERA, matches, anchors=[Anchor(truth, np.ones(23))])
    body_of_21 = replace(truth, joint_rotvec=truth.joint_rotvec[:, :21])
    one_place = replace(truth, t_camera_root=truth.t_camera_root[:1])
    for start in (body_of_21, one_place, replace(truth, betas=np.zeros((2, 16)))):
        with pytest.raises(ShapeError, match="for 2 persons"):
            fitter.solve(start, CAMERA, matches)
    for change in (
        {"target_uv": matches.target_uv[:1]},
        {"target_uv": np.zeros((len(matches), 3))},
        {"person": matches.person.astype(float)},
        {"sqrt_weight": matches.sqrt_weight[:-1]},
    ):
        with pytest.raises(ShapeError, match=f"expected .*{next(iter(change))}|of {len(matches)} points"):
            fitter.solve(truth, CAMERA, replace(matches, **change))
    prior = PoseGaussian(np.zeros((1, 23, 3)), np.zeros((1, 69, 69)), np.zeros(1))
    with pytest.raises(ShapeError, match="pose prior of mean"):
        fitter.solve(truth, CAMERA, matches, pose_gaussian=prior)
    for name, count in (("dog12", 12), ("coco17", 12)):
        with pytest.raises(ShapeError, match="keypoint sets|coco17 keypoints"):
            lift(fitter, Keypoints(name, np.zeros((2, count, 2)), np.zeros((2, count))), CAMERA)
    k = len(b.landmarks["coco17"].names)
    endless = Keypoints("coco17", project(CAMERA, rng.normal(0, 0.4, (2, k, 3)) + [0, 0, 3]), np.full((2, k), np.inf))
    assert np.isfinite(lift(fitter, endless, CAMERA).params.t_camera_root).all()


def test_a_final_scale_above_the_first_does_not_let_the_cost_rise():
    rng = np.random.default_rng(9)
    b, truth = body(), random_params(rng, 1, 0.2)
    matches = make_matches(rng, b, truth, 200, 20.0)
    fitter = Fitter(b, max_persons=1, max_points=200, options=FitOptions(robust_scale=100.0, guard=False, damping=1e-2))
    cost = fitter.solve(perturb(rng, truth, 10.0, 0.3, 0.05), CAMERA, matches, iterations=10).cost[0]
    assert (np.diff(cost) <= 1e-6 * cost[0]).all()


def test_the_fitters_own_prior_is_in_the_normal_equations():
    rng = np.random.default_rng(10)
    b, truth = body(), random_params(rng, 1, 0.3)
    fitter = Fitter(b, max_persons=1, max_points=64, pose_prior=make_prior("gmm"))
    matches = make_matches(rng, b, truth, 64, 1.0)
    assert fitter.normal_equations(truth, CAMERA, matches)[2][0] == pytest.approx(
        fitter.solve(truth, CAMERA, matches, iterations=1).cost[0, 0], rel=1e-5
    )
