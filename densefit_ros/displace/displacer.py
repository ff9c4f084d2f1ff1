"""Run the displacement network on crops and the renderings of their persons."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..errors import AssetError, ShapeError
from ..geometry.crop import columns_seen
from ..runtime.picture import IMAGE_FEATURES
from ..runtime.protocol import Runtime, check_contract
from ..types import Crop, DisplacementField, ImageFeatures, Surface
from .contract import DEPTH_LIMIT_M, DISPLACEMENT_CONTRACT, RENDER_CHANNELS, STRIDE_PX
from .mirrored import Field, merged, mirror_rendering


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

        ``seen`` is what the encoder made of these crops already; without it, it looks at them now.  Where it looked twice, the
        field is the mean of both.  Raises ShapeError when crops and surface do not fit.
        """
        if surface.face_id.shape != crop.rgb.shape[:3]:
            raise ShapeError(f"surface {surface.face_id.shape} must be rendered at the crops' size {crop.rgb.shape[:3]}")
        seen = seen or self.look(crop.rgb)
        rendering, count = pack_rendering(surface), len(crop.rgb)
        field = self._ask(seen.s4[:count], seen.s8[:count], rendering)
        if seen.mirrored:
            there = mirror_rendering(rendering[list(seen.mirrored)])
            field = merged(field, self._ask(seen.s4[count:], seen.s8[count:], there), seen.mirrored)
        return DisplacementField(*field, STRIDE_PX)

    def look(self, rgb: np.ndarray, mirrored: Sequence[int] = ()) -> ImageFeatures:
        """Features of crops (P,S,S,3) uint8, of which those of ``mirrored`` are looked at in the mirror too."""
        looks = [rgb]
        if mirrored:
            looks.append(np.ascontiguousarray(rgb[list(mirrored), :, ::-1]))
        # The trunk does not read the intrinsics; any will do.
        seen = [self.encoder({"image": look, "intrinsics": np.ones((len(look), 4), np.float32)}) for look in looks]
        s4, s8 = (np.concatenate([s[name] for s in seen]) for name in ("s4", "s8"))
        return ImageFeatures(s4, s8, tuple(mirrored))

    def _ask(self, s4: np.ndarray, s8: np.ndarray, rendering: np.ndarray) -> Field:
        # The mirror images are a call of their own: engines are built for as many people as are tracked, not for twice as many.
        out = self.runtime({"s4": s4, "s8": s8, "rendering": rendering})
        return out["flow"], out["log_var"]


def pack_rendering(surface: Surface) -> np.ndarray:
    """The network's last input, (P,S,W,11) float32, of the columns that it sees: rgb, depth, normals, vertex colours, mask.

    Depth is in m, relative to its mean over the person's pixels, within DEPTH_LIMIT_M; everything is 0 on the background.
    """
    persons, side, _ = surface.face_id.shape
    seen = columns_seen(side)
    packed = np.empty((persons, side, seen.stop - seen.start, RENDER_CHANNELS), np.float32)
    for i in range(persons):
        covered = (surface.face_id[i] >= 0).astype(np.float32)
        mean_m = surface.depth_m[i].sum(dtype=np.float64) / max(float(covered.sum()), 1.0)
        relative_m = surface.depth_m[i][:, seen] - np.float32(mean_m)
        depth = np.clip(relative_m, -DEPTH_LIMIT_M, DEPTH_LIMIT_M) * covered[:, seen]
        colours, normals, points = (x[i][:, seen] for x in (surface.rgb, surface.normals, surface.vertex_colors))
        # Gathering rows of covered pixels and scattering them into zeros took 1.35 ms a person, this takes 0.6.
        cv2.merge([colours, depth, normals, points, covered[:, seen]], packed[i])
    return packed
