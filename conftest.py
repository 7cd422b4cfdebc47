# SPDX-License-Identifier: Apache-2.0
"""Keeps the tests' ROS traffic on this machine and away from every other test run and robot."""

import importlib.util
import os
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from specprune_ros.processes.free_domain import free_domain, local_network

NEEDED_MODULES = {"ros": "rclpy", "sim": "libero"}
# The tests of model, method and engine need none of these, so that they run on a GPU machine that has little installed.
NOT_EVERYWHERE = {
    "av",
    "cv2",
    "cv_bridge",
    "hypothesis",
    "libero",
    "matplotlib",
    "rclpy",
    "robosuite",
    "rosbags",
    "scipy",
}
if importlib.util.find_spec("hypothesis"):
    import hypothesis

    # A busy machine is no failure of the code: examples have no time limit.
    hypothesis.settings.register_profile("any_machine", deadline=None)
    hypothesis.settings.load_profile("any_machine")

# Files that share the simulator's scenes, which take longer to make than most of their tests: one process runs all.
SIMULATOR = {
    "expert",
    "libero_env",
    "moving_object",
    "shipped_checkpoint",
    "training_evaluation",
    "training_policy_driver",
}
# Files that are long without ROS and the simulator.
LONG = {
    "benchmark_gpu",
    "demo_report",
    "fused_layers",
    "method_oracle",
    "peak_memory",
    "replay_audit",
    "replay_memory",
    "replay_page",
    "replay_suggest",
    "training_processes",
    "training_train",
}

reserved = ExitStack()  # the domain's lock, for the whole session


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # pytest-xdist keeps the order that is made below
    # Before any test imports rclpy, and in every worker of pytest-xdist, which is a process of its own.
    # The caller's own domain is never used: it may have a robot in it.
    os.environ.update(local_network(reserved.enter_context(free_domain())))


def pytest_report_header() -> str:
    return f"ROS_DOMAIN_ID: {os.environ['ROS_DOMAIN_ID']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of the long tests first: whoever runs several at a time ends with short ones."""
    long = {item.path for item in items if any(map(item.get_closest_marker, NEEDED_MODULES))}
    long |= {item.path for item in items if _subject(item.path) in LONG}
    items.sort(key=lambda item: (_subject(item.path) not in SIMULATOR, item.path not in long))


def _subject(path: Path | str) -> str:
    """`expert` of test/test_expert.py."""
    return Path(path).stem.removeprefix("test_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For --dist loadfile: the files of SIMULATOR are as one."""
    from xdist.scheduler import LoadFileScheduling

    class FilesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "simulator" if _subject(file) in SIMULATOR else file

    return FilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that needs a module which is not installed is skipped; every other import error is an error."""
    report = yield
    cause = report.call.excinfo.value.__cause__ if report.failed and report.call.excinfo else None
    missing = (cause.name or "").split(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
    if missing in NOT_EVERYWHERE and importlib.util.find_spec(missing) is None:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: needs {missing}; run through scripts/test")
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, module in NEEDED_MODULES.items():
        if item.get_closest_marker(marker) and importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}; run through scripts/test")
