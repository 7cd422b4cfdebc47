# SPDX-License-Identifier: Apache-2.0
"""Imports from benchmarks/, whose files are scripts and no package."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

sys.path.append(str(BENCHMARKS))  # last: it holds a libero.py, which is not the simulator
import arms  # noqa: E402
import closed_loop  # noqa: E402
import libero_open_loop  # noqa: E402
import libero_results  # noqa: E402
import libero_sensitivity  # noqa: E402
import significance  # noqa: E402
import splice  # noqa: E402
import trajectory_controller  # noqa: E402

sys.path.remove(str(BENCHMARKS))

__all__ = [
    "arms",
    "closed_loop",
    "libero_open_loop",
    "libero_results",
    "libero_sensitivity",
    "significance",
    "splice",
    "trajectory_controller",
]
