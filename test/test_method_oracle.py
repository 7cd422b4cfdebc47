# SPDX-License-Identifier: Apache-2.0
"""The fast code against the slow NumPy version of the whole method, over episodes."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracle.policy import OraclePolicy
from random_model import model_config, random_checkpoint

from specprune_ros.camera import Camera
from specprune_ros.openvla.checkpoint import Checkpoint
from specprune_ros.openvla.config import DIFFUSION, DISCRETE, ModelConfig
from specprune_ros.policy import Observation, Policy
from specprune_ros.pruning.config import PruningConfig

RESTING, RISING, CREEPING, FAST = (
    np.array(twist, dtype=np.float64)
    for twist in ([0] * 6, [0, 0, 0.1, 0, 0, 0], [0.3, 0.3, 0, 0, 0, 0.1], [1.1, 0.6, 0.2, 0, 1, 2])
)
PICK, PLACE = "pick up the black bowl", "place it on the plate"


INTRINSICS = np.array([[-0.9, 0.0, 0.5], [0.0, 0.9, 0.45], [0.0, 0.0, 1.0]])  # of a mirrored view
LOOKING_DOWN = np.array([[1.0, 0, 0, 0.4], [0, -1.0, 0, 0], [0, 0, -1.0, 0.5], [0, 0, 0, 1.0]])


@dataclasses.dataclass(frozen=True)
class Step:
    """One inference: what happened since the last one, and the motion during it."""

    twist: NDArray[np.float64] | None = None
    event: str = "motion"  # motion, still, cut, reset, clock_back
    instruction: str = PICK


EPISODE = (
    Step(RESTING),
    Step(RESTING, "still"),
    Step(FAST),
    Step(RISING),
    Step(CREEPING),
    Step(RESTING),
    Step(CREEPING),
    Step(FAST, "cut"),
    Step(None),
    Step(FAST, instruction=PLACE),
    Step(FAST, instruction=PLACE),
    Step(RESTING, "reset", PLACE),
    Step(RESTING, instruction=PLACE),
    Step(FAST, "clock_back", PLACE),
    Step(None, "still", PLACE),
)

# name, geometry, tile, changed constants
CASES = (
    ("two_views_budget", {}, 1, {}),
    ("two_views_union", {}, 1, {"selection": "union"}),
    ("one_view", {"num_views": 1, "grid": 8, "num_layers": 12}, 1, {"confidence": "none"}),
    ("three_views", {"num_views": 3, "num_heads": 4}, 1, {"selection": "union", "confidence": "mean_std"}),
    ("wide_grid", {"grid": 8, "hidden": 64, "num_heads": 4}, 1, {"confidence": "mean_std"}),
    ("shallow", {"num_layers": 6, "grid": 5}, 1, {"history_length": 3, "history_decay": 0.5, "refresh_interval": 3}),
    ("long_history", {"grid": 8}, 1, {"selection": "union", "history_length": 4, "history_decay": 0.7}),
    ("tile", {"grid": 8}, 16, {"keep_ratio": 0.8}),
    ("tile_of_three_views", {"num_views": 3, "grid": 6}, 16, {"alpha": 1.5}),
    ("coarse_tile", {"grid": 6}, 32, {"fine_factor": 1.2}),
    ("no_dynamic_pruning", {}, 1, {"prune_layers": (0,), "update_layers": (0,), "refresh_interval": 2}),
    ("no_controller", {}, 1, {"controller": False, "alpha": 2.0}),
    ("one_set", {}, 1, {"selection": "union", "global_tokens": 0, "dynamic_tokens": 0, "alpha": 2.0}),
    ("no_global_set", {}, 1, {"global_tokens": 0}),
    ("no_local_set", {}, 1, {"local_tokens": 0, "history_length": 2}),
    ("neither", {}, 1, {"global_tokens": 0, "local_tokens": 0}),
    (
        "early_layers",
        {"num_layers": 10},
        1,
        {"local_layers": (1, 3), "static_layer": 3, "global_layers": (2, 9, 10, 32)},
    ),
    ("frequent_updates", {"grid": 8}, 1, {"update_layers": (4, 7, 12, 18), "importance_rate": 0.5, "rank_slope": 0.1}),
    ("last_layer", {}, 1, {"prune_layers": (5, 32), "update_layers": (5, 32), "selection": "union"}),
    ("slow_control", {}, 1, {"control_rate": 10, "metres_per_unit": 0.02, "dynamic_tokens": 80}),
    ("flow", {"grid": 8}, 1, {"history_motion": "flow", "history_length": 2}),
    ("flow_of_one_view", {"num_views": 1, "grid": 6}, 16, {"history_motion": "flow", "selection": "union"}),
    (
        "tf",
        {"grid": 8},
        1,
        {"history_motion": "tf", "history_length": 3, "motion_plane_height": 0.1, "scene_cut_share": 1.0},
    ),
    ("tf_of_three_views", {"num_views": 3}, 1, {"history_motion": "tf", "selection": "union", "scene_cut_share": 1.0}),
    ("all_ties", {"grid": 6}, 1, {"importance_rate": 0.0, "keep_ratio": 0.6}),
)


@pytest.mark.parametrize(("geometry", "tile", "constants"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_episode_agrees_with_the_oracle(geometry: dict, tile: int, constants: dict):
    seed = [case[1:] for case in CASES].index((geometry, tile, constants))
    config = PruningConfig().changed(constants)
    checkpoint = random_checkpoint(model_config(**geometry), seed)
    compare_episode(checkpoint, config, tile, seed, actions_within=1e-5)


# Variants of the model; a sampler of random weights multiplies rounding errors of its float32 constants in every step.
SAMPLER = {"head": DIFFUSION, "diffusion_steps": 3, "diffusion_steps_train": 6}
VARIANTS = (
    ("no_proprio_tile", {"num_views": 1, "grid": 8, "proprio_dim": 0}, 16, {}),
    ("film_of_three_views", {"num_views": 3, "film": True, "chunk_length": 5, "action_dim": 6}, 1, {}),
    ("discrete", {"head": DISCRETE, "proprio_dim": 0}, 1, {"selection": "union"}),
    ("discrete_with_proprio_and_film", {"head": DISCRETE, "film": True}, 16, {}),
    ("diffusion_with_film", SAMPLER | {"film": True}, 1, {}),
    ("diffusion_union_of_three_views", SAMPLER | {"num_views": 3}, 1, {"selection": "union"}),
    ("diffusion_tile", SAMPLER | {"num_views": 1, "grid": 6, "proprio_dim": 0}, 16, {"history_length": 2}),
    ("diffusion_reselect", SAMPLER, 1, {"reselect": True}),
    ("diffusion_reselect_union", SAMPLER | {"num_views": 1}, 1, {"reselect": True, "selection": "union"}),
)


@pytest.mark.parametrize(("geometry", "tile", "constants"), [v[1:] for v in VARIANTS], ids=[v[0] for v in VARIANTS])
def test_variants_agree_with_the_oracle(geometry: dict, tile: int, constants: dict):
    checkpoint = random_checkpoint(model_config(**geometry), 70)
    within = 1e-3 if geometry.get("head") == DIFFUSION else 1e-5
    compare_episode(checkpoint, PruningConfig().changed(constants), tile, 70, within, EPISODE[:6])


def test_float32_model_agrees_with_the_oracle():
    checkpoint = random_checkpoint(model_config(grid=6), 50, torch.float32)
    compare_episode(checkpoint, PruningConfig(), 1, 50, actions_within=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("selection", ["budget", "union"])
def test_gpu_agrees_with_the_oracle(selection: str):
    checkpoint = random_checkpoint(model_config(grid=6), 60)
    checkpoint.model.cuda()
    compare_episode(checkpoint, PruningConfig(selection=selection), 16, 60, actions_within=1e-5)


def compare_episode(
    checkpoint: Checkpoint,
    config: PruningConfig,
    tile: int,
    seed: int,
    actions_within: float,
    episode: tuple[Step, ...] = EPISODE,
) -> None:
    """Run an episode through both; every mode, kept set, count and action must be the same."""
    fast = Policy(checkpoint, config, tile)
    slow = OraclePolicy(
        checkpoint.model, checkpoint.tokenizer, checkpoint.normalizer, config, seen_by(checkpoint), tile
    )
    world = World(checkpoint.model.config, seed, panning=config.history_motion != "none")
    modes = []
    for number, step in enumerate(episode):
        if step.event == "reset":
            fast.reset()
            slow.reset()
        for views, stamp, cameras in world.between(step.event):
            fast.observe(views, stamp, cameras)
            slow.observe(np.stack(list(views.values())), stamp, [cameras.get(view) for view in views])
        observation = world.observation(step)
        noise = world.noise()
        chunk, outcome = fast.act(observation, noise), slow.act(observation, noise)

        where = f"inference {number}"
        report = chunk.pruning
        assert (report.mode, report.reason) == (outcome.mode, outcome.reason), where
        assert flat(report.kept_static, report.patches) == outcome.kept_static, where
        assert flat(report.kept_final, report.patches) == outcome.kept_final, where
        assert report.tokens_per_layer == tuple(outcome.alive_per_layer), where
        if report.mode != "dense":
            sizes = list(zip(report.global_set, report.dynamic_set, report.local_set, strict=True))
            assert sizes == outcome.set_sizes, where
        np.testing.assert_allclose(chunk.actions, outcome.actions, rtol=0, atol=actions_within, err_msg=where)
        modes.append(report.mode)
    assert "dense" in modes
    assert "coarse" in modes
    assert "fine" in modes or not config.controller


def seen_by(checkpoint: Checkpoint):
    """The vision towers and the projector, which test_openvla_golden.py compares with the reference implementation."""

    @torch.inference_mode()
    def see(frames: NDArray[np.uint8], token_ids: tuple[int, ...]) -> NDArray[np.float64]:
        model = checkpoint.model
        text = model.embed_text(torch.tensor(token_ids, device=model.device), checkpoint.tokenizer.eos_id)
        pixels = [normalize(torch.from_numpy(frames).to(model.device)) for normalize in model.normalizations()]
        return model.projector(model.see(pixels, model.film(text))).double().cpu().numpy()

    return see


def flat(kept: tuple[NDArray[np.int64], ...], patches: tuple[int, ...]) -> set[int]:
    """Kept patches of all views, counted over the views."""
    return {int(patch) + sum(patches[:view]) for view, indices in enumerate(kept) for patch in indices}


class World:
    """Random texture in which some patches change from frame to frame, seen at 20 Hz by cameras that may be panning.

    Their poses have nothing to do with what they show, and the last view's are unknown at times.
    """

    def __init__(self, config: ModelConfig, seed: int, panning: bool):
        self._random = np.random.default_rng(seed)
        self._config = config
        self._panning = panning
        self._stamp = 1000.0
        self._views = self._new_scene()
        self._poses = np.tile(LOOKING_DOWN, (config.num_views, 1, 1))

    def between(self, event: str) -> Iterator[tuple[dict[str, NDArray[np.uint8]], float, dict[str, Camera]]]:
        """Frames, stamps and cameras from one inference to the next, which comes 8 control steps after it."""
        if event == "clock_back":
            self._stamp -= 500
        if event == "cut":
            self._views = self._new_scene()
        for frame in range(1, 8):
            if event != "still":
                if self._panning:
                    self._pan()
                self._change_some_patches()
            if event in ("motion", "still") and frame % 2:
                yield self._named(), self._stamp + 0.05 * frame, self._cameras()
        self._stamp += 0.4

    def observation(self, step: Step) -> Observation:
        proprio = self._random.uniform(-1.5, 1.5, self._config.proprio_dim)
        cameras = self._cameras()
        return Observation(self._named(), proprio, step.instruction, self._stamp, step.twist, cameras)

    def noise(self) -> NDArray[np.float32] | None:
        """Where a diffusion head starts."""
        size = self._config
        if size.head != DIFFUSION:
            return None
        return self._random.standard_normal((size.chunk_length, size.action_dim)).astype(np.float32)

    def _new_scene(self) -> NDArray[np.uint8]:
        """Random texture; for a panning camera a coarse one, which a flow can follow, under a fine one."""
        size, views = self._config.image_size, self._config.num_views
        if not self._panning:
            return self._random.integers(0, 256, (views, size, size, 3), dtype=np.uint8)
        import cv2  # as in oracle/formulas.py

        coarse = self._random.integers(0, 200, (views, size // 7, size // 7, 3), dtype=np.uint8)
        fine = self._random.integers(0, 56, (views, size, size, 3), dtype=np.uint8)
        return np.stack([cv2.resize(view, (size, size)) for view in coarse]) + fine

    def _pan(self) -> None:
        """Up to two pixels to the right and down in every view, and small motion of the cameras."""
        for view, pose in zip(self._views, self._poses, strict=True):
            view[:] = np.roll(view, self._random.integers(0, 3, 2), axis=(0, 1))
            from scipy.spatial.transform import Rotation  # as in oracle/formulas.py

            pose[:3, :3] @= Rotation.from_rotvec(self._random.normal(0, 0.02, 3)).as_matrix()
            pose[:3, 3] += self._random.normal(0, 0.01, 3)

    def _cameras(self) -> dict[str, Camera]:
        known = len(self._poses) - (self._random.random() < 0.2)
        return {f"camera{n}": Camera(INTRINSICS, self._poses[n].copy()) for n in range(known)}

    def _change_some_patches(self) -> None:
        """A few patches in every view, by different amounts, so that similarities lie on both sides of tau."""
        self._views = self._views.copy()
        grid = self._config.image_size // 14
        for view in self._views:
            for patch in self._random.choice(grid * grid, size=1 + grid * grid // 16, replace=False):
                top, left = 14 * (patch // grid), 14 * (patch % grid)
                area = view[top : top + 14, left : left + 14]
                noise = self._random.normal(0, self._random.uniform(2, 30), area.shape)
                area[:] = np.clip(area + noise, 0, 255).astype(np.uint8)

    def _named(self) -> dict[str, NDArray[np.uint8]]:
        return {f"camera{number}": view for number, view in enumerate(self._views)}
