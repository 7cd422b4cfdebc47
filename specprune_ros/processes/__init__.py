# SPDX-License-Identifier: Apache-2.0
"""Child processes that do not outlive this one, and a ROS domain of their own."""
