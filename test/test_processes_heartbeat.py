# SPDX-License-Identifier: Apache-2.0
"""A process whose main loop hangs ends itself, also while Python's global lock is held; systemd is told."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 120.0  # seconds
START = """
import ctypes, os, signal, sys, time
from specprune_ros.processes.heartbeat import Heartbeat, notify
from specprune_ros.processes.interruption import Interruption, Suspension, end_within, leave_at_once
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's, under which the tests may run, would go on in here
frozen = lambda seconds: ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # holds the global lock
"""


def run(script, **environment):
    return subprocess.run(
        [sys.executable, "-c", START + script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_hang_with_the_global_lock_held_ends_the_process():
    ended = run("Heartbeat(0.3).beat(); frozen(60)")
    assert ended.returncode == 1
    assert "Timeout (0:00:00.300000)" in ended.stderr and 'File "<string>"' in ended.stderr


def test_beats_suspension_and_no_limit_keep_it_alive():
    ended = run(
        "heart = Heartbeat(1.5)\n"
        "for _ in range(5): heart.beat(); frozen(0.4)\n"
        "with heart.suspended(): heart.beat(); frozen(2)\n"
        "heart.set_limit(0); frozen(2)\n"
        "print('alive')"
    )
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr


def test_hang_after_a_suspension_ends_the_process():
    assert run("heart = Heartbeat(0.3)\nwith heart.suspended(): frozen(1)\nfrozen(60)").returncode == 1


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path, abstract):
    address = f"@specprune_test_{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + address[1:] if abstract else address)
        script = "heart = Heartbeat(60)\nnotify('READY=1'); heart.beat()\nwith heart.suspended(): pass"
        assert run(script, NOTIFY_SOCKET=address, WATCHDOG_USEC="10000000").returncode == 0
        systemd.settimeout(10)
        told = [systemd.recv(100).decode() for _ in range(5)]
    assert told == ["READY=1", "WATCHDOG=1", "WATCHDOG_USEC=3600000000", "WATCHDOG_USEC=10000000", "WATCHDOG=1"]


def test_nobody_is_told_without_systemd():
    assert run("notify('READY=1')", NOTIFY_SOCKET="").returncode == 0
    assert run("notify('READY=1')", NOTIFY_SOCKET="/nowhere/socket").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("leave_at_once(); os.kill(os.getpid(), {n}); time.sleep(60)", ""),
        ("i = Interruption(); os.kill(os.getpid(), {n}); print(i.requested, flush=True)", "True\n"),
        (
            "i = Interruption()\n"
            "with i.at_once(lambda: print('left', flush=True)): os.kill(os.getpid(), {n}); time.sleep(60)",
            "left\n",
        ),
        (
            "i = Interruption(); os.kill(os.getpid(), {n})\n"
            "with i.at_once(lambda: print('left', flush=True)): time.sleep(60)",
            "left\n",
        ),
        ("i = Interruption()\nwith i.at_once(lambda: 1 / 0): os.kill(os.getpid(), {n}); time.sleep(60)", ""),
    ],
    ids=["imports", "flag", "at once", "requested before", "leaving fails"],
)
def test_a_signal_ends_the_process_silently(script, said, number):
    ended = run(script.format(n=int(number)))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said, "")


@pytest.mark.parametrize("heed", ["leave_at_once()", "Interruption()"])
def test_a_closed_terminal_does_not_end_what_nohup_started(heed):
    ended = run(
        f"signal.signal(signal.SIGHUP, signal.SIG_IGN); {heed}; os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('goes on', flush=True)"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "goes on\n", "")


def stopped(process):
    """Wait until it is stopped."""
    until = time.monotonic() + PATIENCE
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("waits", "said"), [(True, "asked True\nstops\ngoes on False\n"), (False, "asked False\nstops\ngoes on False\n")]
)
def test_ctrl_z_stops_the_process_when_the_arm_holds(waits, said):
    script = (
        f"s = Suspension(); s.waits = {waits}; os.kill(os.getpid(), signal.SIGTSTP)\n"
        "print('asked', s.requested); print('stops', flush=True)\n"
        "if s.requested: s.stop()\n"
        "print('goes on', s.requested)"
    )
    process = subprocess.Popen([sys.executable, "-c", START + script], stdout=subprocess.PIPE, text=True)
    try:
        stopped(process)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=PATIENCE)[0] == said
    finally:
        process.kill()


def test_a_hang_with_the_global_lock_held_does_not_keep_a_process_that_wants_to_end():
    ended = run("end_within(0.2, 7); print('leaves', flush=True); frozen(60)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "leaves\n", "")


def test_a_process_that_ends_in_time_is_left_alone():
    ended = run("end_within(0.5, 7); time.sleep(0.01); sys.exit(3)")
    assert ended.returncode == 3


def test_a_second_signal_does_not_keep_the_first_from_its_work():
    ended = run(
        "i = Interruption(); os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(i.requested, flush=True)"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_a_signal_that_nobody_heeds_ends_the_process_all_the_same():
    ended = run(
        "from specprune_ros.processes import interruption\ninterruption.PATIENCE = 0.3\n"
        "i = Interruption(); os.kill(os.getpid(), signal.SIGINT); frozen(60)"
    )
    assert (ended.returncode, ended.stderr) == (1, "")


def test_leaving_that_hangs_is_ended():
    ended = run(
        "i = Interruption(code=130)\n"
        "with i.at_once(lambda: frozen(60)): os.kill(os.getpid(), signal.SIGINT); frozen(60)"
    )
    assert (ended.returncode, ended.stderr) == (130, "")
