"""Everything that is loaded once: body, renderer, networks, fitter, person finder, by the names in the settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .config import KEEP_EVERYBODY, Config
from .errors import BackendUnavailable, ConfigError
from .settings import with_overrides
from .types import BodyParams, Camera, Crop, Estimate

if TYPE_CHECKING:
    from .body.model import BodyModel
    from .body.skin import Skinner
    from .detect.protocol import Detector
    from .device_frame.frame import DeviceFrame
    from .displace.displacer import Displacer
    from .evidence.densepose import Chart
    from .fit.options import FitOptions
    from .fit.solver import Fitter
    from .regress.lifting import LiftingRegressor
    from .regress.mediapipe_keypoints import KeypointSource
    from .render.protocol import Renderer

log = logging.getLogger("densefit")


class FirstEstimator(Protocol):
    """Crop to body: the built-in network, or somebody else's regressor."""

    name: str
    size_px: int  # side of the crops that it reads
    margin: float | None  # side of the windows that it wants over the person's box; None: render.crop_margin

    def estimate(self, crop: Crop, camera: Camera, warm: Sequence[BodyParams] = ()) -> Estimate:
        """One estimate per window of ``crop``; ``warm`` holds the predictions for the first ``len(warm)`` windows."""
        ...


@dataclass(frozen=True, eq=False)
class Models:
    """What one frame needs.  The parts keep preallocated buffers, so one thread at a time may use them."""

    config: Config
    body: BodyModel
    skinner: Skinner
    renderer: Renderer
    finder: Detector | None
    estimator: FirstEstimator
    displacer: Displacer | None  # None when switched off
    fitter: Fitter
    lifting: LiftingRegressor  # for keypoints of the source or that come with a frame
    backends: dict[str, str]  # what really runs, for diagnostics: {"render": "warp:cpu", ...}
    keypoint_source: KeypointSource | None = None  # whose points are lifted
    chart: Chart | None = None  # what the DensePose maps that come with frames mean
    device_frame: DeviceFrame | None = None  # steady frames at once on the device; None: step by step


def load_models(config: Config) -> Models:
    """Load and warm up.  Raises AssetError, ConfigError or BackendUnavailable; never starts with a part missing."""
    from threadpoolctl import threadpool_limits

    from .body.assets import load_body
    from .body.skin import Skinner
    from .fit.priors import make_prior
    from .fit.solver import Fitter
    from .regress.lifting import make_lifting
    from .render.factory import make_renderer

    # Left alone, the linear algebra library takes every core for matrices of 85 columns: 4 iterations at 600 points then
    # take 2.35 ms instead of 1.42.
    threadpool_limits(1, user_api="blas")
    device = resolve_device(config.device)
    body = load_body(config.body.model_path or None)
    people = config.track.max_people
    renderer = make_renderer(body, config.render.backend, device)
    fitter = Fitter(
        body,
        device=device,
        max_persons=people,
        max_points=config.fit.max_points,
        options=fit_options(config),
        pose_prior=make_prior(config.fit.pose_prior),
    )
    keypoint_source = _make_keypoint_source(config)
    estimator = _make_estimator(config, body, device)
    displacer = _make_displacer(config, device, estimator) if config.displace.enabled else None
    finder = _make_finder(config, device)
    device_frame = _make_device_frame(config, body, fitter, estimator, displacer, device, keypoint_source)
    models = Models(
        config=config,
        body=body,
        skinner=Skinner(body, device=device, max_persons=people),
        renderer=renderer,
        finder=finder,
        estimator=estimator,
        displacer=displacer,
        fitter=fitter,
        lifting=make_lifting(body, people, device),
        backends={
            "device": device,
            "body": body.name,
            "render": f"{renderer.name}:{device}",
            "find": finder.name if finder else "none",
            "regress": _first_estimate_name(config, estimator, keypoint_source),
            "displace": displacer.runtime.name if displacer else "off",
            "fit": f"warp:{device}",
            "device_frame": device_frame.name if device_frame else "off",
        },
        keypoint_source=keypoint_source,
        chart=_make_chart(config, body),
        device_frame=device_frame,
    )
    _warm_up(models)
    return models


def fit_options(config: Config) -> FitOptions:
    """The fitter's options as the tracker uses them."""
    from .fit.options import FitOptions

    return FitOptions(
        iterations=config.fit.iterations,
        robust_scale=config.fit.robust_scale,
        robust_start=config.fit.robust_scale,
        keypoint_sigma_share=config.fit.keypoint_sigma_share,
        independent_share=config.displace.independent_share,
        part_correlation=config.displace.part_correlation,
        covariance_share=config.fit.covariance_share,
        shape_sigma=float("inf"),  # the track's shape belief takes the place of the population prior
    )


def resolve_device(name: str) -> str:
    """``auto`` is cuda where Warp sees a device; a named device that is missing raises BackendUnavailable."""
    import warp as wp

    from . import warp_setup

    warp_setup.init()
    if name == "auto":
        if wp.is_cuda_available():
            return "cuda"
        log.info("device auto: no CUDA device here, everything runs on the CPU")
        return "cpu"
    if name == "cuda" and not wp.is_cuda_available():
        raise BackendUnavailable(
            "device 'cuda' was asked for, but Warp sees no CUDA device: install the NVIDIA driver (warp-lang 1.18 and later need "
            "R580 or newer; nvidia-smi tells), or set device: cpu"
        )
    return name


def _make_chart(config: Config, body: BodyModel) -> Chart:
    from .evidence.densepose import body_chart, read_chart

    return read_chart(config.body.densepose_chart, body) if config.body.densepose_chart else body_chart(body)


def _make_keypoint_source(config: Config) -> KeypointSource | None:
    # As with the finder: somebody who names a network wants it.
    backend = "network" if config.regress.backend == "auto" and config.regress.onnx else config.regress.backend
    if backend not in ("auto", "mediapipe"):
        return None
    from .regress.mediapipe_keypoints import make_keypoint_source

    try:
        return make_keypoint_source(config.regress.mediapipe_task or None)
    except BackendUnavailable as e:
        if backend == "mediapipe":
            raise
        log.info("first estimate: built-in network (%s)", e)
        return None


def _first_estimate_name(config: Config, estimator: FirstEstimator, keypoint_source: KeypointSource | None) -> str:
    if keypoint_source is None:
        return estimator.name
    start = f" from {estimator.name}" if config.regress.keypoint_prior else ""
    return f"{keypoint_source.name}+lifting{start}"


def _make_estimator(config: Config, body: BodyModel, device: str) -> FirstEstimator:
    backend = config.regress.backend
    if backend == "external":
        from .regress.carried import CarriedEstimator

        return CarriedEstimator()
    from .regress.crop_network import CropNetwork
    from .regress.network_regressor import NetworkRegressor
    from .weights import weights_path

    if backend == "custom":
        if not config.regress.onnx:
            raise ConfigError("regress.backend custom needs the regressor's file: set regress.onnx")
        return CropNetwork(body, _runtime(config, config.regress.onnx, device), config.regress.custom)
    runtime = _runtime(config, config.regress.onnx or weights_path("regressor.onnx"), device)
    return NetworkRegressor(body, runtime, mirrored=config.regress.mirrored)


def _make_displacer(config: Config, device: str, estimator: FirstEstimator) -> Displacer:
    from .displace.displacer import Displacer
    from .regress.network_regressor import NetworkRegressor
    from .runtime.picture import check_pair
    from .weights import weights_path

    path = config.displace.onnx or weights_path("displacement.onnx")
    if isinstance(estimator, NetworkRegressor):
        encoder = estimator.runtime  # it looks at every crop anyhow
    else:
        own = config.regress.backend != "custom" and config.regress.onnx
        encoder = _runtime(config, own or weights_path("regressor.onnx"), device)
    check_pair(encoder.path, path)
    return Displacer(_runtime(config, path, device), encoder)


def _runtime(config: Config, path: Any, device: str) -> Any:
    from .runtime.factory import make_runtime

    settings = config.runtime
    return make_runtime(
        path, settings.backend, _asked_of_runtimes(config, device), settings.threads, precision=settings.precision
    )


def _asked_of_runtimes(config: Config, device: str) -> str:
    """A GPU that nobody named binds no network: what pip installs by default runs them on the CPU."""
    return "auto" if (config.device, device) == ("auto", "cuda") else device


def _make_device_frame(
    config: Config,
    body: BodyModel,
    fitter: Fitter,
    estimator: FirstEstimator,
    displacer: Displacer | None,
    device: str,
    keypoint_source: KeypointSource | None,
) -> DeviceFrame | None:
    from .device_frame.frame import DeviceFrame
    from .regress.network_regressor import NetworkRegressor

    wanted = config.runtime.device_frame
    if wanted == "off" or (wanted == "auto" and device == "cpu"):
        return None
    try:
        network_alone = isinstance(estimator, NetworkRegressor) and keypoint_source is None
        if not network_alone or displacer is None or config.render.backend == "nvdiffrast":
            first = _first_estimate_name(config, estimator, keypoint_source)
            raise BackendUnavailable(
                "runtime.device_frame works with regress.backend network, displace.enabled and the Warp renderer, "
                f"got {first}, {'displacements' if displacer else 'no displacements'}, {config.render.backend}"
            )
        mirrored, people = estimator.mirrored == "always", config.track.max_people
        runtimes = estimator.runtime, displacer.runtime
        return DeviceFrame(body, fitter, *runtimes, device, people, mirrored, required=wanted == "on")
    except BackendUnavailable as e:
        if wanted == "on":
            raise
        log.warning("frames run step by step: %s", e)
        return None


def _make_finder(config: Config, device: str) -> Detector | None:
    from .detect.factory import make_detector

    runtime, device = config.runtime, _asked_of_runtimes(config, device)
    return make_detector(
        config.detect.backend, onnx=config.detect.onnx, runtime=runtime.backend, device=device, threads=runtime.threads
    )


def _warm_up(models: Models) -> None:
    """Two grey frames through every stage, so that the first real frame meets compiled kernels and touched memory."""
    from .geometry.camera import camera_from_fov
    from .pipeline import initial_state, process
    from .types import Frame

    models = dataclasses.replace(models, config=with_overrides(models.config, KEEP_EVERYBODY))
    rgb = np.full((480, 640, 3), 127, np.uint8)
    camera = camera_from_fov(640, 480, 60.0)
    boxes = np.array([[220, 40, 200, 400]], np.float32)
    state = initial_state()
    for i in range(2):
        state, _ = process(models, state, Frame(rgb, i * 33_000_000, camera), boxes)
    if models.device_frame is not None:
        process(dataclasses.replace(models, finder=None), state, Frame(rgb, 66_000_000, camera))
