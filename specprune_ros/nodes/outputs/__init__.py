"""What leaves the node: commands, trajectories, the gripper, chunks and overlays."""
