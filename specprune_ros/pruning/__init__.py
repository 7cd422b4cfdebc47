# SPDX-License-Identifier: Apache-2.0
"""The method, SpecPrune-VLA: tensors in, choices out. No model and no ROS."""
