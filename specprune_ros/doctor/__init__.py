# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is and what is wrong with it, told without loading it and without ROS."""
