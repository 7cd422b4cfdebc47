# SPDX-License-Identifier: Apache-2.0
"""A node that listens to a policy and its robot and keeps the episode in memory."""

import math
import time

import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import SetBool

from specprune_ros.errors import ObservationError
from specprune_ros.msg import ActionChunk as ActionChunkMessage
from specprune_ros.msg import PruningStats
from specprune_ros.nodes.inputs import Inputs
from specprune_ros.nodes.subscribing import LATCHED
from specprune_ros.nodes.tf_input import open_transforms
from specprune_ros.policy import ActionChunk, Observation, PruningReport
from specprune_ros.pruning.controller import Reason
from specprune_ros.pruning.schedule import Mode
from specprune_ros.sensing.config import InputsConfig
from specprune_ros.sensing.end_effector import EndEffector
from specprune_ros.stamps import NANOSECONDS, from_stamp
from specprune_ros.viewing.episode import Episode

SIMULATOR, POLICY = "/libero_sim", "/specprune_policy"
PENDING = 20  # chunks or statistics whose counterpart has not arrived


class Recorder(Node):
    """Sees through the policy's own inputs, so that what it records is what the policy saw.

    Everything runs on the thread that spins it.
    """

    def __init__(self, inputs: InputsConfig, axis_angle_near: np.ndarray) -> None:
        """`inputs`: those of the policy. `axis_angle_near`: (3,) see `proprio.axis_angle`."""
        remaps = [f"~/image_{camera}:={SIMULATOR}/{camera}/image" for camera in inputs.cameras]
        super().__init__(
            "recorder",
            cli_args=["--ros-args", *(word for remap in remaps for word in ("-r", remap))],
            parameter_overrides=[Parameter("use_sim_time", value=True)],
        )
        self.episode: Episode | None = None
        self.instruction = ""
        self.last_chunk: ActionChunk | None = None
        self._newest = -1  # stamp of the newest observation, nanoseconds
        self._started = 0.0
        self._actions: dict[int, ActionChunkMessage] = {}  # by sequence, until the other half arrives
        self._stats: dict[int, PruningStats] = {}

        self._transforms = open_transforms(self)
        end_effector = EndEffector(self._transforms, inputs.base_frame, inputs.ee_frame)
        self._sensors = Inputs(self, inputs, end_effector, (), axis_angle_near, self._on_image).assembler
        self.create_subscription(ActionChunkMessage, f"{POLICY}/action_chunk", self._on_actions, 50)
        self.create_subscription(PruningStats, f"{POLICY}/pruning", self._on_stats, 50)
        self.create_subscription(String, f"{SIMULATOR}/instruction", self._on_instruction, LATCHED)
        self.create_subscription(Bool, f"{SIMULATOR}/success", self._on_success, LATCHED)
        self.create_subscription(Float64, f"{SIMULATOR}/real_time_factor", self._on_factor, 10)
        self.enable = self.create_client(SetBool, f"{POLICY}/enable")

    @property
    def now(self) -> float:
        """Simulated time, seconds."""
        return self.get_clock().now().nanoseconds / NANOSECONDS

    def missing(self) -> str:
        """What has not been heard yet; "" when the whole loop is alive, from camera to chunk."""
        if not self.instruction:
            return "the simulator"
        if self._newest < 0:
            return self._sensors.problem(self.get_clock().now().nanoseconds) or "joint states and TF"
        if not self.enable.service_is_ready():
            return "the policy node"
        if not self.last_chunk:
            return "the first inference"
        return "the end effector's velocity" if math.isnan(self.last_chunk.pruning.v_t) else ""

    @property
    def solved(self) -> bool:
        return self.episode is not None and self.episode.success

    @property
    def status(self) -> str:
        """The newest inference in a few words."""
        chunk = self.last_chunk
        return f" {chunk.pruning.mode}, {chunk.seconds * 1e3:.0f} ms" if chunk else ""

    def forget(self) -> None:
        """The scene is another one: what was heard of the one before counts no more."""
        self._newest, self.last_chunk = -1, None

    def begin(self) -> None:
        """Record a new episode from now on."""
        self.episode = Episode(self.instruction)
        self._started = time.monotonic()

    def end(self) -> Episode:
        """Stop recording; returns the episode."""
        episode, self.episode = self.episode, None
        assert episode is not None
        episode.wall_seconds = time.monotonic() - self._started
        if episode.observations:
            episode.chunks = [chunk for chunk in episode.chunks if chunk.stamp >= episode.start]
            episode.ages = episode.ages[len(episode.ages) - len(episode.chunks) :]
        return episode

    def _on_image(self) -> None:
        try:
            sensed = self._sensors.assemble(self.get_clock().now().nanoseconds, self._newest)
        except ObservationError:
            return  # a part is still missing; the next image tries again
        if sensed is None:
            return
        self._newest = sensed.stamp
        if self.episode is not None:
            stamp = sensed.stamp / NANOSECONDS
            self.episode.observations.append(
                Observation(sensed.views, sensed.proprio, self.instruction, stamp, sensed.twist, sensed.cameras)
            )

    def _on_actions(self, message: ActionChunkMessage) -> None:
        if message.steps:  # a chunk without steps only stops the motion
            self._actions[message.sequence] = message
            self._join(message.sequence)

    def _on_stats(self, message: PruningStats) -> None:
        self._stats[message.sequence] = message
        self._join(message.sequence)

    def _join(self, sequence: int) -> None:
        """Keep a chunk whose two messages have both arrived."""
        if sequence in self._actions and sequence in self._stats:
            actions, stats = self._actions.pop(sequence), self._stats.pop(sequence)
            self.last_chunk = to_chunk(actions, stats)
            if self.episode is not None:
                self.episode.in_charge[actions.in_charge] += 1
            if self.episode is not None and actions.execute:
                self.episode.chunks.append(self.last_chunk)
                self.episode.ages.append(stats.observation_age)
        for waiting in (self._actions, self._stats):
            while len(waiting) > PENDING:
                del waiting[next(iter(waiting))]

    def _on_instruction(self, message: String) -> None:
        self.instruction = message.data

    def _on_success(self, message: Bool) -> None:
        if self.episode is not None:
            self.episode.success = self.episode.success or message.data

    def _on_factor(self, message: Float64) -> None:
        if self.episode is not None:
            self.episode.real_time_factors.append(message.data)


def to_chunk(actions: ActionChunkMessage, stats: PruningStats) -> ActionChunk:
    """What the policy returned, from its two messages of one sequence number."""
    report = PruningReport(
        mode=Mode(stats.mode),
        reason=Reason(stats.reason),
        preset=stats.preset,
        selection=stats.selection,
        v_t=stats.v_t,
        v_r=stats.v_r,
        v_z=stats.v_z,
        views=tuple(stats.views),
        patches=tuple(stats.patches),
        global_set=tuple(stats.global_set),
        dynamic_set=tuple(stats.dynamic_set),
        local_set=tuple(stats.local_set),
        kept_static=_per_view(stats.kept_static_patches, stats.kept_static),
        kept_final=_per_view(stats.kept_final_patches, stats.kept_final),
        tokens_per_layer=tuple(stats.tokens_per_layer),
        flop_share=stats.flop_share,
    )
    return ActionChunk(
        actions=np.array(actions.actions).reshape(actions.steps, -1),
        stamp=from_stamp(actions.header.stamp) / NANOSECONDS,
        instruction=actions.instruction,
        unnorm_key=actions.unnorm_key,
        pruning=report,
        stage_seconds=dict(zip(stats.stages, stats.stage_seconds, strict=True)),
        seconds=stats.inference_seconds,
    )


def _per_view(patches: list[int], counts: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.split(np.array(patches, dtype=np.int64), np.cumsum(counts)[:-1]))
