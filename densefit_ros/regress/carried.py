"""No regressor of our own: tracks are carried by their prediction, and new people come from outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..runtime.picture import SIZE_PX
from ..types import NUM_JOINTS, BodyParams, Camera, Crop, Estimate


class CarriedEstimator:
    """The "first estimate" of a track is its prediction, without any pull of its own; unknown windows are nobody."""

    name = "external"
    size_px = SIZE_PX  # whatever is at hand: it looks at nothing
    margin = None

    def estimate(self, crop: Crop, camera: Camera, warm: Sequence[BodyParams] = ()) -> Estimate:
        """One row per window: ``warm`` for the first ``len(warm)``, and confidence 0 for the others."""
        others = len(crop.rgb) - len(warm)
        nobody = BodyParams.rest(others)
        nobody.root_rotvec[:, 0], nobody.t_camera_root[:, 2] = np.pi, 3.0  # upright, in front of the camera
        return Estimate(
            BodyParams.stack([*warm, nobody]),
            np.r_[np.ones(len(warm)), np.zeros(others)].astype(np.float32),
            source="track",
            rot_sigma_rad=np.full((len(crop.rgb), NUM_JOINTS), np.inf, np.float32),
        )
