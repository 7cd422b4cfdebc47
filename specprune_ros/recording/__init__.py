# SPDX-License-Identifier: Apache-2.0
"""Bags as files: what is written into them, without ROS."""
