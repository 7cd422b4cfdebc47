# SPDX-License-Identifier: Apache-2.0
"""The replay: every arm on every chosen observation of a bag."""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from specprune_ros.control.takeover import InCharge
from specprune_ros.errors import UserError
from specprune_ros.openvla.files import expanded
from specprune_ros.policy import ActionChunk, Observation
from specprune_ros.replay.arms import Arms
from specprune_ros.replay.audit import Audit
from specprune_ros.replay.bag import Bag, BagMessage
from specprune_ros.replay.ingest import Ingest, Seen
from specprune_ros.replay.jpeg import encoded
from specprune_ros.replay.moment import Moment, Spool
from specprune_ros.replay.schedule import Schedule
from specprune_ros.replay.settings import Settings
from specprune_ros.replay.topics import Topics
from specprune_ros.replay.unnorm_keys import read_ranges
from specprune_ros.sensing.proprio import AXIS_ANGLE
from specprune_ros.stamps import NANOSECONDS, from_stamp

FRAME_QUALITY = 80  # JPEG, of the pictures in the report
TRACED = 20  # failed inferences whose traceback is kept
AWAITED = 64  # own chunks that wait for the recorded one of the same stamp


@dataclass(eq=False)
class Recorded:
    """How the recorded node's chunks compare with those of the arm that has its configuration."""

    arm: str  # "" when there is no such arm
    compared: int = 0
    equal: int = 0  # to the last bit
    largest: float = 0.0  # difference of an action, checkpoint units
    # Of a stamp, whichever comes first waits for the other: a fast node's chunk is recorded before the replay infers.
    _own: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    _theirs: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def remember(self, stamp: int, chunks: dict[str, ActionChunk]) -> None:
        """The replay's chunks from the observation of this stamp, nanoseconds."""
        if self.arm:
            self._keep(self._own, stamp, chunks[self.arm].actions.ravel())

    def add(self, message: Any) -> None:
        """A recorded ActionChunk."""
        if self.arm:
            self._keep(self._theirs, from_stamp(message.header.stamp), np.asarray(message.actions, np.float64))

    def _keep(self, side: dict[int, NDArray[np.float64]], stamp: int, actions: NDArray[np.float64]) -> None:
        side[stamp] = actions
        if stamp in self._own and stamp in self._theirs:
            self._compare(self._own.pop(stamp), self._theirs.pop(stamp))
        while len(side) > AWAITED:
            del side[next(iter(side))]

    def _compare(self, own: NDArray[np.float64], recorded: NDArray[np.float64]) -> None:
        if own.size != recorded.size:
            return
        apart = float(np.abs(recorded - own).max())
        self.compared += 1
        self.equal += apart == 0.0
        self.largest = max(self.largest, apart)


class Sink(Protocol):
    """Who takes what the replay finds."""

    def add(self, moment: Moment, observation: Observation) -> None:
        """What every arm said to an observation."""
        ...

    def add_next(self, stamp: int, actions: NDArray[np.float64]) -> None:
        """(C, A) what dense says to the observation right after the last moment's, where the others are not asked."""
        ...


@dataclass(eq=False)
class Persons:
    """When a person was in charge of the recorded arm, by the recorded chunks. Seconds of the bag."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    _last: bool = False

    def add(self, message: Any, time: float) -> None:
        """A recorded ActionChunk; those of older recordings do not say who was in charge."""
        person = getattr(message, "in_charge", "") == InCharge.PERSON
        if person and self._last:
            self.spans[-1] = (self.spans[-1][0], round(time, 3))
        elif person:
            self.spans.append((round(time, 3), round(time, 3)))
        self._last = person


@dataclass(eq=False)
class Outcome:
    """What came of a replay, beside the moments in the spool."""

    recorded: Recorded
    persons: Persons = field(default_factory=Persons)
    failures: list[dict[str, object]] = field(default_factory=list)  # frames whose inference failed: stamp and error
    interrupted: bool = False
    until: float = 0.0  # seconds of the bag that were replayed, from --start on


class Replay:
    """One pass over a bag."""

    def __init__(
        self, bag: Bag, settings: Settings, topics: Topics, arms: Arms, schedule: Schedule, instruction: str
    ) -> None:
        """`instruction`: replaces the recorded one when not empty."""
        self._bag, self._settings, self._topics, self._arms, self._schedule = bag, settings, topics, arms, schedule
        self._instruction = instruction
        self._told = told_instructions(bag, topics.chunks) if topics.chunks and not instruction else []
        ranges = read_ranges(expanded(settings.model.checkpoint), arms.dense.normalization)
        self.audit = Audit(settings, topics, bag.start, ranges, arms.dense.unnorm_key)
        own = settings.pruning if settings.pruning_enabled else None
        same = [name for name, config in arms.configs.items() if config == own]
        self.outcome = Outcome(Recorded(same[0] if same else ""))
        self._warm = ""

    def run(self, spool: Spool, start: float, duration: float, sink: Sink, quiet: bool) -> Outcome:
        """Fill `spool` and `sink`. `start` and `duration`: seconds of the bag; 0 is all of it."""
        begin = self._bag.start + round(start * NANOSECONDS)
        end = begin + round(duration * NANOSECONDS) if duration else self._bag.end
        form = "{desc}: {percentage:3.0f}% |{bar}| {n:.1f}/{total:.1f} s of the bag [{elapsed}<{remaining}]{postfix}"
        total = (min(end, self._bag.end) - self._bag.start) / NANOSECONDS
        with tqdm(total=total, desc="replay", bar_format=form, disable=quiet) as bar:
            try:
                for seen in self._observations(begin, end, bar):
                    self._on_seen(seen, spool, sink)
            except KeyboardInterrupt:
                self.outcome.interrupted = True
        if not self.outcome.interrupted:
            self.outcome.until = total
        self.outcome.until = max(self.outcome.until - start, 0.0)
        return self.outcome

    def _observations(self, begin: int, end: int, bar: tqdm) -> Iterator[Seen]:
        near = np.zeros(3)
        if self._settings.inputs.proprio == "end_effector":
            low, high = self._arms.dense.proprio_range
            near = ((low + high) / 2)[AXIS_ANGLE]
        located = any(config is not None and config.history_motion == "tf" for config in self._arms.configs.values())
        ingest = Ingest(self._settings, self._topics, near, self.audit, self._instruction, located, self._told)
        wanted = self._schedule.wanted if self._settings.continuous else lambda stamp: True
        return ingest.observations(self._messages(end, bar), wanted, begin)

    def _messages(self, end: int, bar: tqdm) -> Iterator[BagMessage]:
        """The inputs, up to the time `end`; recorded chunks are compared on their way."""
        chunks = self._topics.chunks
        for message in self._bag.messages(self._topics.all() | ({chunks} if chunks else set())):
            if message.time > end:
                return
            elapsed = self.outcome.until = (message.time - self._bag.start) / NANOSECONDS
            if elapsed > bar.n + 0.1:
                bar.update(elapsed - bar.n)
            if message.topic == chunks:
                self.outcome.recorded.add(message.message)
                self.outcome.persons.add(message.message, elapsed)
            else:
                yield message

    def _on_seen(self, seen: Seen, spool: Spool, sink: Sink) -> None:
        time = (seen.time - self._bag.start) / NANOSECONDS
        self.audit.on_seen(seen, time)
        if seen.sensed is None:
            return
        sensed = seen.sensed
        if seen.restarted:
            self._arms.reset()  # as the node does, however small the jump
        observation = Observation(
            sensed.views, sensed.proprio, seen.instruction, sensed.stamp / NANOSECONDS, sensed.twist, sensed.cameras
        )
        try:
            if not self._schedule.due(sensed.stamp):
                self._on_undue(observation, sensed.stamp, sink)
                return
            if self._warm != seen.instruction:
                self._arms.warm_up(seen.instruction)
                self._warm = seen.instruction
            chunks = self._arms.infer(observation)
            after_jpeg = self._arms.dense_after_jpeg(observation)
            for name, chunk in chunks.items():
                if not np.isfinite(chunk.actions).all():
                    raise UserError(f"arm {name} predicted NaN or Inf")
        except UserError as error:
            self._fail(sensed.stamp, time, str(error))
            return
        except Exception as error:  # the rest of the recording is still worth having
            lines = traceback.format_exception(error)
            self._fail(sensed.stamp, time, f"{type(error).__name__}: {error}".splitlines()[0], "".join(lines))
            self._arms.reset()
            return
        self.outcome.recorded.remember(sensed.stamp, chunks)
        moment = Moment(
            stamp=sensed.stamp,
            time=time,
            instruction=seen.instruction,
            proprio=sensed.proprio,
            twist=sensed.twist,
            pose=seen.pose,
            joints=seen.joints,
            chunks=chunks,
            after_jpeg=after_jpeg,
            frames={name: _picture(frame, self._arms.dense.image_size) for name, frame in sensed.views.items()},
        )
        spool.add(moment)
        sink.add(moment, observation)

    def _on_undue(self, observation: Observation, stamp: int, sink: Sink) -> None:
        """An observation that the arms do not infer on."""
        if not self._settings.continuous:
            self._arms.observe(observation)
        if self._schedule.is_next(stamp) and self._warm == observation.instruction:
            sink.add_next(stamp, self._arms.dense.act(observation).actions)

    def _fail(self, stamp: int, time: float, error: str, trace: str = "") -> None:
        if len(self.outcome.failures) >= TRACED:
            trace = ""
        self.outcome.failures.append(
            {"stamp": stamp, "time": round(time, 4), "error": " ".join(error.split()), "traceback": trace}
        )


def told_instructions(bag: Bag, topic: str) -> list[tuple[int, str]]:
    """(stamp, instruction) of the recorded chunks that have another instruction than the one before."""
    told: list[tuple[int, str]] = []
    for seen in bag.messages([topic]):
        chunk = seen.message
        if len(chunk.actions) and chunk.instruction and (not told or chunk.instruction != told[-1][1]):
            told.append((from_stamp(chunk.header.stamp), chunk.instruction))
    return told


def _picture(frame: NDArray[np.uint8], side: int) -> bytes:
    """A JPEG of the view at the policy's resolution."""
    small = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
    return encoded(np.asarray(small, np.uint8), FRAME_QUALITY).tobytes()
