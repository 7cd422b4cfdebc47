"""The LIBERO simulator. No ROS."""
