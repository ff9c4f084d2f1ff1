"""Names, shapes and units at the border of the regressor network."""

from __future__ import annotations

from ..runtime.picture import IMAGE_FEATURES, SIZE_PX
from ..runtime.protocol import NetworkContract, TensorSpec

REGRESSOR_CONTRACT = NetworkContract(
    "regressor",
    inputs={
        "image": TensorSpec((None, SIZE_PX, SIZE_PX, 3), "uint8"),
        "intrinsics": TensorSpec((None, 4), "float32"),  # crop camera fx, fy, cx, cy over the crop's side
    },
    outputs={
        "rot6d_rows": TensorSpec((None, 24, 6), "float32"),  # joint 0 in the frame of the ray through the crop's centre
        "betas": TensorSpec((None, 10), "float32"),
        "cam": TensorSpec((None, 3), "float32"),  # pelvis u, v over the crop's side minus 0.5; log(fx / side / z_m)
        "rot_log_var": TensorSpec((None, 24), "float32"),  # log rad^2, per axis
        "confidence": TensorSpec((None,), "float32"),
        "feature": TensorSpec((None, None), "float32"),
        "joints_uv": TensorSpec((None, 24, 2), "float32"),  # joint positions over the crop's side minus 0.5
        "joints_log_var": TensorSpec((None, 24), "float32"),  # log of variance per component, in (crop side)^2
        **IMAGE_FEATURES,
    },
)
