# SPDX-License-Identifier: Apache-2.0
"""What is believed of a quantity that jumps, and when."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from specprune_ros.errors import ObservationError
from specprune_ros.pose import IDENTITY, Pose
from specprune_ros.sensing.end_effector import PoseMotion
from specprune_ros.sensing.joints import JointMotion
from specprune_ros.sensing.track import JITTER, QUIET, UNSEEN, Track
from specprune_ros.sensing.transforms import LOOP_PAUSE, LoopGuard

SECOND = 1_000_000_000


class Heard:
    """A track whose samples come every 0.1 s, stamped when they come; 1 m/s is possible."""

    def __init__(self):
        self.asked = []
        self.track = Track(self.possible)
        self.now = 50.0

    def possible(self, before, after, seconds):
        self.asked.append(seconds)
        return abs(after - before) <= seconds + 1e-9

    def hear(self, *values, later=0.1, age=0.0):
        """Whether each is believed."""
        believed = []
        for value in values:
            self.now += later
            believed.append(self.track.add(round((self.now - age) * SECOND), value, self.now))
        return believed


def test_a_quantity_settles_a_second_after_its_first_sample():
    heard = Heard()
    assert not heard.track.settled(0.0) and heard.track.contradiction(0.0) is None and heard.track.last is None
    assert heard.hear(0.0) == [True]
    assert not heard.track.settled(heard.now + QUIET - 0.001) and heard.track.settled(heard.now + QUIET)
    assert heard.hear(0.05, 0.1) == [True, True] and heard.track.last.value == 0.1


def test_a_jump_is_not_believed_and_said_for_a_second():
    heard = Heard()
    heard.hear(*[0.0] * 15)
    assert heard.track.settled(heard.now)
    assert heard.hear(5.0) == [False]
    found = heard.track.contradiction(heard.now)
    assert (found.believed, found.other) == (0.0, 5.0) and heard.track.last.value == 0.0
    assert not heard.track.settled(heard.now)
    said = heard.now
    assert heard.hear(0.0) == [True]  # goes on as before
    assert heard.track.contradiction(said + QUIET - 0.001) and heard.track.contradiction(said + QUIET) is None
    assert heard.track.settled(said + QUIET)


def test_another_story_is_believed_when_the_first_has_ended_for_a_second():
    heard = Heard()
    heard.hear(0.0)
    assert heard.hear(*[5.0] * 11) == [False] * 10 + [True]
    assert heard.track.last.value == 5.0 and heard.track.settled(heard.now)
    assert heard.track.contradiction(heard.now) is None


def test_not_while_the_arm_is_moved():
    heard = Heard()
    heard.track.adopts = False
    heard.hear(0.0)
    assert not any(heard.hear(*[5.0] * 40)) and heard.track.contradiction(heard.now)
    heard.track.adopts = True
    assert heard.hear(5.0) == [True]


def test_not_while_the_first_story_goes_on():
    heard = Heard()
    for _ in range(20):
        assert heard.hear(0.0, 5.0) == [True, False]


def test_rivals_that_contradict_each_other_are_not_believed():
    heard = Heard()
    heard.hear(0.0)
    assert not any(heard.hear(*[5.0, 9.0] * 20))


def test_a_gap_explains_motion_only_to_a_limit_and_whatever_stamps_say():
    heard = Heard()
    heard.hear(0.0)
    heard.hear(0.0, later=0.1)
    assert heard.asked[-1] == pytest.approx(0.1 + JITTER)
    heard.hear(0.0, later=5.0)
    assert heard.asked[-1] == pytest.approx(UNSEEN + JITTER)
    heard.track.silence, heard.track.braking = 0.5, 0.2
    heard.hear(0.0, later=5.0)
    assert heard.asked[-1] == pytest.approx(UNSEEN + JITTER)  # it rests
    heard.track.tell(True, heard.now)
    heard.hear(0.0, later=5.0)
    assert heard.asked[-1] == pytest.approx(0.7 + JITTER)
    heard.track.tell(False, heard.now + 0.3)
    heard.hear(0.0, later=5.0)
    assert heard.asked[-1] == pytest.approx(0.5 + JITTER)  # it was told to rest in the middle of the silence
    heard.track.tell(False, heard.now + 0.3)
    heard.hear(0.0, later=5.0)
    assert heard.asked[-1] == pytest.approx(UNSEEN + JITTER)  # and rests since
    heard.track.tell(True, heard.now)
    heard.hear(0.0, later=0.02)
    assert heard.asked[-1] == pytest.approx(0.02 + JITTER)
    heard.track.add(round((heard.now + 9.0) * SECOND), 0.0, heard.now + 0.04)  # a stamp that lies
    assert heard.asked[-1] == pytest.approx(0.04 + JITTER)
    heard.track.add(round((heard.now + 9.01) * SECOND), 0.0, heard.now + 0.34)  # its clock stood still
    assert heard.asked[-1] == pytest.approx(0.3 + JITTER)


@pytest.mark.parametrize("ahead", [0.3, 3600.0])
def test_a_stamp_from_the_future_does_not_stay_the_last(ahead):
    heard = Heard()
    heard.hear(0.0, 0.1)
    heard.hear(0.2, age=-ahead)
    assert heard.hear(0.3) == [True] and heard.track.last.value == 0.3
    assert all(heard.hear(*(0.1 * k for k in range(4, 60)))) and heard.track.last.value == pytest.approx(5.9)


def test_a_jump_does_not_become_possible_by_waiting():
    """What contradicts is heard all the time: the arm does not move unseen."""
    heard = Heard()
    heard.track.silence, heard.track.adopts = 0.8, False
    heard.track.tell(True, heard.now)
    heard.hear(*[0.0] * 15)
    assert not any(heard.hear(*[0.5] * 40))
    assert heard.hear(0.1) == [True]  # the story that was believed goes on after its silence


def test_after_a_silence_both_stories_may_begin():
    heard = Heard()
    heard.track.silence, heard.track.adopts = 0.8, False
    heard.track.tell(True, heard.now)
    heard.hear(*[0.0] * 15)
    assert heard.hear(0.5, later=0.6) == [True] and all(heard.hear(0.55, 0.6))
    heard.hear(9.0)
    assert heard.hear(1.0, later=0.5) == [True]  # not of the story of 9


def test_two_absurd_positions_of_a_joint_without_end():
    assert not JointMotion(1.0, continuous=True).possible(-1.7e308, 1.7e308, 1.0)


def test_a_sample_out_of_order_is_believed_and_is_not_the_last():
    heard = Heard()
    heard.hear(0.0, 0.1)
    assert heard.hear(0.06, later=0.02, age=0.06) == [True] and heard.track.last.value == 0.1


def test_clear_forgets_everything():
    heard = Heard()
    heard.hear(*[0.0] * 15, 5.0)
    heard.track.clear()
    assert heard.track.last is None and heard.track.contradiction(heard.now) is None
    assert not heard.track.settled(heard.now)
    assert heard.hear(5.0) == [True]


def test_how_far_a_joint_can_have_come():
    """1.2 of 1 rad/s for 0.1 s, and 0.01 rad of noise: 0.13 rad."""
    motion = JointMotion(1.0)
    assert motion.possible(0.0, 0.129, 0.1) and motion.possible(0.0, -0.129, 0.1)
    assert not motion.possible(0.0, 0.131, 0.1) and not motion.possible(0.0, -0.131, 0.1)
    assert not motion.possible(3.1, -3.1, 0.1) and JointMotion(1.0, continuous=True).possible(3.1, -3.1, 0.1)
    assert not JointMotion(1.0, continuous=True).possible(3.0, -3.0, 0.1)


def test_how_far_an_end_effector_can_have_come():
    """1.2 of 0.5 m/s and 1 rad/s for 0.1 s, and noise of 0.01 m and 0.03 rad: 0.07 m and 0.15 rad."""
    motion = PoseMotion(0.5, 1.0)
    assert PoseMotion(0.5, 2.0).possible(IDENTITY, Pose(np.zeros(3), Rotation.from_rotvec([0.26, 0, 0]).as_quat()), 0.1)

    def at(distance, angle):
        return Pose(np.array([0.0, distance, 0.0]), Rotation.from_rotvec([angle, 0, 0]).as_quat())

    assert motion.possible(IDENTITY, at(0.069, 0.149), 0.1) and motion.possible(at(0.069, 0.149), IDENTITY, 0.1)
    assert not motion.possible(IDENTITY, at(0.071, 0.0), 0.1) and not motion.possible(IDENTITY, at(0.0, 0.151), 0.1)
    start = at(3.0, 2.0)
    assert motion.possible(start, Pose(start.position + 0.03, start.quaternion), 0.1)


def test_a_loop_pauses_all_answers():
    clock = [10.0]
    guard = LoopGuard(lambda: clock[0])
    guard.check()
    guard.block("two publishers of hand")
    for later in (0.0, LOOP_PAUSE - 0.01):
        clock[0] = 10.0 + later
        with pytest.raises(ObservationError, match="two publishers of hand"):
            guard.check()
    clock[0] = 10.0 + LOOP_PAUSE
    guard.check()
