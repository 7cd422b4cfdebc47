# SPDX-License-Identifier: Apache-2.0
"""`~/action_chunk`, `~/pruning` and `~/overlay/<camera>`: what every inference says. Runs on the worker's thread."""

import threading
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from specprune_ros.control.takeover import InCharge
from specprune_ros.msg import ActionChunk as ActionChunkMessage
from specprune_ros.msg import PruningStats
from specprune_ros.nodes.outputs.overlay import Overlay
from specprune_ros.nodes.stamps import to_duration, to_stamp
from specprune_ros.openvla.preprocessing import seen_side
from specprune_ros.policy import ActionChunk, Policy
from specprune_ros.sensing.assembler import Sensed
from specprune_ros.stamps import NANOSECONDS

QOS = QoSProfile(depth=10)


class ChunkPublisher:
    """Owns the publishers and the sequence number."""

    def __init__(
        self, node: LifecycleNode, policy: Policy, cameras: tuple[str, ...], frame: str, step_duration: float
    ) -> None:
        """`frame`: in which Cartesian actions are expressed. `step_duration`: seconds between two steps."""
        self._node, self._policy, self._frame, self._step_duration = node, policy, frame, step_duration
        self.chunks = node.create_lifecycle_publisher(ActionChunkMessage, "~/action_chunk", QOS)
        self._stats = node.create_lifecycle_publisher(PruningStats, "~/pruning", QOS)
        crop = seen_side(policy.center_crop)
        self._overlay = Overlay(node, cameras, policy.patch_grid, crop)
        self._lock = threading.Lock()
        self._sequence = 0

    def publish(
        self,
        sensed: Sensed,
        chunk: ActionChunk,
        ready: int,
        *,
        in_charge: Callable[[], InCharge],
        usable: Callable[[], bool],
    ) -> ActionChunkMessage:
        """Publish an inference's results. `ready`: when they were, nanoseconds. `usable`: whether it may be executed.

        Both are asked last, under the lock of `publish_stop`, so that no chunk to be executed follows a stop.
        """
        message = self._message(sensed.stamp, ready)
        message.steps = len(chunk.actions)
        message.actions = chunk.actions.ravel().tolist()
        message.instruction = chunk.instruction
        message.mode = chunk.pruning.mode
        with self._lock:
            self._number(message)
            who = in_charge()
            message.in_charge, message.execute = who, who == InCharge.POLICY and usable()
            self.chunks.publish(message)
        self._stats.publish(self._pruning(message, chunk, (ready - sensed.stamp) / NANOSECONDS))
        self._overlay.publish(sensed, chunk, who)
        return message

    def publish_stop(self, in_charge: InCharge) -> None:
        """Tell whoever executes the chunks to hold: a chunk without steps that must not be executed."""
        now = self._node.get_clock().now().nanoseconds
        message = self._message(now, now)
        message.in_charge = in_charge
        with self._lock:
            self._number(message)
            self.chunks.publish(message)

    def restart(self) -> None:
        """Count from zero."""
        with self._lock:
            self._sequence = 0

    def destroy(self) -> None:
        self._node.destroy_lifecycle_publisher(self.chunks)
        self._node.destroy_lifecycle_publisher(self._stats)
        self._overlay.destroy()

    def _message(self, stamp: int, ready: int) -> ActionChunkMessage:
        policy = self._policy
        message = ActionChunkMessage()
        message.header.stamp = to_stamp(stamp)
        message.header.frame_id = self._frame
        message.ready = to_stamp(ready)
        message.dt = to_duration(self._step_duration)
        message.action_space = policy.action_space
        message.names, message.units = list(policy.action_names), list(policy.action_units)
        message.unnorm_key = policy.unnorm_key
        return message

    def _number(self, message: ActionChunkMessage) -> None:
        message.sequence = self._sequence
        self._sequence += 1

    def _pruning(self, chunk_message: ActionChunkMessage, chunk: ActionChunk, age: float) -> PruningStats:
        report = chunk.pruning
        message = PruningStats(header=chunk_message.header, sequence=chunk_message.sequence)
        message.in_charge = chunk_message.in_charge
        message.preset, message.selection = report.preset, report.selection
        message.mode, message.reason = report.mode, report.reason
        message.v_t, message.v_r, message.v_z = report.v_t, report.v_r, report.v_z
        message.views = list(report.views)
        message.patches = list(report.patches)
        message.global_set = list(report.global_set)
        message.dynamic_set = list(report.dynamic_set)
        message.local_set = list(report.local_set)
        message.kept_static = [len(kept) for kept in report.kept_static]
        message.kept_final = [len(kept) for kept in report.kept_final]
        message.kept_static_patches = [int(patch) for kept in report.kept_static for patch in kept]
        message.kept_final_patches = [int(patch) for kept in report.kept_final for patch in kept]
        message.tokens_per_layer = list(report.tokens_per_layer)
        message.flop_share = float(report.flop_share)
        message.stages = list(chunk.stage_seconds)
        message.stage_seconds = [float(seconds) for seconds in chunk.stage_seconds.values()]
        message.inference_seconds = float(chunk.seconds)
        message.observation_age = age
        return message
