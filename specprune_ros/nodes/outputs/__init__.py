# SPDX-License-Identifier: Apache-2.0
"""What leaves the node: commands, trajectories, the gripper, chunks and overlays."""
