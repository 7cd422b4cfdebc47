# SPDX-License-Identifier: Apache-2.0
"""`ros2 run specprune_ros preflight`: is everything ready for motion? Takes the policy node's arguments.

Loads the model, listens to the inputs for a few seconds, and prints a table: pass, warn or fail, and what to do. The
arm does not move. Run it instead of the policy node, not beside it. With the file of several arms, as for policy_arms,
there is a table for each, and they share the model. --help and a wrong option are answered before torch is imported.
"""

import argparse
import sys

from specprune_ros.processes.interruption import INTERRUPTED, leave_at_once

if __name__ == "__main__":
    leave_at_once(INTERRUPTED)  # in the seconds that the imports take

from pathlib import Path

from rclpy.utilities import remove_ros_args


def main() -> int:
    """Ends the process; see `preflight_checks.run`."""
    parser = argparse.ArgumentParser(prog="preflight", description="Is everything ready for motion?")
    parser.add_argument("arms", type=Path, nargs="?", help="file of several arms, as for policy_arms")
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    from specprune_ros.nodes import preflight_checks

    preflight_checks.run(options.arms)


if __name__ == "__main__":
    sys.exit(main())
