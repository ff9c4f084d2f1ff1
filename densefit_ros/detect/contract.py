"""Names, shapes and units at the border of the person finder's network."""

from __future__ import annotations

from ..runtime.protocol import NetworkContract, TensorSpec

WIDTH_PX, HEIGHT_PX = 256, 192
STRIDE_PX = 8
COLUMNS, ROWS = WIDTH_PX // STRIDE_PX, HEIGHT_PX // STRIDE_PX
PAD_GREY = 115  # fills the window where the picture does not: zero after the network's normalisation

FINDER_CONTRACT = NetworkContract(
    "finder",
    inputs={"image": TensorSpec((None, HEIGHT_PX, WIDTH_PX, 3), "uint8")},  # whole picture, scaled to fit, centred
    outputs={
        "heat": TensorSpec((None, 1, ROWS, COLUMNS), "float32"),  # logit: a visible person's box has its centre here
        # That box, relative to the cell's centre: offset of its centre (u, v) and log of (width, height), all in strides.
        "box": TensorSpec((None, 4, ROWS, COLUMNS), "float32"),
    },
)
