"""The steady frame on one device: known people, one colour image, the built-in networks.

Everything between the image and the refined bodies is queued without waiting, and recorded into one CUDA graph where the
network runtimes allow it; the host waits once, for the numbers.  On the CPU the same queue runs step by step, which is what
the tests do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import warp as wp

from .. import warp_setup
from ..config import Config
from ..errors import BackendUnavailable
from ..fit.resident import require_mixture
from ..runtime.cuda_probe import device_answers
from ..steps import priors
from ..track.state import Track
from ..types import BodyParams, Estimate, Frame, Keypoints, Measured, PosedBody
from .batch import Batch, Parts

SIZES = (1, 2, 4, 8, 16)  # batches are filled up to the next of these
MOST_SIZES = 4  # of images
_log = logging.getLogger(__name__)


class _Place:
    """Memory and graphs for images of one size."""

    def __init__(self, shared: dict[str, Any], sizes: Sequence[int], device: Any, stream: Any, shape: tuple[int, int]) -> None:
        (height, width), on_cpu = shape, stream is None
        self.pinned = wp.zeros(height * width, dtype=wp.vec3ub, device="cpu", pinned=not on_cpu)
        self.rgb = self.pinned.numpy().reshape(height, width, 3)
        image = self.pinned if on_cpu else wp.zeros(height * width, dtype=wp.vec3ub, device=device)
        handle = 0 if on_cpu else stream.cuda_stream
        self.parts = Parts(**shared, device=device, stream=handle, image=image, width=width, height=height)
        self.batches = {size: Batch(self.parts, size) for size in sizes}
        self.graphs: dict[int, Any] = {}
        self.ran: set[int] = set()  # batches that have their memory: networks and recordings take theirs in the first pass


class DeviceFrame:
    """Measures up to ``max_people`` tracked people per image.

    Memory and graphs are made for each size of image that comes, of which the last MOST_SIZES are kept: cameras may take
    turns.  Raises BackendUnavailable when a runtime cannot work on device memory, the pose prior is no mixture, or torch is
    missing on CUDA.
    """

    def __init__(
        self,
        body: Any,
        fitter: Any,
        regressor: Any,
        displacer: Any,
        device: str,
        max_people: int,
        mirrored: bool = False,
        required: bool = False,
    ) -> None:
        """``mirrored``: the networks are asked about the mirrored crops too.  ``required``: nothing is answered step by step."""
        self._device = wp.get_device(device)
        where = "cpu" if self._device.is_cpu else "cuda"
        for runtime in (regressor, displacer):
            if runtime.device != where:
                raise BackendUnavailable(f"{runtime.name} cannot run on the memory of {device}: choose another runtime.backend")
        require_mixture(fitter)
        self._shared = {"body": body, "fitter": fitter, "regressor": regressor, "mirrored": mirrored, "displacer": displacer}
        self._torch = None if self._device.is_cpu else _torch_on_cuda()
        self._stream = None if self._torch is None else self._torch.cuda.Stream()
        self._warp_stream = None if self._torch is None else wp.stream_from_torch(self._stream)
        self._sizes = [s for s in SIZES if s < max_people] + [next(s for s in SIZES if s >= max_people)]
        self._places: dict[tuple[int, int], _Place] = {}
        self._refused: set[tuple[int, int]] = set()  # sizes of images that could not be set up
        self._required = required
        self._done = None if self._torch is None else self._torch.cuda.Event()
        self.records = self._torch is not None and regressor.capturable and displacer.capturable
        how = "one CUDA graph" if self.records else "one stream" if self._torch else "step by step"
        self.name = f"{self._device.alias}, {how}"

    def measure(self, frame: Frame, tracks: Sequence[Track], config: Config) -> Measured | None:
        """Everything about ``tracks``, predicted to the frame's stamp, that its image says; None where there is no memory for
        images of its size."""
        place = self._place(frame.rgb.shape[:2])
        if place is None:
            return None
        np.copyto(place.rgb, frame.rgb)
        size = next(s for s in self._sizes if s >= len(tracks))
        batch = place.batches[size]
        _stage(batch, frame, tracks, config)
        if batch.colors.colors is not batch.recorded_colors:  # a texture larger than ever before
            place.batches[size] = batch = Batch(place.parts, size, batch.colors.slot_size)
            place.graphs.pop(size, None)
            place.ran.discard(size)
            _stage(batch, frame, tracks, config)
        try:
            self._run(place, size)
        except Exception as e:  # ONNX Runtime's errors have no other base
            if size in place.ran or self._torch is None or not device_answers():
                raise
            del self._places[frame.rgb.shape[:2]]
            self._refuse(frame.rgb.shape[:2], e)
            return None
        place.ran.add(size)
        return _collect(batch, len(tracks))

    def _place(self, shape: tuple[int, int]) -> _Place | None:
        if shape in self._refused:
            return None
        place = self._places.pop(shape, None)
        if place is None:
            while len(self._places) >= MOST_SIZES:  # first: a small board has no memory for one more
                del self._places[next(iter(self._places))]
            try:
                place = _Place(self._shared, self._sizes, self._device, self._stream, shape)
            except (RuntimeError, BackendUnavailable) as e:  # of Warp, torch and TensorRT when memory is out
                self._refuse(shape, e)
                return None
        self._places[shape] = place  # the newest last
        return place

    def _refuse(self, shape: tuple[int, int], error: Exception) -> None:
        if self._required:
            raise BackendUnavailable(f"runtime.device_frame: images of {shape[1]} x {shape[0]} px: {error}") from error
        self._refused.add(shape)
        _log.warning("images of %d x %d px are answered step by step: %s", shape[1], shape[0], error)

    def _run(self, place: _Place, size: int) -> None:
        batch = place.batches[size]
        if self._torch is None:
            batch.queue()
            return
        with wp.ScopedStream(self._warp_stream):
            wp.copy(place.parts.image, place.pinned)
            if self.records and size not in place.graphs:
                batch.queue()  # once outside: kernels load, engines and allocators settle
                wp.synchronize_stream(self._warp_stream)
                place.graphs[size] = self._record(batch)
            if self.records:
                with self._torch.cuda.stream(self._stream):
                    place.graphs[size].replay()
            else:
                batch.queue()
            self._done.record(self._stream)
        # By Warp: a wait of torch's would be refused while its sync_debug_mode watches that nothing else waits.
        wp.synchronize_stream(self._warp_stream)
        if not self._done.query():  # raises what the device failed with, which Warp up to 1.16 does not
            raise RuntimeError("the device did not finish its frame")

    def _record(self, batch: Batch) -> Any:
        """The queue as one graph.  Raises what went wrong first: both recorders fail at their end then, and say less."""
        torch, graph = self._torch, self._torch.cuda.CUDAGraph()
        before, first = torch.cuda.current_stream(), None
        try:
            with (
                warp_setup.without_collections(),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                wp.capture_begin(stream=self._warp_stream, external=True)
                try:
                    batch.queue()
                except BaseException as e:
                    first = e
                    raise
                finally:
                    wp.capture_end(stream=self._warp_stream)
        except BaseException as e:
            first = first or e
        finally:
            torch.cuda.set_stream(before)  # which torch leaves out when its end fails
        if first is not None:
            raise first
        return graph


def _stage(batch: Batch, frame: Frame, tracks: Sequence[Track], config: Config) -> None:
    """What the host knows: predictions and how far they may be off, colours, camera, settings."""
    h, n, camera = batch.up.host, len(tracks), frame.camera
    params = BodyParams.stack([t.params for t in tracks])
    rotvec = h.rotvec.reshape(batch.size, 24, 3)
    rotvec[:n, 0], rotvec[:n, 1:] = params.root_rotvec, params.joint_rotvec
    h.t[:n] = params.t_camera_root
    # The window is cut around the body as it was fitted; the fit begins with, and is pulled to, the track's belief.
    h.pose_betas[:n] = params.betas
    h.betas[:n], h.inv_betas_sigma[:n] = np.stack([t.shape.mean for t in tracks]), np.stack([1 / t.shape.sigma for t in tracks])
    rot_sigma, t_sigma = priors.prediction_sigmas(tracks, config, frame.stamp_ns)
    h.sigmas[:n, 0], h.sigmas[:n, 1] = rot_sigma[:, 0], t_sigma[:, 0]
    h.rotvec.reshape(batch.size, -1)[n:], h.pose_betas[n:], h.betas[n:], h.t[n:], h.inv_betas_sigma[n:], h.sigmas[n:] = (
        0,
        0,
        0,
        (0, 0, 3),
        1,
        1,
    )
    h.camera[:] = camera.fx, camera.fy, camera.cx, camera.cy
    h.active[:] = np.arange(batch.size) < n
    start, size = batch.colors.assign([t.appearance for t in tracks])
    h.color_start[:n], h.texture_size[:n] = start, size
    h.color_start[n:], h.texture_size[n:] = 0, 0
    h.settings[:] = config.regress.min_confidence, config.fit.estimate_sigma_scale
    h.margin[0] = config.render.crop_margin
    h.limits[:] = config.displace.max_sigma_px, config.displace.sigma_scale, config.displace.max_points


def _collect(batch: Batch, n: int) -> Measured:
    d = batch.down.host
    rotvec, start_rotvec = (a.reshape(batch.size, 24, 3)[:n].copy() for a in (d.rotvec, d.start_rotvec))
    params = BodyParams(d.betas[:n].copy(), rotvec[:, 0], rotvec[:, 1:], d.t[:n].copy())
    uv = d.key_uv.reshape(batch.size, 24, 2)[:n].copy()
    keypoints = Keypoints("smpl24", uv, d.key_confidence.reshape(batch.size, 24)[:n].copy())
    sigma = d.rot_sigma.reshape(batch.size, 24)[:n].copy()
    estimate = Estimate(params, d.confidence[:n].copy(), keypoints, "network", rot_sigma_rad=sigma)
    # The shape that the fit began with is the track's, which went up.
    betas = batch.up.host.betas[:n].copy()
    start = BodyParams(betas, start_rotvec[:, 0], start_rotvec[:, 1:], d.start_t[:n].copy())
    vertices = d.vertices.reshape(batch.size, -1, 3)[:n].copy()
    posed = PosedBody(vertices, d.joints.reshape(batch.size, 24, 3)[:n].copy())
    no = np.zeros(n, bool)  # with depth or a floor the single steps are taken
    return Measured(batch.crop(n), estimate, start, batch.fit.matches(n), batch.fit.answer(start), posed, no, no)


def _torch_on_cuda() -> Any:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of CUDA that it needs is missing
        raise BackendUnavailable(
            f"the frame on one CUDA stream needs a CUDA build of torch ({error}): pip install torch"
        ) from error
    if not torch.cuda.is_available():
        raise BackendUnavailable("the frame on one CUDA stream needs a CUDA build of torch, this one sees no device")
    return torch
