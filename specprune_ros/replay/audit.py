# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the recording itself: every input's rate, gaps and stamps, and what the live node would refuse."""

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specprune_ros.control.action_space import ActionSpace
from specprune_ros.replay.bag import BagMessage
from specprune_ros.replay.camera_motion import CameraMotion
from specprune_ros.replay.finding import Finding
from specprune_ros.replay.ingest import Seen
from specprune_ros.replay.intervals import Intervals
from specprune_ros.replay.orientation import about_motion
from specprune_ros.replay.settings import Settings
from specprune_ros.replay.summary import number
from specprune_ros.replay.topics import Topics
from specprune_ros.replay.unnorm_keys import KeyFit, Ranges, about_keys
from specprune_ros.sensing.camera_check import of_one_topic, swapped_by_name
from specprune_ros.sensing.config import JOINT_STATES, TF, image_input
from specprune_ros.stamps import NANOSECONDS

GAP = 5.0  # typical periods without a message are a gap
LISTED = 20  # gaps, refusals ... that are named one by one
FROZEN = 1.0  # seconds of one picture while the arm moves
MOVING = 0.02  # m/s or rad/s of the end effector
BACK = 0.5  # seconds by which stamps go back that are no mere disorder
FEW = 5  # observations without velocity: those before TF has filled its window
UNSTAMPED = 0


@dataclass(eq=False)
class Stream:
    """One input. Stamps in nanoseconds, times in seconds."""

    name: str
    topic: str
    allowed: float  # seconds without news after which the node stops the arm
    count: int = 0
    unstamped: int = 0
    repeated: int = 0  # stamps that came before
    backwards: int = 0
    back: tuple[float, float] | None = None  # the first time that stamps went far back: when, how far
    intervals: Intervals = field(default_factory=Intervals)  # of stamps
    delays: Intervals = field(default_factory=Intervals)  # from stamp to arrival
    future: int = 0  # stamped after its arrival
    gaps: list[tuple[float, float]] = field(default_factory=list)  # the first ones: when it began, how long
    gap_count: int = 0
    longest: tuple[float, float] = 0.0, 0.0  # gap
    first: float = math.nan
    last: float = math.nan
    _newest: int | None = None

    def add(self, stamp: int, time: float, delay: float) -> None:
        """`delay`: arrival minus stamp on the node's clock."""
        self.count += 1
        self.first = time if math.isnan(self.first) else self.first
        self.last = time
        if stamp == UNSTAMPED:
            self.unstamped += 1
            return
        self.delays.add(max(delay, 0.0))
        self.future += delay < -0.001
        newest, self._newest = self._newest, stamp
        if newest is None:
            return
        if stamp <= newest:
            self.repeated += stamp == newest
            self.backwards += stamp < newest
            far = (newest - stamp) / NANOSECONDS
            if far > BACK and self.back is None:
                self.back = round(time, 3), round(far, 3)
            return
        interval = (stamp - newest) / NANOSECONDS
        typical = self.intervals.percentile(0.5) if self.intervals.count >= 10 else math.inf
        if interval > min(self.allowed, GAP * typical):
            self.gap_count += 1
            gap = round(time - interval, 3), round(interval, 3)
            self.longest = max(self.longest, gap, key=lambda gap: gap[1])
            if len(self.gaps) < LISTED:
                self.gaps.append(gap)
        self.intervals.add(interval)

    def restart(self) -> None:
        """The clock was set back."""
        self._newest = None

    def summary(self) -> dict[str, Any]:
        p50 = self.intervals.percentile(0.5)
        return {
            "topic": self.topic,
            "messages": self.count,
            "rate_hz": number(1 / p50 if p50 > 0 else math.nan),
            "interval_s": {
                "p50": number(p50),
                "p99": number(self.intervals.percentile(0.99)),
                "max": number(self.intervals.largest if self.intervals.count else math.nan),
            },
            "jitter_s": number(self.intervals.percentile(0.95) - p50),
            "delay_s": {"p50": number(self.delays.percentile(0.5)), "p99": number(self.delays.percentile(0.99))},
            "gaps": self.gap_count,
            "first_gaps_s": [list(gap) for gap in self.gaps],
            "without_stamp": self.unstamped,
            "same_stamp_again": self.repeated,
            "backwards": self.backwards,
            "stamped_in_the_future": self.future,
        }


@dataclass(eq=False)
class Picture:
    """The last picture of a camera, and since when it is the same."""

    digest: int = -1
    since: float = 0.0
    last: float = 0.0  # time of the newest message with it; none at all is a gap, not a frozen camera
    moved: bool = False  # the arm, since then
    frozen: list[tuple[float, float]] = field(default_factory=list)  # the first times: when, how long
    longest: tuple[float, float] = 0.0, 0.0

    def add(self, digest: int, time: float) -> None:
        """A picture with this digest came at `time`, seconds of the bag."""
        if digest != self.digest:
            self.end()
            self.digest, self.since, self.moved = digest, time, False
        self.last = time

    def end(self) -> None:
        """The picture changes, or the recording ends."""
        length = self.last - self.since
        if self.digest >= 0 and self.moved and length > FROZEN:
            span = round(self.since, 3), round(length, 3)
            self.longest = max(self.longest, span, key=lambda span: span[1])
            if len(self.frozen) < LISTED:
                self.frozen.append(span)


class Audit:
    """Looks at every message on its way, and at every observation."""

    def __init__(
        self, settings: Settings, topics: Topics, start: int, ranges: Mapping[str, Ranges], unnorm_key: str
    ) -> None:
        """`start`: of the bag, nanoseconds. `ranges`: of the checkpoint's keys, `unnorm_key` the chosen one."""
        inputs = settings.inputs
        self._settings, self._topics, self._start = settings, topics, start
        self.streams = {
            camera: Stream(camera, topic, inputs.max_age_of(image_input(camera)))
            for camera, topic in topics.images.items()
        }
        if topics.joints:
            self.streams[JOINT_STATES] = Stream(JOINT_STATES, topics.joints, inputs.max_age_of(JOINT_STATES))
        if topics.tf and inputs.base_frame and inputs.ee_frame:
            self.streams[TF] = Stream(TF, topics.tf[0], inputs.max_age_of(TF))
        self._pictures = {camera: Picture() for camera in topics.images}
        self.frames: dict[str, str] = {}  # camera -> frame_id of its images
        self.refusals: Counter[str] = Counter()  # without their numbers
        self._examples: dict[str, dict[str, Any]] = {}
        self.jumps: list[tuple[float, float]] = []
        self.observations = self.unknown_twists = 0
        self.skew = Intervals()
        self._newest: dict[str, int] = {}
        self._used = {*inputs.joint_names, *settings.controller.joint_names}
        self._joints: dict[str, int] = {}  # newest stamp of each of these
        self._fresh: set[str] = set()  # of these, those that are known anew
        self._motions = {camera: CameraMotion(camera, inputs.transform_of(camera)) for camera in topics.images}
        self._key = unnorm_key
        self._fits: dict[str, KeyFit] = {}
        size = len(ranges[unnorm_key].action[0]) if unnorm_key in ranges else 0
        for key, own in ranges.items():
            if len(own.action[0]) == size:
                self._fits[key] = KeyFit(own, ActionSpace(settings.controller, size))

    # Messages, as `ingest.Watch`

    def on_message(self, name: str, message: BagMessage, stamp: int, now: int) -> None:
        time = (message.time - self._start) / NANOSECONDS
        stream = self.streams.get(name)
        if stream is not None:
            if name == JOINT_STATES and self._used:
                known = self._known_joints(message.message.name, stamp)
                if known is None:
                    return
                stamp = known
            stream.add(stamp, time, (now - stamp) / NANOSECONDS)
        if name in self._pictures:
            self._pictures[name].add(zlib.crc32(message.message.data), time)
            self.frames[name] = message.message.header.frame_id
            self._newest[name] = stamp if stamp != UNSTAMPED else now  # as the node
            if len(self._newest) == len(self._pictures) > 1:
                self.skew.add((max(self._newest.values()) - min(self._newest.values())) / NANOSECONDS)
                self._newest.clear()

    def _known_joints(self, names: Sequence[str], stamp: int) -> int | None:
        """By when all joints that the node uses are known anew, by a message of some joints; None: not all are."""
        told = self._used.intersection(names)
        self._fresh |= {name for name in told if stamp == UNSTAMPED or self._joints.get(name) != stamp}
        self._joints |= dict.fromkeys(told, stamp)
        if self._fresh != self._used:
            return None
        self._fresh.clear()
        return min(self._joints.values())

    def on_jump(self, time: int, back: int) -> None:
        self._joints.clear()
        self._fresh.clear()
        if len(self.jumps) < LISTED:
            self.jumps.append((round((time - self._start) / NANOSECONDS, 3), round(back / NANOSECONDS, 3)))
        for stream in self.streams.values():
            stream.restart()

    # Observations

    def on_seen(self, seen: Seen, time: float) -> None:
        if seen.sensed is None:
            kind = re.sub(r"(?<![\w/])[+-]?\d+(\.\d+)?", "#", seen.refusal)  # of one kind, but of another input
            self.refusals[kind] += 1
            example = self._examples.setdefault(kind, {"text": seen.refusal, "first_s": round(time, 3), "count": 0})
            example["count"] += 1
            example["last_s"] = round(time, 3)
            return
        self.observations += 1
        sensed = seen.sensed
        if sensed.twist is None:
            self.unknown_twists += 1
        elif np.linalg.norm(sensed.twist[:3]) > MOVING:
            for picture in self._pictures.values():
                picture.moved = True
        for fit in self._fits.values():
            fit.add(sensed.proprio, sensed.twist, seen.joints)
        if seen.pose is not None:
            for camera, motion in self._motions.items():
                motion.add(sensed.views[camera], seen.pose, sensed.stamp / NANOSECONDS)

    # Results

    def finish(self) -> None:
        """The recording has ended."""
        for picture in self._pictures.values():
            picture.end()

    def findings(self, malformed: Counter[str]) -> list[Finding]:
        """What is worth a line, the worst first. `malformed`: topic -> messages that could not be read."""
        found = [*self._about_cameras(), *self._about_streams(), *about_keys(self._fits, self._key)]
        for topic, count in malformed.items():
            found.append(Finding("malformed", "warning", f"{count} messages on {topic} do not deserialize; left out"))
        for time, back in self.jumps:
            text = f"the clock jumps back by {back:g} s at {time:g} s; the history was reset there, as on the node"
            found.append(Finding("clock_jump", "warning", text))
        for example in self._examples.values():
            text = (
                f"refused {example['count']} times, from {example['first_s']:g} to {example['last_s']:g} s: "
                f"{example['text']}"
            )
            found.append(Finding("refused", "warning", text))
        order = {"error": 0, "warning": 1, "hint": 2}
        return sorted(found, key=lambda finding: order[finding.level])

    def _about_cameras(self) -> list[Finding]:
        found = []
        for camera, picture in self._pictures.items():
            if picture.frozen:
                time, length = picture.longest
                text = (
                    f"camera {camera} on {self._topics.images[camera]} is frozen: the same picture for {length:g} s "
                    f"from {time:g} s on, while the arm moves"
                )
                found.append(Finding("frozen_camera", "error", text))
        found += [Finding("swapped_cameras", "error", text) for text in swapped_by_name(self.frames)]
        found += [Finding("same_camera", "error", text) for text in of_one_topic(self._topics.images)]
        return [*found, *about_motion(self._motions, self._topics.images, self._key)]

    def _about_streams(self) -> list[Finding]:
        found = []
        gone_back = {stream.topic: stream.back for stream in self.streams.values() if stream.back}
        if gone_back:
            time, far = min(gone_back.values())
            text = (
                f"the stamps on {', '.join(gone_back)} jump back by {far:g} s at {time:g} s, while the recorder's "
                f"clock went on, as in a recording of a looped playback; replay what is before with --duration {time:g}"
            )
            found.append(Finding("stamps_back", "error", text))
        for stream in self.streams.values():
            if stream.gap_count:
                time, length = stream.longest
                severe = length > stream.allowed
                kind = "tf_gap" if stream.name == TF else "gap"
                stops = f"; the node stops the arm after {stream.allowed:g} s" if severe else ""
                count = "1 gap" if stream.gap_count == 1 else f"{stream.gap_count} gaps"
                text = f"{stream.topic} has {count}, the longest of {length:g} s at {time:g} s{stops}"
                found.append(Finding(kind, "error" if severe else "warning", text))
            if stream.unstamped:
                text = f"{stream.unstamped} messages on {stream.topic} have no stamp; the time of arrival is used"
                found.append(Finding("no_stamp", "warning", text))
            odd = stream.repeated + stream.backwards
            if odd and stream.name in self._pictures:
                text = f"{odd} images on {stream.topic} came twice or out of order; the node drops them"
                found.append(Finding("order", "warning", text))
        if self.unknown_twists > max(0.1 * self.observations, FEW):
            share = self.unknown_twists / self.observations
            text = f"the end effector's velocity is unknown in {share:.0%} of the observations; pruning is fine there"
            found.append(Finding("unknown_velocity", "warning", text))
        return found

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "inputs": {name: stream.summary() for name, stream in self.streams.items()},
            "camera_skew_s": {"p50": number(self.skew.percentile(0.5)), "max": number(self.skew.largest)},
            "image_frames": self.frames,
            "observations": self.observations,
            "refused": sum(self.refusals.values()),
            "refusals": list(self._examples.values()),
            "clock_jumps_s": [list(jump) for jump in self.jumps],
            "velocity_unknown": self.unknown_twists,
            "unnorm_keys": {key: fit.summary() for key, fit in self._fits.items()},
            "camera_motion": {camera: motion.summary() for camera, motion in self._motions.items()},
            "frozen_s": {name: [list(span) for span in picture.frozen] for name, picture in self._pictures.items()},
        }
