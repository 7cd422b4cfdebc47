# SPDX-License-Identifier: Apache-2.0
"""From messages, of DDS or of a bag, to an observation. No rclpy."""
