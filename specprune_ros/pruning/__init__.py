# SPDX-License-Identifier: Apache-2.0
"""The method, SpecPrune-VLA: torch only, no ROS."""
