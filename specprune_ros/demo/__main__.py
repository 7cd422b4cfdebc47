# SPDX-License-Identifier: Apache-2.0
"""`scripts/demo`: --help and what is wrong with the options come before the seconds that torch's import takes."""

import sys

from specprune_ros.demo.options import parse, say
from specprune_ros.processes.runner import command


def main() -> int:
    """Exit code: see `runner.command`."""
    return command(_demo, say)


def _demo() -> int:
    options = parse(sys.argv[1:])
    from specprune_ros.demo import demo

    demo.compare(options) if options.compare else demo.run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
