# SPDX-License-Identifier: Apache-2.0
"""The transforms of one child frame over time."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from scipy.spatial.transform import Rotation, Slerp

from specprune_ros.pose import Pose
from specprune_ros.stamps import ROUNDING


class ExtrapolationError(Exception):
    """A transform is asked for at a time that the buffer does not cover."""


@dataclass(frozen=True, eq=False)
class Link:
    """The pose of a child frame in its parent frame."""

    parent: str
    pose: Pose


class TransformCache:
    """Links sorted by stamp, the newest `cache_time` seconds of them. A static frame keeps one link for all times."""

    def __init__(self, cache_time: float, static: bool) -> None:
        self.static = static
        self._cache_time = cache_time
        self._stamps: list[float] = []
        self._links: list[Link] = []

    @property
    def newest(self) -> float | None:
        """Stamp of the newest link, seconds; None without any."""
        return self._stamps[-1] if self._stamps else None

    @property
    def parents(self) -> list[str]:
        """Of all links that are kept, the oldest first; one of them, unless publishers disagree."""
        return list(dict.fromkeys(link.parent for link in self._links))

    def insert(self, stamp: float, link: Link) -> bool:
        """False when the link is older than what the cache still keeps. A repeated stamp replaces its link."""
        if self.static:
            self._stamps, self._links = [stamp], [link]
            return True
        if self._stamps and stamp < self._stamps[-1] - self._cache_time:
            return False
        where = bisect_left(self._stamps, stamp)
        repeated = where < len(self._stamps) and self._stamps[where] == stamp
        self._stamps[where : where + repeated] = [stamp]
        self._links[where : where + repeated] = [link]
        outdated = bisect_left(self._stamps, self._stamps[-1] - self._cache_time)
        del self._stamps[:outdated], self._links[:outdated]
        return True

    def clear(self) -> None:
        """Forget timed links; a static one stays, as in tf2."""
        if not self.static:
            self._stamps.clear()
            self._links.clear()

    def latest(self) -> Link | None:
        return self._links[-1] if self._links else None

    def at(self, stamp: float) -> Link:
        """Linear in position, spherical-linear in rotation. Raises ExtrapolationError outside the stamps held."""
        if self.static:
            return self._links[-1]
        if not self._stamps:
            raise ExtrapolationError("the buffer holds no data")
        if not self._stamps[0] - ROUNDING <= stamp <= self._stamps[-1] + ROUNDING:
            held = f"{self._stamps[0]:.6f} s to {self._stamps[-1]:.6f} s"
            raise ExtrapolationError(f"{stamp:.6f} s is asked for, the buffer holds {held}")
        stamp = min(max(stamp, self._stamps[0]), self._stamps[-1])
        after = bisect_right(self._stamps, stamp)
        before, older = after - 1, self._links[after - 1]
        if self._stamps[before] == stamp:
            return older
        newer = self._links[after]
        if older.parent != newer.parent:
            return older
        fraction = (stamp - self._stamps[before]) / (self._stamps[after] - self._stamps[before])
        return Link(older.parent, _between(older.pose, newer.pose, fraction))


def _between(older: Pose, newer: Pose, fraction: float) -> Pose:
    rotations = Rotation.from_quat([older.quaternion, newer.quaternion])
    return Pose(
        older.position + fraction * (newer.position - older.position),
        Slerp([0.0, 1.0], rotations)(fraction).as_quat(),
    )
