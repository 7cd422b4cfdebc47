# SPDX-License-Identifier: Apache-2.0
"""The predicted path of a chunk, against sums and a circle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from specprune_ros.control.action_space import ActionSpace, ControllerConfig
from specprune_ros.control.path import predicted_path
from specprune_ros.pose import IDENTITY, Pose

START = Pose(np.array([0.4, -0.1, 0.3]), Rotation.from_euler("xyz", [0.2, -0.4, 1.0]).as_quat())


@given(arrays(np.float64, (8, 7), elements=st.floats(-1, 1)), st.sampled_from([0.02, 0.05, 0.2]))
def test_increments_along_the_base_add_up(actions, dt):
    path = predicted_path(actions, ActionSpace(ControllerConfig(metres_per_unit=0.05), 7), START, dt)
    expected = START.position + np.vstack([np.zeros(3), np.cumsum(0.05 * actions[:, :3], axis=0)])
    np.testing.assert_allclose(path, expected, atol=1e-12)


def test_increments_along_the_tool_turn_with_it():
    """A step forward and a turn by 30 degrees, twelve times: a regular polygon that closes."""
    config = ControllerConfig(frame="tool", metres_per_unit=1.0, radians_per_unit=1.0)
    actions = np.tile([0.1, 0, 0, 0, 0, np.pi / 6, 1.0], (12, 1))
    path = predicted_path(actions, ActionSpace(config, 7), IDENTITY, 0.05)
    np.testing.assert_allclose(path[-1], path[0], atol=1e-12)
    sides = np.linalg.norm(np.diff(path, axis=0), axis=1)
    np.testing.assert_allclose(sides, 0.1, atol=1e-12)
    radius = np.linalg.norm(path[:-1] - path[:-1].mean(axis=0), axis=1)
    assert radius == pytest.approx(0.05 / np.sin(np.pi / 12))  # of a polygon with twelve sides
    turned = predicted_path(actions, ActionSpace(config, 7), START, 0.05)
    np.testing.assert_allclose(turned, START.position + START.rotation.apply(path), atol=1e-12)
