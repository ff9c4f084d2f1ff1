"""Bad input, outliers and the guard: a status and finite parameters, whatever comes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fit_helpers import CAMERA, body, draw_around, make_matches, random_params, vertex_error_mm

from densefit_ros.body.model import pose
from densefit_ros.fit.guard import Support, keeps_result, support
from densefit_ros.fit.options import Anchor, FitOptions
from densefit_ros.fit.outcome import Squared
from densefit_ros.fit.solver import Fitter
from densefit_ros.fit.stage import keypoint_weights
from densefit_ros.geometry.camera import project
from densefit_ros.types import BodyParams, Correspondences, DepthPoints, FitStatus, Keypoints

NAMES = ("betas", "root_rotvec", "joint_rotvec", "t_camera_root")


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    b, truth = body(), random_params(np.random.default_rng(1), 2, 0.2, np.float32)
    return rng, b, truth, make_matches(rng, b, truth, 100, 1.0), Fitter(b, max_persons=2, max_points=128)


def _finite(result) -> bool:
    fields = [getattr(result.params, n) for n in NAMES] + [result.joint_covariance, result.inlier_share]
    return all(np.isfinite(f).all() for f in fields)


def _same(a: BodyParams, b: BodyParams) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in NAMES)


def test_nobody(scene):
    *_, fitter = scene
    result = fitter.solve(BodyParams.rest(0), CAMERA, Correspondences.empty())
    assert len(result.params) == 0 and result.status.shape == (0,)


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_too_few_matches_keep_the_start(scene, kept):
    _, b, truth, matches, fitter = scene
    few = Correspondences(*(getattr(matches, n)[:kept] for n in ("person", "face", "bary", "target_uv", "sqrt_weight")))
    result = fitter.solve(truth, CAMERA, few)
    assert (result.status == FitStatus.NO_EVIDENCE).all() and _same(result.params, truth) and _finite(result)


def test_what_keeps_its_start_knows_no_more_than_its_priors(scene):
    """Five matches are too few to move a body, so they do not make its place surer either."""
    _, b, truth, matches, fitter = scene
    few = Correspondences(*(getattr(matches, n)[:5] for n in ("person", "face", "bary", "target_uv", "sqrt_weight")))
    priors = [Anchor(truth, 0.2, 1.0, 0.25)]
    with_few, without = (fitter.solve(truth, CAMERA, m, anchors=priors) for m in (few, Correspondences.empty()))
    assert (with_few.status == FitStatus.NO_EVIDENCE).all()
    # Derivatives are those where the fit had gone before its result was dropped: hence the tolerances.
    np.testing.assert_allclose(with_few.information, without.information, atol=0.05)  # of 16 and more
    sigma, expected = (np.sqrt(np.trace(r.joint_covariance, axis1=2, axis2=3)) for r in (with_few, without))
    np.testing.assert_allclose(sigma, expected, rtol=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_targets_are_ignored(scene, bad):
    rng, b, truth, matches, fitter = scene
    uv = matches.target_uv.copy()
    uv[rng.random(len(uv)) < 0.3] = bad
    start = draw_around(rng, truth, 0.05, 0.1, 0.01)
    result = fitter.solve(start, CAMERA, replace(matches, target_uv=uv), anchors=[Anchor(start, 0.05, 0.1, 0.01)])
    assert _finite(result)
    assert (vertex_error_mm(b, result.params, truth) < vertex_error_mm(b, start, truth)).all()
    result = fitter.solve(truth, CAMERA, replace(matches, target_uv=np.full_like(uv, bad)))
    assert (result.status >= FitStatus.REJECTED).all() and _same(result.params, truth) and _finite(result)


@pytest.mark.parametrize("field, bad", [("sqrt_weight", 0.0), ("sqrt_weight", np.nan), ("sqrt_weight", -1.0), ("bary", np.nan)])
def test_unusable_matches_are_no_evidence(scene, field, bad):
    _, b, truth, matches, fitter = scene
    result = fitter.solve(truth, CAMERA, replace(matches, **{field: np.full_like(getattr(matches, field), bad)}))
    assert (result.status == FitStatus.NO_EVIDENCE).all() and _same(result.params, truth) and _finite(result)


@pytest.mark.parametrize(
    "change",
    [
        {"t_camera_root": [[0, 0, -3.0]]},
        {"t_camera_root": [[np.nan, 0, 3]]},
        {"betas": [[np.inf] * 10]},
        {"root_rotvec": [[1e30, 0, 0]]},
    ],
)
def test_a_start_that_cannot_be_seen_is_invalid_and_leaves_others_alone(scene, change):
    rng, b, truth, matches, fitter = scene
    start = draw_around(rng, truth, 0.03, 0.0, 0.005)
    values = {n: np.asarray(getattr(start, n), np.float32).copy() for n in NAMES}
    for name, value in change.items():
        values[name][:1] = value
    result = fitter.solve(BodyParams(*(values[n] for n in NAMES)), CAMERA, matches)
    assert result.status[0] == FitStatus.INVALID_START and _finite(result)
    assert result.status[1] <= FitStatus.MAX_ITERATIONS


def test_wild_starts_end_finite(scene):
    rng, b, truth, matches, fitter = scene
    for _ in range(10):
        wild = BodyParams(
            rng.normal(size=(2, 10)) * 20, rng.normal(size=(2, 3)) * 4, rng.normal(size=(2, 23, 3)) * 4,
            np.stack([rng.normal(size=2) * 3, rng.normal(size=2) * 3, rng.uniform(0.05, 9, 2)], 1),
        )  # fmt: skip
        result = fitter.solve(wild, CAMERA, matches, iterations=12)
        assert _finite(result) and (np.diff(result.cost, axis=1) <= 1e-5 * result.cost[:, :1]).all()


def test_bad_keypoints_depth_and_anchors_are_ignored(scene):
    rng, b, truth, matches, fitter = scene
    k = len(b.landmarks["coco17"])
    start = draw_around(rng, truth, 0.03, 0.0, 0.005)
    keypoints = Keypoints("coco17", np.full((2, k, 2), np.nan), np.ones((2, k)), np.full((2, k, 3), np.nan))
    m = matches
    depth = DepthPoints(
        m.person,
        m.face,
        m.bary,
        np.full((len(m), 3), np.nan),
        np.ones((len(m), 3)),
        *[np.ones(len(m))] * 2,
        np.ones(len(m), bool),
    )
    broken = BodyParams(*(np.full_like(getattr(start, n), np.nan) for n in NAMES))
    plain = fitter.solve(start, CAMERA, matches)
    assert (plain.status < FitStatus.REJECTED).all()
    result = fitter.solve(start, CAMERA, matches, keypoints=keypoints, depth=depth, anchors=[Anchor(broken, 0.1, 0.1, 0.1)])
    assert _finite(result)
    assert vertex_error_mm(b, result.params, plain.params).max() < 0.5


def test_a_sure_face_does_not_make_the_body_count_for_more():
    """The size that a keypoint's standard deviation is a share of is the person's, however sure its parts are."""
    uv = np.array([[[300, 100], [310, 105], [280, 200], [330, 205], [290, 460], [320, 470]]], np.float32)
    placed, options = np.ones(6, bool), FitOptions()

    def weights(body):
        confidence = np.array([[0.9, 0.9, body, body, body, body]], np.float32)
        return keypoint_weights(Keypoints("coco17", uv, confidence), placed, options)[0]

    least = [weights(c) for c in (0.9, 0.46, 0.44, 0.2, 0.12)]
    for more, less in zip(least, least[1:]):
        assert (less <= more + 1e-9).all()
    sigma_px = options.keypoint_sigma_share * np.hypot(50, 370)
    np.testing.assert_allclose(least[2], np.array([0.9, 0.9, 0.44, 0.44, 0.44, 0.44]) / sigma_px, rtol=1e-5)
    assert (keypoint_weights(Keypoints("coco17", uv, np.full((1, 6), 0.05)), placed, options) > 0).all()


def depth_of(b, truth, matches) -> DepthPoints:
    """What a depth camera measures of the true bodies, at the points of ``matches``; a centimetre of noise is claimed."""
    vertices = pose(b, truth).vertices
    corners = vertices[matches.person[:, None], b.faces[matches.face]]
    xyz = np.einsum("nc,ncd->nd", matches.bary, corners)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    return DepthPoints(
        matches.person,
        matches.face,
        matches.bary,
        xyz,
        normal,
        np.full(len(xyz), 100.0),
        np.ones(len(xyz)),
        np.ones(len(xyz), bool),
    )


def test_depth_alone_is_evidence(scene):
    _, b, truth, matches, fitter = scene
    far = replace(truth, t_camera_root=truth.t_camera_root + np.array([0, 0, 0.05], np.float32))
    depth, anchors = depth_of(b, truth, matches), [Anchor(far, 0.02, 0.1, 1.0)]
    result = fitter.solve(far, CAMERA, Correspondences.empty(), depth=depth, anchors=anchors, iterations=8)
    assert (result.status < FitStatus.REJECTED).all()
    assert vertex_error_mm(b, result.params, truth).max() < 0.5 * vertex_error_mm(b, far, truth).min()


def test_depth_fixes_what_one_camera_cannot_see(scene):
    rng, b, truth, matches, fitter = scene
    far = replace(truth, t_camera_root=truth.t_camera_root + np.array([0, 0, 0.15], np.float32))
    depth, errors = depth_of(b, truth, matches), []
    for evidence in (None, depth):
        result = fitter.solve(far, CAMERA, matches, depth=evidence, anchors=[Anchor(far, 0.05, 0.1, 1.0)], iterations=8)
        errors.append(vertex_error_mm(b, result.params, truth).max())
    assert errors[1] < 8 and errors[1] < 0.5 * errors[0]


def test_a_point_pushed_behind_the_camera_gains_nothing(scene):
    """The cost of a match is largest where it cannot be projected."""
    _, b, truth, matches, fitter = scene
    behind = replace(truth, t_camera_root=truth.t_camera_root - np.array([0, 0, 20], np.float32))
    _, gradient, cost = fitter.normal_equations(behind, CAMERA, matches)
    _, _, seen = fitter.normal_equations(truth, CAMERA, matches)
    assert (cost >= seen).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("radius", [15.0, 40.0, 100.0])
def test_guard_holds_against_sixty_percent_random_displacements(radius):
    rng = np.random.default_rng(2)
    b, truth = body(), random_params(rng, 20, 0.25)
    start = draw_around(rng, truth, np.deg2rad(3.0), 0.1, 0.01)
    matches = make_matches(rng, b, truth, 400, 1.0)
    bad = rng.random(len(matches)) < 0.6
    at_start = project(CAMERA, _points(b, start, matches))
    uv = np.where(bad[:, None], at_start + rng.uniform(-radius, radius, (len(matches), 2)), matches.target_uv)
    fitter = Fitter(b, max_persons=20, max_points=400)
    result = fitter.solve(start, CAMERA, replace(matches, target_uv=uv), anchors=[Anchor(start, 0.05, 0.1, 0.02)])
    before, after = vertex_error_mm(b, start, truth), vertex_error_mm(b, result.params, truth)
    assert after.mean() < {15.0: 0.75, 40.0: 0.4, 100.0: 0.3}[radius] * before.mean()  # the farther off, the easier told


def test_pure_noise_is_rejected():
    rng = np.random.default_rng(3)
    b, truth = body(), random_params(rng, 10, 0.25, np.float32)
    matches = make_matches(rng, b, truth, 300)
    uv = project(CAMERA, _points(b, truth, matches)) + rng.uniform(-60, 60, (len(matches), 2))
    fitter = Fitter(b, max_persons=10, max_points=300)
    result = fitter.solve(truth, CAMERA, replace(matches, target_uv=uv), anchors=[Anchor(truth, 0.1, 0.3, 0.05)])
    rejected = result.status == FitStatus.REJECTED
    assert rejected.mean() >= 0.9
    for i in np.flatnonzero(rejected):
        assert _same(result.params.person(i), truth.person(i))
    # Evidence that was not believed teaches nothing, of the shape least of all.
    nothing = fitter.solve(truth, CAMERA, Correspondences.empty(), anchors=[Anchor(truth, 0.1, 0.3, 0.05)])
    shape = [r.information[rejected][:, -10:, -10:] for r in (result, nothing)]
    np.testing.assert_allclose(shape[0], shape[1], rtol=1e-3, atol=1e-2)
    # Joint limits are taken where the rejected body reached them.
    spread = [np.sqrt(np.einsum("pjii->pj", r.joint_covariance)[rejected]) for r in (result, nothing)]
    np.testing.assert_allclose(spread[0], spread[1], rtol=0.1)


def test_guard_rules():
    options = FitOptions()
    assert keeps_result(Support(10.0, 0.5), Support(5.0, 0.6), options)
    assert not keeps_result(Support(10.0, 0.5), Support(11.0, 0.6), options)
    assert not keeps_result(Support(10.0, 0.5), Support(5.0, 0.4), options)
    assert not keeps_result(Support(10.0, 0.0), Support(5.0, 0.05), options)
    assert keeps_result(Support(0.0, 1.0), Support(0.0, 1.0), options)
    whole = support(Squared(np.array([0.0, 1e12]), np.ones(2), np.zeros(0)), options)
    assert whole.cost == pytest.approx(options.robust_scale**2) and whole.inlier_share == 0.5


def test_more_matches_than_room_are_thinned_evenly(scene):
    rng, b, truth, *_ = scene
    small = Fitter(b, max_persons=2, max_points=64)
    start = draw_around(rng, truth, 0.03, 0.0, 0.005)
    matches = make_matches(rng, b, truth, 500, 0.5)
    staged = small._stage(start, CAMERA, matches, None, None, [])
    assert staged.points == 128 and np.bincount(staged.person_of_point).tolist() == [64, 64]
    assert vertex_error_mm(b, small.solve(start, CAMERA, matches).params, truth).mean() < vertex_error_mm(b, start, truth).mean()


def test_zero_copy_from_torch(scene):
    torch = pytest.importorskip("torch")
    rng, b, truth, matches, fitter = scene
    names = ("person", "face", "bary", "target_uv", "sqrt_weight")
    tensors = Correspondences(*(torch.from_numpy(np.asarray(getattr(matches, n))) for n in names))
    a, c = fitter.solve(truth, CAMERA, matches), fitter.solve(truth, CAMERA, tensors)
    np.testing.assert_array_equal(a.params.joint_rotvec, c.params.joint_rotvec)


def _points(b, params, matches):
    corners = pose(b, params).vertices[matches.person[:, None], b.faces[matches.face]]
    return np.einsum("nc,ncd->nd", matches.bary, corners)


def test_limits_stop_no_ordinary_pose():
    """The soft boxes must not bend what people do: hardly a joint of the synthetic poses lies outside."""
    from densefit_ros.fit.options import default_limits
    from densefit_ros.synth.poses import sample_poses

    rotvec = sample_poses(np.random.default_rng(0), 400)
    low, high = default_limits()
    outside = ((rotvec < low[1:]) | (rotvec > high[1:])).mean((0, 2))
    assert outside.max() < 0.005
    assert (low[1:] < 0).all() and (high[1:] > 0).all()


def test_samples_of_something_before_the_person_are_let_go(scene):
    """However many samples share their say: each is judged by its own standard deviation."""
    _, b, truth, matches, fitter = scene
    depth = depth_of(b, truth, matches)
    depth = replace(depth, sqrt_weight=np.full(len(depth), 50.0), share=np.full(len(depth), 0.1))
    bag = np.arange(len(depth)) % 4 == 0
    hidden = replace(depth, xyz_m=depth.xyz_m + 0.18 * bag[:, None] * depth.normal)
    anchors = [Anchor(truth, 0.02, 0.05, 0.3)]
    clean, wrong = (
        fitter.solve(truth, CAMERA, Correspondences.empty(), depth=d, anchors=anchors, iterations=8) for d in (depth, hidden)
    )
    assert vertex_error_mm(b, wrong.params, clean.params).max() < 5.0
