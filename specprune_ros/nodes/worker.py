# SPDX-License-Identifier: Apache-2.0
"""The inferences of one arm, on the newest complete observation, never on a queue. Whose turn it is: turns.py."""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from specprune_ros.errors import UserError
from specprune_ros.nodes.reporting.latency import Latency
from specprune_ros.nodes.turns import Turns, Urgency
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.sensing.assembler import Sensed
from specprune_ros.stamps import NANOSECONDS


class Sensors(Protocol):
    """What the worker needs of an ObservationAssembler."""

    def assemble(self, now: int, newer_than: int | None = None) -> Sensed | None: ...


class InferenceWorker:
    """Owns the policy: it alone calls it between `start` and `close`, in its turns.

    `problem` says why there is no inference ("" when there is none); it ends when the cause ends.
    """

    def __init__(
        self,
        policy: Policy,
        sensors: Sensors,
        turns: Turns,
        *,
        chunk_seconds: float,
        instruction: Callable[[], str],
        now: Callable[[], int],
        due: Callable[[], bool],
        on_chunk: Callable[[Sensed, ActionChunk], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """`now`: the node's clock, nanoseconds. `due`: whether to infer now; otherwise new images are only remembered.

        `chunk_seconds`: how long a chunk lasts. `on_chunk` and `on_error` (something unexpected failed) are called on
        the turns' thread. `on_chunk` may raise a UserError, which becomes the problem.
        """
        self._policy, self._sensors, self.turns = policy, sensors, turns
        self._chunk_seconds = chunk_seconds
        self._instruction, self._now, self._due = instruction, now, due
        self._on_chunk, self._on_error = on_chunk, on_error
        self._lock = threading.Lock()
        self.active = False
        self._deadline = 0.0  # see `urgency`
        self._generation = object()  # a result of another generation is dropped
        self._reset = False
        self._pruning: Any = None  # to be set before the next inference
        self._last_inferred: int | None = None  # stamps, nanoseconds
        self._last_seen: int | None = None
        self.problem = ""
        self.errors = 0
        self.waits = Latency()  # of the inferences, for their turns; while others had theirs
        turns.add(self)

    def start(self) -> None:
        with self._lock:
            self.active = True
        self.reset()

    def stop(self) -> None:
        """Stop inferring. Returns at once; the result of a running inference is dropped."""
        with self._lock:
            self.active = False
            self._generation = object()
            self.problem = ""

    def reset(self) -> None:
        """Forget all history before the next inference, and drop the result of a running one."""
        with self._lock:
            self._reset = True
            self._generation = object()
        self.turns.wake(self)

    def set_pruning(self, pruning: Any) -> None:
        """Use this pruning ("off" or a PruningConfig) from the next inference on."""
        with self._lock:
            self._pruning = pruning
        self.turns.wake(self)

    def wake(self) -> None:
        """There is a new image."""
        self.turns.wake(self)

    def close(self, patience: float | None = None) -> None:
        """Infer no more; waits for a running inference, `patience` seconds at most."""
        self.stop()
        self.turns.remove(self, patience)

    def urgency(self) -> Urgency:
        """By the end of the chunk of the last inference, whether or not that succeeded."""
        return Urgency(idle=not self._due(), deadline=self._deadline)

    def step(self, waited: float = 0.0) -> None:
        """What is to be done on what is new. On the turns' thread."""
        if not self.active:
            return
        try:
            if self._infer(self._prepare()):
                self.waits.add(waited)
        except UserError as error:
            self._tell(str(error) or type(error).__name__)  # "" would mean that all is well
        except Exception as error:  # the node must outlive whatever an inference does
            self.errors += 1
            self._tell(describe(error))
            self.reset()
            self._on_error(error)
            self.turns.quiet(self)  # and does not spin on it

    def _tell(self, problem: str) -> None:
        """Unless it was stopped meanwhile: then nobody would take it back."""
        with self._lock:
            self.problem = problem if self.active else ""

    def _prepare(self) -> object:
        """Apply what was asked for since the last inference; returns the generation that starts now."""
        with self._lock:
            generation, reset, pruning = self._generation, self._reset, self._pruning
            self._reset, self._pruning = False, None
        if pruning is not None:
            try:
                self._policy.set_pruning(pruning)
            except Exception:
                with self._lock:  # what was asked for is tried again, and not forgotten
                    self._pruning = pruning if self._pruning is None else self._pruning
                raise
        if reset:
            self._policy.reset()
            self._last_inferred = self._last_seen = None
        return generation

    def _infer(self, generation: object) -> bool:
        """Whether there was an inference."""
        instruction = self._instruction()
        if not instruction:
            raise UserError("no instruction; publish it on ~/instruction or set the parameter instruction")
        due = self._due()
        now = self._now()
        sensed = self._sensors.assemble(now, self._last_inferred if due else self._last_seen)
        if sensed is None:
            return False  # nothing new: a problem with what there is stays
        stamp = sensed.stamp / NANOSECONDS
        self._last_seen = sensed.stamp
        if due:
            self._last_inferred = sensed.stamp
            self._deadline = time.monotonic() + self._chunk_seconds - (now - sensed.stamp) / NANOSECONDS
            chunk = self._policy.act(
                Observation(sensed.views, sensed.proprio, instruction, stamp, sensed.twist, sensed.cameras)
            )
            with self._lock:
                if generation is self._generation:
                    self._on_chunk(sensed, chunk)
        else:
            self._policy.observe(sensed.views, stamp, sensed.cameras)
        self.problem = ""
        return due


def describe(error: Exception) -> str:
    """An unexpected error in one line, with what to do."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if "out of memory" in text.lower():
        return f"inference ran out of memory ({text[:120]}); close other programs on the device or use a smaller dtype"
    return f"inference failed ({text[:200]}); the log has the traceback, please report it"
