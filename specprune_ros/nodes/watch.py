# SPDX-License-Identifier: Apache-2.0
"""`ros2 run specprune_ros watch`: a policy node on one screen of the terminal, until Ctrl-C.

It only listens. The node of a namespace: `--ros-args -r __ns:=/left`; of another name: `-p node:=NAME`. With `--once`,
or when the output is no terminal, it prints one screen and ends: 0, or 1 when the node was not heard.
"""

import argparse
import sys

from specprune_ros.processes.interruption import LEAVING, Interruption, end_within, leave_at_once

if __name__ == "__main__":
    leave_at_once()  # in the seconds that the imports take

import time
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.utilities import remove_ros_args
from rich.console import Console
from rich.live import Live
from std_msgs.msg import String

from specprune_ros.errors import UserError
from specprune_ros.msg import ActionChunk, PruningStats
from specprune_ros.nodes.node_process import init_rclpy
from specprune_ros.nodes.subscribing import LATCHED
from specprune_ros.viewing.dashboard import screen
from specprune_ros.viewing.watched import Watched

QOS = QoSProfile(depth=10)
PATIENCE = 10.0  # seconds for --once; discovery can take 1.5, diagnostics another one
COLLECTING = 2.5  # seconds that --once listens, once it has heard the node
REDRAW = 0.2  # seconds


class WatchNode(Node):
    """Subscribes to what the policy node says; never asks it for anything."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("specprune_watch", **kwargs)
        self.declare_parameter("node", "specprune_policy")
        name = self.get_parameter("node").get_parameter_value().string_value
        self.watched = Watched(self.resolve_topic_name(name))
        for kind, topic, hear, qos in (
            (DiagnosticArray, "/diagnostics", self.watched.on_diagnostics, QOS),
            (ActionChunk, f"{name}/action_chunk", self.watched.on_chunk, QOS),
            (PruningStats, f"{name}/pruning", self.watched.on_pruning, QOS),
            (String, f"{name}/status", self.watched.on_status, LATCHED),
        ):
            self.create_subscription(kind, topic, lambda message, hear=hear: hear(message, time.monotonic()), qos)


def watch(node: WatchNode, interruption: Interruption, *, once: bool, console: Console) -> int:
    """Draw until interrupted, or once; returns the exit code."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    if once:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not interruption.requested:
            executor.spin_once(timeout_sec=REDRAW)
            if node.watched.told is not None:
                until = min(until, node.watched.told + COLLECTING)
        console.print(screen(node.watched, time.monotonic()))
        return 0 if node.watched.told is not None else 1
    with Live(console=console, screen=True, auto_refresh=False) as live:
        drawn = 0.0
        while not interruption.requested:
            executor.spin_once(timeout_sec=REDRAW)
            if time.monotonic() - drawn >= REDRAW:
                drawn = time.monotonic()
                live.update(screen(node.watched, drawn), refresh=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="watch", description=__doc__.splitlines()[0].replace("`", ""))
    parser.add_argument("--once", action="store_true", help="print one screen and end; 1 when the node was not heard")
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    interruption, console = Interruption(), Console()
    try:
        init_rclpy()
        node = WatchNode()
    except (UserError, ParameterException, NameValidationException) as error:
        print(f"watch: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    code = watch(node, interruption, once=options.once or not console.is_terminal, console=console)
    end_within(LEAVING, code)
    node.destroy_node()
    rclpy.try_shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main())
