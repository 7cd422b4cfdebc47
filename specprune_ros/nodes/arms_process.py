# SPDX-License-Identifier: Apache-2.0
"""The process around the policy nodes of several arms: a control thread for each, and what ends them all."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NoReturn

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from specprune_ros.errors import ConfigError
from specprune_ros.nodes.model import SharedModel
from specprune_ros.nodes.node_process import SIGNAL_TIME, START_TIME, SUSPENDED, init_rclpy, leave, made, spin_some
from specprune_ros.nodes.parameters.arms import ArmArguments
from specprune_ros.nodes.parameters.groups import NodeConfig
from specprune_ros.nodes.policy_node import PolicyNode
from specprune_ros.processes.heartbeat import Heartbeat, notify
from specprune_ros.processes.interruption import LEAVING, Interruption, Suspension, end_within

HOLDING_TIME = 1.0  # seconds in which every arm holds at the end; one that hangs is not waited for any longer


class ArmThread:
    """One arm's control thread, with an executor of its own: nothing that another arm does can delay a hold."""

    def __init__(self, node: PolicyNode, ending: threading.Event) -> None:
        """`ending`: set when the process is about to end; then the arm holds, and its thread ends."""
        self.node, self._ending = node, ending
        self.started = threading.Event()  # configured and active, or not, where `autostart` asks for it
        self.failed = False  # it could not be configured then
        self.loading = False  # what may take as long as it likes
        self._beat = time.monotonic()
        node.while_loading = self._while_loading
        self._executor: SingleThreadedExecutor | None = None  # once it spins
        self.thread = threading.Thread(target=self._run, name=f"control {node.get_namespace()}", daemon=True)

    @property
    def hangs(self) -> bool:
        """Whether it has not come round for `hang_timeout`, or is gone."""
        limit = self.node.parameters.running(NodeConfig).hang_timeout
        silent = not self.loading and 0 < limit < time.monotonic() - self._beat
        return silent or not self.thread.is_alive()

    def beat(self) -> None:
        """It does not hang."""
        self._beat = time.monotonic()

    @contextlib.contextmanager
    def _while_loading(self) -> Iterator[None]:
        self.loading = True
        try:
            yield
        finally:
            self.beat()
            self.loading = False

    def _run(self) -> None:
        try:
            self._autostart()
        finally:
            self.started.set()
        self._executor = SingleThreadedExecutor(context=self.node.context)
        self._executor.add_node(self.node)
        while not self._ending.is_set():
            self.beat()
            spin_some(self._executor, self.node)
        if self.node.session is not None:
            self.node.session.stop()

    def hold(self, why: str) -> threading.Event:
        """Switch motion off, on its own thread; from any other. The event is set when that is done."""
        done = threading.Event()

        def hold() -> None:
            self.node.hold(why)
            done.set()

        if self._executor is None:
            done.set()  # it has not moved yet
        else:
            self._executor.create_task(hold)
        return done

    def _autostart(self) -> None:
        if not self.node.parameters.declared(NodeConfig).autostart:
            return
        if self.node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            self.failed = True  # its log says why
        else:
            self.node.trigger_activate()


class ArmsProcess:
    """Starts the arms and ends them together: when it is told to, or when a control thread hangs."""

    def __init__(self) -> None:
        faulthandler.enable(sys.__stderr__ or sys.stderr)  # a crash in compiled code must not be silent
        self.interruption = Interruption()
        self.suspension = Suspension()
        self.heartbeat = Heartbeat(START_TIME)
        self.model = SharedModel()
        self.arms: list[ArmThread] = []
        self._ending = threading.Event()

    def start(self, arms: Sequence[ArmArguments]) -> None:
        """Make the nodes and start their threads.

        Raises UserError, ParameterException or NameValidationException for the user's arguments.
        """
        with self.interruption.at_once(lambda: None):  # nothing to stop yet
            self.heartbeat.beat()
            init_rclpy()
            for given in arms:
                node = made(partial(PolicyNode, self.model, cli_args=given.arguments))
                self.arms.append(ArmThread(node, self._ending))
        names = [arm.node.get_fully_qualified_name() for arm in self.arms]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"two arms have one name: {', '.join(names)}; a remapping of __ns or __node is in the way"
            )
        for arm in self.arms:
            arm.thread.start()

    def run(self) -> int:
        """Watch the control threads until interrupted; returns the exit code."""
        told = False
        self.suspension.waits = True
        while not self.interruption.requested:
            if self.suspension.requested:
                self._suspend()
            hanging = [arm for arm in self.arms if arm.hangs]
            if hanging:
                self._tell_hang(hanging)
                return 1
            if not told and all(arm.started.is_set() for arm in self.arms):
                told = True
                if any(arm.failed for arm in self.arms):
                    return 2
                notify("READY=1")
            self._beat()
            time.sleep(SIGNAL_TIME)
        return 0

    def _suspend(self) -> None:
        """Ctrl-Z: every arm holds, then the process stops until it is continued."""
        until = time.monotonic() + HOLDING_TIME
        for done in [arm.hold(SUSPENDED) for arm in self.arms]:
            done.wait(max(until - time.monotonic(), 0.0))
        with self.heartbeat.suspended():
            self.suspension.stop()
        for arm in self.arms:
            arm.beat()

    def _beat(self) -> None:
        """This thread is alive, and whoever holds Python's global lock lets go of it; loading may keep it for long."""
        if any(arm.loading for arm in self.arms):
            self.heartbeat.stop()
            notify("WATCHDOG=1")
            return
        limits = [arm.node.parameters.running(NodeConfig).hang_timeout for arm in self.arms]
        limit = 0.0 if 0.0 in limits else max(limits)
        if limit != self.heartbeat.limit:
            self.heartbeat.set_limit(limit)
        self.heartbeat.beat()

    @staticmethod
    def _tell_hang(hanging: list[ArmThread]) -> None:
        for arm in hanging:
            name = arm.node.get_fully_qualified_name()
            with contextlib.suppress(OSError):  # nobody reads, see output.py
                print(f"{name}: the control thread hangs; every arm is held", file=sys.stderr)
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)

    def end(self, code: int) -> NoReturn:
        """Hold every arm, leave ROS, and end the process without waiting for a running inference or an arm that hangs.

        Each thread holds its own arm, so one that hangs delays no other.
        """
        self.heartbeat.stop()
        notify("STOPPING=1")
        self._ending.set()
        until = time.monotonic() + HOLDING_TIME
        for arm in self.arms:
            if arm.thread.is_alive():
                arm.thread.join(max(until - time.monotonic(), 0.0))
        end_within(LEAVING, code)
        for arm in self.arms:
            if not arm.thread.is_alive():
                arm.node.destroy_node()
        rclpy.try_shutdown()
        leave(code)
