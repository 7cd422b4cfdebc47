# SPDX-License-Identifier: Apache-2.0
"""Samples for training: observation and action chunk, from the episode files of a data folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from specprune_ros.engine.frame_pass import FramePreparation
from specprune_ros.errors import UserError
from specprune_ros.openvla.preprocessing import CROP_AREA, TENSORFLOW_SCALE, CenterCrop
from specprune_ros.openvla.statistics import EPSILON, Normalizer
from training.data_card import statistics_key
from training.episodes import VIEWS, Episode, episode_paths, read_episode
from training.settings import CHUNK_LENGTH


class DataError(UserError):
    """A data folder that cannot be trained on."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples on the training device."""

    frames: Tensor  # (B, V, S, S, 3) uint8, cropped
    proprio: Tensor  # (B, P) normalised
    actions: Tensor  # (B, C, A) normalised
    points: Tensor  # (B, V, K, 2) of the cropped views, in image widths, nan where not seen
    goal: Tensor  # (B, 2, 3) from the gripper to thing and goal, metres
    kinds: Tensor  # (B, K) index into `Samples.kinds`, -1 where an episode has fewer points
    is_named: Tensor  # (B, K) bool: things that the instruction names, and the gripper
    instructions: list[str]


class Samples:
    """All steps of all episodes that start a whole chunk (as in OpenVLA-OFT, chunks never pass an episode's end)."""

    def __init__(
        self, folder: Path, image_size: int, normalizers: Mapping[str, Normalizer], device: torch.device
    ) -> None:
        """Decodes the frames into a cache beside the data, once per image size. `normalizers`: by `statistics_key`.

        Raises DataError without episodes, or without a normalizer for one of them.
        """
        paths = episode_paths(folder)
        if not paths:
            raise DataError(f"{folder} holds no episodes; collect some with python -m training.collect {folder}")
        episodes = [read_episode(path, frames=False) for path in paths]
        norms = [_normalizer_of(episode, normalizers) for episode in episodes]
        lengths = np.array([len(episode.actions) for episode in episodes])
        self.folder = folder
        self._frames = _cached_frames(folder, paths, lengths, image_size)
        self._device = device
        self._image_size = image_size
        self._center_crop = CenterCrop(image_size, device)
        self._proprio = np.concatenate(list(map(_normalized_proprio, episodes, norms)))
        self._actions = np.concatenate(list(map(_normalized_actions, episodes, norms)))
        self._goal = np.concatenate([episode.goal for episode in episodes])
        self.kinds = sorted({_kind(name) for episode in episodes for name in episode.facts["points"]})
        self._points, self._kinds = self._padded_points(episodes)
        self._is_named = self._named(episodes)
        self.instructions = sorted({episode.facts["instruction"] for episode in episodes})
        self._instruction = [episode.facts["instruction"] for episode in episodes]
        self._episode = np.repeat(np.arange(len(episodes)), lengths)
        starts = np.cumsum(lengths) - lengths
        held_out = np.array([_hash(path, folder) for path in paths])
        usable = [
            (start + np.arange(max(0, length - CHUNK_LENGTH + 1)), share)
            for start, length, share in zip(starts, lengths, held_out, strict=True)
        ]
        self._first = np.concatenate([rows for rows, _ in usable])
        self._share = np.concatenate([np.full(len(rows), share) for rows, share in usable])

    def split(self, held_out_share: float) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the samples for training and for validation, which are whole episodes, always the same ones."""
        held_out = self._share < held_out_share
        return self._first[~held_out], self._first[held_out]

    def batch(self, rows: np.ndarray, crops: np.random.Generator | None, share: slice = slice(None)) -> Batch:
        """The samples at `rows`, with random crops, or with the centre crop that inference uses (`crops` None).

        Of these only a `share`, whose samples are cropped as they would be in the whole batch.
        """
        order = np.sort(rows)[share]  # the cache is a file
        frames = torch.from_numpy(self._frames[order]).to(self._device)
        points = torch.from_numpy(self._points[order]).to(self._device)
        side = CROP_AREA**0.5
        if crops is None:
            corners = torch.full((*frames.shape[:2], 2), (1 - side) / 2)
            cropped = self._center_crop(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        else:
            drawn = crops.uniform(0, 1 - side, (len(rows), frames.shape[1], 2))
            corners = torch.from_numpy(drawn[share]).float()
            cropped = crop(frames, corners.to(self._device))
        steps = order[:, None] + np.arange(CHUNK_LENGTH)
        return Batch(
            frames=cropped,
            proprio=torch.from_numpy(self._proprio[order]).to(self._device),
            actions=torch.from_numpy(self._actions[steps]).to(self._device),
            points=cropped_points(points, corners.to(self._device), self._image_size),
            goal=torch.from_numpy(self._goal[order]).to(self._device),
            kinds=torch.from_numpy(self._kinds[self._episode[order]]).to(self._device),
            is_named=torch.from_numpy(self._is_named[self._episode[order]]).to(self._device),
            instructions=[self._instruction[episode] for episode in self._episode[order]],
        )

    def _padded_points(self, episodes: list[Episode]) -> tuple[np.ndarray, np.ndarray]:
        """(N, V, K, 2) points, and the kinds (episodes, K); K is the most that any episode has."""
        most = max(episode.points.shape[2] for episode in episodes)
        kinds = np.full((len(episodes), most), -1)
        padded = []
        for i, episode in enumerate(episodes):
            names = episode.facts["points"]
            kinds[i, : len(names)] = [self.kinds.index(_kind(name)) for name in names]
            missing = most - episode.points.shape[2]
            padded.append(np.pad(episode.points, ((0, 0), (0, 0), (0, missing), (0, 0)), constant_values=np.nan))
        return np.concatenate(padded), kinds

    def _named(self, episodes: list[Episode]) -> np.ndarray:
        """(episodes, K) bool."""
        named = np.zeros(self._kinds.shape, bool)
        for i, episode in enumerate(episodes):
            names = episode.facts["points"]
            named[i, : len(names)] = are_named(names, episode.facts["instruction"])
        return named


def are_named(names: Sequence[str], instruction: str) -> list[bool]:
    """Of each thing: whether an instruction means it ('cookies_1': "the cookie box"), or it is the gripper.

    Not a thing of which another one has all the words said and more: "the tomato sauce" is not the BBQ sauce.
    """
    words = [word for word in instruction.lower().split() if len(word) > 2]  # prepositions say nothing
    parts = [_kind(name).split("_") for name in names]
    said = [{word for word in words if any(part.startswith(word) for part in of_one)} for of_one in parts]
    return [
        name == "gripper" or (bool(own) and not any(own < other for other in said))
        for name, own in zip(names, said, strict=True)
    ]


def crop(frames: Tensor, corners: Tensor) -> Tensor:
    """Crops of `CROP_AREA` back at full size: frames (B, V, S, S, 3) uint8, corners (B, V, 2) x, y in 0..1 - side.

    Samples as `CenterCrop` does, which is this with corners in the middle.
    """
    size = frames.shape[2]
    position = torch.arange(size, device=frames.device) * CROP_AREA**0.5
    x, y = (corners.flatten(0, 1)[:, i, None] * (size - 1) + position for i in (0, 1))
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    sampled = F.grid_sample(pixels, grid * (2 / (size - 1)) - 1, mode="bilinear", align_corners=True)
    return (sampled.permute(0, 2, 3, 1) * (TENSORFLOW_SCALE / 255)).to(torch.uint8).unflatten(0, frames.shape[:2])


def cropped_points(points: Tensor, corners: Tensor, size: int) -> Tensor:
    """Where points (B, V, K, 2), in image widths, are after `crop`; nan for those outside."""
    pixels = points * size - 0.5
    moved = ((pixels - corners[:, :, None] * (size - 1)) / CROP_AREA**0.5 + 0.5) / size
    inside = ((moved >= 0) & (moved <= 1)).all(dim=-1, keepdim=True)
    return torch.where(inside, moved, torch.nan)


def _cached_frames(folder: Path, paths: list[Path], lengths: np.ndarray, size: int) -> np.ndarray:
    """(N, V, S, S, 3) uint8, memory-mapped: all frames, resized as the policy does it. Made anew for other episodes."""
    content = json.dumps([[str(path.relative_to(folder)), path.stat().st_size] for path in paths])
    name = f".frames-{size}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.npy"
    cache = folder / name
    if not cache.exists():
        for old in folder.glob(f".frames-{size}-*"):
            old.unlink()
        partial = cache.with_suffix(".part")
        shape = (int(lengths.sum()), len(VIEWS), size, size, 3)
        frames = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        start = 0
        for path in tqdm(paths, "decoding frames", unit="episode"):
            recorded = read_episode(path).frames
            views = np.stack([recorded[name] for name in VIEWS], axis=1)
            prepare = FramePreparation((views.shape[2:4],) * len(VIEWS), size, None, torch.device("cpu"))
            for i, frame in enumerate(views):
                frames[start + i] = prepare(torch.from_numpy(frame.reshape(-1)))
            start += len(views)
        frames.flush()
        partial.rename(cache)
    return np.load(cache, mmap_mode="r")


def _normalizer_of(episode: Episode, normalizers: Mapping[str, Normalizer]) -> Normalizer:
    key = statistics_key(episode.facts["suite"])
    if key not in normalizers:
        raise DataError(f"the run has no statistics of {key}; give its folder as --start of a new run")
    return normalizers[key]


def _normalized_proprio(episode: Episode, normalizer: Normalizer) -> np.ndarray:
    return np.array([normalizer.normalize_proprio(row) for row in episode.proprio], np.float32)


def _normalized_actions(episode: Episode, normalizer: Normalizer) -> np.ndarray:
    """The inverse of `Normalizer.unnormalize_actions`, clipped as in OpenVLA-OFT's data pipeline."""
    low, high = normalizer.action.low, normalizer.action.high
    actions = episode.actions
    scaled = np.clip(2 * (actions - low) / (high - low + EPSILON) - 1, -1, 1)
    return np.where(normalizer.action.mask, scaled, actions).astype(np.float32)


def _kind(name: str) -> str:
    """'akita_black_bowl_2' is an 'akita_black_bowl'."""
    stem, _, number = name.rpartition("_")
    return stem if number.isdigit() else name


def _hash(path: Path, folder: Path) -> float:
    """A number in 0..1 that belongs to the file's name, so that more episodes never move old ones between the sets."""
    digest = hashlib.sha256(str(path.relative_to(folder)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
