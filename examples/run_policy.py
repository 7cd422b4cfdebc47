#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one task on a policy node and says how it ended: run_policy.py "put the bowl on the plate" --time-limit 30."""

import argparse
import sys

import rclpy
import rclpy.utilities
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.signals import SignalHandlerOptions
from specprune_ros.action import RunPolicy

PATIENCE = 10.0  # seconds for the node to be found, and to answer a cancel


def main() -> int:
    """0 when the task succeeded, 1 when it did not, 2 when the node did not take it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instruction")
    parser.add_argument("--time-limit", type=float, default=30.0, help="s")
    parser.add_argument("--until-rest", type=float, default=0.0, help="s at rest with the gripper open; 0: not an end")
    parser.add_argument("--dry-run", action="store_true", help="move nothing")
    parser.add_argument("--node", default="/specprune_policy")
    options = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:])
    # Ctrl-C cancels the goal, which needs ROS to be still there.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("run_policy")
    client = ActionClient(node, RunPolicy, f"{options.node}/run_policy")
    if not client.wait_for_server(PATIENCE):
        print(f"nobody offers {options.node}/run_policy; is the policy node running?", file=sys.stderr)
        return 2
    goal = RunPolicy.Goal(
        instruction=options.instruction,
        time_limit=options.time_limit,
        until_rest=options.until_rest,
        dry_run=options.dry_run,
    )
    sent = client.send_goal_async(goal, feedback_callback=lambda message: show(message.feedback))
    rclpy.spin_until_future_complete(node, sent)
    handle = sent.result()
    if not handle.accepted:
        print("the node refused the goal; its log says why", file=sys.stderr)
        return 2
    answer = handle.get_result_async()
    try:
        rclpy.spin_until_future_complete(node, answer)
    except KeyboardInterrupt:
        handle.cancel_goal_async()
        rclpy.spin_until_future_complete(node, answer, timeout_sec=PATIENCE)
    if not answer.done():
        print("the node does not answer any more", file=sys.stderr)
        return 1
    status, result = answer.result().status, answer.result().result
    print(f"{result.message}; {result.elapsed:.1f} s, {result.inferences} inferences, {result.distance:.3f} m")
    return 0 if status == GoalStatus.STATUS_SUCCEEDED else 1


def show(feedback: RunPolicy.Feedback) -> None:
    """One line."""
    print(f"{feedback.elapsed:6.1f} s  {feedback.mode:6}  {feedback.latency_p50 * 1e3:4.0f} ms  {feedback.message}")


if __name__ == "__main__":
    sys.exit(main())
