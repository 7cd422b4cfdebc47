# SPDX-License-Identifier: Apache-2.0
"""The LIBERO simulator as a plain object: reset, step at 20 Hz, look, ask for success. No ROS in it.

Sources: LIBERO (Liu et al. 2023), robosuite 1.4 (OSC_POSE controller, Panda), and OpenVLA-OFT's LIBERO evaluation for
the settling steps, the proprioception and the gripper's sign.
"""

import contextlib
import importlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.pose import Pose
from specprune_ros.sim.libero_tasks import SimulatorError, find_task

CONTROL_RATE = 20  # Hz, of LIBERO's demonstrations and controller
METRES_PER_UNIT, RADIANS_PER_UNIT = 0.05, 0.5  # of an action, per step
CAMERAS = {"primary": "agentview", "wrist": "robot0_eye_in_hand"}
SETTLE_STEPS = 10  # objects drop onto the table before an episode starts
OPEN, CLOSE = -1.0, 1.0  # gripper command of the simulator


def simulator_action(action: np.ndarray) -> np.ndarray:
    """A checkpoint's LIBERO action (..., 7) as the simulator wants it.

    The six end-effector deltas are the same (1.0 = 0.05 m, 0.5 rad per step). The gripper is 0 close, 1 open in the
    checkpoint and -1 open, +1 close in the simulator: -sign(2 g - 1).
    """
    converted = np.array(action, dtype=np.float64)
    converted[..., 6] = -np.sign(2.0 * converted[..., 6] - 1.0)
    return converted


def deltas(twist: np.ndarray) -> np.ndarray:
    """The first six numbers of an action for `twist` (6,) in m/s and rad/s, along the axes of the base."""
    return twist / CONTROL_RATE / ([METRES_PER_UNIT] * 3 + [RADIANS_PER_UNIT] * 3)


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Rotation vector (3,) in rad of a quaternion (x, y, z, w), with the angle in 0..2 pi that its sign says.

    LIBERO's proprioception is not brought to 0..pi: a hand that points down has angles on both sides of pi, and the
    checkpoints' statistics follow that (robosuite's `quat2axisangle`).
    """
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    length = np.sqrt(1.0 - w * w)
    if length < 1e-9:
        return np.zeros(3)
    return np.asarray(quaternion[:3]) * (2.0 * np.arccos(w) / length)


class LiberoEnv:
    """One task of one suite, with a Panda arm.

    Images are rendered when asked for, one camera at a time, because rendering costs far more than physics. The object
    belongs to the thread that made it (OpenGL). Every getter describes the state after the last `reset` or `step`;
    poses are in the LIBERO world frame, and their quaternions change sign continuously or not at all.
    """

    def __init__(
        self,
        suite: str = "libero_spatial",
        task: int = 0,
        *,
        image_size: int = 256,
        shadows: bool = True,
        anti_aliasing: bool = True,
        seed: int = 0,
    ) -> None:
        """`task`: index in the suite. `image_size`: side of the square images in pixels; 256 made the training data.

        Without `shadows` (and reflections) and `anti_aliasing` rendering takes a third of the time and looks different.
        `seed` places what the initial states leave open (furniture).
        Raises SimulatorError for an unknown suite or task, or where LIBERO is missing or cannot render.
        """
        self.task = find_task(suite, task)
        self.instruction = self.task.instruction
        self.image_size = image_size
        np.random.seed(seed)  # robosuite 1.4 samples placements from the global generator
        self.robosuite = _make_robosuite(self.task.scene_file)
        self._sim = self.robosuite.sim
        self._robot = self.robosuite.robots[0]
        self.before_physics: Callable[[], None] | None = None  # called before each physics step, until the next reset
        self._hook_physics()
        _open_renderer(self._sim, image_size, shadows, anti_aliasing)
        self.reset()

    def reset(self, init_state: int = 0) -> None:
        """Put the scene into one of the task's initial states, at rest, gripper open.

        Raises SimulatorError for an unknown initial state.
        """
        self.reset_to(self.task.initial_state(init_state))

    def reset_to(self, state: np.ndarray) -> None:
        """Put the scene into a flat MuJoCo state (S,), as in `task.initial_states`, and let the objects settle."""
        self.before_physics = None
        self._sim.reset()  # also what a state does not hold, such as the solver's warm start
        self._sim.set_state_from_flattened(state)
        self._sim.forward()
        self._rearm()
        self.gripper = OPEN
        for _ in range(SETTLE_STEPS):
            self.hold()

    def step(self, action: np.ndarray) -> bool:
        """Run one control period (50 ms) and return whether the task is solved.

        `action` (7,): what `simulator_action` returns; deltas beyond [-1, 1] are clipped by the controller.
        Raises ValueError for another shape or for values that are not finite.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ValueError(f"a LIBERO action has 7 finite numbers, not {action!r}")
        self.gripper = float(action[6])
        self.robosuite.step(action)
        return self.success

    def move(self, deltas: np.ndarray) -> bool:
        """As `step`, with `deltas` (6,) for the arm; the gripper goes on with `gripper`, its last command."""
        return self.step(np.append(deltas, self.gripper))

    def hold(self) -> bool:
        """Let one control period pass without moving the arm."""
        return self.move(np.zeros(6))

    @property
    def success(self) -> bool:
        """Whether the goal of the task holds now."""
        return bool(self.robosuite._check_success())

    def image(self, camera: str) -> np.ndarray:
        """Render a camera of CAMERAS: (image_size, image_size, 3) uint8 RGB, upright as a real camera would see it.

        LIBERO checkpoints were trained on the left-right mirror image of this.
        """
        size = self.image_size
        raw = self._sim.render(width=size, height=size, camera_name=CAMERAS[camera])
        return np.ascontiguousarray(raw[::-1])  # OpenGL's rows start at the bottom

    @property
    def eef_pose(self) -> Pose:
        """End effector: the point between the finger tips, with the orientation of the hand."""
        position = self._sim.data.site_xpos[self._robot.eef_site_id]
        return Pose(np.array(position), self._body_quaternion(self._robot.robot_model.eef_name))

    @property
    def base_pose(self) -> Pose:
        """Base of the arm."""
        body = self._robot.robot_model.root_body
        return Pose(np.array(self._sim.data.get_body_xpos(body)), self._body_quaternion(body))

    @property
    def joint_positions(self) -> np.ndarray:
        """(7,) rad."""
        return np.array(self._sim.data.qpos[self._robot._ref_joint_pos_indexes])

    @property
    def joint_velocities(self) -> np.ndarray:
        """(7,) rad/s."""
        return np.array(self._sim.data.qvel[self._robot._ref_joint_vel_indexes])

    @property
    def finger_positions(self) -> np.ndarray:
        """(2,) m. The second is negative: the fingers move along opposite axes."""
        return np.array(self._sim.data.qpos[self._robot._ref_gripper_joint_pos_indexes])

    @property
    def finger_velocities(self) -> np.ndarray:
        """(2,) m/s."""
        return np.array(self._sim.data.qvel[self._robot._ref_gripper_joint_vel_indexes])

    @property
    def proprio(self) -> np.ndarray:
        """(8,) for LIBERO checkpoints: end-effector position (world, m), axis-angle (rad), finger positions (m)."""
        pose = self.eef_pose
        return np.concatenate([pose.position, axis_angle(pose.quaternion), self.finger_positions])

    def camera_pose(self, camera: str) -> Pose:
        """Optical frame of a camera (REP 103): x right, y down, z into the scene."""
        index = self._sim.model.camera_name2id(CAMERAS[camera])
        opengl = Rotation.from_matrix(self._sim.data.cam_xmat[index].reshape(3, 3))
        optical = opengl * Rotation.from_quat([1.0, 0.0, 0.0, 0.0])  # half a turn about x: OpenGL looks along -z
        return Pose(np.array(self._sim.data.cam_xpos[index]), optical.as_quat())

    def camera_intrinsics(self, camera: str) -> np.ndarray:
        """(3, 3) pinhole matrix in pixels for the upright image, without distortion."""
        field_of_view = self._sim.model.cam_fovy[self._sim.model.camera_name2id(CAMERAS[camera])]
        focal = 0.5 * self.image_size / np.tan(np.radians(field_of_view) / 2.0)
        centre = self.image_size / 2.0
        return np.array([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]])

    def close(self) -> None:
        """Free the simulator and its OpenGL context."""
        self.robosuite.close()

    def _hook_physics(self) -> None:
        control = self.robosuite._pre_action

        def before_physics(action: np.ndarray, policy_step: bool = False) -> None:
            control(action, policy_step)
            if self.before_physics is not None:
                self.before_physics()

        self.robosuite._pre_action = before_physics

    def _rearm(self) -> None:
        """Forget the controller's goal of the previous episode, or the arm would jerk back to it."""
        controller, gripper = self._robot.controller, self._robot.gripper
        gripper.current_action = np.zeros(gripper.dof)
        controller.update(force=True)
        controller.update_initial_joints(self.joint_positions)
        controller.reset_goal()

    def _body_quaternion(self, body: str) -> np.ndarray:
        w, x, y, z = self._sim.data.get_body_xquat(body)
        return np.array([x, y, z, w])


def _make_robosuite(scene_file: Path) -> Any:
    """The robosuite environment of a LIBERO scene, without a renderer: see `_open_renderer`."""
    # Software rendering works everywhere; where there is an NVIDIA driver, EGL is far faster.
    os.environ.setdefault("MUJOCO_GL", "egl" if Path("/dev/nvidiactl").exists() else "osmesa")
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it warns of a settings file that nobody needs
    backend = os.environ["MUJOCO_GL"]
    with contextlib.suppress(ImportError):  # torch for CUDA brings it; its LLVM ends the process if Mesa's came first
        importlib.import_module("triton")
    try:
        from libero.libero.envs.env_wrapper import ControlEnv
    except (ImportError, AttributeError) as error:  # what PyOpenGL raises without its library
        raise SimulatorError(
            f"the simulator cannot render with MUJOCO_GL={backend} ({error}); install the packages libosmesa6 libegl1 "
            "libgl1, or set MUJOCO_GL and PYOPENGL_PLATFORM to egl or osmesa"
        ) from error
    try:
        environment = ControlEnv(
            bddl_file_name=str(scene_file), use_camera_obs=False, has_offscreen_renderer=False, ignore_done=True
        ).env
    except Exception as error:  # anything: missing meshes, a broken scene file
        raise SimulatorError(f"scene {scene_file.name} does not start with MUJOCO_GL={backend}: {error}") from error
    environment.visualize(dict.fromkeys(environment._visualizations, False))  # no coloured markers in the images
    return environment


def _open_renderer(sim: Any, image_size: int, shadows: bool, anti_aliasing: bool) -> None:
    """Give robosuite's simulation a renderer for its `render`.

    Its own one has a fixed size and quality, and has to be made anew for another: seconds for all textures and meshes.
    """
    import mujoco

    from specprune_ros.sim.renderer import Renderer

    visual = sim.model.vis
    visual.global_.offwidth = visual.global_.offheight = image_size  # of the frame buffer
    if not anti_aliasing:
        visual.quality.offsamples = 0
    try:
        context = Renderer(sim)
    except Exception as error:  # anything, such as no display for this OpenGL
        raise SimulatorError(f"cannot render with MUJOCO_GL={os.environ['MUJOCO_GL']}: {error}") from error
    context.vopt.geomgroup[0], context.vopt.geomgroup[1] = 0, 1  # what is to be seen, without what collides
    context.scn.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
    context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = shadows
