# SPDX-License-Identifier: Apache-2.0
"""What the simulator node can be told. Plain data: no ROS, no simulator."""

from dataclasses import dataclass

from specprune_ros.parameters import parameter
from specprune_ros.sim.libero_tasks import find_task


@dataclass(frozen=True)
class SceneConfig:
    """The scene. Changes are in force at the next reset."""

    suite: str = parameter("libero_spatial", "LIBERO suite. In force at the next reset.")
    task: int = parameter(0, "Index of the task in the suite. In force at the next reset.", minimum=0)
    init_state: int = parameter(0, "Initial state of the task. In force at the next reset.", minimum=0)
    seed: int = parameter(
        0,
        "Places what the initial states leave open (furniture). In force at the next reset.",
        minimum=0,
        maximum=2**32 - 1,
    )
    image_size: int = parameter(
        256,
        "Side of the square camera images. In force at the next reset.",
        minimum=16,
        maximum=2048,
        unit="px",
    )
    shadows: bool = parameter(True, "Render shadows and reflections. In force at the next reset.")
    anti_aliasing: bool = parameter(True, "Render with anti-aliasing. In force at the next reset.")
    ee_frame: str = parameter("panda_hand_tcp", "TF frame of the end effector. In force at the next reset.")

    def check_exists(self) -> None:
        """Raises SimulatorError for a suite, task or initial state that LIBERO does not have."""
        find_task(self.suite, self.task).initial_state(self.init_state)


@dataclass(frozen=True)
class RunConfig:
    """How time passes and what is published."""

    camera_rate: float = parameter(
        10.0, "Images per second of simulated time, per camera.", minimum=0.1, maximum=20.0, unit="Hz"
    )
    max_real_time_factor: float = parameter(
        1.0, "Simulated time never passes faster than this many times real time.", minimum=0.01, maximum=100.0
    )
    duration: float = parameter(
        0.0,
        "An episode that has not succeeded ends this long after its first executed step; 0 means never.",
        minimum=0.0,
        maximum=3600.0,
        unit="s",
    )
    end_with_episode: bool = parameter(
        False, "The process ends when the episode does: with exit code 0 when the task is solved, else with 1."
    )
