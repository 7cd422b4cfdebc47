# SPDX-License-Identifier: Apache-2.0
"""The dashboard as a process, over DDS: in a terminal until Ctrl-C, and once."""

import io
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip("rclpy")

import rclpy
from rich.console import Console
from session_bench import SessionBench

from specprune_ros.nodes import watch
from specprune_ros.processes.interruption import Interruption

pytestmark = pytest.mark.ros


@pytest.fixture
def bench(monkeypatch):
    bench = SessionBench(monkeypatch)
    yield bench
    bench.close()


@pytest.fixture
def terminal():
    """(file that a process writes its screen to, what it wrote so far)."""
    mine, its = pty.openpty()
    written = bytearray()

    def read():
        while True:
            try:
                written.extend(os.read(mine, 65536))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield its, written
    reader.join(20)
    os.close(mine)


def test_in_a_terminal_until_it_is_interrupted(bench, terminal, tmp_path):
    screen, written = terminal
    (tmp_path / "torch.py").write_text("raise AssertionError('seconds pass before this is imported')\n")
    command = [sys.executable, "-m", "specprune_ros.nodes.watch", "--ros-args"]
    command += ["-r", f"__ns:={bench.node.get_namespace()}"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"}
    environment["PYTHONPATH"] = f"{tmp_path}:{environment.get('PYTHONPATH', '')}"
    process = subprocess.Popen(command, stdout=screen, stderr=subprocess.PIPE, env=environment, text=True)
    os.close(screen)
    try:

        def shown():
            bench.tick()
            bench.infer()
            bench.node._diagnostics.update()
            return all(word in written for word in (b"MOVING", b"coarse", b"instruction"))

        bench.enable()
        bench.until(shown, 120)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
    finally:
        process.kill()
    assert process.stderr.read() == ""
    assert b"\x1b[?1049l" in written  # the screen that was there before is back


def test_once_without_a_node(monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0.1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    context = rclpy.Context()
    context.init()
    node = watch.WatchNode(context=context)
    console = Console(file=io.StringIO(), width=100)
    try:
        assert watch.watch(node, Interruption(), once=True, console=console) == 1
    finally:
        node.destroy_node()
        context.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "Nothing heard of /specprune_policy" in console.file.getvalue()
