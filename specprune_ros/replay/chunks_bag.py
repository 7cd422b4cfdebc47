# SPDX-License-Identifier: Apache-2.0
"""chunks.mcap: what every arm said, as the node's own messages on the recording's stamps."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from specprune_ros.control.takeover import InCharge
from specprune_ros.errors import UserError
from specprune_ros.openvla.preprocessing import seen_side
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.recording.bag_writer import BagWriter
from specprune_ros.recording.definitions import CHUNK, STATISTICS
from specprune_ros.replay.jpeg import encoded
from specprune_ros.replay.moment import Moment
from specprune_ros.stamps import NANOSECONDS
from specprune_ros.viewing.patch_drawing import draw_kept

COMPRESSED = "sensor_msgs/msg/CompressedImage"
QUALITY = 80  # JPEG


class ChunksBag:
    """Writes into a bag folder; `finish` leaves its one MCAP file at `path`."""

    def __init__(self, folder: Path, policy: Policy, frame: str, step_duration: float) -> None:
        """`folder` must not exist. `frame`: of Cartesian actions. `step_duration`: seconds."""
        self._folder, self._policy, self._frame, self._dt = folder, policy, frame, step_duration
        self._writer = BagWriter(folder)
        self._writer.__enter__()
        self._types: dict[str, Any] = self._writer.types.types
        self._crop = seen_side(policy.center_crop)
        self._sequence = 0
        self._open = True

    def add(self, moment: Moment, observation: Observation) -> None:
        """Raises UserError when the disk is full."""
        for arm, chunk in moment.chunks.items():
            prefix = f"/replay/{_topic_part(arm)}"
            write = self._writer.write
            write(f"{prefix}/action_chunk", CHUNK, moment.stamp, self._chunk(moment.stamp, chunk))
            write(f"{prefix}/pruning", STATISTICS, moment.stamp, self._statistics(moment.stamp, chunk))
            views = zip(observation.views.items(), chunk.pruning.kept_final, strict=True)
            for (camera, frame), kept in views:
                message = self._overlay(moment.stamp, camera, frame, kept)
                write(f"{prefix}/overlay/{camera}/compressed", COMPRESSED, moment.stamp, message)
        self._sequence += 1

    def finish(self, path: Path) -> None:
        """Complete the file and move it to `path`."""
        self._open = False
        self._writer.__exit__(None, None, None)
        (self._folder / f"{self._folder.name}.mcap").replace(path)

    def abort(self) -> None:
        """Leave nothing that looks whole. Does nothing after `finish`."""
        if self._open:
            self._open = False
            self._writer.__exit__(UserError, UserError("aborted"), None)

    def _stamp(self, nanoseconds: int, kind: str = "Time") -> Any:
        return self._types[f"builtin_interfaces/msg/{kind}"](*divmod(nanoseconds, NANOSECONDS))

    def _header(self, stamp: int, frame: str) -> Any:
        return self._types["std_msgs/msg/Header"](self._stamp(stamp), frame)

    def _chunk(self, stamp: int, chunk: ActionChunk) -> Any:
        policy = self._policy
        return self._types[CHUNK](
            header=self._header(stamp, self._frame),
            ready=self._stamp(stamp + round(chunk.seconds * NANOSECONDS)),
            sequence=self._sequence,
            execute=False,  # nothing may move by a replay
            in_charge=InCharge.NOBODY,
            dt=self._stamp(round(self._dt * NANOSECONDS), "Duration"),
            action_space=policy.action_space,
            names=list(policy.action_names),
            units=list(policy.action_units),
            steps=len(chunk.actions),
            actions=chunk.actions.ravel(),
            unnorm_key=chunk.unnorm_key,
            instruction=chunk.instruction,
            mode=chunk.pruning.mode,
        )

    def _statistics(self, stamp: int, chunk: ActionChunk) -> Any:
        report = chunk.pruning
        return self._types[STATISTICS](
            header=self._header(stamp, self._frame),
            sequence=self._sequence,
            in_charge=InCharge.NOBODY,
            preset=report.preset,
            selection=report.selection,
            mode=report.mode,
            reason=report.reason,
            v_t=report.v_t,
            v_r=report.v_r,
            v_z=report.v_z,
            views=list(report.views),
            patches=np.array(report.patches, np.uint32),
            global_set=np.array(report.global_set, np.uint32),
            dynamic_set=np.array(report.dynamic_set, np.uint32),
            local_set=np.array(report.local_set, np.uint32),
            kept_static=np.array([len(kept) for kept in report.kept_static], np.uint32),
            kept_final=np.array([len(kept) for kept in report.kept_final], np.uint32),
            kept_static_patches=np.concatenate(report.kept_static).astype(np.uint16),
            kept_final_patches=np.concatenate(report.kept_final).astype(np.uint16),
            tokens_per_layer=np.array(report.tokens_per_layer, np.uint32),
            flop_share=float(report.flop_share),
            stages=list(chunk.stage_seconds),
            stage_seconds=np.array(list(chunk.stage_seconds.values()), np.float64),
            inference_seconds=float(chunk.seconds),
            observation_age=float(chunk.seconds),
        )

    def _overlay(self, stamp: int, camera: str, frame: NDArray[np.uint8], kept: NDArray[np.int64]) -> Any:
        side = self._policy.image_size
        small = np.asarray(cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        drawn = draw_kept(small, kept, self._policy.patch_grid, self._crop)
        data = encoded(drawn, QUALITY)
        return self._types[COMPRESSED](self._header(stamp, camera), "rgb8; jpeg compressed bgr8", data)


def _topic_part(arm: str) -> str:
    """Of ASCII letters, digits and _, and not a digit first: a name that ROS allows."""
    part = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in arm)
    return f"_{part}" if part[:1].isdigit() else part
