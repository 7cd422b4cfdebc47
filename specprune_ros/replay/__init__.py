# SPDX-License-Identifier: Apache-2.0
"""A recorded bag through the policy, without ROS graph, DDS or clock: what pruning does on it, as a report."""
