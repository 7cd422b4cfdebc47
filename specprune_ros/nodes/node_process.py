# SPDX-License-Identifier: Apache-2.0
"""The process around the policy node: how it starts, what ends it, and what DDS does on this machine."""

import contextlib
import faulthandler
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from specprune_ros.control.run import Outcome
from specprune_ros.errors import UserError
from specprune_ros.nodes.parameters.groups import NodeConfig
from specprune_ros.processes import shared_memory
from specprune_ros.processes.heartbeat import Heartbeat, notify
from specprune_ros.processes.interruption import LEAVING, Interruption, Suspension, end_within
from specprune_ros.processes.output import end_output
from specprune_ros.processes.socket_buffers import buffer_limit, buffer_problem

if TYPE_CHECKING:
    from specprune_ros.nodes.policy_node import PolicyNode

SIGNAL_TIME = 0.1  # seconds until a signal is noticed at the latest
START_TIME = 60.0  # seconds until the node exists at the latest
SUSPENDED = "the process was stopped (Ctrl-Z); when it is continued, call ~/enable"


def transport_problems() -> list[str]:
    """What makes DDS lose pictures or hang on this machine, a line each. Call it when there is a node."""
    problems = []
    if shared_memory.mapped():
        problems.append(
            "Fast DDS uses shared memory: a process that is killed can stop the commands of this one; set "
            "FASTRTPS_DEFAULT_PROFILES_FILE to config/fastdds.xml of this package, and neither ROS_LOCALHOST_ONLY=1 "
            "nor ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST (config/fastdds_localhost.xml does that)"
        )
    too_small = buffer_problem(buffer_limit())
    return [*problems, too_small] if too_small else problems


class NodeProcess:
    """The process around a node: ends it when it is told to, at any moment, and when its executor hangs."""

    def __init__(self, interrupted: int = 0) -> None:
        """`interrupted`: exit code when a signal ends the process while it starts or loads."""
        # A crash in compiled code must not be silent: every thread's stack goes to stderr.
        faulthandler.enable(sys.__stderr__ or sys.stderr)
        self.interruption = Interruption(interrupted)
        self.suspension = Suspension()
        self.heartbeat = Heartbeat(START_TIME)
        self.node: PolicyNode | None = None

    def start(self, make_node: "Callable[[], PolicyNode]") -> "PolicyNode":
        """The node. Raises UserError, ParameterException or NameValidationException for the user's arguments."""
        with self.interruption.at_once(lambda: None):  # nothing to stop yet
            self.heartbeat.beat()
            init_rclpy()
            self.node = made(make_node)
            self.node.while_loading = self._loading
        self._use_limit()
        return self.node

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        waits, self.suspension.waits = self.suspension.waits, False  # nothing moves meanwhile
        try:
            with self.heartbeat.suspended(), self.interruption.at_once(self._close):
                yield
        finally:
            self.suspension.waits = waits

    def _use_limit(self) -> None:
        assert self.node is not None
        limit = self.node.parameters.running(NodeConfig).hang_timeout
        if limit != self.heartbeat.limit:
            self.heartbeat.set_limit(limit)

    def run(self, node: "PolicyNode") -> None:
        """Spin until interrupted."""
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        self.suspension.waits = True
        notify("READY=1")
        while not self.interruption.requested:
            self._use_limit()
            self.heartbeat.beat()
            spin_some(executor, node)
            if self.suspension.requested:
                node.hold(SUSPENDED)
                with self.heartbeat.suspended():
                    self.suspension.stop()

    def end(self, code: int) -> NoReturn:
        """Stop the arm, leave ROS, and end the process without waiting for a running inference or a peer."""
        self.heartbeat.beat()  # ends the process if stopping the arm hangs
        notify("STOPPING=1")
        if self.node is not None:
            self.node.stop()
        end_within(LEAVING, code)
        self._close()
        leave(code)

    def _close(self) -> None:
        if self.node is not None:
            self.node.destroy_node()
        rclpy.try_shutdown()


def made(make_node: "Callable[[], PolicyNode]") -> "PolicyNode":
    """The node. Raises UserError for ROS arguments that do not parse, or settings that DDS refuses (RCLError)."""
    try:
        return make_node()
    except RuntimeError as error:
        raise _of_ros(error) from error


def spin_some(executor: SingleThreadedExecutor, node: "PolicyNode") -> None:
    """Callbacks for `SIGNAL_TIME` at most. An unexpected error in one stops motion and goal, and not the node."""
    try:
        executor.spin_once(timeout_sec=SIGNAL_TIME)
    except Exception as error:
        if node.session is not None:
            with contextlib.suppress(Exception):  # the arm was told to hold all the same
                node.session.enable(False)
        text = "".join(traceback.format_exception(error))
        node.get_logger().error(f"unexpected error, motion is off:\n{text}", throttle_duration_sec=5.0)
        why = f"unexpected error ({type(error).__name__}: {error}); see the node's log"
        with contextlib.suppress(Exception):  # the node goes on whatever becomes of its goal
            node.runs.end(Outcome.DISABLED, why)


def leave(code: int) -> NoReturn:
    """End the process without waiting for any thread."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
        end_output()
    os._exit(code)


def init_rclpy() -> None:
    """Raises UserError for ROS arguments that do not parse, or an environment that ROS cannot work in."""
    if shared_memory.is_wanted(os.environ):
        shared_memory.remove_stale()
    try:
        # rclpy's own handlers would invalidate the publishers before the arm is told to hold.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy has several, of no common kind
        raise _of_ros(error) from error


def _of_ros(error: Exception) -> UserError:
    return UserError(f"{str(error).split(', at ')[0]}; check what follows --ros-args and the variables ROS_*")
