# SPDX-License-Identifier: Apache-2.0
"""Joint positions by name, from any number of publishers on one JointState topic."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specprune_ros.arrays import Floats
from specprune_ros.errors import ObservationError
from specprune_ros.sensing.history import History
from specprune_ros.sensing.peers import Peers, UnknownPeers
from specprune_ros.sensing.track import SPEED_MARGIN, UNSEEN, Track
from specprune_ros.stamps import NANOSECONDS

LENGTH = 256  # samples per joint: a quarter of a second at 1 kHz
NOISE = 0.01  # rad or m, of an encoder
MAX_AHEAD = NANOSECONDS // 2
WINDOW = NANOSECONDS // 10  # over which a velocity is measured
CHECK = "check its publisher and the clocks"


@dataclass(frozen=True)
class JointMotion:
    """How a joint that the controller moves can move."""

    speed: float  # rad/s
    continuous: bool = False  # it turns without end, so that its angle may be reported with any number of turns
    silence: float = UNSEEN  # seconds after which it holds when it is not heard
    braking: float = 0.0  # seconds in which it comes to rest then

    def possible(self, before: float, after: float, seconds: float) -> bool:
        """Whether the joint can be at `after` that many seconds after `before`, rad."""
        moved = after - before
        if self.continuous and math.isfinite(moved):
            moved = math.remainder(moved, math.tau)
        return abs(moved) <= SPEED_MARGIN * self.speed * seconds + NOISE


class JointInput:
    """Position histories of joints. Not thread-safe: its owner locks."""

    def __init__(self, names: Iterable[str], topic: str, peers: Peers | None = None) -> None:
        """`topic` and `peers` are for messages."""
        self.topic = topic
        self._peers = peers or UnknownPeers()
        self._positions: dict[str, History[float]] = {name: History(LENGTH) for name in names}
        self._tracks: dict[str, Track[float]] = {}
        self._motions: dict[str, JointMotion] = {}
        self._seen: set[str] = set()
        self._problem = ""

    def set_motions(self, motions: Mapping[str, JointMotion]) -> None:
        """Believe only samples that these motions explain; joints without one are believed whatever they say."""
        self._motions = dict(motions)
        for name, motion in motions.items():
            track = self._tracks.setdefault(name, Track(motion.possible))
            track.possible, track.silence, track.braking = motion.possible, motion.silence, motion.braking

    def set_adopting(self, adopting: bool) -> None:
        """Whether positions that no motion explains may be believed after a while: not while the arm is moved."""
        for track in self._tracks.values():
            track.adopts = adopting

    def tell(self, moves: bool, now: float) -> None:
        """Whether the arm is told to move. `now`: as `arrival`."""
        for track in self._tracks.values():
            track.tell(moves, now)

    def forget_contradictions(self, now: float) -> None:
        """Somebody vouches for what is measured from now on. `now`: as `arrival`."""
        for track in self._tracks.values():
            if track.contradiction(now):
                track.clear()

    def add(self, message: Any, stamp: int, arrival: float, now: int | None = None, max_ahead: int = MAX_AHEAD) -> None:
        """Keep what matters of a sensor_msgs/JointState; a broken message is remembered as the problem.

        `stamp`, `now`: nanoseconds of the node's clock. `arrival`: seconds of a steady clock. `max_ahead`: a stamp that
        is later than `now` by more is wrong, or of a time before the clock jumped back, and is not believed.
        """
        if now is not None and stamp - now > max_ahead:
            ahead = (stamp - now) / NANOSECONDS
            self._problem = f"{self.topic} is stamped {ahead:.3f} s in the future; synchronise the clocks"
            return
        if not len(message.position):
            # Allowed by the message definition, and by a robot that has its positions from another publisher.
            self._problem = self._problem or f"{self.topic} has velocities or efforts and no positions"
            return
        if len(message.name) != len(message.position):
            self._problem = f"{self.topic} has {len(message.name)} names but {len(message.position)} positions"
            return
        twice = [name for name in _contradicted(message.name, message.position) if name in self._positions]
        if twice:
            self._problem = f"joint {twice[0]} is twice in one message on {self.topic}, at different positions"
            return
        self._problem = ""
        if len(self._seen) < 1000:
            self._seen.update(message.name)
        for name, position in zip(message.name, message.position, strict=True):
            if name not in self._positions:
                continue
            # What is not finite is kept, and refused when it is used.
            tracked = name in self._tracks and math.isfinite(position)
            if not tracked or self._tracks[name].add(stamp, position, arrival):
                self._positions[name].add(stamp, position, arrival)

    def positions(
        self, names: Sequence[str], stamp: int, max_skew: int, now: float, limit: str = "inputs.max_skew"
    ) -> Floats:
        """(J,) float64 positions of `names` nearest to `stamp`, m or rad.

        `stamp`, `max_skew`: nanoseconds. `now`: as `arrival`. `limit`: the parameter that `max_skew` comes from. Raises
        ObservationError that says which joint and what to do.
        """
        values = []
        for name in names:
            self._check_contradiction(name, now)
            sample = self._positions[name].nearest(stamp)
            if sample is None:
                raise ObservationError(self._problem or self._missing(name))
            if abs(sample[0] - stamp) > max_skew:
                apart = (sample[0] - stamp) / NANOSECONDS
                raise ObservationError(
                    f"joint {name} on {self.topic} is {apart:+.3f} s away from what it is used with "
                    f"({limit} {max_skew / NANOSECONDS:g} s); {self._problem or CHECK}"
                )
            if not math.isfinite(sample[1]):
                raise ObservationError(f"joint {name} on {self.topic} is {sample[1]}; check the robot driver")
            values.append(sample[1])
        return np.array(values)

    def settled_positions(self, names: Sequence[str], stamp: int, max_age: int, now: float) -> Floats:
        """(J,) the newest positions of `names`, at most `max_age` away from `stamp`, only when commands may be made.

        The newest also of a driver whose clock is ahead. Otherwise as `positions`.
        """
        found = self.positions(names, stamp, max_age, now, "inputs.max_age")
        for index, name in enumerate(names):
            if name not in self._tracks:
                continue
            last = self._tracks[name].last
            if last is None or not self._tracks[name].settled(now):
                raise ObservationError(f"joint {name} on {self.topic} is listened to for a second before it is used")
            found[index] = last.value
        return found

    def velocities(self, names: Sequence[str]) -> Floats:
        """(J,) rad/s or m/s of `names` over the last tenth of a second, by least squares; 0 where nothing tells it."""
        return np.array([self._velocity(name) for name in names])

    def _velocity(self, name: str) -> float:
        history, motion = self._positions[name], self._motions.get(name)
        newest = history.newest_stamp
        samples = [] if newest is None else history.since(newest - WINDOW)
        times = np.array([stamp - samples[-1][0] for stamp, _ in samples]) / NANOSECONDS
        positions = np.array([position for _, position in samples])
        if len(samples) < 2 or not np.isfinite(positions).all():
            return 0.0
        if motion is not None and motion.continuous:
            positions = np.unwrap(positions)
        times -= times.mean()
        return float(times @ (positions - positions.mean()) / (times @ times))

    def _check_contradiction(self, name: str, now: float) -> None:
        found = self._tracks[name].contradiction(now) if name in self._tracks else None
        if found is None:
            return
        publishers = self._peers.publishers(self.topic)
        by = f"; published by {publishers}" if publishers else ""
        raise ObservationError(
            f"joint {name} on {self.topic} jumps between {found.believed:.3f} and {found.other:.3f} rad, faster than "
            f"its {self._motions[name].speed:g} rad/s (limits.max_joint_speed){by}: end all but the robot's "
            "driver, or call ~/enable if the arm really moved"
        )

    def _missing(self, name: str) -> str:
        if not self._seen:
            mismatch = self._peers.mismatch(self.topic)
            if mismatch:
                return mismatch
            return f"no joint positions on {self.topic} yet; start the robot driver or remap joint_states"
        published = ", ".join(sorted(self._seen)[:20])
        return f"joint {name} is not on {self.topic}; set inputs.joint_names from: {published}"

    def newest_stamp(self, names: Sequence[str] | None = None) -> int | None:
        """Stamp of the joint that lags behind most, of `names` or all, nanoseconds; None while one is missing."""
        stamps = [self._positions[name].newest_stamp for name in (self._positions if names is None else names)]
        known = [stamp for stamp in stamps if stamp is not None]
        return min(known, default=None) if len(known) == len(stamps) else None

    def rate(self, now: float) -> float:
        """Messages per second of the slowest joint."""
        return min((history.rate(now) for history in self._positions.values()), default=0.0)

    def slowest(self, names: Sequence[str], now: float) -> tuple[str, float]:
        """The joint of `names` that comes most seldom, and how often, Hz; 0: it has stopped. `now`: as `arrival`."""
        name = min(names, key=lambda name: self._positions[name].rate(now))
        history = self._positions[name]
        return name, 0.0 if history.stopped(now) else history.rate(now)

    def clear(self) -> None:
        for history in self._positions.values():
            history.clear()
        for track in self._tracks.values():
            track.clear()
        self._seen.clear()
        self._problem = ""


def _contradicted(names: Sequence[str], positions: Sequence[float]) -> list[str]:
    """The joints that a message has twice, at different positions."""
    if len(set(names)) == len(names):
        return []
    last = dict(zip(names, positions, strict=True))
    return [name for name, position in zip(names, positions, strict=True) if last[name] != position]
