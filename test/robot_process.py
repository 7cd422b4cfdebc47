# SPDX-License-Identifier: Apache-2.0
"""Robots in processes of their own, to be killed: each publishes the inputs of PolicyClient until then.

`Robots` is for the tests. The process that it starts imports everything once and then forks, so that a robot, or a
passing ROS process, is there at once.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from policy_client import ROOT, PolicyClient


class Robots:
    """Starts and kills them. Leaving the `with` block kills all."""

    def __enter__(self):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._server = subprocess.Popen(
            [sys.executable, "test/robot_process.py"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._server.stdout.readline() == "ready\n"
        return self

    def start(self, kind="robot"):
        """The process ID of a new robot, or of another kind of process (see `KINDS`)."""
        self._server.stdin.write(f"{kind}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def __exit__(self, *_):
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self._server.stdin.close()
        self._server.stdout.close()


@contextlib.contextmanager
def half_made_ports():
    """What a process leaves that is killed while it makes its port, for every participant of this ROS domain."""
    first = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"])
    paths = [Path("/dev/shm", f"fastrtps_port{port}") for port in range(first, first + 60)]
    made = []
    try:
        for path in paths:
            with contextlib.suppress(FileExistsError):
                path.touch(exist_ok=False)
                made.append(path)
        yield
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def robot(missing=()):
    client = PolicyClient(new_context(), process=None)
    client.missing = set(missing)
    while True:
        client.publish_inputs()
        time.sleep(0.05)


def cameras():
    robot(missing=("TF", "joints"))


def driver():
    robot(missing=("primary", "wrist"))


def passer_by():
    """A node that listens to the policy for a moment."""
    context = new_context()
    client = PolicyClient(context, process=None)
    client.executor.spin_once(timeout_sec=random.uniform(0.0, 0.3))
    client.node.destroy_node()
    context.shutdown()


def killed():
    PolicyClient(new_context(), process=None)
    time.sleep(random.uniform(0.0, 0.3))
    os.kill(os.getpid(), signal.SIGKILL)


def new_context():
    context = rclpy.Context()
    context.init()
    return context


KINDS = {function.__name__: function for function in (robot, cameras, driver, passer_by, killed)}


def serve():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child:
            print(child, flush=True)
        else:
            try:
                KINDS[line.strip()]()
            except BaseException:
                traceback.print_exc()  # os._exit would end it silently
            finally:
                os._exit(0)


if __name__ == "__main__":
    import rclpy

    serve()
