"""Run the displacement network on crops and the renderings of their persons."""

from __future__ import annotations

import numpy as np

from ..errors import AssetError, ShapeError
from ..runtime.picture import IMAGE_FEATURES
from ..runtime.protocol import Runtime, check_contract
from ..types import Crop, DisplacementField, ImageFeatures, Surface
from .contract import DISPLACEMENT_CONTRACT, RENDER_CHANNELS, STRIDE_PX

# Vertex colours mark the mask, so a truly black one is lifted by one grey level.
MIN_COLOUR = 1.0 / 255.0


class Displacer:
    """The displacement network behind any runtime, on the image features of ``encoder``, the regressor network.

    Raises AssetError when one of the files is another network.
    """

    def __init__(self, runtime: Runtime, encoder: Runtime) -> None:
        check_contract(runtime, DISPLACEMENT_CONTRACT)
        for name, spec in IMAGE_FEATURES.items():
            if name not in encoder.outputs:
                raise AssetError(f"{encoder.path}: expected the output '{name}' {spec} of the regressor network")
        self.runtime, self.encoder = runtime, encoder

    def predict(self, crop: Crop, surface: Surface, seen: ImageFeatures | None = None) -> DisplacementField:
        """One field per person; ``surface`` is rendered into the crops.

        ``seen`` is what the encoder made of these crops already; without it, it looks at them now.  Raises ShapeError when
        crops and surface do not fit.
        """
        if surface.face_id.shape != crop.rgb.shape[:3]:
            raise ShapeError(f"surface {surface.face_id.shape} must be rendered at the crops' size {crop.rgb.shape[:3]}")
        seen = seen or self.look(crop.rgb)
        out = self.runtime({"s4": seen.s4, "s8": seen.s8, "rendering": pack_rendering(surface)})
        return DisplacementField(out["flow"], out["log_var"], STRIDE_PX)

    def look(self, rgb: np.ndarray) -> ImageFeatures:
        """Features of crops (P,S,S,3) uint8."""
        # The trunk does not read the intrinsics; any will do.
        out = self.encoder({"image": rgb, "intrinsics": np.ones((len(rgb), 4), np.float32)})
        return ImageFeatures(out["s4"], out["s8"])


def pack_rendering(surface: Surface) -> np.ndarray:
    """The network's last input, (P,h,w,10) float32: rgb, relative depth in m, normals, vertex colours.

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
