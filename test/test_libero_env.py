# SPDX-License-Identifier: Apache-2.0
"""The simulator wrapper against a recorded episode of LIBERO-Spatial task 0, initial state 0.

The recording (data/libero_episode.npz) comes from LIBERO's own environment: one row per 20 Hz step, taken before its
action. `action` is in the simulator's units, `eef_pos` and `eef_quat` (x, y, z, w) are in the world.
"""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from specprune_ros.errors import UserError
from specprune_ros.sim.libero_env import CAMERAS, LiberoEnv, axis_angle, simulator_action
from specprune_ros.sim.libero_tasks import find_task, suites

pytestmark = pytest.mark.sim

EPISODE = Path(__file__).parent / "data" / "libero_episode.npz"
SIZE = 128  # pixels of the images


@pytest.fixture(scope="module")
def episode():
    with np.load(EPISODE) as data:
        return dict(data)


@pytest.fixture(scope="module")
def shared_env(libero_spatial):
    return libero_spatial(SIZE)


@pytest.fixture
def env(shared_env):
    shared_env.reset(0)
    return shared_env


def test_first_state_is_the_recorded_one(env, episode):
    expected = [*episode["eef_pos"][0], *axis_angle(episode["eef_quat"][0]), *episode["gripper"][0]]
    np.testing.assert_allclose(env.proprio, expected, atol=2e-5)
    np.testing.assert_allclose(env.joint_positions, episode["joint"][0], atol=1e-6)
    assert np.abs(env.joint_velocities).max() < 1e-3
    assert env.instruction == str(episode["instruction"])
    assert not env.success


def test_recorded_actions_solve_the_task(env, episode):
    solved = False
    for step, action in enumerate(episode["action"]):
        np.testing.assert_allclose(env.joint_positions, episode["joint"][step], atol=5e-3)
        np.testing.assert_allclose(env.eef_pose.position, episode["eef_pos"][step], atol=5e-3)
        # The sign too: checkpoints see angles on both sides of pi.
        np.testing.assert_allclose(env.eef_pose.quaternion, episode["eef_quat"][step], atol=5e-3)
        solved = env.step(action)
        if solved:
            break
    assert solved and env.success


def test_reset_forgets_the_episode_before(env, episode):
    def play():
        env.reset(0)
        start = env.proprio
        for action in episode["action"][:30]:
            env.step(action)
        return start, env.proprio

    start, end = play()
    assert np.linalg.norm(end[:3] - start[:3]) > 0.1
    np.testing.assert_array_equal(play(), (start, end))
    env.reset(0)
    env.hold()
    np.testing.assert_allclose(env.eef_pose.position, start[:3], atol=1e-4)


def test_holding_keeps_arm_and_gripper(env):
    for _ in range(10):
        env.step(np.array([0.5, 0.5, -0.5, 0, 0, 0, 1.0]))
    env.hold()
    before = env.eef_pose.position
    for _ in range(20):
        env.hold()
    # The controller's goal is wherever the arm is, so what is left of its motion fades out.
    assert np.linalg.norm(env.eef_pose.position - before) < 0.02
    assert env.finger_positions[0] < 0.005  # closed by the last command, and still closed


def test_images_are_upright_and_agree_with_the_camera_model(env):
    """The cookie box is the warmest colour on the table: it must be where the camera model says, and not mirrored."""
    box = env.robosuite.sim.data.get_body_xpos("cookies_1_main")
    for camera in CAMERAS:
        image = env.image(camera)
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert 60 < image.mean() < 200 and image.std() > 30
        pose = env.camera_pose(camera)
        point = pose.rotation.inv().apply(box - pose.position)
        u, v = (env.camera_intrinsics(camera) @ point / point[2])[:2].astype(int)
        assert 0 <= u < SIZE and 0 <= v < SIZE and point[2] > 0

        def warmth(x, y, image=image):
            patch = image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].astype(int)
            return (patch[..., 0] - patch[..., 2]).mean()

        assert warmth(u, v) > 10 + max(
            warmth(x, y) for x, y in ((SIZE - 1 - u, v), (u, SIZE - 1 - v), (SIZE - 1 - u, SIZE - 1 - v))
        )


def test_wrist_camera_is_fixed_to_the_end_effector(env, episode):
    before = env.eef_pose.inverse() @ env.camera_pose("wrist")
    for action in episode["action"][:20]:
        env.step(action)
    after = env.eef_pose.inverse() @ env.camera_pose("wrist")
    np.testing.assert_allclose(after.position, before.position, atol=1e-6)
    np.testing.assert_allclose(after.quaternion, before.quaternion, atol=1e-6)


def test_a_second_simulator_of_another_suite_size_and_rendering_leaves_the_first_alone(shared_env):
    """OpenGL frees by number, in whichever context is current; and it is garbage, not `close`, that frees."""

    def pictures():
        return np.stack([shared_env.image(camera) for camera in CAMERAS])

    shared_env.reset(0)
    before = pictures()
    other = LiberoEnv("libero_object_temp_x0.1", 3)
    other.reset(7)
    assert other.instruction == "pick up the chocolate pudding and place it in the basket"
    for camera in CAMERAS:
        image = other.image(camera)
        assert image.shape == (256, 256, 3) and image.std() > 20
    np.testing.assert_array_equal(other.image(camera), image)
    np.testing.assert_array_equal(pictures(), before)  # its context is the current one when the other is freed
    del other
    gc.collect()
    np.testing.assert_array_equal(pictures(), before)


def test_triton_can_be_imported_after_the_simulator():
    """Mesa and Triton both bring an LLVM; a process of its own, for it would not survive."""
    pytest.importorskip("triton", reason="comes with torch for CUDA")
    program = (
        "from specprune_ros.sim.libero_env import LiberoEnv\n"
        "env = LiberoEnv(image_size=32, shadows=False, anti_aliasing=False)\n"
        "env.image('primary')\n"
        "import triton._C.libtriton\n"
        "env.image('primary')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_checkpoint_actions_become_simulator_actions():
    actions = np.array([[0.1, -0.2, 0.3, 0.0, 0.4, -1.5, 1.0], [0, 0, 0, 0, 0, 0, 0.0], [0, 0, 0, 0, 0, 0, 0.7]])
    converted = simulator_action(actions)
    np.testing.assert_array_equal(converted[:, :6], actions[:, :6])
    np.testing.assert_array_equal(converted[:, 6], [-1.0, 1.0, -1.0])
    assert actions[0, 6] == 1.0  # the caller's array is left alone


def test_axis_angle_is_the_simulators():
    from robosuite.utils.transform_utils import quat2axisangle

    rng = np.random.default_rng(0)
    for quaternion in rng.normal(size=(50, 4)):
        quaternion /= np.linalg.norm(quaternion)
        np.testing.assert_allclose(axis_angle(quaternion), quat2axisangle(quaternion.copy()), atol=1e-12)
    np.testing.assert_array_equal(axis_angle(np.array([0.0, 0.0, 0.0, 1.0])), np.zeros(3))


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan), np.array([np.inf, 0, 0, 0, 0, 0, 0])])
def test_an_action_that_cannot_be_executed_is_refused(env, action):
    with pytest.raises(ValueError, match="7 finite numbers"):
        env.step(action)


def test_every_suite_names_its_tasks():
    assert {"libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"} <= set(suites())
    for suite in suites():
        task = find_task(suite, 0)
        assert task.scene_file.is_file() and task.states_file.is_file() and task.instruction
    assert find_task("libero_goal", 8).instruction == "put the bowl on the plate"
    assert find_task("libero_goal_lan", 8).instruction == "place the bowl on top of the plate"
    assert find_task("libero_90", 0).instruction == "close the top drawer of the cabinet"


@pytest.mark.parametrize(
    ("suite", "task", "state", "said"),
    [
        ("libero_spacial", 0, 0, "no suite 'libero_spacial'.*libero_spatial"),
        ("libero_spatial", 10, 0, "no task 10.*9: pick up the black bowl on the wooden cabinet"),
        ("libero_spatial", -1, 0, "no task -1"),
        ("libero_spatial", 0, 50, "no initial state 50; known: 0 to 49"),
        ("libero_spatial", 0, -1, "no initial state -1"),
    ],
)
def test_unknown_names_are_told_in_one_line(suite, task, state, said):
    with pytest.raises(UserError, match=said) as error:
        find_task(suite, task).initial_state(state)
    assert "\n" not in str(error.value)
