# SPDX-License-Identifier: Apache-2.0
"""Who reads what a node writes cannot stop it; and everything written arrives, also after a crash."""

import os
import signal
import subprocess
import sys

import pytest

PATIENCE = 120.0  # seconds; nothing here takes one
MUCH = 40 * 100_000  # characters: more than every pipe on the way holds

RELAYED = "import os, signal, sys; from specprune_ros.processes.output import *; relay_output()"
# Counts on stdout, although nobody reads the other one.
TALKS = f"""{RELAYED}
for number in range(40):
    try:
        os.write(2, b"x" * 100_000)
    except BlockingIOError:
        pass
    print(number, flush=True)
"""


def start(script, **streams):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([sys.executable, "-c", script], text=True, **streams)


def test_nobody_reads():
    process = start(TALKS)
    try:
        assert [int(process.stdout.readline()) for _ in range(40)] == list(range(40))
        assert process.wait(PATIENCE) == 0
        said = process.stderr.read()
        assert 100_000 <= len(said) < MUCH and set(said) == {"x"}
    finally:
        process.kill()


@pytest.mark.parametrize("ending", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "os.abort()"])
def test_last_words_arrive_however_it_ends(ending):
    process = start(f"{RELAYED}; os.write(2, b'last words'); os.write(1, b'and these'); {ending}")
    assert process.communicate(timeout=PATIENCE) == ("and these", "last words")


def test_both_streams_of_one_terminal_keep_their_order():
    process = start(
        f"{RELAYED}\nfor number in range(1000): os.write(1 + number % 2, b'%d ' % number)\nend_output()",
        stderr=subprocess.STDOUT,
    )
    assert process.communicate(timeout=PATIENCE)[0].split() == [str(number) for number in range(1000)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_does_not_end_the_relay(number):
    """As a terminal sends it, or systemd; the last words of a process that heeds it must still come."""
    heed = "signal.signal(signal.SIGINT, h); signal.signal(signal.SIGTERM, h); signal.signal(signal.SIGHUP, h)"
    script = f"""{RELAYED}
def h(*_):
    os.write(2, b"holds")
    os._exit(0)
{heed}
print(*open("/proc/self/task/%d/children" % os.getpid()).read().split(), flush=True)
signal.pause()
"""
    process = start(script)
    for relay in process.stdout.readline().split():
        os.kill(int(relay), number)
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE)[1] == "holds"


def test_end_waits_for_a_reader_but_not_for_ever():
    script = f"{RELAYED}; os.write(2, b'x' * 100_000); end_output(); os._exit(0)"
    process = start(script)
    assert process.wait(PATIENCE) == 0  # nobody has read
    assert process.stderr.read() == "x" * 100_000


def test_a_file_is_written_to_directly(tmp_path):
    with (tmp_path / "log").open("w") as log:
        process = start(f"{RELAYED}; print(*open('/proc/self/task/%d/children' % os.getpid()))", stdout=log, stderr=log)
        assert process.wait(PATIENCE) == 0
    assert (tmp_path / "log").read_text() == "\n"


def test_closed_streams_are_thrown_away():
    """`2>&-` of a shell: the next file, a socket of DDS perhaps, would be what compiled code takes for stderr."""
    script = f"{RELAYED}; print('lost', file=sys.stderr); os.write(2, b'lost'); print(os.open('/', os.O_RDONLY) > 2)"
    command = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" <&- 2>&-', sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert command.stdout == "True\n"


def test_a_terminal_keeps_its_colours_and_may_be_halted():
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)  # Ctrl-S
    script = f"{RELAYED}; os.write(2, b'said\\n'); sys.stdout.write(os.environ['RCUTILS_COLORIZED_OUTPUT'])"
    process = start(script, stderr=theirs)
    assert process.stdout.read(1) == "1" and process.wait(PATIENCE) == 0
    termios.tcflow(theirs, termios.TCOON)
    assert os.read(ours, 100).strip() == b"said"
    os.close(ours)
    os.close(theirs)
