# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from specprune_ros.processes.children import ChildEnded, ChildProcesses

ROOT = Path(__file__).parents[1]
SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); subprocess.run(['sleep', '60'])"
)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a Python program as a child: a module on the path."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def start(children, name, program):
        (tmp_path / f"{name}_module.py").write_text(program)
        children.start(name, f"{name}_module", [])
        return children._children[name]

    return start


def wait_for(condition, timeout=15.0):
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_leaving_ends_the_children(tmp_path, start):
    with ChildProcesses(tmp_path) as children:
        child = start(children, "sleeper", SLEEPER)
        wait_for(lambda: "ready" in (tmp_path / "sleeper.log").read_text())
        children.check()
    assert child.returncode == -signal.SIGINT or "KeyboardInterrupt" in (tmp_path / "sleeper.log").read_text()


def test_children_heed_interrupts_that_a_background_job_ignores(tmp_path, start):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `scripts/demo &` in a script is started
    try:
        with ChildProcesses(tmp_path) as children:
            child = start(children, "background", SLEEPER)
            wait_for(lambda: "ready" in (tmp_path / "background.log").read_text())
        assert child.returncode != -signal.SIGKILL
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stubborn_child_and_what_it_started_are_killed(tmp_path, start, monkeypatch):
    monkeypatch.setattr("specprune_ros.processes.children.PATIENCE", 0.5)
    with pytest.raises(KeyboardInterrupt), ChildProcesses(tmp_path) as children:
        child = start(children, "stubborn", STUBBORN)
        wait_for(lambda: subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True).stdout)
        raise KeyboardInterrupt
    wait_for(lambda: not subprocess.run(["pgrep", "-g", str(child.pid)], capture_output=True).stdout)


def test_a_child_that_ends_says_why_in_one_line(tmp_path, start):
    program = "print('[ERROR] [17.5] [node]: the camera is on fire', flush=True); raise SystemExit(2)"
    with ChildProcesses(tmp_path) as children:
        start(children, "camera", program).wait()
        with pytest.raises(ChildEnded) as caught:
            children.check()
    assert str(caught.value) == f"camera ended with exit code 2: the camera is on fire; log: {tmp_path / 'camera.log'}"
    assert caught.value.code == 2


def test_a_child_that_is_killed(tmp_path, start):
    with ChildProcesses(tmp_path) as children:
        child = start(children, "sleeper", SLEEPER)
        child.kill()
        child.wait()
        with pytest.raises(ChildEnded, match=r"sleeper was ended by SIGKILL; log: .*sleeper\.log$"):
            children.check()


def test_children_end_when_the_parent_is_killed(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from specprune_ros.processes.children import ChildProcesses\n"
        "with ChildProcesses(Path(sys.argv[1])) as children:\n"
        "    children.start('server', 'http.server', ['0', '--bind', '127.0.0.1'])\n"
        "    print(children._children['server'].pid, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())
