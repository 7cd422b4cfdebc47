# SPDX-License-Identifier: Apache-2.0
"""A ROS domain that nobody else on this machine uses, and that stays on this machine."""

import contextlib
import fcntl
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from specprune_ros.errors import UserError

PROFILE = Path(__file__).parents[2] / "config" / "fastdds_localhost.xml"
DOMAINS = range(1, 102)  # the IDs whose ports are clear of Linux's ephemeral ports


@contextlib.contextmanager
def free_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID, reserved on this machine by a file lock. Raises UserError when all are taken."""
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        with Path(tempfile.gettempdir(), f"specprune_ros_test_domain_{domain}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise UserError("every ROS domain ID is taken by other runs on this machine; end some of them")


def local_network(domain: int) -> dict[str, str]:
    """The environment that keeps ROS in `domain` and on this machine, without shared memory."""
    return {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",  # LOCALHOST, like ROS_LOCALHOST_ONLY=1, adds shared memory
        "ROS_LOCALHOST_ONLY": "",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE),
    }
