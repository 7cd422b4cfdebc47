# SPDX-License-Identifier: Apache-2.0
"""ROS parameters, declared from configuration dataclasses."""
