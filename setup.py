"""The ROS-free part of DenseFit as a pip package; everything about it is in pyproject.toml."""

from setuptools import setup

setup()
