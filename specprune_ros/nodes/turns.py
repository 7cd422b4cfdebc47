# SPDX-License-Identifier: Apache-2.0
"""Who may use a model, and when: inferences of one arm or of several, one at a time, the most urgent first."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

POLL = 0.1  # seconds; how often missing and stale inputs are noticed when no image wakes an arm


class Urgency(NamedTuple):
    """Smaller comes first."""

    idle: bool  # nothing to infer: frames are only remembered
    deadline: float  # seconds of a steady clock, when the arm's last chunk ends


class Arm(Protocol):
    """One that infers; all calls but `urgency` come from the turns' thread, between two of `add` and `remove`."""

    active: bool

    def urgency(self) -> Urgency: ...

    def step(self, waited: float) -> None:
        """One inference, if there is something to infer on. `waited`: seconds for this turn. Never raises."""
        ...


class Turns:
    """Owns the inference thread, which lives as long as there is an arm.

    An arm gets its turn when it was woken, and every `POLL` seconds. Among those that wait, the one whose chunk ends
    first comes first. An inference that fails moves its arm's deadline as one that succeeds does: when an arm's
    chunk is over, at most the inference that runs then and one of every other arm come before its next.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._model = threading.Lock()  # held by whoever uses the model
        self._woken: dict[Arm, float | None] = {}  # when it was woken first since its last turn
        self._stepped: dict[Arm, float] = {}  # when an arm's last turn was over
        self._running: Arm | None = None
        self._thread: threading.Thread | None = None

    @property
    def arms(self) -> int:
        """How many take turns."""
        return len(self._woken)

    def add(self, arm: Arm) -> None:
        with self._condition:
            self._woken[arm], self._stepped[arm] = None, self._clock()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
                self._thread.start()

    def remove(self, arm: Arm, patience: float | None = None) -> None:
        """No turn for this arm any more. Waits for one that it has right now, `patience` seconds at most."""
        with self._condition:
            self._woken.pop(arm, None)
            self._stepped.pop(arm, None)
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._running is not arm, patience)

    def wake(self, arm: Arm) -> None:
        """There is something new for it. Returns at once."""
        with self._condition:
            if arm in self._woken:
                if self._woken[arm] is None:
                    self._woken[arm] = self._clock()
                self._condition.notify_all()

    def quiet(self, arm: Arm) -> None:
        """Forget that it was woken."""
        with self._condition:
            if arm in self._woken:
                self._woken[arm] = None

    @contextmanager
    def model(self) -> Iterator[None]:
        """Around everything else that uses the model, such as a warm-up: waits for the inference that runs."""
        with self._model:
            yield

    def next(self) -> Arm | None:
        """The arm whose turn it is; None when none waits. Under the lock, or in a test."""
        now = self._clock()
        waiting = [
            arm
            for arm, woken in self._woken.items()
            if arm.active and (woken is not None or now - self._stepped[arm] >= POLL)
        ]
        return min(waiting, key=lambda arm: arm.urgency(), default=None)

    def _run(self) -> None:
        while True:
            with self._condition:
                arm = self._wait()
                if arm is None:
                    self._thread = None
                    return
                woken = self._woken[arm]
                self._woken[arm], self._running = None, arm
            try:
                with self._model:
                    arm.step(0.0 if woken is None else self._clock() - woken)
            finally:
                with self._condition:
                    self._running = None
                    if arm in self._stepped:
                        self._stepped[arm] = self._clock()
                    self._condition.notify_all()

    def _wait(self) -> Arm | None:
        """The next arm, when there is one; None when nobody is left."""
        while self._woken:
            arm = self.next()
            if arm is not None:
                return arm
            ends = [stepped + POLL for arm, stepped in self._stepped.items() if arm.active]
            self._condition.wait(max(min(ends) - self._clock(), 0.0) if ends else None)
        return None
