# SPDX-License-Identifier: Apache-2.0
"""Memory of a process, and how long it waited for a processor."""

import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from pathlib import Path

SAMPLE_PERIOD = 0.02  # seconds
KEPT = 500  # samples: 10 s
KB_PER_MIB = 1 << 10  # proc(5) says kB and means 1024 bytes


def memory(pid: int) -> tuple[float, float]:
    """(anonymous, whole) resident memory, MiB (proc(5), RssAnon and VmRSS).

    Anonymous memory is what can leak. The whole also counts mapped files and DDS's shared memory, which fill up once.
    """
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    anonymous, whole = (int(fields[name].split()[0]) / KB_PER_MIB for name in ("RssAnon", "VmRSS"))
    return anonymous, whole


class MachineDelay:
    """How long the machine kept a process waiting: its threads for a processor, or everybody (a stopped container).

    Samples in a thread of its own until `close`.
    """

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._stamps: deque[float] = deque(maxlen=KEPT)
        self._waited: deque[dict[str, int]] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(SAMPLE_PERIOD):
            waited = self._read()
            with self._lock:
                self._stamps.append(time.time())
                self._waited.append(waited)

    def _read(self) -> dict[str, int]:
        """Thread -> nanoseconds on a run queue since it started (schedstat, second field)."""
        waited = {}
        for task in self._tasks.iterdir():
            try:
                waited[task.name] = int((task / "schedstat").read_text().split()[1])
            except OSError:
                continue  # the thread has just ended
        return waited

    def between(self, start: float, end: float) -> float:
        """Seconds between two times (time.time()) that one thread of the process waited, or that nobody ran."""
        with self._lock:
            stamps, waited = list(self._stamps), list(self._waited)
        first, last = max(bisect_right(stamps, start) - 1, 0), min(bisect_left(stamps, end), len(stamps) - 1)
        if last <= first:
            return end - start if stamps and stamps[-1] < start else 0.0  # this process did not run either
        before, after = waited[first], waited[last]
        queued = max((after[task] - before.get(task, 0) for task in after), default=0) / 1e9
        stalled = max(stamps[i + 1] - stamps[i] for i in range(first, last)) - SAMPLE_PERIOD
        return max(queued, stalled, 0.0)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
