# SPDX-License-Identifier: Apache-2.0
"""The host memory that loading takes, measured in processes that are forked from one that has only imported torch.

The peak of a forked process begins with the size that it was forked with.
"""

import contextlib
import io
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from release_checkpoint import TINY

from specprune_ros.doctor.__main__ import main
from specprune_ros.openvla.checkpoint import load
from specprune_ros.policy import Policy

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["specprune_ros.policy", "specprune_ros.doctor.report"])


def alone(measure: Callable[..., Any], *arguments: Any) -> Any:
    """What `measure` returns in a process of its own."""
    with ProcessPoolExecutor(1, CONTEXT) as process:
        return process.submit(measure, *arguments).result()


def of_loading(folder: Path, dtype: str) -> tuple[int, int]:
    """Bytes of the weights, and of the peak above what there was before."""
    load(TINY, dtype=dtype)
    before = _status("VmRSS:")
    model = load(folder, dtype=dtype).model
    peak = _status("VmHWM:") - before
    assert not {"torch._dynamo", "sympy"} & set(sys.modules), "a second or two of every start, and nothing needs them"
    return sum(parameter.nbytes for parameter in model.parameters()), peak


def of_a_policy(folder: Path, precision: str) -> int:
    """Bytes of the peak above what there was before."""
    Policy.from_checkpoint(TINY, precision=precision)
    before = _status("VmRSS:")
    Policy.from_checkpoint(folder, dtype="bfloat16", precision=precision)
    return _status("VmHWM:") - before


def of_the_doctor(folder: Path) -> tuple[int, str]:
    """Bytes of the whole process at its peak, and what the doctor says."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main([str(folder)])
    return _status("VmHWM:"), said.getvalue()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss has the parent's
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
