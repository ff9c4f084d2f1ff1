"""Names, shapes and units at the border of the displacement network."""

from __future__ import annotations

from ..runtime.picture import IMAGE_FEATURES, SEEN, SIZE_PX
from ..runtime.protocol import NetworkContract, TensorSpec

STRIDE_PX = 4
GRID = SIZE_PX // STRIDE_PX
RENDER_CHANNELS = 11  # rgb 3, relative depth 1, normals 3, vertex colours 3, mask 1
DEPTH_LIMIT_M = 1.2  # relative depth is clipped here: nobody's limbs are farther from their mean

DISPLACEMENT_CONTRACT = NetworkContract(
    "displacement",
    inputs={**IMAGE_FEATURES, "rendering": TensorSpec((None, SIZE_PX, SEEN.stop - SEEN.start, RENDER_CHANNELS), "float32")},
    outputs={
        "flow": TensorSpec((None, 2, GRID, GRID), "float32"),
        "log_var": TensorSpec((None, 1, GRID, GRID), "float32"),
    },
)
