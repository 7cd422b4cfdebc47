"""From messages, of DDS or of a bag, to an observation. No rclpy."""
