"""Everything that knows ROS 2.  The rest of the package never imports it, and importing this package alone is harmless."""
