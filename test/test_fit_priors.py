"""Pose priors, the temporal anchor and the fit in the latent."""

from __future__ import annotations

import pickle
import sys
import types

import numpy as np
import pytest
from fit_helpers import CAMERA, body, draw_around, make_matches, realistic_params, vertex_error_mm

from densefit_ros.body.model import face_parts, pose
from densefit_ros.config import load_config
from densefit_ros.errors import AssetError, BackendUnavailable, ConfigError, ShapeError
from densefit_ros.fit import latent, reference
from densefit_ros.fit.options import Anchor, FitOptions
from densefit_ros.fit.priors import NAMES, make_prior
from densefit_ros.fit.priors.flow import estimate_context
from densefit_ros.fit.resident import ResidentFit
from densefit_ros.fit.solver import Fitter
from densefit_ros.geometry import so3
from densefit_ros.models import load_models
from densefit_ros.synth.poses import sample_poses
from densefit_ros.types import Correspondences


@pytest.fixture(scope="module")
def poses():
    return sample_poses(np.random.default_rng(99), 60).astype(np.float64)


def _context(name, poses, sigma=0.1):
    return estimate_context(poses, sigma) if name == "flow" else None


@pytest.mark.parametrize("name", NAMES)
def test_priors_prefer_people_to_noise(name, poses):
    prior = make_prior(name)
    rng = np.random.default_rng(1)
    wild = poses + 0.6 * rng.normal(size=poses.shape)
    people, noise = prior.energy(poses, _context(name, poses)), prior.energy(wild, _context(name, poses))
    assert np.median(people) + 20 < np.median(noise)
    assert np.isfinite(people).all() and np.isfinite(noise).all()


@pytest.mark.parametrize("name", ["gmm", "flow"])
def test_gaussian_has_the_gradient_of_twice_the_energy(name, poses):
    prior = make_prior(name)
    w = poses[:3] + 0.05 * np.random.default_rng(2).normal(size=poses[:3].shape)
    context = _context(name, poses[:3])
    g = prior.gaussian(w, context)
    slope = 2 * np.einsum("pij,pj->pi", g.precision, (w - g.mean).reshape(3, 69))
    h = 1e-5
    for i in (0, 10, 35, 54, 68):
        d = np.zeros((1, 69))
        d[0, i] = h
        d = d.reshape(1, 23, 3)
        numeric = 2 * (prior.energy(w + d, context) - prior.energy(w - d, context)) / (2 * h)
        np.testing.assert_allclose(slope[:, i], numeric, rtol=2e-4, atol=2e-3 * np.abs(slope).max())
    assert np.linalg.eigvalsh(g.precision).min() > 0
    np.testing.assert_allclose(g.energy, prior.energy(w, context), rtol=1e-9)


def test_decoder_derivative_matches_central_differences():
    prior = make_prior("vposer")
    z = np.random.default_rng(3).normal(size=prior.latent) * 0.5
    rotmat, turn = prior.decode(z)
    np.testing.assert_allclose(np.swapaxes(rotmat, -1, -2) @ rotmat, np.broadcast_to(np.eye(3), (21, 3, 3)), atol=1e-12)
    h = 1e-6
    for i in (0, 7, prior.latent - 1):
        d = np.zeros(prior.latent)
        d[i] = h
        numeric = so3.log(prior.decode(z + d)[0] @ np.swapaxes(prior.decode(z - d)[0], -1, -2)) / (2 * h)
        np.testing.assert_allclose(turn[:, i].reshape(21, 3), numeric, atol=1e-6)


def test_vposer_reconstructs_what_it_was_made_for(poses):
    prior = make_prior("vposer")
    z = prior.encode(poses)
    error = [so3.angle_between(prior.decode(z[i])[0], so3.exp(poses[i, :21])) for i in range(len(poses))]
    spread = so3.angle_between(so3.exp(poses[:, :21]), np.broadcast_to(np.eye(3), (len(poses), 21, 3, 3)))
    assert np.mean(error) < 0.15 and np.mean(error) < 0.5 * np.mean(spread)


def test_a_tight_context_pulls_the_flow_to_the_estimate(poses):
    flow = make_prior("flow")
    near, far = (flow.gaussian(poses[:8], estimate_context(poses[:8], s)).precision for s in (0.05, 0.5))
    assert np.trace(near, axis1=1, axis2=2).mean() > np.trace(far, axis1=1, axis2=2).mean()
    with pytest.raises(ShapeError, match="context"):
        flow.gaussian(poses[:2])


LEGS = [1, 2, 4, 5, 7, 8, 10, 11]


@pytest.mark.parametrize("name", NAMES)
def test_a_prior_fills_in_what_is_not_seen(name):
    """Matches on the upper body only: with the prior the legs end nearer to a person's legs than without."""
    rng = np.random.default_rng(4)
    b, truth = body(), realistic_params(rng, 6)
    start = draw_around(rng, truth, 0.25, 0.0, 0.01)
    matches = make_matches(rng, b, truth, 500, 1.0)
    above = ~np.isin(face_parts(b)[matches.face], LEGS)
    fields = ("person", "face", "bary", "target_uv", "sqrt_weight")
    matches = Correspondences(*(getattr(matches, n)[above] for n in fields))
    options = FitOptions(guard=False, limit_sigma_rad=float("inf"))
    prior = make_prior(name)
    context = estimate_context(start.joint_rotvec, 0.25) if name == "flow" else None
    anchor = Anchor(start, 0.5, 0.5, 0.05)
    plain = Fitter(b, max_persons=6, max_points=500, options=options).solve(
        start, CAMERA, matches, anchors=[anchor], iterations=10
    )
    fitter = Fitter(b, max_persons=6, max_points=500, options=options, pose_prior=prior)
    result = fitter.solve(start, CAMERA, matches, anchors=[anchor], iterations=10, pose_context=context)
    e = [prior.energy(p.joint_rotvec.astype(float), context) for p in (start, plain.params, result.params)]
    assert e[2].mean() < e[1].mean() and e[2].mean() < e[0].mean()
    assert vertex_error_mm(b, result.params, truth).mean() < vertex_error_mm(b, start, truth).mean()
    legs = [pose(b, p).joints[:, LEGS] - pose(b, p).joints[:, :1] for p in (truth, plain.params, result.params)]
    without, with_prior = (np.linalg.norm(a - legs[0], axis=-1).mean() for a in legs[1:])
    assert with_prior < without
    assert (np.diff(result.cost, axis=1) <= 1e-5 * np.abs(result.cost[:, :1])).all()


def test_fit_in_the_latent_lowers_the_cost_and_stays_on_the_manifold():
    rng = np.random.default_rng(5)
    b, truth = body(), realistic_params(rng, 1)
    prior = make_prior("vposer")
    start = draw_around(rng, truth, 0.1, 0.0, 0.01)
    fitter = Fitter(b, max_persons=1, max_points=300, options=FitOptions(guard=False, robust_scale=30.0, robust_start=30.0))
    result = latent.solve_latent(fitter, prior, start, CAMERA, make_matches(rng, b, truth, 300, 2.0), iterations=15)
    assert (np.diff(result.cost) <= 0).all() and result.cost[-1] < 0.5 * result.cost[0] and result.accepted >= 3
    decoded = prior.decode(result.latent)[0]
    assert so3.angle_between(decoded, so3.exp(result.params.joint_rotvec[0, :21])).max() < 1e-6
    assert vertex_error_mm(b, result.params, truth)[0] < vertex_error_mm(b, start, truth)[0]


def test_latent_chain_is_the_derivative():
    rng = np.random.default_rng(6)
    b, prior = body(), make_prior("vposer")
    z = 0.5 * rng.normal(size=prior.latent)
    state = latent._decoded(prior, reference.from_params(realistic_params(rng, 1)), z)
    d = latent.chain(b, prior, state, z)
    x0 = reference.surface_point(b, state, reference.forward(b, state), 5000, np.array([0.2, 0.3, 0.5]))
    h = 1e-6
    for i in (0, 13, prior.latent - 1):
        dz = np.zeros(prior.latent)
        dz[i] = h
        moved = [latent._decoded(prior, state, z + s * dz) for s in (1, -1)]
        points = [reference.surface_point(b, m, reference.forward(b, m), 5000, np.array([0.2, 0.3, 0.5]))[0] for m in moved]
        np.testing.assert_allclose(x0[1] @ d[:, 6 + i], (points[0] - points[1]) / (2 * h), atol=1e-6)


def test_published_gmm_pickle_loads_through_the_restricted_reader(tmp_path):
    rng = np.random.default_rng(7)
    half = rng.normal(size=(8, 69, 69)) * 0.02
    data = {
        "means": rng.normal(size=(8, 69)) * 0.2,
        "covars": half @ half.transpose(0, 2, 1) + 0.01 * np.eye(69),
        "weights": np.full(8, 0.125),
    }
    path = tmp_path / "gmm_08.pkl"
    path.write_bytes(pickle.dumps(data, protocol=2))
    prior = make_prior("gmm", path)
    np.testing.assert_allclose(prior.gaussian(data["means"][3:4].reshape(1, 23, 3)).mean.reshape(-1), data["means"][3])
    data["covars"][2] = 0
    path.write_bytes(pickle.dumps(data, protocol=2))
    with pytest.raises(AssetError, match="positive definite"):
        make_prior("gmm", path)


def test_published_vposer_checkpoint_loads_by_names(tmp_path):
    torch = pytest.importorskip("torch")
    ours = make_prior("vposer")
    state = {"vp_model." + k: torch.from_numpy(v) for k, v in ours._t.items()}
    state["vp_model.encoder_net.1.num_batches_tracked"] = torch.tensor(3)
    path = tmp_path / "V02_05.ckpt"
    # As the trainer that wrote it keeps its callbacks: by class, of a package that is not installed.
    module, ran = types.ModuleType("pytorch_lightning_stand_in"), []
    module.Checkpoint = type("Checkpoint", (), {"__module__": module.__name__, "__setstate__": lambda self, s: ran.append(s)})
    sys.modules[module.__name__] = module
    torch.save({"epoch": 13, "state_dict": state, "callbacks": {module.Checkpoint: {"best": module.Checkpoint()}}}, path)
    del sys.modules[module.__name__]
    z = np.linspace(-1, 1, ours.latent)
    np.testing.assert_allclose(make_prior("vposer", path).decode(z)[0], ours.decode(z)[0])
    assert not ran
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(AssetError):
        make_prior("vposer", path)


def test_unknown_and_damaged_priors_are_told(tmp_path):
    assert make_prior("none") is None
    with pytest.raises(ConfigError, match="magic"):
        make_prior("magic")
    path = tmp_path / "x.npz"
    np.savez(path, means=np.zeros((8, 69)))
    for name in NAMES:
        with pytest.raises(AssetError):
            make_prior(name, path)
    path.write_bytes(path.read_bytes()[:200])
    for name in NAMES:
        with pytest.raises(AssetError, match="not a readable"):
            make_prior(name, path)
    np.savez(path, means=np.zeros((2, 69)), covars=np.stack([np.eye(69)] * 2), weights=np.array([1.5, -0.5]))
    with pytest.raises(AssetError, match="positive weights"):
        make_prior("gmm", path)


def test_the_mixture_is_expanded_on_the_device_as_on_the_host():
    prior = make_prior("gmm")
    means = prior.means[[0, 1, 2, 7]].reshape(4, 23, 3)
    rotvec = means + 0.02 * np.random.default_rng(8).normal(size=means.shape)
    fitter = Fitter(body(), max_persons=4, max_points=64, options=FitOptions(linear="tile"), pose_prior=prior)
    resident = ResidentFit(fitter, "smpl24", 2)
    start = resident.arrays.rotvec.numpy().reshape(4, 24, 3)
    start[:, 1:] = rotvec
    resident.arrays.rotvec.assign(start.reshape(-1, 3))
    for launch in resident.launches[:2]:
        launch.launch()
    expected = prior.gaussian(rotvec)
    np.testing.assert_allclose(resident.arrays.pose_mean.numpy().reshape(4, 23, 3), expected.mean, atol=1e-6)
    precision = resident.arrays.pose_precision.numpy().reshape(4, 69, 69)
    np.testing.assert_allclose(precision, expected.precision, rtol=1e-5, atol=1e-3)
    assert len(np.unique(expected.mean, axis=0)) == 4  # four Gaussians, not one
    with pytest.raises(BackendUnavailable, match="vposer"):
        ResidentFit(Fitter(body(), max_persons=1, max_points=64, pose_prior=make_prior("vposer")), "smpl24", 2)


def test_the_tracker_fits_with_the_prior_that_the_settings_name():
    for name in ("gmm", "vposer", "none"):
        config = load_config(None, {"detect.backend": "none", "regress.backend": "external", "fit.pose_prior": name})
        prior = load_models(config).fitter.pose_prior
        assert (prior.name if prior else "none") == name
