# SPDX-License-Identifier: Apache-2.0
"""A small TF buffer with tf2's results, for machines without tf2_ros.

Source: the behaviour of tf2::BufferCore (ROS 2 Jazzy): static and timed transforms, chains through a common ancestor,
linear and spherical-linear interpolation, no extrapolation.
"""

import functools
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from specprune_ros.arrays import Floats
from specprune_ros.pose import IDENTITY, Pose
from specprune_ros.sensing.transform_cache import ExtrapolationError, Link, TransformCache

CACHE_TIME = 10.0  # seconds, tf2's default
MAX_FUTURE = 2.0  # seconds; further ahead than any deliberate future-dating of transforms
QUATERNION_TOLERANCE = 1e-2  # of the squared norm, tf2's


class TransformError(Exception):
    """A transform cannot be stored or looked up; the message says why in one line."""


class TransformLoopError(TransformError):
    """Frames are each other's parents."""


@dataclass(frozen=True, eq=False)
class Transform:
    """What a lookup found."""

    pose: Pose  # of the source frame in the target frame
    stamp: float | None  # seconds; None when every link of the chain is static


class TransformBuffer:
    """May be filled and read from different threads."""

    def __init__(self) -> None:
        self._caches: dict[str, TransformCache] = {}
        self._frames: set[str] = set()
        self._lock = threading.Lock()

    def set_transform(
        self,
        parent: str,
        child: str,
        stamp: float,
        position: Floats,
        quaternion: Floats,
        *,
        static: bool = False,
        now: float | None = None,
    ) -> None:
        """Store the pose of `child` in `parent`: `position` (3,) m, `quaternion` (4,) xyzw, `stamp` in seconds.

        Raises TransformError for what tf2 refuses (empty or equal frames, NaN, a quaternion that is not normalised,
        data older than the cache), and when `now` is given for a stamp far in the future, which would push all good
        data out of the cache.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        position, quaternion = np.array(position, dtype=np.float64), np.array(quaternion, dtype=np.float64)
        check_transform(parent, child, stamp, position, quaternion, None if static else now)
        link = Link(parent, Pose(position, quaternion / np.linalg.norm(quaternion)))
        with self._lock:
            # As in tf2, a frame stays static or timed as it was first seen; but what comes on /tf always ages.
            cache = self._caches.setdefault(child, TransformCache(CACHE_TIME, static))
            if cache.static and not static:
                cache = self._caches[child] = TransformCache(CACHE_TIME, static)
            if not cache.insert(stamp, link):
                raise TransformError(f"{parent} -> {child} at {stamp:.6f} s is older than the buffer keeps")
            self._frames.update((parent, child))

    def lookup(self, target: str, source: str, stamp: float | None = None) -> Transform:
        """The pose of `source` in `target` at `stamp`, seconds; None: the latest time that all links have in common.

        Raises TransformError: unknown frame, frames that are not connected, a loop, or a time that would need
        extrapolation.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            for frame in (target, source):
                if frame not in self._frames:
                    raise TransformError(f"frame {frame} does not exist; check its publisher, or the frame's name")
            if stamp is None:
                stamp = self._latest_common(target, source)
            if target == source:
                return Transform(IDENTITY, stamp)
            return Transform(self._pose(target, source, stamp), stamp)

    def clear(self) -> None:
        """Forget timed transforms (the clock jumped); static ones stay."""
        with self._lock:
            for cache in self._caches.values():
                cache.clear()

    def _latest_common(self, target: str, source: str) -> float | None:
        """Stamp of the oldest of the newest links between the two; None when all are static. Of one frame, its own."""
        source_chain, _ = self._chain(source, None)
        target_chain, _ = self._chain(target, None)
        between = [target] if target == source else self._between(target_chain, source_chain, target, source)
        stamps = [
            self._caches[frame].newest for frame in between if frame in self._caches and not self._caches[frame].static
        ]
        return min((stamp for stamp in stamps if stamp is not None), default=None)

    def _pose(self, target: str, source: str, stamp: float | None) -> Pose:
        source_chain, source_gap = self._chain(source, stamp)
        target_chain, target_gap = self._chain(target, stamp)
        common = next((frame for frame in source_chain if frame in target_chain), None)
        if common is None:
            gap = source_gap or target_gap
            if gap is not None:
                raise TransformError(f"{target} <- {source}: {gap}")
            raise self._disconnected(target, source, (*source_chain, *target_chain))
        source_in_common = _compose(source_chain, common)
        if common == target:
            return source_in_common
        target_in_common = _compose(target_chain, common).inverse()
        return target_in_common if common == source else target_in_common @ source_in_common

    def _between(
        self, target_chain: dict[str, Pose], source_chain: dict[str, Pose], target: str, source: str
    ) -> list[str]:
        """The frames whose links to their parents connect the two; raises TransformError when nothing does."""
        common = next((frame for frame in source_chain if frame in target_chain), None)
        if common is None:
            raise self._disconnected(target, source, (*source_chain, *target_chain))
        return [frame for chain in (source_chain, target_chain) for frame in list(chain)[: list(chain).index(common)]]

    def _disconnected(self, target: str, source: str, frames: Iterable[str]) -> TransformError:
        """Why nothing connects the two; `frames`: all that are above them."""
        for frame in frames:
            parents = self._caches[frame].parents if frame in self._caches else []
            if len(parents) > 1:
                return TransformError(
                    f"{frame} has two parents, {parents[0]} and {parents[1]}, so that {target} and {source} are not "
                    "connected; leave one of its publishers"
                )
        return TransformError(f"{target} and {source} are not connected; two parts of the TF tree have no link")

    def _chain(self, frame: str, stamp: float | None) -> tuple[dict[str, Pose], str | None]:
        """Every frame from `frame` up, with the pose of the frame below in it, and what ended the chain early.

        With `stamp` None the latest links are followed.
        """
        chain, pose = {frame: IDENTITY}, IDENTITY
        while frame in self._caches:
            cache = self._caches[frame]
            try:
                link = cache.latest() if stamp is None else cache.at(stamp)
            except ExtrapolationError as error:
                return chain, f"{frame}: {error}"
            if link is None:
                return chain, f"{frame}: the buffer holds no data"
            frame, pose = link.parent, link.pose
            if frame in chain:
                raise TransformLoopError(
                    f"the TF tree has a loop through {frame}; two publishers disagree about parents"
                )
            chain[frame] = pose
        return chain, None


def _compose(chain: dict[str, Pose], last: str) -> Pose:
    """The pose of the chain's first frame in its frame `last`."""
    frames = list(chain)
    poses = [chain[frame] for frame in frames[1 : frames.index(last) + 1]]
    return functools.reduce(lambda below, pose: pose @ below, poses) if poses else IDENTITY


def check_transform(
    parent: str, child: str, stamp: float, position: Floats, quaternion: Floats, now: float | None
) -> None:
    """Raises TransformError; arguments and reasons are those of `TransformBuffer.set_transform`."""
    if not parent or not child:
        raise TransformError(f"transform '{parent}' -> '{child}' has an empty frame name")
    if parent == child:
        raise TransformError(f"transform from {parent} to itself")
    if position.shape != (3,) or quaternion.shape != (4,):
        raise TransformError(f"{parent} -> {child} has {position.size} position and {quaternion.size} rotation numbers")
    if not (np.isfinite(position).all() and np.isfinite(quaternion).all() and np.isfinite(stamp)):
        raise TransformError(f"{parent} -> {child} holds NaN or Inf")
    if abs(quaternion @ quaternion - 1.0) > QUATERNION_TOLERANCE:
        raise TransformError(f"{parent} -> {child} has a quaternion of norm {np.linalg.norm(quaternion):.4f}, not 1")
    if now is not None and stamp > now + MAX_FUTURE:
        raise TransformError(f"{parent} -> {child} is stamped {stamp - now:.3f} s in the future")
