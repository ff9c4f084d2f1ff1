"""The built-in first estimate: one network pass per frame for all crops."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import ShapeError
from ..runtime.picture import SIZE_PX
from ..runtime.protocol import Runtime, check_contract
from ..types import BodyParams, Camera, Crop, Estimate
from .contract import REGRESSOR_CONTRACT
from .decode import RestBody, crop_intrinsics, decode
from .mirrored import Mirrored


class NetworkRegressor:
    """The regressor network behind any runtime.

    The estimate carries the network's own standard deviation of every joint rotation (``rot_sigma_rad``), what its trunk
    sees, which the displacement network reads too, and, with ``keypoints``, its 2D joints as evidence for the fit.
    ``mirrored``: whose mirrored crops it is asked about too, those of "new" people, "always" or "never".  Raises AssetError
    when the file is another network.
    """

    size_px = SIZE_PX
    margin = None

    def __init__(self, body: RestBody, runtime: Runtime, keypoints: bool = True, mirrored: str = "never") -> None:
        check_contract(runtime, REGRESSOR_CONTRACT)
        self.runtime, self.mirrored = runtime, mirrored
        self._ask = Mirrored(runtime)
        also = {"always": ", also mirrored", "new": ", newcomers also mirrored", "never": ""}[mirrored]
        self.name = f"network ({runtime.name}{also})"
        self._body = body
        self._keypoints = keypoints

    def estimate(self, crop: Crop, camera: Camera, warm: Sequence[BodyParams] = ()) -> Estimate:
        """One estimate per window of ``crop``, which was cut from an image of ``camera``.

        ``warm``: the people who are tracked already come first in ``crop``, and are as many.
        """
        if crop.size != SIZE_PX:
            raise ShapeError(f"the regressor expects crops of {SIZE_PX} px, got {crop.size}")
        intrinsics = crop_intrinsics(camera, crop.image_from_crop, crop.size)
        once = {"always": 0, "new": len(warm), "never": len(crop.rgb)}[self.mirrored]
        outputs, seen = self._ask({"image": crop.rgb, "intrinsics": intrinsics}, once)
        result = decode(outputs, self._body, camera, crop.image_from_crop, crop.size)
        result = dataclasses.replace(result, seen=seen)
        return result if self._keypoints else dataclasses.replace(result, keypoints=None)
