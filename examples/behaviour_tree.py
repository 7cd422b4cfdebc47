#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tasks one after the other in a behaviour tree: behaviour_tree.py "open the drawer" "put the bowl in the drawer".

Each task is tried twice. Needs py_trees (`sudo apt-get install ros-jazzy-py-trees`, or `pip install py-trees`).
"""

import argparse
import sys
import time

import py_trees
import rclpy
import rclpy.utilities
from action_msgs.msg import GoalStatus
from py_trees.common import Status
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from specprune_ros.action import RunPolicy

PATIENCE = 10.0  # seconds for the node to be found, and to answer a cancel


class RunTask(py_trees.behaviour.Behaviour):
    """A goal on ~/run_policy: RUNNING until it ends. An interrupted one is cancelled, and the arm holds."""

    def __init__(self, client: ActionClient, goal: RunPolicy.Goal) -> None:
        super().__init__(goal.instruction)
        self._client, self._goal = client, goal

    def initialise(self) -> None:
        self._handle = self._answer = None
        self._wanted = True
        self._sent = self._client.send_goal_async(self._goal, feedback_callback=self._on_feedback)
        self._sent.add_done_callback(self._on_accepted)

    def _on_accepted(self, sent: rclpy.Future) -> None:
        handle = sent.result()
        if handle.accepted:
            self._handle, self._answer = handle, handle.get_result_async()
        if handle.accepted and not self._wanted:
            handle.cancel_goal_async()

    def _on_feedback(self, message: RunPolicy.Impl.FeedbackMessage) -> None:
        self.feedback_message = message.feedback.message

    def update(self) -> Status:
        if not self._sent.done():
            return Status.RUNNING
        if self._answer is None:
            self.feedback_message = "refused; the node's log says why"
            return Status.FAILURE
        if not self._answer.done():
            return Status.RUNNING
        answer = self._answer.result()
        self.feedback_message = answer.result.message
        return Status.SUCCESS if answer.status == GoalStatus.STATUS_SUCCEEDED else Status.FAILURE

    def terminate(self, new_status: Status) -> None:
        self._wanted = False
        if new_status == Status.INVALID and self._handle is not None and not self._answer.done():
            self._handle.cancel_goal_async()


def tree_of(client: ActionClient, tasks: list[str], **goal: object) -> py_trees.trees.BehaviourTree:
    """Every task until it succeeds, at most twice. `goal`: further fields of the goals."""
    root = py_trees.composites.Sequence("tasks", memory=True)
    for task in tasks:
        run = RunTask(client, RunPolicy.Goal(instruction=task, **goal))
        root.add_child(py_trees.decorators.Retry(f"twice: {task}", run, num_failures=2))
    return py_trees.trees.BehaviourTree(root)


def tick_until_done(tree: py_trees.trees.BehaviourTree, node: Node) -> Status:
    """Ticks ten times a second and shows the tree when it changes. Ctrl-C cancels what runs."""
    shown = ""
    try:
        while True:
            tree.tick()
            picture = py_trees.display.unicode_tree(tree.root, show_status=True)
            if picture != shown:
                print(picture)
                shown = picture
            if tree.root.status != Status.RUNNING:
                return tree.root.status
            until = time.monotonic() + 0.1
            while time.monotonic() < until:
                rclpy.spin_once(node, timeout_sec=0.05)
    except KeyboardInterrupt:
        tree.root.stop(Status.INVALID)  # `interrupt` only ends a loop of py_trees' own
        rclpy.spin_once(node, timeout_sec=PATIENCE)  # the answer to the cancel
        return Status.FAILURE


def main() -> int:
    """0 when every task succeeded, 1 when one did not, 2 without a node."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--time-limit", type=float, default=30.0, help="s, of every task")
    parser.add_argument("--until-success", action="store_true", help="until ~/success says so; else until time is over")
    parser.add_argument("--node", default="/specprune_policy")
    options = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:])
    # Ctrl-C cancels the goal, which needs ROS to be still there.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("behaviour_tree")
    client = ActionClient(node, RunPolicy, f"{options.node}/run_policy")
    if not client.wait_for_server(PATIENCE):
        print(f"nobody offers {options.node}/run_policy; is the policy node running?", file=sys.stderr)
        return 2
    tree = tree_of(client, options.tasks, time_limit=options.time_limit, until_success=options.until_success)
    return 0 if tick_until_done(tree, node) == Status.SUCCESS else 1


if __name__ == "__main__":
    sys.exit(main())
