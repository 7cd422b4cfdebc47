# SPDX-License-Identifier: Apache-2.0
"""A command that starts nodes in processes of their own, listens to them from this one, and ends with a code."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import rclpy
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool
from tqdm import tqdm

from specprune_ros.errors import UserError
from specprune_ros.processes.children import ChildEnded, ChildProcesses
from specprune_ros.processes.free_domain import free_domain, local_network

START_TIMEOUT = 900.0  # seconds; a large checkpoint takes minutes to load and warm up
SPIN = 0.05  # seconds between two looks at the children
INTERVAL = 0.2 if sys.stderr.isatty() else 5.0  # seconds between two updates of a progress bar
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes


class RunFailed(Exception):
    """The nodes did not come up or came to a stop; one line."""


def command(body: Callable[[], int], say: Callable[[str], None]) -> int:
    """`body`'s exit code, or 1 when a process failed, 2 for a user's mistake, 130 when interrupted; `say` tells why."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return body()
    except (UserError, RunFailed, ChildEnded) as error:
        say(str(error))
        bad_input = isinstance(error, UserError) or (isinstance(error, ChildEnded) and error.code == BAD_INPUT)
        return BAD_INPUT if bad_input else FAILED
    except KeyboardInterrupt:
        say("interrupted; nothing is left running")
        return INTERRUPTED


@contextmanager
def children_of_a_run(logs: Path, environment: dict[str, str]) -> Iterator[ChildProcesses]:
    """Children in a ROS domain that nobody else uses; nothing is left running, whatever happens.

    `environment`: further variables, for this process and its children, unless the user has set them.
    """
    with free_domain() as domain:
        # Before rclpy starts, here and in the children: never talk to somebody's robot.
        os.environ.update(local_network(domain))
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        logs.mkdir(parents=True, exist_ok=True)
        with ChildProcesses(logs) as children:
            yield children


@contextmanager
def listening(children: ChildProcesses) -> Iterator["Runner"]:
    """rclpy in this process, while the children run."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield Runner(children)
    finally:
        rclpy.try_shutdown()


class Runner:
    """Spins this process's nodes while it watches the children."""

    def __init__(self, children: ChildProcesses) -> None:
        self._children = children
        self._executor = SingleThreadedExecutor()

    def add(self, node: Node) -> None:
        self._executor.add_node(node)

    def spin(self) -> None:
        """Some callbacks. Raises ChildEnded when a child is not running any more."""
        self._executor.spin_once(timeout_sec=SPIN)
        self._children.check()

    def wait(self, missing: Callable[[], str]) -> None:
        """Until `missing` says that nothing is. Raises RunFailed after `START_TIMEOUT`."""
        begin = time.monotonic()
        with tqdm(bar_format="{desc} [{elapsed}]", mininterval=INTERVAL) as bar:
            while what := missing():
                bar.set_description_str(f"waiting for {what}", refresh=False)
                bar.update(0)
                self.spin()
                if time.monotonic() - begin > START_TIMEOUT:
                    raise RunFailed(f"waited {START_TIMEOUT:.0f} s for {what}; see the logs")

    def enable(self, client: Client, enable: bool) -> None:
        """Call a policy's ~/enable. Raises RunFailed when it refuses."""
        answer: Any = client.call_async(SetBool.Request(data=enable))
        while not answer.done():
            self.spin()
        if not answer.result().success:
            raise RunFailed(f"{client.srv_name} refused: {answer.result().message}")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
