# SPDX-License-Identifier: Apache-2.0
"""`ros2 run specprune_ros policy_arms ARMS.yaml`: several arms from one model, in one process.

Each arm of the file is a policy node in a namespace of its own, with its own parameters, lifecycle, history, executor,
watchdog, limits and control thread. The model is in memory once, and the arms' inferences take turns at it.
"""

import argparse
import sys

from specprune_ros.processes.interruption import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # in the seconds that the imports take

from pathlib import Path

from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.utilities import remove_ros_args

from specprune_ros.errors import UserError
from specprune_ros.nodes.parameters.arms import read_arms
from specprune_ros.processes.output import relay_output


def main() -> int:
    """Run until interrupted. Ends the process with 2 when the user's parameters are wrong, 1 when an arm hangs."""
    parser = argparse.ArgumentParser(prog="policy_arms", description=__doc__.splitlines()[0].replace("`", ""))
    parser.add_argument("arms", type=Path, help="YAML file: arms, NAMESPACE, params_file and remappings of each")
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    from specprune_ros.nodes.arms_process import ArmsProcess  # torch, so that --help comes before the seconds it takes
    from specprune_ros.nodes.policy_node import SWITCH_INTERVAL

    relay_output()
    sys.setswitchinterval(SWITCH_INTERVAL)
    process = ArmsProcess()
    try:
        process.start(read_arms(options.arms, sys.argv))
        code = process.run()
    except (UserError, ParameterException, NameValidationException) as error:
        print(f"policy_arms: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    process.end(code)


if __name__ == "__main__":
    sys.exit(main())
