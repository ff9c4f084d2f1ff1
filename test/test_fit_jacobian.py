"""Every Jacobian against float64 central differences through the retraction, and the kernels against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from fit_helpers import CAMERA, body, make_matches, random_params, surface_samples

from densefit_ros.body.model import pose
from densefit_ros.fit import reference as ref
from densefit_ros.fit.layout import GROUP, ROW, SHARED, WIDTH, column_in_row, row_of_joint
from densefit_ros.fit.options import Anchor, FitOptions, PoseGaussian, default_limits
from densefit_ros.fit.solver import Fitter
from densefit_ros.fit.tables import face_tables, place_of_block
from densefit_ros.geometry import so3
from densefit_ros.types import NUM_UNKNOWNS, BodyParams, Correspondences, DepthPoints, Keypoints

N = NUM_UNKNOWNS


def _numeric(b, state, function, h=1e-5):
    columns = []
    for i in range(N):
        step = np.zeros(N)
        step[i] = h
        columns.append((function(ref.retract(b, state, step)) - function(ref.retract(b, state, -step))) / (2 * h))
    return np.stack(columns, -1)


def _blocks(b, rng, state):
    """Name -> function(state) -> (residual, Jacobian)."""
    face, bary = 1234, np.array([0.2, 0.5, 0.3])
    normal = np.array([0.6, 0.0, -0.8])
    hint = np.array([0.36, 0.48, 0.8])
    marks = b.landmarks["openpose25"]
    anchor = so3.exp(rng.normal(size=(24, 3)))

    def surface(s):
        return ref.surface_point(b, s, ref.forward(b, s), face, bary)

    def mark(s, i):
        return ref.landmark_point(b, s, ref.forward(b, s), marks, i)

    return {
        "surface point": surface,
        "pixel": lambda s: ref.pixel(CAMERA, *surface(s), np.array([300.0, 200.0]), 0.5),
        "plane": lambda s: ref.plane(*surface(s), np.array([0.1, 0.0, 3.0]), normal, 50.0),
        "landmark": lambda s: mark(s, 4),
        "joint": lambda s: ref.landmark_point(b, s, ref.forward(b, s), b.landmarks["smpl24"], 21),
        "direction": lambda s: ref.direction(mark(s, 3), mark(s, 4), hint, 3.0),
        "root anchor": lambda s: ref.rotation_anchor(b, s, ref.forward(b, s), anchor[0], 0, 0.2),
        "elbow anchor": lambda s: ref.rotation_anchor(b, s, ref.forward(b, s), anchor[18], 18, 0.2),
        "pose chart": lambda s: ref.chart(b, s, ref.forward(b, s)),
    }


@pytest.mark.parametrize("name", list(_blocks(body(), np.random.default_rng(0), None)))
def test_reference_jacobian_is_the_derivative(name):
    rng = np.random.default_rng(1)
    b, state = body(), ref.from_params(random_params(rng, 1))
    block = _blocks(b, rng, state)[name]
    _, analytic = block(state)
    numeric = _numeric(b, state, lambda s: block(s)[0])
    assert np.abs(analytic - numeric).max() <= 1e-7 * max(1.0, np.abs(numeric).max())


def test_reference_poses_like_the_body():
    b, params = body(True), random_params(np.random.default_rng(2), 1)
    state = ref.from_params(params)
    posed, whole = ref.forward(b, state), pose(b, params)
    np.testing.assert_allclose(posed.joint, whole.joints[0], atol=1e-9)
    bary = np.array([0.1, 0.2, 0.7])
    for face in (7, 4000, 12000):
        x, _ = ref.surface_point(b, state, posed, face, bary)
        np.testing.assert_allclose(x, bary @ whole.vertices[0, b.faces[face]], atol=1e-9)


class Problem:
    """One of everything, in float64, with a robust scale so large that weights are one."""

    def __init__(self, b, persons: int = 2):
        rng = np.random.default_rng(3)
        self.b, self.params = b, random_params(rng, persons)
        k = len(b.landmarks["openpose25"])
        person, face, bary, x = surface_samples(rng, b, self.params, 5)
        normal = rng.normal(size=x.shape)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        self.matches = make_matches(rng, b, self.params, 7, 3.0)
        ones = np.ones(len(x))
        self.depth = DepthPoints(person, face, bary, x + 0.05 * rng.normal(size=x.shape), normal, 20.0 * ones, ones, ones == 1)
        self.keypoints = Keypoints(
            "openpose25",
            300 + 50 * rng.normal(size=(persons, k, 2)),
            rng.uniform(0.2, 1, (persons, k)),
            rng.normal(size=(persons, k, 3)),
        )
        self.anchors = [
            Anchor(random_params(rng, persons), rng.uniform(0.1, 0.4, (persons, 24)), 0.5, np.array([0.1, 0.2, 0.3])),
            Anchor(random_params(rng, persons), 0.3),
        ]
        half = rng.normal(size=(persons, 69, 80))
        self.gaussian = PoseGaussian(0.2 * rng.normal(size=(persons, 23, 3)), half @ half.transpose(0, 2, 1) / 20)
        self.options = FitOptions(
            dtype="float64", robust_scale=1e5, robust_start=1e5, keypoint_sigma_px=4.0, shape_sigma=1.5, pose_prior_weight=0.7,
            limit_sigma_rad=0.1,
        )  # fmt: skip

    def reference(self, person: int, state=None):
        """Residual and Jacobian of every row, stacked."""
        b, o = self.b, self.options
        state = ref.from_params(self.params.person(person)) if state is None else state
        posed = ref.forward(b, state)
        rows = []
        m = self.matches
        for i in np.flatnonzero(m.person == person):
            rows.append(
                ref.pixel(CAMERA, *ref.surface_point(b, state, posed, m.face[i], m.bary[i]), m.target_uv[i], m.sqrt_weight[i])
            )
        d = self.depth
        for i in np.flatnonzero(d.person == person):
            x = ref.surface_point(b, state, posed, d.face[i], d.bary[i])
            rows.append(ref.plane(*x, d.xyz_m[i], d.normal[i], d.sqrt_weight[i]))
        rows += self._landmark_rows(state, posed, person)
        for a in self.anchors:
            anchor = ref.from_params(a.params.person(person))
            sigma = np.broadcast_to(a.rot_sigma_rad, (2, 24))[person]
            rows += [ref.rotation_anchor(b, state, posed, anchor.local[k], k, sigma[k]) for k in range(24)]
        rows.append(_linear(state.betas - self.anchors[0].params.betas[person], 75, 0.5))
        rows.append(_linear(state.t - self.anchors[0].params.t_camera_root[person], 0, self.anchors[0].t_sigma_m))
        rows.append(_linear(state.betas, 75, o.shape_sigma))
        v, jv = ref.chart(b, state, posed)
        low, high = (x[1:].reshape(-1) for x in default_limits())
        outside = np.maximum(v - high, 0) + np.minimum(v - low, 0)
        rows.append((outside / o.limit_sigma_rad, jv * (outside != 0)[:, None] / o.limit_sigma_rad))
        root = np.sqrt(o.pose_prior_weight) * np.linalg.cholesky(self.gaussian.precision[person]).T
        rows.append((root @ (v - self.gaussian.mean[person].reshape(-1)), root @ jv))
        return np.concatenate([r for r, _ in rows]), np.concatenate([j for _, j in rows])

    def _landmark_rows(self, state, posed, person):
        from densefit_ros.fit.limbs import limbs_of

        b, k = self.b, self.keypoints
        marks = b.landmarks[k.set_name]
        points = [ref.landmark_point(b, state, posed, marks, i) for i in range(len(marks))]
        c = k.confidence[person]
        rows = [ref.pixel(CAMERA, *points[i], k.uv[person, i], c[i] / 4.0) for i in range(len(marks))]
        for a, e in zip(*limbs_of(marks.names, marks.placed)):
            d = k.direction_xyz[person, e] - k.direction_xyz[person, a]
            rows.append(
                ref.direction(points[a], points[e], d / np.linalg.norm(d), min(c[a], c[e]) / self.options.direction_sigma)
            )
        return rows

    def solve_arguments(self):
        return dict(keypoints=self.keypoints, depth=self.depth, anchors=self.anchors, pose_gaussian=self.gaussian)


def _linear(value, column, sigma):
    j = np.zeros((len(value), N))
    j[:, column : column + len(value)] = np.eye(len(value))
    s = np.broadcast_to(sigma, len(value))
    return value / s, j / s[:, None]


@pytest.mark.parametrize("blendshapes", [False, True])
@pytest.mark.parametrize("linear", ["lapack", "tile"])
def test_kernels_agree_with_the_reference(blendshapes, linear):
    from dataclasses import replace

    problem = Problem(body(blendshapes))
    fitter = Fitter(problem.b, max_persons=3, max_points=32, options=replace(problem.options, linear=linear))
    h, g, cost = fitter.normal_equations(problem.params, CAMERA, problem.matches, **problem.solve_arguments())
    for p in range(2):
        r, j = problem.reference(p)
        assert cost[p] == pytest.approx(r @ r, rel=1e-7)
        np.testing.assert_allclose(g[p], j.T @ r, atol=1e-7 * np.abs(j.T @ r).max())
        np.testing.assert_allclose(h[p], j.T @ j, atol=1e-7 * np.abs(j.T @ j).max())


def test_gradient_is_half_the_derivative_of_the_robust_cost():
    """Robust weights, through the kernels alone: central differences of the cost they report."""
    from dataclasses import replace

    problem = Problem(body(), 1)
    options = replace(problem.options, robust_scale=2.0, robust_start=2.0)
    fitter = Fitter(problem.b, max_persons=1, max_points=32, options=options)

    def cost(state):
        return fitter.normal_equations(ref.to_params(state), CAMERA, problem.matches, **problem.solve_arguments())[2][0]

    state = ref.from_params(problem.params)
    _, g, _ = fitter.normal_equations(problem.params, CAMERA, problem.matches, **problem.solve_arguments())
    h = 1e-5
    for i in (0, 2, 3, 5, 20, 57, 60, 74, 75, 84):
        step = np.zeros(N)
        step[i] = h
        numeric = (cost(ref.retract(problem.b, state, step)) - cost(ref.retract(problem.b, state, -step))) / (2 * h)
        # Loosest where the hinge of a joint limit or of float64 sums enters.
        assert 2 * g[0, i] == pytest.approx(numeric, rel=2e-5, abs=1e-4 * np.abs(g).max())


def test_adjoint_identity_of_the_rows():
    """<J^T r, d> == <r, J d>: the Gram kernel and the rows tell the same story."""
    rng = np.random.default_rng(5)
    b, params = body(), random_params(rng, 1)
    matches = make_matches(rng, b, params, 50, 2.0)
    options = FitOptions(dtype="float64", robust_scale=3.0, shape_sigma=float("inf"), limit_sigma_rad=float("inf"))
    fitter = Fitter(b, max_persons=1, max_points=64, options=options)
    h, g, _ = fitter.normal_equations(params, CAMERA, matches)
    rows = fitter._b.rows.numpy().reshape(-1, ROW)[:100, column_in_row()]
    d = rng.normal(size=N)
    left, right = g[0] @ d, rows[:, 85] @ (rows[:, :N] @ d)
    assert abs(left - right) <= 1e-9 * np.linalg.norm(g[0]) * np.linalg.norm(d)
    np.testing.assert_allclose(h[0] @ d, rows[:, :N].T @ (rows[:, :N] @ d), rtol=1e-9, atol=1e-9 * np.abs(h).max())


def test_blocks_of_the_gram_matrix_cover_the_normal_matrix_once():
    """No entry is missing, and none is written by two threads."""
    place = place_of_block()
    place = place[place >= 0]
    below = np.flatnonzero(np.tri(WIDTH, dtype=bool))
    np.testing.assert_array_equal(np.sort(place), below)


def test_classes_of_faces_say_what_moves_a_face():
    b = body()
    t = face_tables(b)
    above = ref.below(b).T  # [m, k]: k is m or above it
    groups = row_of_joint() // GROUP
    for f in range(0, len(b.faces), 97):
        c = t.face_class[f]
        carry = {int(k) for v in b.faces[f] for k, w in zip(b.skin_joint[v], b.skin_weight[v]) if w != 0}
        assert carry == set(t.class_joint[t.class_start[c] : t.class_start[c + 1]].tolist())
        path = t.path_joint[t.path_start[c] : t.path_start[c + 1]].tolist()
        assert path == sorted(np.flatnonzero(above[sorted(carry)].any(0)).tolist(), reverse=True)
        assert t.class_groups[c] == 1 << SHARED | sum(1 << g for g in set(groups[path].tolist()))


def test_float32_rows_agree_with_float64():
    rng = np.random.default_rng(6)
    b, params = body(), random_params(rng, 1, dtype=np.float32)
    matches = make_matches(rng, b, params, 60, 2.0)
    h64, g64, c64 = Fitter(b, max_persons=1, max_points=64, options=FitOptions(dtype="float64")).normal_equations(
        params, CAMERA, matches
    )
    h32, g32, c32 = Fitter(b, max_persons=1, max_points=64).normal_equations(params, CAMERA, matches)
    assert c32[0] == pytest.approx(c64[0], rel=2e-3)
    scale = np.sqrt(np.outer(h64[0].diagonal(), h64[0].diagonal())) + 1e-9
    assert np.abs((h32 - h64)[0] / scale).max() < 2e-3


def test_unplaced_or_empty_evidence_adds_nothing():
    b = body()
    params: BodyParams = random_params(np.random.default_rng(7), 1)
    fitter = Fitter(b, max_persons=1, max_points=8, options=FitOptions(shape_sigma=float("inf"), limit_sigma_rad=float("inf")))
    h, g, cost = fitter.normal_equations(params, CAMERA, Correspondences.empty())
    assert not h.any() and not g.any() and cost[0] == 0.0
