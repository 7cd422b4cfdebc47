# SPDX-License-Identifier: Apache-2.0
"""What was heard of a policy node, and when; messages are duck-typed."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specprune_ros.stamps import NANOSECONDS, from_stamp

RECENT = 5.0  # seconds over which rates are counted
KEPT = 60  # inferences for the chart
STALE = 3.0  # seconds; diagnostics come every second
NOW = 10.0  # seconds in which a limit or a hold counts as happening now


@dataclass(frozen=True)
class Part:
    """One status of /diagnostics: `level` 0 is good, 1 a warning, 2 an error."""

    level: int
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Inference:
    """One inference. `chunk`: how long its chunk lasts, seconds, nan before it is known."""

    mode: str
    reason: str
    seconds: float
    age: float  # of the observation when the chunk was ready, seconds
    kept: int
    patches: int
    chunk: float


@dataclass
class Count:
    """How often something happened, and when its number grew last, as far as this was watched."""

    number: int
    grew: float | None = None


@dataclass
class Watched:
    """Fed by `on_...` with messages and the time of their arrival, seconds of a steady clock."""

    node: str  # its name with its namespace, "/specprune_policy"
    parts: dict[str, Part] = field(default_factory=dict)  # "motion" -> its status
    told: float | None = None  # when the newest diagnostics of the node came
    others: set[str] = field(default_factory=set)  # other policy nodes that were heard
    instruction: str = ""
    status: str = ""
    inferences: deque[Inference] = field(default_factory=lambda: deque(maxlen=KEPT))
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    holds: dict[str, Count] = field(default_factory=dict)
    limits: dict[str, Count] = field(default_factory=dict)
    _chunk_seconds: float = float("nan")

    def on_diagnostics(self, message: Any, now: float) -> None:
        """diagnostic_msgs/DiagnosticArray, of any node."""
        parts = {}
        for status in message.status:
            node, _, name = status.name.rpartition(": ")
            if f"/{node}" == self.node:
                values = {item.key: item.value for item in status.values}
                parts[name] = Part(int.from_bytes(status.level, "little"), status.message, values)
            elif name == "lifecycle":
                self.others.add(f"/{node}")
        if not parts:
            return
        first = self.told is None
        self.parts, self.told = parts, now
        motion = parts["motion"].values if "motion" in parts else {}
        _count(self.holds, motion, "holds ", now, first)
        _count(self.limits, motion, "limit ", now, first)
        if "inference" in parts:
            self.instruction = parts["inference"].values.get("instruction", self.instruction)

    def on_chunk(self, message: Any, now: float) -> None:
        """specprune_ros/ActionChunk; one without steps is a stop."""
        if message.steps:
            self.instruction = message.instruction
            self._chunk_seconds = message.steps * from_stamp(message.dt) / NANOSECONDS

    def on_pruning(self, message: Any, now: float) -> None:
        """specprune_ros/PruningStats."""
        self.arrivals.append(now)
        kept, patches = sum(message.kept_final), sum(message.patches)
        self.inferences.append(
            Inference(
                message.mode,
                message.reason,
                message.inference_seconds,
                message.observation_age,
                kept,
                patches,
                self._chunk_seconds,
            )
        )

    def on_status(self, message: Any, now: float) -> None:
        """std_msgs/String of ~/status; latched, so that it may be old when it comes."""
        self.status = message.data

    def rate(self, now: float) -> float:
        """Inferences per second, lately."""
        return sum(now - RECENT < arrival <= now for arrival in self.arrivals) / RECENT

    def silence(self, now: float) -> float | None:
        """Seconds since the node was heard; None when it never was."""
        heard = [at for at in (self.told, self.arrivals[-1] if self.arrivals else None) if at is not None]
        return now - max(heard) if heard else None

    def stale(self, now: float) -> bool:
        """Whether what is known is too old to be believed."""
        return self.told is not None and now - self.told > STALE


def _count(counts: dict[str, Count], values: Mapping[str, str], prefix: str, now: float, first: bool) -> None:
    """Take over the values under `prefix`; what counts from the start again, after an activation, has not grown."""
    current = {key.removeprefix(prefix): int(value) for key, value in values.items() if key.startswith(prefix)}
    for gone in set(counts) - set(current):
        del counts[gone]
    for name, number in current.items():
        before = counts.get(name)
        if before is None:
            counts[name] = Count(number, None if first else now)
            continue
        if number > before.number:
            before.grew = now
        before.number = number
