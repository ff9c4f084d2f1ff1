"""First estimates of bodies from a crop, from keypoints or from outside."""
