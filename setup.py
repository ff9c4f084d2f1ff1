"""The ROS-free part of DenseFit as a pip package; everything about it is in pyproject.toml."""

from glob import glob

from setuptools import setup

# Bags are read and written without ROS by these definitions (densefit_ros/ros/bagtypes.py).
setup(data_files=[("share/densefit_ros/msg", sorted(glob("msg/*.msg")))])
