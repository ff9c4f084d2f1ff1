"""Run the displacement network on crops and the renderings of their persons."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from ..runtime.protocol import Runtime, check_contract
from ..types import Crop, DisplacementField, Surface
from .contract import DISPLACEMENT_CONTRACT, RENDER_CHANNELS, STRIDE_PX

# Vertex colours mark the mask, so a truly black one is lifted by one grey level.
MIN_COLOUR = 1.0 / 255.0


class Displacer:
    """The displacement network behind any runtime.  Raises AssetError when the file is not a displacement network."""

    def __init__(self, runtime: Runtime) -> None:
        check_contract(runtime, DISPLACEMENT_CONTRACT)
        self.runtime = runtime

    def predict(self, crop: Crop, surface: Surface) -> DisplacementField:
        """One field per person; ``surface`` is rendered into the crops.  Raises ShapeError when the two do not fit."""
        if surface.face_id.shape != crop.rgb.shape[:3]:
            raise ShapeError(f"surface {surface.face_id.shape} must be rendered at the crops' size {crop.rgb.shape[:3]}")
        out = self.runtime({"image": crop.rgb, "rendering": pack_rendering(surface)})
        return DisplacementField(out["flow"], out["log_var"], STRIDE_PX)


def pack_rendering(surface: Surface) -> np.ndarray:
    """The network's second input, (P,h,w,10) float32: rgb, relative depth in m, normals, vertex colours.

    Depth is relative to its mean over the person's pixels; everything is 0 on the background.
    """
    mask = surface.face_id >= 0
    count = np.maximum(mask.sum((1, 2)), 1)
    mean_m = surface.depth_m.sum((1, 2), dtype=np.float64) / count
    out = np.empty(mask.shape + (RENDER_CHANNELS,), np.float32)
    out[..., 0:3] = surface.rgb
    out[..., 3] = (surface.depth_m - mean_m[:, None, None].astype(np.float32)) * mask
    out[..., 4:7] = surface.normals
    np.maximum(surface.vertex_colors, MIN_COLOUR, out=out[..., 7:10])
    out[..., 7:10] *= mask[..., None]
    return out
