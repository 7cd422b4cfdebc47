# SPDX-License-Identifier: Apache-2.0
"""Runs tests in a forked process, in which one module may have another source than its file.

Forked, because the imports of torch and rclpy take seconds: the parent has done them, and has none of the package's.
"""

import importlib.abc
import importlib.machinery
import math
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import hypothesis
import pytest

WAITING = 20.0  # seconds, and as a share of what the processor works; a busy machine is slow


class OtherSource(importlib.abc.MetaPathFinder):
    """Gives the module of one file another source."""

    def __init__(self, path: Path, source: str) -> None:
        self._path, self._source = str(path.resolve()), source

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin != self._path:
            return None
        loader = importlib.machinery.SourceFileLoader(fullname, self._path)
        code = compile(self._source, self._path, "exec", dont_inherit=True)
        loader.get_code = lambda fullname: code  # type: ignore[method-assign]
        spec.loader = loader
        return spec


class Chosen:
    """A pytest plugin: only these tests, in this order (None: all), each with the same examples in every run."""

    def __init__(self, tests: Sequence[str] | None) -> None:
        self._tests = tests

    def pytest_sessionstart(self) -> None:
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # no smaller failure is looked for
        hypothesis.settings.register_profile("once", deadline=None, derandomize=True, database=None, phases=phases)
        hypothesis.settings.load_profile("once")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._tests is not None:
            found = {item.nodeid: item for item in items}
            items[:] = [found[test] for test in self._tests if test in found]


class ForkedTests:
    """A process that runs tests; its output goes nowhere."""

    def __init__(self, files: Sequence[str], tests: Sequence[str], limit: float, mutant: OtherSource) -> None:
        """`files` hold the `tests`. They are ended after `limit` seconds of a processor, or when nothing happens."""
        self._deadline = time.monotonic() + WAITING + WAITING * limit
        self._folder = tempfile.TemporaryDirectory(prefix="mutant")
        self._process = os.fork()
        if not self._process:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit)))
            sys.meta_path.insert(0, mutant)
            run_and_exit(files, [Chosen(tests)], self._folder.name)

    def status(self) -> int | None:
        """None while they run, then pytest's exit status, negative when they were ended."""
        process, status = os.waitpid(self._process, os.WNOHANG)
        if not process and time.monotonic() < self._deadline:
            return None
        if not process:
            os.killpg(self._process, signal.SIGKILL)
            _, status = os.waitpid(self._process, 0)
        self._folder.cleanup()
        return os.waitstatus_to_exitcode(status)


def run_and_exit(files: Sequence[str], plugins: Sequence[object], folder: str) -> NoReturn:
    """In a forked process. `folder`: for temporary files."""
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and loading them takes as long as a test
    options = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider"]
    try:
        status = int(pytest.main([*options, *files], plugins=list(plugins)))
    except BaseException:
        status = int(pytest.ExitCode.INTERNAL_ERROR)
    sys.stdout.flush()
    os._exit(status)  # without the parent's clean-up
