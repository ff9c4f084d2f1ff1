"""DenseFit: a real-time human mesh tracker for robots.

The frame, top to bottom, is :mod:`densefit_ros.pipeline`.  Importing this package imports neither ROS nor CUDA.
"""

# A colcon or CMake build generates ``densefit_ros.msg`` into another directory of the same package name.  Without the
# extended path, a source checkout first on sys.path would hide the generated messages.
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
