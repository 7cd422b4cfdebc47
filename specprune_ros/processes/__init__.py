# SPDX-License-Identifier: Apache-2.0
"""Child processes that end with this one, and ROS domains of their own."""
