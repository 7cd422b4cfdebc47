"""Child processes that do not outlive this one, and a ROS domain of their own."""
