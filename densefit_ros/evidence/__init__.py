"""Evidence from other programs: OpenPose keypoints, DensePose maps."""
