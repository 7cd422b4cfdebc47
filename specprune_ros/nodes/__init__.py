# SPDX-License-Identifier: Apache-2.0
"""rclpy at the edge: executables on top, and the session that a configured policy node holds."""
