# SPDX-License-Identifier: Apache-2.0
import numpy as np

from specprune_ros.control.gripper import GripperDebounce

OPEN, CLOSED = np.array([1.0]), np.array([0.0])


def test_a_change_must_last():
    gripper = GripperDebounce(0.1, binary=True)
    asked = [OPEN, CLOSED, OPEN, OPEN, CLOSED, CLOSED, CLOSED, CLOSED, OPEN]
    sent = [gripper.update(opening, 10.0 + k * 0.05)[0] for k, opening in enumerate(asked)]
    assert sent == [1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert gripper.state == [0.0]


def test_a_hold_starts_the_wait_over():
    gripper = GripperDebounce(0.1, binary=True)
    gripper.update(OPEN, 0.0)
    gripper.update(CLOSED, 0.05)
    gripper.interrupt()
    assert gripper.update(CLOSED, 5.0) == [1.0]
    assert gripper.update(CLOSED, 5.1) == [0.0]


def test_every_gripper_waits_for_itself():
    gripper = GripperDebounce(0.1, binary=True)
    gripper.update(np.array([1.0, 1.0]), 0.0)
    gripper.update(np.array([0.0, 1.0]), 0.05)
    np.testing.assert_array_equal(gripper.update(np.array([0.0, 0.0]), 0.15), [0.0, 1.0])
    np.testing.assert_array_equal(gripper.update(np.array([0.0, 0.0]), 0.25), [0.0, 0.0])


def test_no_debounce_and_proportional_grippers_pass_at_once():
    gripper = GripperDebounce(0.0, binary=True)
    assert [gripper.update(opening, 0.0)[0] for opening in (OPEN, CLOSED, OPEN)] == [1, 0, 1]
    gripper = GripperDebounce(0.5, binary=False)
    assert [gripper.update(np.array([share]), 0.0)[0] for share in (0.2, 0.3, 0.9)] == [0.2, 0.3, 0.9]
