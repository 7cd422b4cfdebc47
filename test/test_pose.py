# SPDX-License-Identifier: Apache-2.0
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from specprune_ros.pose import Pose


def random_pose(random):
    return Pose(random.normal(size=3), Rotation.random(random_state=random).as_quat())


def matrix(pose):
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = pose.rotation.as_matrix(), pose.position
    return result


@given(st.integers(0, 2**31))
def test_same_as_homogeneous_matrices(seed):
    random = np.random.RandomState(seed)
    a, b = random_pose(random), random_pose(random)
    np.testing.assert_allclose(matrix(a @ b), matrix(a) @ matrix(b), atol=1e-9)
    np.testing.assert_allclose(matrix(a.inverse()), np.linalg.inv(matrix(a)), atol=1e-9)
