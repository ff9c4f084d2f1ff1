"""Rasterisers behind one protocol, and the appearance (texture) of a tracked person."""
