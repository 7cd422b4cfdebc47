"""ROS parameters, declared from configuration dataclasses."""
