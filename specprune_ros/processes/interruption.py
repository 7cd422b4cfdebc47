# SPDX-License-Identifier: Apache-2.0
"""SIGINT, SIGTERM and SIGHUP, in every phase of a process; and Ctrl-Z."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # the last one: the terminal, or the ssh connection, is gone
PATIENCE = 8.0  # seconds from a signal to the end at most, whatever hangs; `ros2 launch` kills after 10
LEAVING = 1.5  # seconds at most for what has to be left in order, such as ROS
SENDING = 0.05  # seconds in which a last command leaves, or is sent again, before the process is stopped
INTERRUPTED = 130  # exit code of a command that gives a verdict, when it gave none


def heeded() -> list[signal.Signals]:
    """The signals that end this process: not SIGHUP where nohup, or whoever else started it, had that ignored."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def leave_at_once(code: int = 0) -> None:
    """A signal ends the process silently, with `code`. For the time in which nothing has to be stopped, as imports.

    So does one that came before: executables are started with signals blocked (scripts/executable.in).
    """
    for number in heeded():
        signal.signal(number, lambda *_: os._exit(code))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class _Event(ctypes.Structure):
    """struct sigevent of sigevent(7), with a function to call in a new thread."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_char * 32),
    )


SIGEV_THREAD = 2


def end_within(seconds: float, code: int) -> None:
    """End the process with `code` after `seconds` at the latest, silently, whatever it does meanwhile.

    Compiled code that never returns and holds Python's global lock does not keep it: leaving Fast DDS 2.14 can wait for
    ever, in DomainParticipant::set_listener, for a thread that has just found a peer.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    leave = ctypes.cast(libc._exit, ctypes.c_void_p)
    event = _Event(value=code, notify=SIGEV_THREAD, function=leave)
    timer = ctypes.c_void_p()
    whole = int(seconds)
    due = (ctypes.c_long * 4)(0, 0, whole, int((seconds - whole) * 1e9))  # struct itimerspec: the interval, the value
    if libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) or libc.timer_settime(
        timer, 0, due, None
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Interruption:
    """A signal as a flag: an exception out of a handler could surface in compiled code and be lost there."""

    def __init__(self, code: int = 0) -> None:
        """`code`: what a process that leaves `at_once` ends with."""
        self.requested = False
        self.code = code
        self._at_once: Callable[[], object] | None = None
        for number in heeded():
            signal.signal(number, self._request)

    @contextlib.contextmanager
    def at_once(self, leave: Callable[[], object]) -> Iterator[None]:
        """Inside, a signal calls `leave`, on the main thread, and ends the process: nobody would look at the flag."""
        before, self._at_once = self._at_once, leave
        try:
            if self.requested:
                self._leave()
            yield
        finally:
            self._at_once = before

    def _request(self, number: int, _: object) -> None:
        if self.requested:
            return  # a terminal and `ros2 launch` may both send one, and the first has an arm to stop
        self.requested = True
        end_within(PATIENCE, self.code or 1)  # should that hang
        if self._at_once is not None:
            self._leave()

    def _leave(self) -> None:
        assert self._at_once is not None
        end_within(LEAVING, self.code)
        try:
            self._at_once()
        finally:
            os._exit(self.code)


class Suspension:
    """Ctrl-Z (SIGTSTP) as a flag, while there is an arm to hold first; otherwise the process is stopped at once."""

    def __init__(self) -> None:
        self.requested = False
        self.waits = False  # whether somebody looks at the flag, and calls `stop`
        if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, self._request)

    def stop(self) -> None:
        """Stop this process here, until it is continued."""
        time.sleep(SENDING)
        self.requested = False
        os.kill(os.getpid(), signal.SIGSTOP)

    def _request(self, number: int, _: object) -> None:
        if self.waits:
            self.requested = True
        else:
            self.stop()
