# SPDX-License-Identifier: Apache-2.0
"""The controller that points and chunks are compared over follows joint_trajectory_controller's documented rules."""

import numpy as np
from benchmark_modules import trajectory_controller

Knot, TrajectoryController = trajectory_controller.Knot, trajectory_controller.TrajectoryController


def knot(time, position, velocity=None):
    return Knot(time, np.array([position]), None if velocity is None else np.array([velocity]))


def test_linear_without_velocities_from_where_it_is():
    controller = TrajectoryController(np.array([1.0]))
    assert controller.receive(10.0, 0.0, [knot(0.2, 2.0)])
    np.testing.assert_allclose([controller.sample(t)[0] for t in (10.0, 10.05, 10.1, 10.2, 11.0)], [1, 1.25, 1.5, 2, 2])


def test_cubic_with_velocities_is_a_parabola_where_the_acceleration_is_constant():
    controller = TrajectoryController(np.array([0.0]))
    assert controller.receive(10.0, 9.0, [knot(0.0, 0.0, 0.0), knot(2.0, 2.0, 2.0), knot(4.0, 6.0, 2.0)])
    for now in (10.0, 10.3, 10.9):  # the past is left out: the first second is over
        np.testing.assert_allclose(controller.sample(now), [0.5 * (now - 9.0) ** 2])
    np.testing.assert_allclose(controller.sample(12.0), [4.0])
    np.testing.assert_allclose(controller.velocities, [2.0])


def test_the_last_message_counts_and_goes_on_from_the_state_that_was():
    controller = TrajectoryController(np.array([0.0]))
    controller.receive(0.0, 0.0, [knot(1.0, 1.0)])
    controller.sample(0.5)
    assert controller.receive(0.5, 0.0, [knot(0.5, 0.0, 0.0)])
    controller.sample(0.75)
    assert controller.positions[0] > 0.25  # by a spline that starts with the velocity of 1 that it had
    assert controller.receive(0.75, 0.0, [knot(0.5, 3.0)], np.array([2.0]))
    np.testing.assert_allclose(controller.sample(1.0), [2.5])  # from the measured state, where it is given


def test_a_trajectory_that_is_over_is_rejected():
    controller = TrajectoryController(np.array([0.0]))
    assert not controller.receive(10.0, 9.0, [knot(0.5, 1.0)])
    assert not controller.receive(10.0, 0.0, [knot(0.5, 1.0), knot(0.5, 2.0)])
    assert controller.sample(10.1) == 0.0
