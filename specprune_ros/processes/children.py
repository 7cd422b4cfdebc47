# SPDX-License-Identifier: Apache-2.0
"""Child processes with a log file each, none of which outlives this one."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds for a child to end when it is asked to
LOG_PREFIX = re.compile(r"^(\[[^]]*] ?)+: ")  # [ERROR] [time] [node]:
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ChildEnded(Exception):
    """A child ended by itself. The message is one line and names the log; `code` is its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ChildProcesses:
    """Leaving the `with` block ends every child, whatever happened inside."""

    def __init__(self, logs: Path) -> None:
        """`logs`: an existing folder; the child NAME writes to NAME.log in it."""
        self._logs = logs
        self._children: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "ChildProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave a child behind.
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._stop()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def start(self, name: str, module: str, arguments: list[str]) -> int:
        """Run `python -m module arguments...` in a session of its own, so that Ctrl-C reaches only this process.

        Returns its process ID.
        """
        with self._log(name).open("w") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_in_child,
            )
        return self._children[name].pid

    def check(self) -> None:
        """Raises ChildEnded when a child is not running any more."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                raise ChildEnded(f"{name} {self._how(name, code)}; log: {self._log(name)}", code)

    def _stop(self) -> None:
        for child in self._children.values():
            _signal(child, signal.SIGINT)
        until = time.monotonic() + PATIENCE
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(until - time.monotonic(), 0.0))
            _signal(child, signal.SIGKILL)  # and whatever it may have started
            child.wait()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _how(self, name: str, code: int) -> str:
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        lines = [line.strip() for line in self._log(name).read_text(errors="replace").splitlines() if line.strip()]
        last = LOG_PREFIX.sub("", lines[-1]) if lines else "it wrote nothing"
        return f"ended with exit code {code}: {last}"


def _signal(child: subprocess.Popen, number: int) -> None:
    """To the child's whole process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


_libc: Any = ctypes.CDLL(None)


def _in_child() -> None:
    """Heed SIGINT, which a shell's background jobs are started to ignore, and get it when the parent dies (kill -9)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
