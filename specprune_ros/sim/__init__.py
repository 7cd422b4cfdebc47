# SPDX-License-Identifier: Apache-2.0
"""The LIBERO simulator. No ROS."""
