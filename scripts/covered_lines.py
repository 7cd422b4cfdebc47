# SPDX-License-Identifier: Apache-2.0
"""Which test runs which line, and how long it takes: measured once, in a forked process."""

import hashlib
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked_tests import Chosen, run_and_exit

os.environ["COVERAGE_CORE"] = "ctrace"  # the one that knows which test runs a line
import coverage


@dataclass(frozen=True)
class Coverage:
    """What is known of the tests when there is no mutant."""

    seconds: dict[str, float]  # test -> the processor's time that it takes
    lines: dict[str, dict[str, list[str]]]  # file -> line -> the tests that run it
    modules: list[str]  # that the tests import, beside the package's own

    def add(self, other: "Coverage") -> None:
        """What is known of other tests."""
        self.seconds.update(other.seconds)
        for path, lines in other.lines.items():
            mine = self.lines.setdefault(path, {})
            for line, tests in lines.items():
                mine.setdefault(line, []).extend(tests)
        self.modules[:] = sorted({*self.modules, *other.modules})

    def tests_of(self, path: Path, within: range) -> list[str]:
        """The tests that run one of the lines `within`, all of the file's for an empty range; quick ones first."""
        lines = self.lines.get(str(path), {})
        tests = {test for line, tests in lines.items() if not within or int(line) in within for test in tests}
        return sorted(tests, key=lambda test: (self.seconds[test], test))


def digest(tests: Sequence[str]) -> str:
    """Of all code in this folder that the results of these files of tests depend on."""
    helpers = [path for path in Path("test").rglob("*.py") if not path.name.startswith("test_")]
    files = sorted([*map(Path, tests), *helpers, *Path("specprune_ros").rglob("*.py"), Path("conftest.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def measured(files: Sequence[str], folder: Path, ends: float) -> Coverage | None:
    """From `folder`, or measured and stored there, file by file; None when it is `ends` (of time.monotonic) before.

    Imports what the tests import, beside the package's own. Ends the program when a test fails.
    """
    known = Coverage({}, {}, [])
    for file in files:
        store = folder / f"{Path(file).stem}.json"
        if not store.exists():
            if time.monotonic() > ends:
                return None
            _measure(file, store)
        known.add(Coverage(**json.loads(store.read_text())))
        for module in known.modules:
            with suppress(Exception):  # some can only be imported by the one that did
                importlib.import_module(module)
    return known


def _measure(file: str, store: Path) -> None:
    process = os.fork()
    if not process:
        with tempfile.TemporaryDirectory() as folder:
            run_and_exit([file], [Chosen(None), _Recorder(store)], folder)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        sys.exit(f"{file} fails without any mutant")


class _Recorder:
    """A pytest plugin."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._seconds: dict[str, float] = {}
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=["specprune_ros/*"])

    def pytest_sessionstart(self) -> None:
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, bool, bool]:
        self._coverage.switch_context(item.nodeid)
        start = time.process_time()
        done = yield
        self._seconds[item.nodeid] = time.process_time() - start
        return done

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._coverage.stop()
        if exitstatus:
            return
        data = self._coverage.get_data()
        here = Path.cwd()
        lines = {
            str(Path(path).relative_to(here)): {
                str(line): [test for test in tests if test] for line, tests in data.contexts_by_lineno(path).items()
            }
            for path in data.measured_files()
        }
        own = ("specprune_ros", "conftest", "_pytest", "pytest")
        modules = [
            name
            for name, module in sys.modules.items()
            if not name.startswith(own) and not str(getattr(module, "__file__", "")).startswith(f"{here}/")
        ]
        self._store.parent.mkdir(parents=True, exist_ok=True)
        self._store.write_text(json.dumps({"seconds": self._seconds, "lines": lines, "modules": modules}))
