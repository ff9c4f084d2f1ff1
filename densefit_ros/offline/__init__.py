"""The offline twin of the ROS node: the same pipeline on a video, a picture or a folder of pictures."""
