"""``densefit run --bag``: recorded topics in, the node's topics out, without ROS installed."""
