# SPDX-License-Identifier: Apache-2.0
"""The policy object: golden actions, what it remembers, and what it refuses."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from random_model import model_config, random_checkpoint

from specprune_ros.errors import ConfigError, ObservationError
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.pruning.config import PruningConfig

TINY = Path(__file__).parent / "data" / "tiny_oft"
STILL = np.zeros(6)
FAST = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(TINY / "golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def raw(golden) -> Observation:
    views = {"primary": golden["primary_image"], "wrist": golden["wrist_image"]}
    return Observation(views, golden["state"], str(golden["instruction"]))


@pytest.fixture(scope="module")
def policy(checkpoint) -> Policy:
    return Policy(checkpoint, "paper", tile=1)


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint(model_config(), 7)


@pytest.fixture
def fresh(policy: Policy) -> Policy:
    policy.reset()
    return policy


def seen(**changes) -> Observation:
    """An observation that fits the random checkpoint."""
    random = np.random.default_rng(1)
    views = {name: random.integers(0, 256, (56, 56, 3), dtype=np.uint8) for name in ("primary", "wrist")}
    base = Observation(views, random.uniform(-1, 1, 5), "pick up the bowl", 0.0, STILL)
    return dataclasses.replace(base, **changes)


def reason(chunk: ActionChunk) -> str:
    return chunk.pruning.reason


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("whatever")])
def test_half_an_inference_leaves_no_history(fresh, monkeypatch, error):
    fresh.act(seen())
    assert reason(fresh.act(seen(stamp=0.05))) != "no_history"
    for stamp in (0.1, 0.2):

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as broken:
            broken.setattr(fresh._engine, "run", fail)
            with pytest.raises(type(error)):
                fresh.act(seen(stamp=stamp))
        chunk = fresh.act(seen(stamp=stamp + 0.05))
        assert (chunk.pruning.mode, reason(chunk)) == ("dense", "no_history")


def test_an_observation_that_does_not_fit_leaves_the_history(fresh):
    fresh.act(seen())
    for changes in ({"instruction": ""}, {"proprio": np.full(5, np.nan)}, {"views": {}}):
        with pytest.raises(ObservationError):
            fresh.act(seen(stamp=0.05, **changes))
    assert reason(fresh.act(seen(stamp=0.1))) != "no_history"


# Golden


def test_raw_images_to_the_references_actions(golden, raw):
    chunk = Policy.from_checkpoint(TINY).act(raw)
    assert chunk.actions.dtype == np.float64
    np.testing.assert_allclose(chunk.actions, golden["actions"].reshape(8, 7), rtol=0, atol=5e-4)
    assert (chunk.unnorm_key, chunk.instruction) == (str(golden["unnorm_key"]), raw.instruction)
    assert (chunk.pruning.mode, chunk.pruning.flop_share) == ("off", 1.0)


def test_pruning_that_keeps_everything_keeps_the_references_actions(golden, raw):
    config = PruningConfig(budget_tokens=256, keep_ratio=1.0)
    policy = Policy.from_checkpoint(TINY, pruning=config, tile=1)
    for mode in ("dense", "fine", "fine"):
        chunk = policy.act(raw)
        assert chunk.pruning.mode == mode
        np.testing.assert_allclose(chunk.actions, golden["actions"].reshape(8, 7), rtol=0, atol=5e-4)


def test_facts_of_the_checkpoint(raw):
    policy = Policy.from_checkpoint(TINY, pruning="paper")
    assert (policy.chunk_length, policy.action_dim, policy.proprio_dim, policy.num_views) == (8, 7, 8, 2)
    assert (policy.image_size, policy.patch_grid, policy.tile) == (224, (16, 16), 1)
    assert policy.action_space == "delta_end_effector"
    assert len(policy.action_names) == len(policy.action_units) == 7
    assert policy.pruning == PruningConfig.from_preset("paper")
    dense, fine = policy.act(raw).pruning, policy.act(raw).pruning
    assert sum(map(len, dense.kept_static)) == sum(dense.patches) == 512
    assert sum(map(len, fine.kept_static)) == 314
    assert sum(map(len, policy.act(dataclasses.replace(raw, twist=FAST)).pruning.kept_static)) == 188


# What it remembers


def test_report_describes_the_inference(fresh: Policy):
    fresh.act(seen())
    chunk = fresh.act(seen(stamp=0.5, twist=np.array([0.3, 0.4, -0.0, 0.0, 3.0, 4.0])))
    report = chunk.pruning
    assert (report.mode, report.reason, report.preset, report.selection) == ("coarse", "fast", "paper", "budget")
    assert (report.v_t, report.v_r, report.v_z) == pytest.approx((0.5, 5.0, 0.0))
    assert (report.views, report.patches) == (("primary", "wrist"), (16, 16))
    assert [kept.dtype for kept in report.kept_final] == [np.int64, np.int64]
    assert {"preprocess", "vision", "projector", "decoder", "selection", "head"} <= set(chunk.stage_seconds)
    assert 0 < sum(chunk.stage_seconds.values()) <= chunk.seconds
    assert chunk.stamp == 0.5
    assert chunk.actions.shape == (3, 4)


def test_unknown_velocity_is_reported_as_nan(fresh: Policy):
    for twist in (None, np.full(6, np.nan)):
        fresh.reset()
        fresh.act(seen(twist=twist))
        report = fresh.act(seen(twist=twist, stamp=1.0)).pruning
        assert report.reason == "velocity_unknown"
        assert np.isnan([report.v_t, report.v_r, report.v_z]).all()


def test_reset_repeats_the_episode_exactly(fresh: Policy):
    def episode() -> list[np.ndarray]:
        return [fresh.act(seen(stamp=0.4 * i, twist=FAST if i % 2 else STILL)).actions for i in range(4)]

    first = episode()
    fresh.reset()
    for before, after in zip(first, episode(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_history_is_forgotten_with_a_new_instruction_or_a_clock_set_back(fresh: Policy):
    reasons = [
        reason(fresh.act(seen(stamp=stamp, instruction=instruction)))
        for stamp, instruction in [(1, "pick"), (2, "pick"), (3, "place"), (4, "place"), (3.9, "place"), (3.9, "place")]
    ]
    assert reasons == ["no_history", "slow", "no_history", "slow", "no_history", "slow"]


def test_refused_observation_leaves_the_history(fresh: Policy):
    fresh.act(seen())
    with pytest.raises(ObservationError):
        fresh.act(seen(stamp=1.0, proprio=np.full(5, np.nan), instruction="place it"))
    with pytest.raises(ObservationError):
        fresh.act(seen(stamp=1.0, twist=np.zeros(3), instruction="place it"))
    assert reason(fresh.act(seen(stamp=1.0))) == "slow"


def test_observed_frames_are_what_the_next_inference_compares_with(fresh: Policy):
    changed = {name: image.copy() for name, image in seen().views.items()}
    changed["wrist"][14:28, 28:42] = 255 - changed["wrist"][14:28, 28:42]
    fresh.act(seen(views=changed))
    assert fresh.act(seen(stamp=0.55, views=changed)).pruning.dynamic_set == (0, 0)

    fresh.reset()
    fresh.act(seen(views=changed))
    fresh.observe(seen().views, 0.45)  # 0.55 s before the next inference: the frame that the paper asks for
    fresh.observe(changed, 0.8)
    assert fresh.act(seen(stamp=1.0, views=changed)).pruning.dynamic_set == (0, 1)


def test_an_arm_in_motion_asks_for_a_newer_frame(fresh: Policy):
    changed = {name: np.roll(image, 14, axis=0) for name, image in seen().views.items()}
    for twist, dynamic in ((STILL, True), (10 * FAST, False)):
        fresh.reset()
        fresh.act(seen(views=changed))
        fresh.observe(changed, 0.45)
        fresh.observe(seen().views, 0.9)
        report = fresh.act(seen(stamp=1.0, twist=twist)).pruning
        assert (report.reason == "scene_cut") == dynamic


def test_a_new_scene_runs_dense(fresh: Policy):
    fresh.act(seen())
    dark = {name: np.zeros_like(image) for name, image in seen().views.items()}
    assert reason(fresh.act(seen(stamp=1.0, views=dark))) == "scene_cut"
    assert reason(fresh.act(seen(stamp=2.0, views=dark))) == "slow"  # darkness that stays is no cut


def test_warm_up_measures_every_mode_and_leaves_no_history(fresh: Policy):
    seconds = fresh.warm_up("open the drawer")
    assert set(seconds) == {"dense", "coarse", "fine"}
    assert all(value > 0 for value in seconds.values())
    assert reason(fresh.act(seen())) == "no_history"


def test_views_may_have_any_size(fresh: Policy):
    views = {"primary": np.zeros((48, 64, 3), np.uint8), "wrist": np.zeros((56, 56, 3), np.uint8)[::-1]}
    assert np.isfinite(fresh.act(seen(views=views)).actions).all()


# Changing the pruning


def test_set_pruning_takes_a_name_or_a_configuration_and_forgets_the_history(checkpoint):
    policy = Policy(checkpoint, "off", tile=1)
    assert policy.pruning is None
    assert (policy.act(seen()).pruning.mode, policy.act(seen()).pruning.preset) == ("off", "")
    policy.set_pruning("fast")
    assert reason(policy.act(seen())) == "no_history"
    assert policy.act(seen()).pruning.preset == "fast"
    policy.set_pruning(PruningConfig(selection="union"))
    assert reason(policy.act(seen())) == "no_history"
    report = policy.act(seen()).pruning
    assert (report.preset, report.selection) == ("", "union")
    policy.set_pruning("off")
    assert policy.act(seen()).pruning.reason == "pruning_off"


def test_refused_pruning_leaves_configuration_and_history_in_force(fresh: Policy):
    fresh.act(seen())
    before = fresh.pruning
    deep = PruningConfig(static_layer=20, prune_layers=(0,), update_layers=(0,))
    for refused in (deep, "ultra"):
        with pytest.raises(ConfigError) as caught:
            fresh.set_pruning(refused)
        assert "\n" not in str(caught.value)
    assert fresh.pruning is before
    assert reason(fresh.act(seen(stamp=1.0))) == "slow"


# What it refuses

IMAGE = np.zeros((56, 56, 3), np.uint8)
BAD_OBSERVATIONS = {
    "one view": ({"views": {"primary": IMAGE}}, "1 views (primary)", "expects 2"),
    "three views": ({"views": dict.fromkeys("abc", IMAGE)}, "3 views", "expects 2"),
    "float image": ({"views": {"primary": IMAGE, "wrist": IMAGE.astype(np.float32)}}, "'wrist'", "float32"),
    "grey image": ({"views": {"primary": IMAGE[:, :, 0], "wrist": IMAGE}}, "'primary'", "(H, W, 3)"),
    "four channels": ({"views": {"primary": np.zeros((56, 56, 4), np.uint8), "wrist": IMAGE}}, "'primary'", "56, 4"),
    "empty image": ({"views": {"primary": IMAGE[:0], "wrist": IMAGE}}, "'primary'", "(0, 56, 3)"),
    "NaN proprio": ({"proprio": np.array([0, 0, np.nan, 0, 0])}, "proprio[2]", "not finite"),
    "infinite proprio": ({"proprio": np.array([0, 0, 0, 0, np.inf])}, "proprio[4]", "not finite"),
    "short proprio": ({"proprio": np.zeros(4)}, "(4,)", "(5,)"),
    "no proprio": ({"proprio": None}, "proprio", "(5,)"),
    "empty instruction": ({"instruction": "  "}, "instruction is empty", "pick"),
    "short twist": ({"twist": np.zeros(3)}, "twist", "(6,)"),
    "long twist": ({"twist": np.zeros(7)}, "twist", "(6,)"),
}


@pytest.mark.parametrize("name", BAD_OBSERVATIONS)
def test_bad_observation_is_refused_in_one_line(fresh: Policy, name: str):
    changes, *parts = BAD_OBSERVATIONS[name]
    with pytest.raises(ObservationError) as caught:
        fresh.act(seen(**changes))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_history_for_another_number_of_views_is_refused(fresh: Policy):
    fresh.act(seen())
    with pytest.raises(ObservationError, match="expects 2"):
        fresh.observe({"primary": IMAGE}, 0.1)
    with pytest.raises(ObservationError, match="expects 2"):
        fresh.act(seen(views={"primary": IMAGE}, stamp=1.0))
    assert reason(fresh.act(seen(stamp=1.0))) == "slow"
