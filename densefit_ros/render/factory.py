"""Choice of a renderer by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import warp_setup
from ..errors import BackendUnavailable, ConfigError
from .protocol import Renderer

if TYPE_CHECKING:
    from ..body.model import BodyModel


def make_renderer(body: BodyModel, backend: str = "auto", device: str = "auto") -> Renderer:
    """The renderer for ``body``.

    backend "auto" (Warp), "warp" or "nvdiffrast"; device "auto" (CUDA where there is one, for nvdiffrast always CUDA),
    "cpu" or "cuda".  Only "auto" falls back: raises BackendUnavailable when a named backend or device cannot run here,
    ConfigError for an unknown name.
    """
    if backend not in ("auto", "warp", "nvdiffrast"):
        raise ConfigError(f"expected renderer auto, warp or nvdiffrast, got {backend!r}")
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"expected device auto, cpu or cuda, got {device!r}")
    if backend == "nvdiffrast":
        from .nvdiffrast_renderer import HINT, NvdiffrastRenderer

        if device == "cpu":
            raise BackendUnavailable(f"nvdiffrast renders on CUDA only, got device cpu: {HINT}")
        return NvdiffrastRenderer(body, "cuda")
    from .warp_renderer import WarpRenderer

    cuda = warp_sees_cuda()
    if device == "cuda" and not cuda:
        raise BackendUnavailable(
            "expected a CUDA device for the Warp renderer, found none: check the driver, or choose device cpu"
        )
    return WarpRenderer(body, "cuda" if cuda and device != "cpu" else "cpu")


def warp_sees_cuda() -> bool:
    """Whether Warp can run on a CUDA device here."""
    import warp as wp

    warp_setup.init()
    return bool(wp.is_cuda_available())
