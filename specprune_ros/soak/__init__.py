# SPDX-License-Identifier: Apache-2.0
"""The policy node at full input rate for a long time (`scripts/soak`). Does memory grow? Is a control tick ever late?

soak       the command: starts a robot and a policy node, listens, judges
robot      a process that publishes cameras, joint states and TF at full rate
listener   what the policy node says: commands, pruning statistics, diagnostics
process    memory and scheduling delay of a process, from /proc
verdict    numbers in, summary out: whether the node passed
plot       the same as a picture

Only `soak`, `robot` and `listener` import rclpy.
"""
