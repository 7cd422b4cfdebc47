# SPDX-License-Identifier: Apache-2.0
"""Episode files: one demonstration each, with its frames as H.264 videos inside an .npz.

| key | content |
|---|---|
| `primary`, `wrist` | (bytes,) uint8: H.264 in MP4, a frame a step, square, RGB, as a checkpoint sees them (mirrored) |
| `proprio` | (T, 8) float32, LIBERO's |
| `actions` | (T, 7) float32, the expert's clean actions, checkpoint units; executed with noise, or a policy's |
| `points` | (T, 2, K, 2) float32: x, y of K things per view, in image widths; nan where they are not in the image |
| `goal` | (T, 2, 3) float32: from the gripper to the thing to move and to where it goes, metres, world axes |
| `facts` | JSON: instruction, suite, task, seed, wide, noise, point names, versions, digest of a driving policy |
"""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

VIEWS = ("primary", "wrist")
RATE = 20  # Hz
QUALITY = 24  # constant rate factor of H.264: 36 to 38 dB, about 2 kB a step for both views


@dataclass(frozen=True, eq=False)
class Episode:
    """T steps; every row was taken before the step's action."""

    frames: dict[str, np.ndarray]  # view -> (T, S, S, 3) uint8
    proprio: np.ndarray
    actions: np.ndarray
    points: np.ndarray
    goal: np.ndarray
    facts: dict[str, Any]


def write_episode(path: Path, episode: Episode) -> None:
    """Write the file as a whole or not at all."""
    videos = {view: np.frombuffer(_encode(episode.frames[view]), np.uint8) for view in VIEWS}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez(
            file,
            **videos,
            proprio=episode.proprio.astype(np.float32),
            actions=episode.actions.astype(np.float32),
            points=episode.points.astype(np.float32),
            goal=episode.goal.astype(np.float32),
            facts=np.array(json.dumps(episode.facts)),
        )
    partial.rename(path)


def read_episode(path: Path, frames: bool = True) -> Episode:
    """Without `frames` the videos are left undecoded."""
    with np.load(path) as data:
        videos = {view: _decode(data[view].tobytes()) for view in VIEWS} if frames else {}
        numbers = [data[name] for name in ("proprio", "actions", "points", "goal")]
        return Episode(videos, *numbers, facts=json.loads(str(data["facts"])))


def episode_paths(folder: Path) -> list[Path]:
    """All episode files under a data folder, in a fixed order."""
    return sorted(path for path in folder.rglob("*.npz") if not path.name.startswith("."))


def _encode(frames: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the same bytes on every machine
        stream.options = {"crf": str(QUALITY), "preset": "slow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _decode(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
