"""Rotations, pinhole cameras and crops: plain NumPy, any leading batch shape, float32 or float64 as given."""
