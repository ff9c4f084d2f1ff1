"""Body models in the SMPL file format: joints and keypoint names, loading, posing in NumPy and in Warp."""
