# SPDX-License-Identifier: Apache-2.0
"""Policy nodes in processes of their own that are there at once: a server imports everything once and forks for each.

The imports are most of what the start of a node costs. How it starts as users start it, test_faults_signals.py and
test_demo.py see.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from specprune_ros.processes.interruption import leave_at_once

ROOT = Path(__file__).parents[1]
MODULES = ("specprune_ros.nodes.policy_node", "specprune_ros.nodes.preflight", "faulty_policy")
POLL = 0.01  # seconds


class Process:
    """A forked node; what the tests use of subprocess.Popen, with text in both pipes."""

    def __init__(self, server, module, arguments):
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._end = folder / "end"
        pipes = {name: folder / name for name in ("stdout", "stderr")}
        for pipe in pipes.values():
            os.mkfifo(pipe)
        self.stdout, self.stderr = (_opened(pipe) for pipe in pipes.values())
        request = {"module": module, "arguments": arguments, "end": self._end, **pipes}
        server.stdin.write(json.dumps(request, default=str) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())
        self.returncode = None

    def poll(self):
        if self.returncode is None and self._end.exists():
            self.returncode = int(self._end.read_text())
        return self.returncode

    def wait(self, timeout):
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("node", timeout)
            time.sleep(POLL)
        return self.returncode

    def communicate(self, timeout):
        """What is in (stdout, stderr), when it has ended."""
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _opened(pipe):
    """For reading, before there is a writer."""
    number = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(number, True)
    return os.fdopen(number)


def start_node(module, arguments, anew=False):
    """`module`'s main with these arguments after --ros-args; `anew`: in a process that has to import it."""
    if not anew:
        return Process(_server(), module, arguments)
    command = [sys.executable, "-m", module, "--ros-args", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _environment():
    path = os.pathsep.join([str(ROOT), str(ROOT / "test"), os.environ.get("PYTHONPATH", "")])
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}


@functools.cache
def _server():
    command, pipe = [sys.executable, __file__], subprocess.PIPE
    server = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdin=pipe, stdout=pipe, text=True)
    atexit.register(server.communicate)  # it ends with its input
    return server


# In the server


def serve():
    for module in MODULES:
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests and the nodes
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    ends = {}  # process ID -> file for its exit code
    while True:
        ready, _, _ = select.select([sys.stdin, wake], [], [])
        if wake in ready:
            os.read(wake, 1024)
            reap(ends)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            child = os.fork()
            if not child:
                signal.set_wakeup_fd(-1)
                become(request)
            ends[child] = Path(request["end"])
            print(child, flush=True)


def reap(ends):
    for child in list(ends):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            path = ends.pop(child)
            with contextlib.suppress(FileNotFoundError):  # the tests are over
                path.with_suffix(".part").write_text(str(os.waitstatus_to_exitcode(status)))
                path.with_suffix(".part").rename(path)


def become(request):
    """Run the node in this process, and end with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's, under which the tests may run, would go on in here
    leave_at_once()  # as executables.py does
    files = ((0, os.devnull, os.O_RDONLY), (1, request["stdout"], os.O_WRONLY), (2, request["stderr"], os.O_WRONLY))
    for number, path, flags in files:
        os.dup2(os.open(path, flags), number)
    sys.argv = [request["module"], "--ros-args", *request["arguments"]]
    code = 1
    try:
        code = importlib.import_module(request["module"]).main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
