# SPDX-License-Identifier: Apache-2.0
"""Keeps the tests' ROS traffic on this machine and away from every other test run and robot."""

import fcntl
import importlib.util
import os
import random
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO

import pytest

DOMAINS = range(1, 102)  # the IDs whose ports are clear of Linux's ephemeral ports

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

domain_lock: IO[str] | None = None  # open, and so locked, for the whole session


def lock_free_domain() -> tuple[int, IO[str]]:
    """A ROS domain ID that no other test session on this machine uses, and the lock that reserves it."""
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        lock = Path(tempfile.gettempdir(), f"specprune_ros_test_domain_{domain}.lock").open("a")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return domain, lock
    raise pytest.UsageError("every ROS domain ID is taken by other test sessions on this machine")


def pytest_configure() -> None:
    # Before any test imports rclpy, and in every worker of pytest-xdist, which is a process of its own.
    # The caller's own domain is never used: it may have a robot in it.
    global domain_lock
    domain, domain_lock = lock_free_domain()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    # Without shared memory, which LOCALHOST adds: a test kills processes, and that can hang all others.
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"
    os.environ.pop("ROS_LOCALHOST_ONLY", None)
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(Path(__file__).parent / "config" / "fastdds_localhost.xml")


def pytest_report_header() -> str:
    return f"ROS_DOMAIN_ID: {os.environ['ROS_DOMAIN_ID']}"


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
