# SPDX-License-Identifier: Apache-2.0
"""The commands of pip and the executables of ROS (setup.cfg): signals are heeded before anything large is imported."""

import importlib

from specprune_ros.processes.interruption import INTERRUPTED, leave_at_once


def _run(module: str, code: int = 0) -> int:
    """`main` of a module; a signal in the seconds that its imports take ends the process silently, with `code`."""
    leave_at_once(code)
    return int(importlib.import_module(module).main())


def policy() -> int:
    return _run("specprune_ros.nodes.policy_node")


def libero_sim() -> int:
    return _run("specprune_ros.nodes.libero_sim")


def preflight() -> int:
    return _run("specprune_ros.nodes.preflight", INTERRUPTED)


def doctor() -> int:
    return _run("specprune_ros.doctor.__main__", INTERRUPTED)


def quantize() -> int:
    return _run("specprune_ros.quantize.__main__", INTERRUPTED)


def replay() -> int:
    return _run("specprune_ros.replay.__main__", INTERRUPTED)


def policy_arms() -> int:
    return _run("specprune_ros.nodes.policy_arms")


def watch() -> int:
    return _run("specprune_ros.nodes.watch")
