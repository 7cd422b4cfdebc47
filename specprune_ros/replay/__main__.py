# SPDX-License-Identifier: Apache-2.0
"""`ros2 run specprune_ros replay BAG`: --help and a wrong option are answered before torch is imported."""

import signal
import sys
from typing import Any, NoReturn

from specprune_ros.errors import UserError
from specprune_ros.replay.options import BAD_INPUT, COMPARE, INTERRUPTED, parse, say

FROM_PIP = ("rosbags", "plotly")  # Ubuntu 24.04 has none of the one, and too old a one of the other


def main() -> int:
    """Exit code: 0; 2 for a user's mistake, 3 when a limit is exceeded, 130 when interrupted."""
    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, _interrupt)
    try:
        return _compare() if COMPARE in sys.argv[1:] else _replay()
    except UserError as error:
        say(str(error))
        return BAD_INPUT
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in FROM_PIP:
            raise
        say(f"{error.name} is not installed, which only replay needs; run: pip install {' '.join(FROM_PIP)}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return INTERRUPTED


def _compare() -> int:
    from specprune_ros.replay.compare import compare

    compare([word for word in sys.argv[1:] if word != "--ros-args"])
    return 0


def _replay() -> int:
    options = parse(sys.argv[1:])
    from specprune_ros.replay import replay

    return replay.run_search(options) if options.suggest else replay.run(options)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
